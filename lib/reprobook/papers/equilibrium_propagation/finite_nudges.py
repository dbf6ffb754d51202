r"""Finite nudges: how good the estimate of the error is, where it stops being good, and one neuron solved.

Equilibrium propagation measures its error with nudges that are not small (Laborieux and Zenke, arXiv
2309.02214, Table 1). Three things come between the estimate and the derivative: the bias of a finite
:math:`|\beta|`, a free state that has not settled, and rounding, which :math:`1/|\beta|` magnifies.

A single neuron with a drive :math:`c` and two classes can be solved backwards: an activity :math:`r` is at
rest under exactly one nudge,

.. math:: \beta(r) = \frac{\varphi^{-1}(r) - c}{g(r)}, \qquad g = dL/dr .
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from reprobook.papers.equilibrium_propagation.errors import flatten, linear_error, nudged_error
from reprobook.papers.equilibrium_propagation.layered import Layered, Wiring
from reprobook.papers.equilibrium_propagation.relaxation import (
    Layers,
    Settled,
    loss_slope,
    readout,
    relax,
)
from reprobook.papers.equilibrium_propagation.training import Method

__all__ = [
    "Comparison",
    "compare",
    "in_precision",
    "table_of_methods",
    "estimate_at",
    "radius_by_points",
    "best_nudge",
    "one_neuron",
    "nudge_that_holds",
    "response_of_one",
    "settled_on_circle",
]


class Comparison(NamedTuple):
    """How an error signal compares with another, for every member and input.

    Attributes:
        distance: length of the difference over that of the reference.
        cosine: of the angle between them.
        length: length over that of the reference.
    """

    distance: Float[Tensor, "M B"]
    cosine: Float[Tensor, "M B"]
    length: Float[Tensor, "M B"]


def compare(error: Float[Tensor, "M B N"], reference: Float[Tensor, "M B N"]) -> Comparison:
    """Return distance, cosine and length of an error signal against a reference (cosines as in Fig. 4)."""
    size = reference.norm(dim=-1)
    cosine = torch.cosine_similarity(error, reference, dim=-1, eps=1e-30)
    return Comparison((error - reference).norm(dim=-1) / size, cosine, error.norm(dim=-1) / size)


def in_precision(net: Layered, dtype: torch.dtype) -> Layered:
    """Return a copy of a network in another precision, weights of its own (the paper: single)."""
    return Layered(net.wiring, {name: weight.to(dtype).clone() for name, weight in net.weights.items()})


def table_of_methods(
    radii: Sequence[float], points: Sequence[Sequence[int]], steps: int = 20
) -> dict[tuple[float, int], Method]:
    """Return the cells of the paper's Table 1 that use nudges, by |β| and N.

    Args:
        radii: |β| of each block of the table.
        points: numbers N of points for each of them.
        steps: of settling under each nudge, T2.
    """
    return {
        (radius, n): Method("nudged", radius=radius, num_points=n, steps=steps)
        for radius, several in zip(radii, points, strict=True)
        for n in several
    }


def estimate_at(
    net: Layered,
    x: Float[Tensor, "M B D"],
    target: Float[Tensor, "M B C"],
    settled: Settled,
    radius: float,
    num_points: int,
    steps: int = 20,
) -> Comparison:
    """Compare N nudges of one |β| with the derivative that as many steps of its linear dynamics give.

    Both are cut short in the same way, so what differs is the bias of a finite nudge (Table 1 of the
    paper), a drift of the free state, and rounding. The reference is computed in double precision.

    Args:
        net, x, target: in any one precision.
        settled: the free state, in that precision.
        radius: |β|; with one point it may be negative, a nudge towards the answer.
        num_points: N.
        steps: of settling under each nudge.
    """
    points = {"radius": radius, "num_points": num_points, "steps": steps}
    error = flatten(nudged_error(net, x, settled, target, **points)).double()
    free = Settled(*([part.double() for part in layers] for layers in settled[:2]), *settled[2:])
    exact = linear_error(
        in_precision(net, torch.float64), free, target.double(), steps=steps, transposed=False
    )
    return compare(error, flatten(exact))


def radius_by_points(
    net: Layered,
    x: Float[Tensor, "M B D"],
    target: Float[Tensor, "M B C"],
    settled: Settled,
    *,
    radius: float = 0.1,
    steps: int = 100,
    power: float = 1.5,
) -> Float[Tensor, "M B"]:
    """Return a rough radius of analyticity in β, from the errors of 4, 5, 8 and 9 points.

    With Taylor coefficients aₙ the error of N points on a circle is a_{N+1} |β|^N and higher terms (the
    rule of the paper's Table 1), and near a pair of branch points |β| = R, at angles ±θ, aₙ is like
    n^(-power) R⁻ⁿ cos(nθ + ...). So four points more divide the error by (9/5)^power (R/|β|)⁴; neighbours
    N and N + 1 are taken together, lest one of them stand where the cosine vanishes.

    Args:
        net, x, target, settled: in double precision, for errors down to 1e-12 count.
        radius: |β| of the circles, well within R.
        steps: of settling.
        power: 1.5 where two settled states meet (a square root), 0 for a simple pole.
    """
    near = {"steps": steps, "radius": radius}
    exact = flatten(linear_error(net, settled, target, steps=steps, transposed=False))
    size = {
        n: (flatten(nudged_error(net, x, settled, target, num_points=n, **near)) - exact).norm(dim=-1)
        for n in (4, 5, 8, 9)
    }
    ratio = (size[4] / size[8] * (5 / 9) ** power) ** 0.25  # R/|β|
    for _ in range(3):
        low, high = (size[n].square() + (ratio * size[n + 1]).square() for n in (4, 8))
        ratio = ((low / high).sqrt() * (5 / 9) ** power) ** 0.25
    return radius * ratio


def best_nudge(radii: Sequence[float], errors: Float[Tensor, "radii M"]) -> Float[Tensor, " M"]:
    """Return the |β| of the smallest error for each member, on the grid that was tried (compare Table 1)."""
    return torch.tensor(radii, dtype=errors.dtype)[errors.argmin(0)]


# ------------------------------------------------------------------------------- one neuron


def one_neuron(drive: float, readout_weight: float, bias: float = 0.0) -> Layered:
    """Return a network of one neuron without input and two classes, in double precision.

    It is the paper's network at its smallest: nothing comes back, so only the loss and the activation bend
    the response to a nudge.

    Args:
        drive: what the neuron receives, c.
        readout_weight: w of the log odds w r + bias of class 0.
        bias: of the log odds.
    """
    weights = {
        "0>1": torch.zeros(1, 1, 1),
        "1": torch.tensor([[drive]]),
        "readout": torch.tensor([[[readout_weight], [0.0]]]),
        "readout bias": torch.tensor([[bias, 0.0]]),
    }
    return Layered(Wiring((1, 1), ((0, 1),), 2), {k: v.double() for k, v in weights.items()})


def nudge_that_holds(
    net: Layered, r: Shaped[Tensor, "1 B 1"], target: Float[Tensor, "1 B 2"]
) -> Shaped[Tensor, "1 B 1"]:
    """Return the nudge β(r) = (φ⁻¹(r) - c)/g(r) under which one neuron of the paper rests at r.

    Args:
        net: from :func:`one_neuron`.
        r: activities, real or complex.
        target: one-hot classes.
    """
    inverse = 0.5 + 0.25 * torch.log(r / (1 - r))
    return (inverse - net.weights["1"][:, None]) / loss_slope(net, [r], target)


def response_of_one(
    net: Layered, target: Float[Tensor, "1 B 2"]
) -> tuple[Float[Tensor, "1 B 1"], Float[Tensor, "1 B 1"]]:
    """Return dr/dβ = φ′g and d²r/dβ² = φ″g² + 2φ′²w²p(1-p)g of one neuron at β = 0, in closed form.

    Half the second, times β, is the bias of a one-sided nudge (N = 1 in the paper's Table 1). Its first term
    has the sign of the bend of φ, its second always that of the response.
    """
    u = net.weights["1"][:, None].expand(1, target.shape[1], 1)
    r, slope = net.phi.value(u), net.phi.slope(u)
    g, p = loss_slope(net, [r], target), readout(net, [r])[..., :1]
    curvature = net.weights["readout"][:, :1].square() * p * (1 - p)
    return slope * g, 4 * slope * (1 - 2 * r) * g**2 + 2 * slope**2 * curvature * g


def settled_on_circle(
    net: Layered, target: Float[Tensor, "1 B 2"], radius: float, num: int, steps: int = 80
) -> Complex[Tensor, "1 num"]:
    """Return where one neuron settles under ``num`` nudges around a circle, first input (as in Table 1)."""
    x, first = torch.zeros(1, 1, 1, dtype=torch.float64), target[:, :1]
    turns = torch.exp(2j * torch.pi * torch.arange(num, dtype=torch.float64) / num)
    free: Layers = [layer.to(torch.complex128) for layer in relax(net, x, steps=1).u]
    held = [relax(net, x, free, steps=steps, beta=complex(radius * t), target=first).r[0] for t in turns]
    return torch.cat(held, 1)[..., 0]
