"""The three losses of a distillation: of the student, of the fake score, of the discriminator.

The student's follows the theorem of Xu, Nie and Vahdat (arXiv 2502.15681, Theorem 1): with r = p_t/q_t and
h(r) = r² f″(r), the gradient of D_f(p_t‖q_t) is -E[h(r) (∇log p_t - ∇log q_t) α_t ∂G/∂θ]. For h = 1 this is
variational score distillation, and the step here is exactly that one.

All work for one student, with samples ``(B, ...)`` and times ``(B,)``, and for a stack of S of them, with one
leading axis more; the losses then come one a member, ``(S,)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reprobook.diffusion.predictions import Model, coefficients, diffuse
from reprobook.diffusion.schedules import Schedule, spread

__all__ = [
    "scale_of_level",
    "scale_of_sample",
    "student_loss",
    "fake_score_loss",
    "discriminator_loss",
    "adversarial_loss",
    "gradient_penalty",
]

Points = Float[Tensor, "*shape"]
Values = Float[Tensor, "*times"]
Losses = Float[Tensor, "*members"]


def scale_of_level(schedule: Schedule, t: Values) -> Values:
    """Return σ / √(α² + σ²), the standard deviation of x_0 given x_t where data are standard normal."""
    return schedule.sigma(t) / (schedule.alpha(t).square() + schedule.sigma(t).square()).sqrt()


def scale_of_sample(generated: Points, clean: Points, t: Values, schedule: Schedule) -> Values:
    """Return the mean absolute x - x̂_teacher of each sample, by which the paper divides a step.

    It depends on x, so dividing by it weighs samples, as h does.
    """
    far = (generated - clean).abs().flatten(t.ndim).mean(-1)
    # DEPARTURE: a floor, because the mean over few coordinates comes near zero by chance
    return far.maximum(0.1 * scale_of_level(schedule, t))


def student_loss(
    generated: Points,
    noise: Points,
    t: Values,
    fake: Model,
    teacher: Model,
    weight: Values,
    by_sample: bool = True,
) -> Losses:
    """Return half the mean square of x - [x - w h (x̂_fake - x̂_teacher)], whose gradient is the theorem's.

    What stands in brackets is the target and held fixed; w is one over a scale. The gradient is that of
    :func:`reprobook.diffusion.distillation.vsd_loss` with ω = σ² w h / α², divided by the number of
    coordinates; so for h = 1 it is a step of plain variational score distillation.

    Args:
        generated: x = G(z), with a gradient, ``(B, ...)``.
        noise: ε, of the same shape.
        t: times, ``(B,)``.
        fake: model of the student's own samples.
        teacher: model of the data.
        weight: h(r), ``(B,)``.
        by_sample: whether the scale is :func:`scale_of_sample`, as in the paper, or :func:`scale_of_level`.
    """
    with torch.no_grad():
        x = diffuse(generated, noise, t, teacher.schedule)
        clean = teacher(x, t)
        far = scale_of_sample(generated, clean, t, teacher.schedule)
        scale = far if by_sample else scale_of_level(teacher.schedule, t)
        target = generated - spread(weight / scale, x) * (fake(x, t) - clean)
    return _per_sample((generated - target).square(), t).mean(-1) / 2


def fake_score_loss(generated: Points, noise: Points, t: Values, fake: Model) -> Losses:
    """Return the denoising loss of the fake score on the student's samples, in the model's own prediction.

    Args:
        generated: G(z), without a gradient, ``(B, ...)``.
        noise: ε, of the same shape.
        t: times, ``(B,)``.
        fake: the model to train.
    """
    a, b = coefficients(fake.schedule, t, fake.kind)
    target = spread(a, generated) * generated + spread(b, generated) * noise
    error = fake.function(diffuse(generated, noise, t, fake.schedule), t) - target
    return _per_sample(error.square(), t).mean(-1)


def discriminator_loss(logit_of_student: Values, logit_of_data: Values) -> Losses:
    """Return softplus(logit) on noised samples plus softplus(-logit) on noised data.

    It is least for logit = log p_t/q_t, data over student.
    """
    return F.softplus(logit_of_student).mean(-1) + F.softplus(-logit_of_data).mean(-1)


def adversarial_loss(logit_of_student: Values) -> Losses:
    """Return the non-saturating loss softplus(-logit) by which the student also fools the discriminator."""
    return F.softplus(-logit_of_student).mean(-1)


def gradient_penalty(discriminator: Callable[[Tensor, Tensor], Tensor], x: Points, t: Values) -> Losses:
    """Return R1, half the mean square norm of the logit's gradient on noised data (Mescheder et al., 2018).

    Args:
        discriminator: noised samples and times to logits of the times' shape.
        x: noised data.
        t: their times.
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(x, t).sum(), x, create_graph=True)
    return slope.square().flatten(t.ndim).sum(-1).mean(-1) / 2


def _per_sample(values: Tensor, t: Tensor) -> Tensor:
    """Return the mean over all axes but those of the times."""
    return values.flatten(t.ndim).mean(-1) if values.ndim > t.ndim else values
