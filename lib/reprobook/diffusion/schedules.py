"""Noise schedules as data: how much of the clean sample is left at a time, and how much noise is there.

A sample at time t is x_t = α_t x_0 + σ_t ε with ε a standard normal; t = 0 is data and the last time is
noise. Everything else follows from α and σ: half the log signal-to-noise ratio λ = log(α/σ), and the drift
f and the diffusion g² of the stochastic differential equation dx = f x dt + g dw that has these moments
(Lai et al., *The Principles of Diffusion Models*, 2025, Lemma 4.5.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["Schedule", "SCHEDULES", "spread", "to_flow_matching"]

Coefficient = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """A pair of coefficients of time, their derivatives, and the times between which samplers run.

    Every function takes a tensor of times of any shape and returns one of the same shape.

    Attributes:
        name: its key in :data:`SCHEDULES`.
        alpha: t to α_t > 0, what is left of the clean sample.
        sigma: t to σ_t > 0, the standard deviation of the noise.
        d_alpha: t to dα/dt.
        d_sigma: t to dσ/dt.
        time_of: the inverse of :meth:`lam`.
        first: the time at which samplers stop; the noise there is small but not zero.
        last: the time at which they start; hardly anything of the data is left there.
    """

    name: str
    alpha: Coefficient
    sigma: Coefficient
    d_alpha: Coefficient
    d_sigma: Coefficient
    time_of: Coefficient
    first: float
    last: float

    def lam(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Return λ = log(α/σ), half the logarithm of the signal-to-noise ratio; it falls with t."""
        return torch.log(self.alpha(t) / self.sigma(t))

    def d_lam(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Return dλ/dt < 0."""
        return self.d_alpha(t) / self.alpha(t) - self.d_sigma(t) / self.sigma(t)

    def drift(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Return f = d log α / dt, by which dx = f x dt + g dw shrinks a sample (Lemma 4.5.1)."""
        return self.d_alpha(t) / self.alpha(t)

    def diffusion_squared(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Return g² = d(σ²)/dt - 2 f σ² = -2 σ² dλ/dt (Lemma 4.5.1)."""
        sigma = self.sigma(t)
        return 2 * sigma * (self.d_sigma(t) - self.drift(t) * sigma)


def spread(values: Shaped[Tensor, "*times"], x: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*spread"]:
    """Give values, one a sample or one for all, trailing axes, so that they multiply samples.

    Args:
        values: of shape (), ``(B,)``, or any leading part of the shape of ``x``.
        x: samples, ``(B, ...)``.
    """
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)) if values.ndim else values


def to_flow_matching(
    schedule: Schedule, t: Float[Tensor, "*times"]
) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
    """Return (c, τ) with which x_t = c times the sample of flow matching at time τ (Prop. 6.3.3).

    Every Gaussian path is the straight one, rescaled and run by another clock: c = α + σ, τ = σ / c.
    """
    scale = schedule.alpha(t) + schedule.sigma(t)
    return scale, schedule.sigma(t) / scale


def _variance_preserving(
    name: str, log_alpha: Coefficient, rate: Coefficient, time_of_log: Coefficient, last: float
) -> Schedule:
    """Build a schedule with α² + σ² = 1 from log α, its derivative, and the inverse of log α."""

    def alpha(t: Tensor) -> Tensor:
        return log_alpha(t).exp()

    def sigma(t: Tensor) -> Tensor:
        return (-torch.expm1(2 * log_alpha(t))).sqrt()

    return Schedule(
        name,
        alpha,
        sigma,
        d_alpha=lambda t: rate(t) * alpha(t),
        d_sigma=lambda t: -rate(t) * alpha(t).square() / sigma(t),
        time_of=lambda lam: time_of_log(-torch.nn.functional.softplus(-2 * lam) / 2),
        first=1e-3,
        last=last,
    )


def _vp_linear(low: float = 0.1, high: float = 20.0) -> Schedule:
    """β grows linearly from ``low`` to ``high`` over t in [0, 1], and d log α / dt = -β/2."""
    a, b = (high - low) / 4, low / 2
    return _variance_preserving(
        "vp_linear",
        log_alpha=lambda t: -(a * t + b) * t,
        rate=lambda t: -(2 * a * t + b),
        time_of_log=lambda log: -2 * log / (b + (b * b - 4 * a * log).sqrt()),
        last=1.0,
    )


def _vp_cosine(shift: float = 0.008) -> Schedule:
    """α is a quarter wave of a cosine that starts ``shift`` late, so that σ grows slowly at first."""
    speed = math.pi / 2 / (1 + shift)
    start = math.cos(shift * speed)
    return _variance_preserving(
        "vp_cosine",
        # log of cos((t + shift) speed) / start, in a form that stays exact for small t
        log_alpha=lambda t: torch.log1p(
            -2 * torch.sin((t / 2 + shift) * speed) * torch.sin(t / 2 * speed) / start
        ),
        rate=lambda t: -speed * torch.tan((t + shift) * speed),
        time_of_log=lambda log: torch.acos(log.exp() * start) / speed - shift,
        last=0.995,
    )


def _exploding(low: float = 0.01, high: float = 50.0) -> Schedule:
    """α stays 1, and σ grows geometrically from ``low`` to ``high`` over t in [0, 1]."""
    growth = math.log(high / low)

    def sigma(t: Tensor) -> Tensor:
        return low * torch.exp(growth * t)

    return Schedule(
        "ve",
        torch.ones_like,
        sigma,
        torch.zeros_like,
        d_sigma=lambda t: growth * sigma(t),
        time_of=lambda lam: (-lam - math.log(low)) / growth,
        first=0.0,
        last=1.0,
    )


#: The schedules of the monograph by name: variance exploding, two variance preserving ones, flow matching
#: (1 - t, t), trigonometric (cos t, sin t), and EDM's (1, t).
SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        _exploding(),
        _vp_linear(),
        _vp_cosine(),
        Schedule(
            "fm",
            lambda t: 1 - t,
            lambda t: t,
            lambda t: -torch.ones_like(t),
            torch.ones_like,
            time_of=lambda lam: torch.sigmoid(-lam),
            first=1e-3,
            last=0.999,
        ),
        Schedule(
            "trig",
            torch.cos,
            torch.sin,
            lambda t: -torch.sin(t),
            torch.cos,
            time_of=lambda lam: torch.atan(torch.exp(-lam)),
            first=1e-3,
            last=math.pi / 2 - 1e-3,
        ),
        Schedule(
            "edm",
            torch.ones_like,
            lambda t: t,
            torch.zeros_like,
            torch.ones_like,
            time_of=lambda lam: torch.exp(-lam),
            first=0.002,
            last=80.0,
        ),
    )
}
