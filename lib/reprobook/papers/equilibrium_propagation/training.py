"""Training by any of the error signals, many networks side by side.

Members of a stack share wiring, data set and method; they differ in seed, in the angle that their ways back
begin with, and in the strength of homeostasis (Laborieux and Zenke, arXiv 2309.02214, Fig. 3, Fig. 4, Table
1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reprobook.papers.equilibrium_propagation.errors import (
    gradients,
    linear_error,
    nudged_error,
    orbit_error,
)
from reprobook.papers.equilibrium_propagation.homeostasis import penalty_slope
from reprobook.papers.equilibrium_propagation.layered import Layered
from reprobook.papers.equilibrium_propagation.relaxation import Layers, Network, Settled, readout, relax

__all__ = ["Method", "Recipe", "Progress", "error_of", "train", "evaluate"]


@dataclass(frozen=True)
class Method:
    """Which error signal trains the network.

    Attributes:
        name: ``derivative`` (d_β r exactly), ``recurrent`` (backpropagation's δ), ``nudged`` (N points) or
            ``orbit`` (continuous time).
        radius: |β| of the last two.
        num_points: N of ``nudged``.
        steps: of the linear dynamics, of settling under each nudge, or of one turn of the orbit.
        periods: turns of the orbit.
    """

    name: str
    radius: float = 0.5
    num_points: int = 2
    steps: int = 20
    periods: int = 1


@dataclass(frozen=True)
class Recipe:
    """How networks are trained; defaults as in the paper's Table 1.

    Attributes:
        epochs: passes through the data.
        batch: inputs a step.
        free_steps: of settling without a nudge.
        learning_rate: of SGD, or of AdamW.
        momentum: of SGD.
        adam: whether to take AdamW.
        tolerance: stop settling when no activity moves more than this; 0 takes all steps.
    """

    epochs: int
    batch: int = 50
    free_steps: int = 150
    learning_rate: float = 0.01
    momentum: float = 0.9
    adam: bool = False
    tolerance: float = 0.0


class Progress(NamedTuple):
    """Where a training stands after a step.

    Attributes:
        step: how many steps have been taken, from 1.
        loss: cross-entropy of the free state on the step's batch, ``(M,)``.
        restless: share of the inputs whose activities still moved by more than 1e-3, ``(M,)``.
    """

    step: int
    loss: Tensor
    restless: Tensor


def error_of(method: Method, net: Network, x: Tensor, settled: Settled, target: Tensor) -> Layers:
    """Return the error signal of a method at a settled state (Table 1 compares them).

    Raises:
        ValueError: for an unknown method.
    """
    if method.name in ("derivative", "recurrent"):
        transposed = method.name == "recurrent"
        return linear_error(net, settled, target, steps=method.steps, transposed=transposed)
    if method.name == "nudged":
        points = {"radius": method.radius, "num_points": method.num_points, "steps": method.steps}
        return nudged_error(net, x, settled, target, **points)
    if method.name == "orbit":
        circle = {"radius": method.radius, "period": method.steps, "periods": method.periods}
        return orbit_error(net, x, settled, target, **circle)[0]
    raise ValueError(f"unknown method '{method.name}': derivative, recurrent, nudged or orbit")


def train(
    net: Layered,
    inputs: Float[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    recipe: Recipe,
    method: Method,
    *,
    homeostasis: Sequence[float],
    seeds: Sequence[int],
) -> Iterator[Progress]:
    """Train M networks in place; yield after every step.

    Args:
        net: wiring and weights, in the precision and on the device of the inputs.
        inputs, labels: to learn.
        recipe, method: how.
        homeostasis: λ of each member; its penalty is divided by the number of neurons.
        seeds: of the order of the data, one a member; members of one seed see the same batches.
    """
    names, wiring = list(net.weights), net.wiring
    parameters = [net.weights[name] for name in names]
    if recipe.adam:
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    else:
        optimiser = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum)
    kind = {"dtype": inputs.dtype, "device": inputs.device}
    strength = torch.tensor(homeostasis, **kind)[:, None, None] / sum(wiring.sizes[1:])
    onehot, step = F.one_hot(labels, wiring.num_classes).to(inputs), 0
    for epoch in range(recipe.epochs):
        for chosen in _batches(len(inputs), recipe.batch, seeds, epoch):
            x, target = inputs[chosen.to(inputs.device)], onehot[chosen.to(inputs.device)]
            settled = relax(net, x, steps=recipe.free_steps, tolerance=recipe.tolerance)
            error = error_of(method, net, x, settled, target)
            slopes = gradients(net, x, settled, target, error)
            if strength.any():
                for name, slope in penalty_slope(net).items():
                    slopes[name] = slopes[name] + strength * slope
            for parameter, name in zip(parameters, names, strict=True):
                parameter.grad = slopes[name]
            optimiser.step()
            step += 1
            loss = -(target * readout(net, settled.r).clamp(min=1e-30).log()).sum(-1).mean(-1)
            yield Progress(step, loss, (settled.moved > 1e-3).to(x).mean(-1))


def _batches(num: int, batch: int, seeds: Sequence[int], epoch: int) -> Iterator[Int[Tensor, "M B"]]:
    """Yield the inputs of each step by number, in each member's own order; a last short batch is left out."""
    orders = [
        torch.randperm(num, generator=torch.Generator().manual_seed(1000 * seed + epoch)) for seed in seeds
    ]
    yield from torch.stack(orders)[:, : num - num % batch].split(batch, 1)


def evaluate(
    net: Layered,
    inputs: Float[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    *,
    steps: int = 150,
    batch: int = 500,
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Return the share of wrong answers and the mean loss of each member (the paper's Table 1 and Fig. 3)."""
    wrong, loss, members = 0.0, 0.0, len(net.weights["readout"])
    for x, y in zip(inputs.split(batch), labels.split(batch), strict=True):
        settled = relax(net, x.expand(members, *x.shape), steps=steps)
        p = readout(net, settled.r)
        wrong = wrong + (p.argmax(-1) != y).to(x).sum(-1)
        right = p.gather(-1, y.expand(members, -1)[..., None])[..., 0]
        loss = loss - right.clamp(min=1e-30).log().sum(-1)
    return wrong / len(inputs), loss / len(inputs)
