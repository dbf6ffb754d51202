"""Guidance: from models that are there, make one that leans towards a class, a verdict or a measurement.

Each function takes models and returns a model, so whatever solves or samples takes the result as it takes any
other. The weight ω is that of Lai et al. (2025), Eq. (8.3.2): 0 is unconditional, 1 is conditional, and
above 1 the difference is extrapolated. Other authors count what is *added* to the conditional model,
w = ω - 1 (their Eq. 10.3.4, and Ho & Salimans, 2022); :data:`CONVENTIONS` has both.

A guided score is the score of p_t(x) p_t(c|x)^ω at each time by itself. These laws are not the diffused
p_0(x) p_0(c|x)^ω, so a sampler that follows the guided score does not end there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import spread

__all__ = [
    "CONVENTIONS",
    "extrapolate",
    "extrapolate_by",
    "classifier_free",
    "classifier_guided",
    "measurement_guided",
    "within_interval",
    "drop_labels",
]

Samples = Float[Tensor, "*shape"]


def extrapolate(conditional: Samples, unconditional: Samples, weight: float) -> Samples:
    """Return ω c + (1 - ω) u, Eq. (8.3.2); weight 1 is the conditional prediction."""
    return weight * conditional + (1 - weight) * unconditional


def extrapolate_by(conditional: Samples, unconditional: Samples, weight: float) -> Samples:
    """Return (1 + w) c - w u, Eq. (10.3.4); weight 0 is the conditional prediction."""
    return (1 + weight) * conditional - weight * unconditional


#: The ways to count the weight: the whole of it (ω), or what is added to the conditional model (w = ω - 1).
CONVENTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "whole": extrapolate,
    "added": extrapolate_by,
}


def classifier_free(
    conditional: Model, unconditional: Model, weight: float, convention: str = "whole"
) -> Model:
    """Return the model extrapolated from the unconditional through the conditional one (Eq. 8.3.2).

    Which of the four predictions is extrapolated does not matter: weights that sum to one commute with the
    affine conversions. Every evaluation costs two, one of each model.

    Args:
        conditional: predicts x_0 from x_t and the label.
        unconditional: predicts it from x_t alone, for the same schedule.
        weight: ω or w, any real number.
        convention: a key of :data:`CONVENTIONS`.

    Returns:
        A model of the kind of ``conditional``. ω = 1: the conditional model; ω = 0: the unconditional one.

    Raises:
        ValueError: if the convention is unknown, or the models have different schedules.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention '{convention}': choose one of {', '.join(CONVENTIONS)}")
    if conditional.schedule is not unconditional.schedule:
        raise ValueError(f"schedules differ: {conditional.schedule.name}, {unconditional.schedule.name}")
    kind, combine = conditional.kind, CONVENTIONS[convention]

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return combine(conditional.function(x, t), unconditional(x, t, kind), weight)

    return Model(guided, kind, conditional.schedule)


def classifier_guided(
    unconditional: Model, log_classifier: Callable[[Tensor, Tensor], Tensor], weight: float
) -> Model:
    """Return the model with score ∇ log p_t(x) + ω ∇ log p_t(c|x) (Eqs. 8.2.2 and 8.2.3).

    Args:
        unconditional: of any kind.
        log_classifier: x_t, ``(B, ...)``, and t to log p_t(c|x_t), ``(B,)``, differentiable by x_t. It has to
            know noisy samples of every time.
        weight: ω.

    Returns:
        A model that predicts scores. With the classifier that two models imply by Bayes' rule it is
        :func:`classifier_free` of the two, of the same weight.
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return unconditional(x, t, "score") + weight * _gradient(log_classifier, x, t)

    return Model(guided, "score", unconditional.schedule)


def measurement_guided(
    prior: Model,
    operator: Float[Tensor, "M D"],
    measured: Float[Tensor, " M"],
    noise_std: float,
    covariance: Callable[[Tensor], Tensor] | None = None,
) -> Model:
    """Return the prior guided towards y = A x_0 + noise of standard deviation r (Eq. 8.4.5).

    The gradient of log N(y; A x̂_0(x_t), r² I + A C_t Aᵀ) is added to the score, through the denoiser x̂_0.
    Diffusion posterior sampling (DPS) drops C_t, the covariance of x_0 given x_t, as if x_0 were known.

    Args:
        prior: of points, ``(B, D)``.
        operator: A.
        measured: y.
        noise_std: r > 0.
        covariance: t, a scalar, to C_t, ``(D, D)``; None is DPS. With the true one, and data that are
            Gaussian, the result is the exact model of the posterior.
    """
    eye = noise_std**2 * torch.eye(len(measured), dtype=measured.dtype, device=measured.device)

    def log_likelihood(x: Tensor, t: Tensor) -> Tensor:
        residual = measured - prior(x, t, "clean") @ operator.mT
        spread_of_y = eye if covariance is None else eye + operator @ covariance(t) @ operator.mT
        return -(residual * torch.linalg.solve(spread_of_y, residual.mT).mT).sum(-1) / 2

    return classifier_guided(prior, log_likelihood, 1.0)


def within_interval(guided: Model, otherwise: Model, low: float, high: float) -> Model:
    """Return a model that is guided where σ/α lies in [low, high], and not guided elsewhere.

    Args:
        guided, otherwise: two models of one schedule.
        low, high: levels of noise, in the units of the data.

    Returns:
        A model of the kind of ``guided``. Where one time serves all samples only one of the two models is
        evaluated; where each sample has its own time, both are.
    """

    def switched(x: Tensor, t: Tensor) -> Tensor:
        level = torch.exp(-guided.schedule.lam(t))
        inside = (low <= level) & (level <= high)
        if not t.ndim:
            return guided.function(x, t) if inside else otherwise(x, t, guided.kind)
        return torch.where(spread(inside, x), guided.function(x, t), otherwise(x, t, guided.kind))

    return Model(switched, guided.kind, guided.schedule)


def drop_labels(
    labels: Int[Tensor, "*batch"], num_classes: int, probability: float, generator: torch.Generator
) -> Int[Tensor, "*batch"]:
    """Replace some labels by ``num_classes``, "no label", so that one network learns both models (Sec. 8.3).

    Args:
        labels: 0 .. num_classes - 1.
        num_classes: how many there are.
        probability: of dropping each, in [0, 1]; the monograph takes about 0.1.
        generator: on the device of the labels.
    """
    drawn = torch.rand(labels.shape, generator=generator, device=labels.device)
    return torch.where(drawn < probability, num_classes, labels)


def _gradient(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """Return the gradient by x of a function whose samples do not depend on one another."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x, t).sum(), x)[0]
