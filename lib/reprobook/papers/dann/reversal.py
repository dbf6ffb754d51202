"""Gradient reversal and the two schedules of the deep experiments (Secs. 4.2 and 5.2.2)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["reverse_gradient", "GradientReversal", "domain_weight", "learning_rate"]


class _Reversal(torch.autograd.Function):
    """The pseudo-function R_λ of Eqs. (16)-(17): R(x) = x, and dR/dx = -λ I."""

    @staticmethod
    def forward(x, weight):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weight = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.weight * gradient, None


def reverse_gradient(x: Float[Tensor, "*shape"], weight: float | Tensor = 1.0) -> Float[Tensor, "*shape"]:
    """Return ``x`` unchanged, and send the gradient back multiplied by ``-weight``: Eqs. (16)-(17).

    Args:
        x: features, of any shape.
        weight: λ >= 0, a number or a tensor that multiplies a gradient of the shape of ``x``. With 0 the
            features hear nothing of the loss behind this point; what comes behind still learns.

    Returns:
        A tensor equal to ``x``.
    """
    return _Reversal.apply(x, weight)


class GradientReversal(nn.Module):
    """Gradient reversal as a layer (Sec. 4.2): put it between the features and the domain classifier.

    Attributes:
        weight: λ >= 0, to be changed during training as :func:`domain_weight` says.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return reverse_gradient(x, self.weight)


def domain_weight(progress: float, steepness: float = 10.0) -> float:
    """Return λ_p = 2 / (1 + exp(-γ p)) - 1, the weight of the reversed gradient (Sec. 5.2.2).

    It starts at 0, so that a domain classifier that knows nothing yet does not disturb the features.

    Args:
        progress: p, the share of the training that is done, in [0, 1].
        steepness: γ.
    """
    return math.tanh(steepness * progress / 2)  # the same function in a form that cannot overflow


def learning_rate(progress: float, first: float = 0.01, slope: float = 10.0, power: float = 0.75) -> float:
    """Return μ_p = μ_0 / (1 + α p)^β, the learning rate at progress p (Sec. 5.2.2).

    Args:
        progress: p, the share of the training that is done, in [0, 1].
        first: μ_0.
        slope: α.
        power: β.
    """
    return first / (1 + slope * progress) ** power
