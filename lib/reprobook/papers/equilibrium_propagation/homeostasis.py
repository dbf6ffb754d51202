"""Jacobian homeostasis: a penalty on the antisymmetric part of the Jacobian of the dynamics.

L = E[‖Jε‖² - εᵀJ²ε] over standard normal ε is 2‖A‖²_F, A = (J - Jᵀ)/2 (Laborieux and Zenke, arXiv
2309.02214, Fig. 4). The first term damps how sensitive the dynamics is, the second rewards a J that undoes
itself on ε. For networks whose layers receive linearly, J = W - diag(1/φ′), the diagonal is symmetric, and
L depends on the weights alone: it is the squared difference of the ways forth and the transposed ways back,
and for a way without an opposite its squared norm, so plain weight decay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.papers.equilibrium_propagation.layered import Layered, Wiring
from reprobook.papers.equilibrium_propagation.relaxation import Layers, Network, Settled

__all__ = ["penalty", "penalty_slope", "pushed", "penalty_estimate"]


def penalty(net: Layered) -> Float[Tensor, " M"]:
    """Return 2‖A‖²_F in closed form: Σ‖W - Bᵀ‖² over pairs of opposite ways, Σ‖W‖² over the others."""
    wiring, weights = net.wiring, net.weights
    total = torch.zeros(len(weights["readout"])).to(weights["readout"])
    for s, t in wiring.ways:
        if s:
            excess = weights[f"{s}>{t}"] - _opposite(wiring, weights, s, t)
            share = 0.5 if (t, s) in wiring.ways else 1.0  # a pair comes by twice
            total = total + share * excess.square().sum((1, 2))
    return total


def penalty_slope(net: Layered) -> dict[str, Tensor]:
    """Return the gradient of :func:`penalty`: 2(W - Bᵀ) for a pair, 2W for a way without an opposite."""
    wiring, weights = net.wiring, net.weights
    return {
        f"{s}>{t}": 2 * (weights[f"{s}>{t}"] - _opposite(wiring, weights, s, t)) for s, t in wiring.ways if s
    }


def _opposite(wiring: Wiring, weights: dict[str, Tensor], s: int, t: int) -> Tensor | float:
    return weights[f"{t}>{s}"].mT if (t, s) in wiring.ways else 0.0


def pushed(net: Network, settled: Settled, e: Layers) -> Layers:
    """Return Je = We - e/φ′(u), without forming J; W is the derivative of what layers receive."""
    sums = net.push(settled.r, e)
    return [a - b / net.phi.slope(u) for a, b, u in zip(sums, e, settled.u, strict=True)]


def penalty_estimate(
    push: Callable[[Layers], Layers], like: Layers, generator: torch.Generator, draws: int = 5
) -> Float[Tensor, "M B"]:
    """Return an unbiased estimate of E[‖Jε‖² - εᵀJ²ε] for each input, from two products with J a draw.

    Args:
        push: e to Je; the state is held fixed.
        like: layers of the shape of ε.
        generator: on the CPU.
        draws: of ε; the paper's code takes 5.
    """
    total = torch.zeros(like[0].shape[:2]).to(like[0])
    for _ in range(draws):
        e = [torch.randn(part.shape, generator=generator, dtype=part.dtype).to(part.device) for part in like]
        once = push(e)
        twice = push(once)
        total = total + sum(
            (a.square() - b * c).flatten(2).sum(-1) for a, b, c in zip(once, e, twice, strict=True)
        )
    return total / draws
