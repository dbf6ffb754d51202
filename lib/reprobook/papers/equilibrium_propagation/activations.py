"""Activations that complex states can pass, and a softmax that stays analytic.

Nudges may be complex (Laborieux and Zenke, arXiv 2309.02214), so every function of a state is analytic near
the real axis, and the derivative with the nudge is a contour integral.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

__all__ = ["Activation", "ACTIVATIONS", "softmax"]


@dataclass(frozen=True)
class Activation:
    """A function of one number that is analytic near the real axis, and its derivative.

    Attributes:
        value: u to φ(u), elementwise, real or complex.
        slope: u to φ′(u).
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _sigmoid(u: Tensor) -> Tensor:
    if not u.is_complex():
        return torch.sigmoid(u)
    # 1 / (1 + e^(-a-ib)) in real functions, which neither overflow nor take as long as a complex exponential
    shrink = 1 / torch.cosh(u.real)
    below = 2 * (1 + shrink * torch.cos(u.imag))
    return torch.complex(0.5 + torch.tanh(u.real) / below, shrink * torch.sin(u.imag) / below)


def _logistic(u: Tensor) -> Tensor:
    return _sigmoid(4 * u - 2)


def _capped(u: Tensor) -> Tensor:
    return u / 2 * _sigmoid(u) + (1 - u / 2) * _sigmoid(u - 2)


def _capped_slope(u: Tensor) -> Tensor:
    a, b = _sigmoid(u), _sigmoid(u - 2)
    return (a - b) / 2 + u / 2 * a * (1 - a) + (1 - u / 2) * b * (1 - b)


#: ``logistic``: 1/(1 + e^(2-4u)), of the layered networks; ``capped``: u/2 σ(u) + (1 - u/2) σ(u-2), flat
#: at both ends and nearly u between 0 and 1, of the convolutional ones.
ACTIVATIONS: dict[str, Activation] = {
    "logistic": Activation(_logistic, lambda u: 4 * _logistic(u) * (1 - _logistic(u))),
    "capped": Activation(_capped, _capped_slope),
}


def softmax(z: Shaped[Tensor, "*batch C"], axis: int = -1) -> Shaped[Tensor, "*batch C"]:
    """Return the softmax over an axis, also of complex numbers (the paper's readout and pooling).

    The real number that is subtracted for stability cancels exactly, so the result is analytic all the same.
    """
    largest = (z.real if z.is_complex() else z).amax(axis, keepdim=True)
    weights = torch.exp(z - largest)
    return weights / weights.sum(axis, keepdim=True)
