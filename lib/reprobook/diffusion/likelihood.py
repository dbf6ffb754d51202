"""The log-likelihood of a diffusion model, along its probability-flow ODE.

A flow dx/dt = v(x, t) changes the logarithm of a density by minus the divergence of v along each path. So a
sample is followed from data to noise, where the density is known, and the divergences on the way are added
up (Chen et al., 2018; Song et al., 2021; Lai et al., 2025, Eq. 4.3.7):

    log p_0(x_0) = log p_T(x_T) + ∫_0^T ∇·v(x_t, t) dt.

The divergence costs a backward pass a dimension; a random probe e with E[e eᵀ] = I estimates it by
eᵀ (∂v/∂x) e with one (Hutchinson, 1990). For a symmetric Jacobian A, whose squared entries sum up to ‖A‖²,
that has variance 2 ‖A‖² if the probe is Gaussian, and 2 (‖A‖² - Σ A_ii²) if it holds random signs: never
more, and nothing at all on a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.predictions import Model

__all__ = [
    "PROBES",
    "TABLEAUS",
    "Likelihood",
    "draw_probes",
    "exact_divergence",
    "probed_divergence",
    "probe_variance",
    "gaussian_log_density",
    "log_likelihood",
]

Field = Callable[[Tensor, Tensor], Tensor]

#: The distributions of Hutchinson's probes: ``signs`` are +1 or -1 with equal chance (Rademacher).
PROBES = ("signs", "normal")

#: Explicit Runge-Kutta methods: rows of the lower triangle, and weights. Orders 1, 2 and 4.
TABLEAUS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": (((),), (1.0,)),
    "heun": (((), (1.0,)), (1 / 2, 1 / 2)),
    "rk4": (((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


class Likelihood(NamedTuple):
    """What following samples from data to noise gives.

    Attributes:
        log_density: log p_0(x_0) in nats, ``(B,)``.
        end: x_T, of the shape of the samples.
        change: the integral of the divergence, ``(B,)``: what the way adds to the last log-density.
    """

    log_density: Tensor
    end: Tensor
    change: Tensor


def draw_probes(
    like: Float[Tensor, "*shape"], kind: str, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Draw probes of the shape, precision and device of ``like``.

    Args:
        like: samples.
        kind: one of :data:`PROBES`.
        generator: on the CPU.

    Raises:
        ValueError: for another kind.
    """
    if kind == "signs":
        probes = 2 * torch.randint(0, 2, like.shape, generator=generator) - 1
    elif kind == "normal":
        probes = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    else:
        raise ValueError(f"unknown probes '{kind}': choose one of {', '.join(PROBES)}")
    return probes.to(like)


def exact_divergence(
    field: Field, x: Float[Tensor, " B *shape"], t: Float[Tensor, "*times"]
) -> tuple[Float[Tensor, " B *shape"], Float[Tensor, " B"]]:
    """Return v(x, t) and ∇·v, with a backward pass for each number of a sample.

    Args:
        field: v, which must treat the samples of a batch independently.
        x: samples, ``(B, ...)``.
        t: () or ``(B,)``.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x, t)
        sums = value.flatten(1).sum(0)
        rows = [torch.autograd.grad(total, x, retain_graph=True)[0].flatten(1) for total in sums]
    return value.detach(), torch.stack([row[:, i] for i, row in enumerate(rows)]).sum(0)


def probed_divergence(
    field: Field,
    x: Float[Tensor, " B *shape"],
    t: Float[Tensor, "*times"],
    probes: Float[Tensor, " B *shape"],
) -> tuple[Float[Tensor, " B *shape"], Float[Tensor, " B"]]:
    """Return v(x, t) and Hutchinson's estimate eᵀ (∂v/∂x) e of ∇·v, with one backward pass.

    Args:
        field: v, which must treat the samples of a batch independently.
        x: samples, ``(B, ...)``.
        t: () or ``(B,)``.
        probes: e, of the shape of ``x``; for the estimate to be right on average, E[e eᵀ] = I.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x, t)
        (row,) = torch.autograd.grad((value * probes).sum(), x)
    return value.detach(), (row * probes).flatten(1).sum(1)


def probe_variance(jacobian: Float[Tensor, "*batch D D"], kind: str) -> Float[Tensor, "*batch"]:
    """Return the variance of eᵀ A e over probes; only the symmetric part of A counts.

    Args:
        jacobian: A, ``(*batch, D, D)``.
        kind: one of :data:`PROBES`.
    """
    symmetric = (jacobian + jacobian.mT) / 2
    squares = symmetric.square().sum((-2, -1))
    if kind == "signs":
        squares = squares - torch.diagonal(symmetric, dim1=-2, dim2=-1).square().sum(-1)
    return 2 * squares


def gaussian_log_density(x: Float[Tensor, " B *shape"], std: Float[Tensor, ""]) -> Float[Tensor, " B"]:
    """Return log N(x; 0, std² I), what is put for the density of noise."""
    flat = x.flatten(1) / std
    return -(flat.square().sum(1) + flat.shape[1] * (math.log(2 * math.pi) + 2 * std.log())) / 2


def log_likelihood(
    model: Model,
    x: Float[Tensor, " B *shape"],
    grid: Float[Tensor, " num_times"],
    *,
    probes: Float[Tensor, " B *shape"] | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    solver: str = "rk4",
) -> Likelihood:
    """Return the log-density that a model gives to samples, Eq. (4.3.7).

    Args:
        model: a prediction of any kind; its velocity is followed.
        x: samples at the last time of the grid, ``(B, ...)``.
        grid: times as samplers use them, from noise to data; it is followed backwards.
        probes: one a sample, kept along its whole path; the exact divergence is computed if None.
        prior: x_T to log p_T(x_T), ``(B,)``; N(0, σ_T² I) by default.
        solver: one of :data:`TABLEAUS`.
    """

    def field(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, "velocity")

    def rates(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return exact_divergence(field, x, t) if probes is None else probed_divergence(field, x, t, probes)

    times = grid.flip(0)
    change = torch.zeros_like(x.flatten(1)[:, 0])
    for t, s in pairwise(times):
        x, change = _step(rates, x, change, t, s - t, solver)
    last = gaussian_log_density(x, model.schedule.sigma(times[-1]).to(x)) if prior is None else prior(x)
    return Likelihood(last + change, x, change)


def _step(
    rates: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    change: Tensor,
    t: Tensor,
    step: Tensor,
    solver: str,
) -> tuple[Tensor, Tensor]:
    """Return position and integral one step of a Runge-Kutta method later."""
    rows, weights = TABLEAUS[solver]
    moves, growths = [], []
    for row in rows:
        inner = x + step * sum((c * move for c, move in zip(row, moves, strict=True)), torch.zeros_like(x))
        move, growth = rates(inner, t + step * sum(row))
        moves.append(move)
        growths.append(growth)
    x = x + step * sum(w * move for w, move in zip(weights, moves, strict=True))
    return x, change + step * sum(w * growth for w, growth in zip(weights, growths, strict=True))
