"""The six divergences of the paper as data, and any other by its generator.

A divergence is D_f(p‖q) = ∫ q f(p/q) with a convex f and f(1) = 0 (Xu, Nie and Vahdat, arXiv 2502.15681,
Table 1). All that distillation needs of it is the weight h(r) = r² f″(r) ≥ 0 of the density ratio r = p/q,
teacher over student.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

__all__ = ["Divergence", "DIVERGENCES", "from_generator"]

Function = Callable[[Tensor], Tensor]
Ratios = Float[Tensor, "*shape"]


@dataclass(frozen=True)
class Divergence:
    """An f-divergence, and what the paper's Tables 1 and 6 say of it.

    The functions take ratios r > 0 of any shape and return values of that shape.

    Attributes:
        name: its key in :data:`DIVERGENCES`.
        title: for people.
        f: the convex generator.
        slope: its derivative f′.
        weight: h(r) = r² f″(r).
        mode_seeking: the authors' judgement, ``yes``, ``medium`` or ``no``.
        saturation: the same, ``yes`` or ``no``: do gradients vanish where student and teacher are far apart?
        variance: the same, ``low``, ``high``, or ``none`` for a constant weight.
    """

    name: str
    title: str
    f: Function
    slope: Function
    weight: Function
    mode_seeking: str = ""
    saturation: str = ""
    variance: str = ""


#: The rows of the paper's Table 1, and the qualitative columns of its Table 6.
DIVERGENCES: dict[str, Divergence] = {
    row.name: row
    for row in (
        Divergence(
            "reverse_kl",
            "reverse KL",
            f=lambda r: -r.log(),
            slope=lambda r: -1 / r,
            weight=torch.ones_like,
            mode_seeking="yes",
            saturation="no",
            variance="none",
        ),
        Divergence(
            "softened_reverse_kl",
            "softened reverse KL",
            f=lambda r: (r + 1) * torch.log((1 + 1 / r) / 2),
            slope=lambda r: torch.log((1 + 1 / r) / 2) - 1 / r,
            weight=lambda r: 1 / (r + 1),
            mode_seeking="yes",
            saturation="no",
            variance="low",
        ),
        Divergence(
            "jensen_shannon",
            "Jensen-Shannon",
            f=lambda r: r * r.log() - (r + 1) * torch.log((r + 1) / 2),
            slope=lambda r: math.log(2) - torch.log1p(1 / r),
            weight=lambda r: 1 / (1 + 1 / r),
            mode_seeking="medium",
            saturation="yes",
            variance="low",
        ),
        Divergence(
            "squared_hellinger",
            "squared Hellinger",
            f=lambda r: 1 - r.sqrt(),
            slope=lambda r: -0.5 / r.sqrt(),
            weight=lambda r: r.sqrt() / 4,
            mode_seeking="medium",
            saturation="yes",
            variance="low",
        ),
        Divergence(
            "forward_kl",
            "forward KL",
            f=lambda r: r * r.log(),
            slope=lambda r: r.log() + 1,
            weight=lambda r: r,
            mode_seeking="no",
            saturation="no",
            variance="high",
        ),
        Divergence(
            "jeffreys",
            "Jeffreys",
            f=lambda r: (r - 1) * r.log(),
            slope=lambda r: r.log() + 1 - 1 / r,
            weight=lambda r: r + 1,
            mode_seeking="no",
            saturation="no",
            variance="high",
        ),
    )
}


def from_generator(name: str, f: Function) -> Divergence:
    """Return the divergence of any convex generator (Table 1); slope and weight by automatic differentiation.

    Args:
        name: for people and for keys.
        f: twice differentiable on r > 0, elementwise, with f(1) = 0. A part a (r - 1) changes nothing.
    """
    slope, curvature = grad(f), grad(grad(f))

    def of_all(function: Function) -> Function:
        return lambda r: vmap(function)(r.reshape(-1)).reshape(r.shape)

    return Divergence(name, name, f, of_all(slope), of_all(lambda r: r.square() * curvature(r)))
