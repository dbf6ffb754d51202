"""What a network may predict, and how one prediction becomes another.

Clean sample, noise, score and velocity are four names for the same knowledge: each is the conditional mean
of a x_0 + b ε given x_t, for its own pair (a, b) (Lai et al., 2025, Eq. 6.2.5), and x_t = α x_0 + σ ε is
known. Two linear equations in two unknowns: so any of the four gives any other by one affine formula,
of which Prop. 6.3.1 lists the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.schedules import Schedule, spread

__all__ = ["KINDS", "Model", "coefficients", "conversion", "convert", "diffuse"]

#: What a model may predict.
KINDS = ("clean", "noise", "score", "velocity")

Times = Float[Tensor, "*times"]


def diffuse(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], t: Times, schedule: Schedule
) -> Float[Tensor, "*shape"]:
    """Return x_t = α_t x_0 + σ_t ε.

    Args:
        clean: x_0, ``(B, ...)``.
        noise: ε, standard normal, of the same shape.
        t: one time for all, shape (), or one a sample, ``(B,)``.
        schedule: gives α and σ.
    """
    return spread(schedule.alpha(t), clean) * clean + spread(schedule.sigma(t), clean) * noise


def coefficients(schedule: Schedule, t: Times, kind: str) -> tuple[Times, Times]:
    """Return (a, b) of the regression target a x_0 + b ε whose mean given x_t is the prediction (Eq. 6.2.5).

    Args:
        schedule: of the diffusion.
        t: times of any shape.
        kind: one of :data:`KINDS`.

    Raises:
        ValueError: for another kind.
    """
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if kind == "clean":
        return one, zero
    if kind == "noise":
        return zero, one
    if kind == "score":
        return zero, -1 / schedule.sigma(t)
    if kind == "velocity":
        return schedule.d_alpha(t), schedule.d_sigma(t)
    raise ValueError(f"unknown prediction '{kind}': choose one of {', '.join(KINDS)}")


def conversion(schedule: Schedule, t: Times, kind: str, to: str) -> tuple[Times, Times]:
    """Return (p, q) with which the prediction wanted is p x_t + q times the prediction given.

    Solve x = α x_0 + σ ε and y = a x_0 + b ε for x_0 and ε, and put them into a' x_0 + b' ε.
    """
    if kind == to:
        return torch.zeros_like(t), torch.ones_like(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    (a, b), (a_to, b_to) = coefficients(schedule, t, kind), coefficients(schedule, t, to)
    determinant = alpha * b - sigma * a
    return (a_to * b - b_to * a) / determinant, (alpha * b_to - sigma * a_to) / determinant


def convert(
    value: Float[Tensor, "*shape"],
    kind: str,
    to: str,
    x: Float[Tensor, "*shape"],
    t: Times,
    schedule: Schedule,
) -> Float[Tensor, "*shape"]:
    """Turn one prediction into another (Prop. 6.3.1).

    Args:
        value: the prediction given, of the shape of ``x``.
        kind: what it is, one of :data:`KINDS`.
        to: what is wanted.
        x: the noisy sample x_t that it was made for, ``(B, ...)``.
        t: its time, () or ``(B,)``.
        schedule: of the diffusion.
    """
    if kind == to:
        return value
    p, q = conversion(schedule, t, kind, to)
    return spread(p, x) * x + spread(q, x) * value


@dataclass(frozen=True)
class Model:
    """A prediction as a function of noisy sample and time, which can be asked for any of the four kinds.

    Attributes:
        function: x_t of shape ``(B, ...)`` and t of shape () or ``(B,)`` to a prediction of the shape of x_t.
        kind: what it predicts, one of :data:`KINDS`.
        schedule: the diffusion that it was made for.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    kind: str
    schedule: Schedule

    def __call__(self, x: Float[Tensor, "*shape"], t: Times, kind: str = "clean") -> Float[Tensor, "*shape"]:
        """Return the prediction of the wanted kind; one evaluation of the function."""
        return convert(self.function(x, t), self.kind, kind, x, t, self.schedule)
