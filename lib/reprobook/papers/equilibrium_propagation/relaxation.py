"""Settling: the dynamics with and without a nudge, how far it still moves, and whether it goes in circles.

One step is u ← H(φ(u)) + β dL/dr, all neurons at once (Laborieux and Zenke, arXiv 2309.02214, as in the
authors' public code). At rest F(r) + β dL/dr = 0 in activities r = φ(u), with F(r) = H(r) - φ⁻¹(r).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from reprobook.papers.equilibrium_propagation.activations import Activation, softmax

__all__ = ["Network", "Settled", "readout", "loss_slope", "step", "relax", "settling"]

Layers = list[Tensor]


@runtime_checkable
class Network(Protocol):
    """What settling and error signals ask of a network; states are lists of ``(M, B, ...)``."""

    phi: Activation
    weights: dict[str, Tensor]

    def zeros(self, x: Tensor) -> Layers:
        """Return the state in which settling begins."""

    def drive(self, x: Tensor) -> Tensor:
        """Return what layer 1 gets from the input, which stays the same while the network settles."""

    def received(self, drive: Tensor, r: Layers) -> Layers:
        """Return H(r), what all layers receive."""

    def push(self, r: Layers, e: Layers) -> Layers:
        """Return the derivative of H at r along e."""

    def pull(self, r: Layers, e: Layers) -> Layers:
        """Return the transpose of that derivative, applied to e."""

    def slopes(self, x: Tensor, r: Layers, e: Layers) -> dict[str, Tensor]:
        """Return (∂H/∂θ)ᵀe, averaged over the batch."""


class Settled(NamedTuple):
    """A state after settling.

    Attributes:
        u: states of layers 1 to L.
        r: activities φ(u).
        moved: largest change of an activity in the last step, for each input, ``(M, B)``.
        steps: how many steps were taken.
    """

    u: Layers
    r: Layers
    moved: Float[Tensor, "M B"]
    steps: int


def readout(net: Network, r: Layers) -> Shaped[Tensor, "M B C"]:
    """Return the class probabilities: the softmax of a linear function of the last layer."""
    return softmax(product(r[-1].flatten(2), net.weights["readout"]) + net.weights["readout bias"][:, None])


def loss_slope(net: Network, r: Layers, target: Float[Tensor, "M B C"]) -> Shaped[Tensor, "M B ..."]:
    """Return dL/dr of the last layer for the cross-entropy L of each input: Wᵀ(p - y)."""
    wrong = readout(net, r) - target
    return product(wrong, net.weights["readout"].mT).reshape(r[-1].shape)


def product(x: Shaped[Tensor, "M B n"], w: Float[Tensor, "M m n"]) -> Shaped[Tensor, "M B m"]:
    """Return x wᵀ for each member; a complex x meets real weights in two real products."""
    if not x.is_complex():
        return x @ w.mT
    return torch.complex(x.real @ w.mT, x.imag @ w.mT)


def step(
    net: Network, drive: Tensor, u: Layers, beta: complex | float = 0.0, target: Tensor | None = None
) -> tuple[Layers, Layers]:
    """Return the next state, H(φ(u)) + β dL/dr with the nudge on the last layer, and the activities φ(u)."""
    r = [net.phi.value(layer) for layer in u]
    fresh = net.received(drive, r)
    if target is not None:
        fresh[-1] = fresh[-1] + beta * loss_slope(net, r, target)
    return fresh, r


def relax(
    net: Network,
    x: Float[Tensor, "M B ..."],
    u: Layers | None = None,
    *,
    steps: int = 150,
    beta: complex | float = 0.0,
    target: Float[Tensor, "M B C"] | None = None,
    damping: float = 0.0,
    tolerance: float = 0.0,
) -> Settled:
    """Let a network settle.

    Args:
        net: with its weights.
        x: inputs.
        u: where to begin; at zero if None. Complex for a complex nudge.
        steps: at most.
        beta: the nudge; a positive one raises the loss.
        target: one-hot classes; no nudge if None.
        damping: share of the old state that a step keeps, in [0, 1). The fixed points stay the same.
        tolerance: stop when no activity moved more than this in a step; 0 takes all steps.
    """
    u, drive, taken = net.zeros(x) if u is None else u, net.drive(x), 0
    for taken in range(1, steps + 1):
        fresh, r = step(net, drive, u, beta, target)
        if damping:
            fresh = [(1 - damping) * new + damping * old for new, old in zip(fresh, u, strict=True)]
        u = fresh
        if tolerance and taken % 5 == 0 and _gap([net.phi.value(layer) for layer in u], r).max() <= tolerance:
            break
    after = [net.phi.value(layer) for layer in u]
    return Settled(u, after, _gap(after, r), taken)


def settling(
    net: Network, x: Float[Tensor, "M B ..."], settled: Settled, tolerance: float = 1e-4, longest: int = 4
) -> tuple[Bool[Tensor, "M B"], Bool[Tensor, "M B"]]:
    """Return which inputs still move after settling, and which of them repeat themselves with a short period.

    Args:
        net, x: as settled.
        settled: the state to go on from.
        tolerance: of an activity.
        longest: period that is looked for, in steps.
    """
    drive, u = net.drive(x), settled.u
    restless = settled.moved > tolerance
    circling = torch.zeros_like(restless)
    for _ in range(longest):
        u, _ = step(net, drive, u)
        circling |= _gap([net.phi.value(layer) for layer in u], settled.r) <= tolerance
    return restless, restless & circling


def _gap(a: Layers, b: Layers) -> Tensor:
    """Return the largest difference of an activity for each input, ``(M, B)``."""
    return torch.stack([(p - q).abs().flatten(2).amax(-1) for p, q in zip(a, b, strict=True)]).amax(0)
