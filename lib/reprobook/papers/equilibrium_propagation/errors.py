"""Error signals of a settled network, and what each says about the weights.

All of them are vectors over the neurons, in activities. The one that gives the exact gradient is recurrent
backpropagation's δ = -J⁻ᵀ(dL/dr)ᵀ; equilibrium propagation measures d_β r = -J⁻¹(dL/dr)ᵀ, the change of the
settled activities with the nudge (Laborieux and Zenke, arXiv 2309.02214, Table 1). With D = diag φ′(u) and
J = W - D⁻¹, both are fixed points of e = D(We + g) and e = D(Wᵀe + g), g = dL/dr.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from reprobook.papers.equilibrium_propagation.layered import Layered
from reprobook.papers.equilibrium_propagation.relaxation import (
    Layers,
    Network,
    Settled,
    loss_slope,
    readout,
    relax,
    step,
)

__all__ = [
    "jacobian",
    "linear_error",
    "nudged_error",
    "orbit_error",
    "gradients",
    "flatten",
]


def flatten(layers: Layers) -> Shaped[Tensor, "M B N"]:
    """Return all neurons side by side."""
    return torch.cat(layers, -1)


def jacobian(net: Layered, settled: Settled) -> Float[Tensor, "M B N N"]:
    """Return J = W - diag(1/φ′(u)), the derivative of F(r) = H(r) - φ⁻¹(r), a full matrix for each input."""
    sizes = list(net.wiring.sizes[1:])
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    matrix = torch.diag_embed(-1 / net.phi.slope(flatten(settled.u)))
    for s, t in net.wiring.ways:
        if s:
            rows, columns = slice(starts[t - 1], starts[t]), slice(starts[s - 1], starts[s])
            matrix[..., rows, columns] += net.weights[f"{s}>{t}"][:, None]
    return matrix


def linear_error(
    net: Network, settled: Settled, target: Float[Tensor, "M B C"], *, steps: int = 20, transposed: bool
) -> Layers:
    """Return d_β r, or δ, by following their linear dynamics for some steps from zero.

    Args:
        net: with its weights.
        settled: the free state.
        target: one-hot classes, ``(M, B, C)``.
        steps: of e ← D(We + g); the error shrinks as the free dynamics settles.
        transposed: False for equilibrium propagation's limit of a small nudge, True for recurrent
            backpropagation.
    """
    slopes = [net.phi.slope(u) for u in settled.u]
    source = loss_slope(net, settled.r, target)
    way = net.pull if transposed else net.push
    error = [torch.zeros_like(r) for r in settled.r]
    for _ in range(steps):
        error = list(way(settled.r, error))
        error[-1] = error[-1] + source
        error = [d * e for d, e in zip(slopes, error, strict=True)]
    return error


def nudged_error(
    net: Network,
    x: Float[Tensor, "M B ..."],
    settled: Settled,
    target: Float[Tensor, "M B C"],
    *,
    radius: float,
    num_points: int,
    steps: int = 20,
) -> Layers:
    """Return d_β r from states settled at N nudges on a circle, (1/N) Σ r(β_k)/β_k (Table 1 of the paper).

    N = 1 is one-sided, against the free state; N = 2 the symmetric difference. For a real network the state
    at the conjugate of β is the conjugate, so half of the circle is enough.

    Args:
        net, x: the network and its inputs.
        settled: the free state, from which every nudged one begins.
        target: one-hot classes.
        radius: |β| > 0.
        num_points: N >= 1.
        steps: of settling under each nudge.
    """
    if num_points == 1:
        nudged = relax(net, x, settled.u, steps=steps, beta=radius, target=target)
        return [(a - b) / radius for a, b in zip(nudged.r, settled.r, strict=True)]
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    total = [torch.zeros_like(r) for r in settled.r]
    for k in range(num_points // 2 + 1):
        angle = 2 * math.pi * k / num_points
        alone = k == 0 or 2 * k == num_points  # on the real axis: is its own conjugate
        beta = complex(radius * math.cos(angle), radius * math.sin(angle))
        if alone:
            nudged = relax(net, x, settled.u, steps=steps, beta=beta.real, target=target)
            parts = [r / beta.real for r in nudged.r]
        else:
            start = [u.to(kind) for u in settled.u]
            nudged = relax(net, x, start, steps=steps, beta=beta, target=target)
            parts = [2 * (r / beta).real for r in nudged.r]
        total = [a + b for a, b in zip(total, parts, strict=True)]
    return [a / num_points for a in total]


def orbit_error(
    net: Network,
    x: Float[Tensor, "M B ..."],
    settled: Settled,
    target: Float[Tensor, "M B C"],
    *,
    radius: float,
    period: int,
    periods: int = 1,
) -> tuple[Layers, Layers]:
    """Return d_β r and the free activities from one run while β circles, the continuous-time estimate.

    The nudge is |β| e^{2πi k / period} at step k; the mean of r e^{-2πi k/period}/|β| estimates the
    derivative, the mean of r the free activities. Nothing waits for the network to settle at any β, so it
    lags behind.

    Args:
        net, x, settled, target: as in :func:`nudged_error`.
        radius: |β| > 0.
        period: steps of a turn.
        periods: turns; the first of several is not counted.
    """
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    u, drive = [layer.to(kind) for layer in settled.u], net.drive(x)
    slope, mean = ([torch.zeros_like(layer) for layer in u] for _ in range(2))
    first = period if periods > 1 else 0
    for k in range(period * periods):
        turn = complex(math.cos(2 * math.pi * k / period), math.sin(2 * math.pi * k / period))
        u, _ = step(net, drive, u, radius * turn, target)
        if k >= first:
            r = [net.phi.value(layer) for layer in u]
            slope = [a + b * turn.conjugate() for a, b in zip(slope, r, strict=True)]
            mean = [a + b for a, b in zip(mean, r, strict=True)]
    counted = period * periods - first
    return [s.real / (radius * counted) for s in slope], [m.real / counted for m in mean]


def gradients(
    net: Network,
    x: Float[Tensor, "M B ..."],
    settled: Settled,
    target: Float[Tensor, "M B C"],
    error: Layers,
) -> dict[str, Tensor]:
    """Return (∂F/∂θ)ᵀ e averaged over the batch, at the free state, and the readout's own gradient.

    With e = δ this is the exact gradient of the mean cross-entropy at the fixed point.
    """
    wrong = readout(net, settled.r) - target
    found = net.slopes(x, settled.r, error)
    found["readout"] = wrong.mT @ settled.r[-1].flatten(2) / x.shape[1]
    found["readout bias"] = wrong.mean(1)
    return found
