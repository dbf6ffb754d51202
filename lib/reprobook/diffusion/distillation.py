"""Distillation: a fast sampler learns from a slow one.

Progressive distillation halves the number of steps by a target that makes one step do the work of two
(Salimans and Ho, 2022). Variational score distillation moves a generator by the difference of two scores,
that of its own samples and that of the data, both under noise. Equations are those of Lai et al. (2025),
Chapter 10.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import Schedule, spread

__all__ = ["progressive_target", "progressive_step", "vsd_loss"]

Points = Float[Tensor, "*shape"]
Times = Float[Tensor, "*times"]


def progressive_target(x_s: Points, x_t: Points, s: Times, t: Times, schedule: Schedule) -> Points:
    """Return the clean sample with which one DDIM step takes x_s to x_t (Lemma 10.3.1).

    (σ_s x_t - σ_t x_s) / (α_t σ_s - α_s σ_t), where x_t is where two steps of the teacher have landed.

    Args:
        x_s, x_t: points at the times s and t, ``(B, ...)``.
        s, t: s > t, () or ``(B,)``.
        schedule: of the diffusion.
    """
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    crossed = spread(sigma_s, x_s) * x_t - spread(sigma_t, x_s) * x_s
    return crossed / spread(alpha_t * sigma_s - alpha_s * sigma_t, x_s)


def progressive_step(clean: Points, x_s: Points, s: Times, t: Times, schedule: Schedule) -> Points:
    """Return where one DDIM step with a clean sample lands (Eq. 9.2.2).

    The inverse of :func:`progressive_target`.

    Args:
        clean: the prediction at time s, of the shape of ``x_s``.
        x_s: points at time s, ``(B, ...)``.
        s, t: s > t, () or ``(B,)``.
        schedule: of the diffusion.
    """
    kept = schedule.sigma(t) / schedule.sigma(s)
    return spread(kept, x_s) * x_s + spread(schedule.alpha(t) - schedule.alpha(s) * kept, x_s) * clean


def vsd_loss(
    generated: Points, noise: Points, t: Times, fake: Model, real: Model, weight: Times | None = None
) -> Float[Tensor, "*times"]:
    """Return a loss whose gradient is that of variational score distillation (Eq. 10.2.2).

    With x_t = α G(z) + σ ε the gradient is E[ω α (s_fake(x_t) - s_real(x_t))ᵀ ∂G/∂θ]; for ω = 1 that is the
    gradient of KL(p_fake,t ‖ p_real,t). The scores are held fixed; the value itself means nothing.

    Args:
        generated: G(z), with a gradient, ``(B, ...)``.
        noise: ε, standard normal, of the same shape.
        t: times, ``(B,)``.
        fake: score of the generator's samples under noise, as it is at the moment.
        real: score of the data under noise.
        weight: ω, ``(B,)``; 1 by default.
    """
    with torch.no_grad():
        x = diffuse(generated, noise, t, real.schedule)
        direction = spread(real.schedule.alpha(t), x) * (fake(x, t, "score") - real(x, t, "score"))
        direction = direction if weight is None else spread(weight, x) * direction
    return (direction * generated).flatten(t.ndim).sum(-1)
