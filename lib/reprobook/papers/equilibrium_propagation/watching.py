"""What is watched while networks learn: errors, ways, error signals, symmetry, and whether they settle.

The curves of Fig. 3 and Fig. 4 of the paper (Laborieux and Zenke, arXiv 2309.02214). A *cell* is a setting
that is compared with others, an angle to begin at and a strength λ of homeostasis; cells and seeds are the
members of one stack, so that all of them are trained by the same products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reprobook.papers.equilibrium_propagation.errors import linear_error
from reprobook.papers.equilibrium_propagation.homeostasis import penalty
from reprobook.papers.equilibrium_propagation.layered import Layered, Wiring, initial_weights
from reprobook.papers.equilibrium_propagation.relaxation import Settled, readout, relax, settling
from reprobook.papers.equilibrium_propagation.training import Method, Recipe, train

__all__ = [
    "Cell",
    "Course",
    "asymmetry",
    "signal_cosines",
    "unsettled",
    "angle_under_penalty",
    "stack",
    "follow",
    "descend_by_autograd",
]


class Cell(NamedTuple):
    """A setting that is compared with others, in Fig. 3 and Fig. 4 of the paper.

    Attributes:
        angle: at which the ways back begin, in degrees.
        homeostasis: λ.
    """

    angle: float
    homeostasis: float = 0.0


@dataclass(frozen=True)
class Course:
    """What was watched while a stack was trained by one method.

    Attributes:
        method: which error trained it.
        cells: in the order of the axis C.
        net: the trained stack; its members are cells × seeds, the seeds running faster.
        steps: of training, at which it was looked at, T of them, the first before any.
        seen: ``wrong`` and ``loss`` on held-out inputs, ``asymmetry``, ``restless`` and ``circling``, all
            ``(T, C, seeds)``; ``angles`` with an axis more for the pairs of ways, ``cosines`` for layers.
    """

    method: Method
    cells: tuple[Cell, ...]
    net: Layered
    steps: list[int]
    seen: dict[str, Tensor]

    def of(self, name: str, cell: Cell) -> Tensor:
        """Return the course of one quantity in one cell, ``(T, seeds, ...)``."""
        return self.seen[name][:, self.cells.index(cell)]

    def last(self, name: str, cell: Cell) -> Tensor:
        """Return where it ended, ``(seeds, ...)``."""
        return self.of(name, cell)[-1]


def asymmetry(net: Layered, settled: Settled) -> Float[Tensor, "M B"]:
    """Return ‖A‖/‖J‖ of the Jacobian J = W - diag(1/φ′), A = (J - Jᵀ)/2, without forming it (for Fig. 4).

    The square of ‖A‖ is half the penalty, whatever the state; that of ‖J‖ is the squared weights between
    neurons plus the sum of 1/φ′², so a single saturated neuron makes any Jacobian look symmetric.
    """
    ways = sum(net.weights[f"{s}>{t}"].square().sum((1, 2)) for s, t in net.wiring.ways if s)
    diagonal = sum(net.phi.slope(u).square().reciprocal().sum(-1) for u in settled.u)
    return ((penalty(net) / 2)[:, None] / (ways[:, None] + diagonal)).sqrt()


def signal_cosines(
    net: Layered, settled: Settled, target: Float[Tensor, "M B C"], steps: int = 20
) -> Float[Tensor, "M B L"]:
    """Return the cosine between d_β r and δ in each layer, for each input (as in the paper's Fig. 4).

    Args:
        net, settled, target: a network at rest, and one-hot classes.
        steps: of both linear dynamics, as many as training takes.
    """
    pair = [linear_error(net, settled, target, steps=steps, transposed=t) for t in (False, True)]
    cosines = [torch.cosine_similarity(a, b, dim=-1, eps=1e-30) for a, b in zip(*pair, strict=True)]
    return torch.stack(cosines, -1)


def unsettled(
    net: Layered, inputs: Float[Tensor, "n D"], *, steps: int = 150, damping: float = 0.0, batch: int = 500
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Return the share of inputs that still move by more than 1e-3, and of those that go in short cycles.

    Args:
        net: with its weights.
        inputs: to settle on, T1 = ``steps`` steps as in the paper's free phase.
        steps: taken.
        damping: share of the old state that a step keeps.
        batch: inputs at a time.
    """
    moving, circling = [], []
    for x in inputs.split(batch):
        x = x.expand(len(net.weights["readout"]), *x.shape)
        settled = relax(net, x, steps=steps, damping=damping, tolerance=1e-5)
        restless, repeats = settling(net, x, settled, tolerance=1e-3)
        moving.append(restless)
        circling.append(repeats)
    return tuple(torch.cat(found, 1).to(inputs).mean(1) for found in (moving, circling))


def angle_under_penalty(rate: float, momentum: float, strength: float, steps: int) -> Float[Tensor, " T"]:
    """Return the angle of two orthogonal ways of one length, in degrees, under homeostasis alone (Fig. 4).

    The sum W + Bᵀ stays, and SGD with momentum shrinks the difference by a factor q that obeys the
    recursion v ← m v + 4 s q, q ← q - η v; the angle is 2 arctan q, from 90 before the first step to 0.

    Args:
        rate, momentum: η and m.
        strength: s, the factor of the penalty, λ/n.
        steps: taken; the result has one entry more.
    """
    q, v, course = 1.0, 0.0, [1.0]
    for _ in range(steps):
        v = momentum * v + 4 * strength * q
        q = q - rate * v
        course.append(abs(q))
    return torch.rad2deg(2 * torch.tensor(course, dtype=torch.float64).atan())


def stack(
    wiring: Wiring, cells: Sequence[Cell], seeds: Sequence[int], gain: float = 1.0, like: Tensor | None = None
) -> tuple[Layered, list[float], list[int]]:
    """Return untrained networks for all cells × seeds, and λ and seed of each member (Fig. 3, Fig. 4).

    Args:
        wiring: of all.
        cells, seeds: members of one seed begin with the same ways forth.
        gain: of the weights.
        like: a tensor of the wanted precision and device; double precision on the CPU if None.
    """
    members = [(cell, s) for cell in cells for s in seeds]
    weights = initial_weights(wiring, [c.angle for c, _ in members], [s for _, s in members], gain)
    if like is not None:
        weights = {name: w.to(like) for name, w in weights.items()}
    return Layered(wiring, weights), [c.homeostasis for c, _ in members], [s for _, s in members]


def follow(
    wiring: Wiring,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    data: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    recipe: Recipe,
    method: Method,
    *,
    looks: int = 10,
    gain: float = 1.0,
) -> Iterator[Course]:
    """Train a stack and look at it from time to time; yield the course so far after every look.

    Args:
        wiring, cells, seeds, gain: of the networks, see :func:`stack`.
        data, held_out: inputs ``(n, D)`` and labels ``(n,)``, to learn from and to judge by.
        recipe, method: how they are trained (the settings of Fig. 3 and Fig. 4).
        looks: how often they are looked at, evenly over the training, after the look before it.
    """
    net, strengths, orders = stack(wiring, cells, seeds, gain, data[0])
    total = recipe.epochs * (len(data[0]) // recipe.batch)
    due = {round(total * k / looks) for k in range(1, looks + 1)}
    steps, seen = [0], [_look(net, *held_out, recipe, method)]
    for progress in train(net, *data, recipe, method, homeostasis=strengths, seeds=orders):
        if progress.step in due:
            steps.append(progress.step)
            seen.append(_look(net, *held_out, recipe, method))
            courses = {name: torch.stack([one[name] for one in seen]).cpu() for name in seen[0]}
            grid = {name: c.unflatten(1, (len(cells), len(seeds))) for name, c in courses.items()}
            yield Course(method, tuple(cells), net, list(steps), grid)


def _look(
    net: Layered, inputs: Float[Tensor, "n D"], labels: Int[Tensor, " n"], recipe: Recipe, method: Method
) -> dict[str, Tensor]:
    """Return all that a :class:`Course` keeps of one moment, ``(M,)`` or ``(M, k)``."""
    members, onehot = len(net.weights["readout"]), F.one_hot(labels, net.wiring.num_classes).to(inputs)
    parts = []
    for x, target in zip(inputs.split(500), onehot.split(500), strict=True):
        x, target = x.expand(members, *x.shape), target.expand(members, *target.shape)
        settled = relax(net, x, steps=recipe.free_steps, tolerance=recipe.tolerance)
        restless, circling = settling(net, x, settled, tolerance=1e-3)
        p = readout(net, settled.r)
        found = {
            "wrong": p.argmax(-1) != target.argmax(-1),
            "loss": -(target * p.clamp(min=1e-30).log()).sum(-1),
            "asymmetry": asymmetry(net, settled),
            "cosines": signal_cosines(net, settled, target, min(method.steps, 20)),
            "restless": restless,
            "circling": circling,
        }
        parts.append({name: value.to(inputs) for name, value in found.items()})
    seen = {name: torch.cat([part[name] for part in parts], 1).mean(1) for name in parts[0]}
    angles = list(net.angles().values())
    return seen | {"angles": torch.stack(angles, 1) if angles else inputs.new_zeros(members, 0)}


def descend_by_autograd(
    net: Layered, inputs: Float[Tensor, "n D"], labels: Int[Tensor, " n"], recipe: Recipe, decay: float = 0.0
) -> Layered:
    """Train by automatic differentiation through the settling: slow, and independent of any error signal.

    All inputs are one batch. Weight decay is torch's, on the ways between neurons, which is what the paper's
    homeostasis comes to where no way has an opposite (the loop of Fig. 4e-h), with ``decay`` = 2λ/n.

    Args:
        net: to begin with; it is left as it is.
        inputs, labels: to learn.
        recipe: as many steps of SGD as it has epochs.
        decay: of the ways between neurons.
    """
    weights = {name: w.clone().requires_grad_() for name, w in net.weights.items()}
    between = [f"{s}>{t}" for s, t in net.wiring.ways if s]
    groups = [
        {"params": [weights[name] for name in between], "weight_decay": decay},
        {"params": [w for name, w in weights.items() if name not in between]},
    ]
    optimiser = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    learner, members = Layered(net.wiring, weights), len(net.weights["readout"])
    x, y = inputs.expand(members, *inputs.shape), labels.expand(members, -1)[..., None]
    for _ in range(recipe.epochs):
        p = readout(learner, relax(learner, x, steps=recipe.free_steps).r)
        optimiser.zero_grad()
        (-p.gather(-1, y).log().sum() / len(inputs)).backward()
        optimiser.step()
    return Layered(net.wiring, {name: w.detach() for name, w in weights.items()})
