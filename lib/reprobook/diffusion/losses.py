"""What diffusion models are trained on: one regression, four targets, and the weights that go with them.

A network is asked for the conditional mean of a x_0 + b ε given x_t (Lai et al., 2025, Eq. 6.2.5). Which pair
(a, b) it is asked for, and how much each time counts, tells the views apart. But errors of one prediction are
multiples of the errors of another (Eq. 6.3.6), so every weight can be carried over to every target, and a
:class:`Weighting` is nothing but a kind of error and a function of time.

=================  =================  ==============================  =====================================
weighting          error of           weight                          where it comes from
=================  =================  ==============================  =====================================
``simple``         noise              1                               Ho et al. (2020), Eq. (2.2.10)
``denoising``      score              σ²                              Vincent (2011), Song et al. (2021)
``likelihood``     score              g²/2                            the bound on log-likelihood, as scores
``variational``    clean sample       -(α²/σ²)'/2                     the same bound, as Kingma et al. (2021)
``flow``           velocity           1                               Lipman et al. (2023), Theorem 5.2.1
``clean``          clean sample       1                               plain denoising
=================  =================  ==============================  =====================================

EDM's weight and its preconditioning (Karras et al., 2022) depend on the spread of the data, so they are
functions: :func:`edm_weighting`, :func:`precondition`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.predictions import Model, coefficients, conversion, diffuse
from reprobook.diffusion.schedules import Schedule, spread

__all__ = [
    "Weighting",
    "WEIGHTINGS",
    "edm_weighting",
    "edm_times",
    "error_factor",
    "weight_of",
    "denoising_loss",
    "precondition",
    "step_posterior",
    "step_divergence",
]

Times = Float[Tensor, "*times"]


@dataclass(frozen=True)
class Weighting:
    """How much a squared error counts at each time.

    Attributes:
        kind: whose error is meant, one of :data:`~reprobook.diffusion.predictions.KINDS`.
        function: schedule and times to weights of the times' shape, >= 0.
    """

    kind: str
    function: Callable[[Schedule, Tensor], Tensor]


def _drop_of_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """Return -d(α²/σ²)/dt / 2; with λ = log(α/σ) that is -λ' e^(2λ)."""
    return -schedule.d_lam(t) * (schedule.alpha(t) / schedule.sigma(t)).square()


#: The weights of the literature by name; see the table above.
WEIGHTINGS: dict[str, Weighting] = {
    "simple": Weighting("noise", lambda schedule, t: torch.ones_like(t)),
    "denoising": Weighting("score", lambda schedule, t: schedule.sigma(t).square()),
    "likelihood": Weighting("score", lambda schedule, t: schedule.diffusion_squared(t) / 2),
    "variational": Weighting("clean", _drop_of_snr),
    "flow": Weighting("velocity", lambda schedule, t: torch.ones_like(t)),
    "clean": Weighting("clean", lambda schedule, t: torch.ones_like(t)),
}


def edm_weighting(data_std: float) -> Weighting:
    """Return EDM's weight of the clean sample, (s² + d²) / (s d)² with s = σ/α (Karras et al., Table 1).

    It is one over the squared ``c_out`` of :func:`precondition`: every noise level starts with a loss of one.

    Args:
        data_std: d > 0, the standard deviation of the data.
    """

    def weight(schedule: Schedule, t: Tensor) -> Tensor:
        squared = torch.exp(-2 * schedule.lam(t))
        return (squared + data_std**2) / (squared * data_std**2)

    return Weighting("clean", weight)


def edm_times(
    num: int, schedule: Schedule, generator: torch.Generator, mean: float = -1.2, std: float = 1.2
) -> Float[Tensor, " num"]:
    """Draw times at which log(σ/α) is normal, as EDM trains (Karras et al., Table 1); double precision.

    Args:
        num: how many.
        schedule: its first and last time bound the draw.
        generator: on the CPU.
        mean, std: of log(σ/α).
    """
    level = mean + std * torch.randn(num, generator=generator, dtype=torch.float64)
    ends = schedule.lam(torch.tensor([schedule.last, schedule.first], dtype=torch.float64))
    return schedule.time_of((-level).clamp(ends[0].item(), ends[1].item()))


def error_factor(schedule: Schedule, t: Times, kind: str, to: str) -> Times:
    """Return c with ‖error of ``to``‖² = c ‖error of ``kind``‖² (Eq. 6.3.6), the same for every network.

    Args:
        schedule: of the diffusion.
        t: times of any shape, with σ > 0.
        kind, to: two of the kinds of prediction.
    """
    return conversion(schedule, t, kind, to)[1].square()


def weight_of(weighting: Weighting, kind: str, schedule: Schedule, t: Times) -> Times:
    """Return the weight that a squared error of ``kind`` needs for the loss to be that of ``weighting``.

    Args:
        weighting: what the loss shall be.
        kind: what the network predicts.
        schedule: of the diffusion.
        t: times of any shape, with σ > 0.
    """
    return weighting.function(schedule, t) * error_factor(schedule, t, kind, weighting.kind)


def denoising_loss(
    model: Model,
    clean: Float[Tensor, "*shape"],
    t: Times,
    noise: Float[Tensor, "*shape"],
    weight: Weighting | None = None,
) -> Float[Tensor, "*batch"]:
    """Return ω(t) ‖f(x_t, t) - (a x_0 + b ε)‖² of every sample, Eq. (6.2.5).

    Args:
        model: its function f is compared with its kind's target; only one evaluation is made.
        clean: x_0, ``(B, ...)``, or ``(S, B, ...)`` for a stack of networks.
        t: one time a sample, ``(B,)`` or ``(S, B)``; or one for all, ().
        noise: ε, standard normal, of the shape of ``clean``.
        weight: one of :data:`WEIGHTINGS`, or another; 1 on the model's own kind of error if None.

    Returns:
        A loss a sample, of the shape of ``t`` (``(B,)`` if there is one time for all): the squared norm over
        all axes of a sample. Take its mean.
    """
    a, b = coefficients(model.schedule, t, model.kind)
    target = spread(a, clean) * clean + spread(b, clean) * noise
    error = model.function(diffuse(clean, noise, t, model.schedule), t) - target
    loss = error.square().sum(dim=tuple(range(max(t.ndim, 1), error.ndim)))
    return loss if weight is None else loss * weight_of(weight, model.kind, model.schedule, t)


def precondition(network: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, data_std: float) -> Model:
    """Return EDM's denoiser c_skip x + c_out F(c_in x, c_noise) (Karras et al., 2022, Eq. 7) as a model.

    Its coefficients are those of the exploding process x/α with noise level s = σ/α, so it serves any
    schedule. For data of standard deviation d, input and target of F have variance 1 at every time.

    Args:
        network: F, from scaled samples ``(B, ...)`` and log(s)/4, ``(B,)`` or (), to the samples' shape.
        schedule: of the diffusion.
        data_std: d > 0.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        level = torch.exp(-schedule.lam(t))
        total = level.square() + data_std**2
        skip, out, scale = data_std**2 / total, level * data_std / total.sqrt(), total.rsqrt()
        x = x / spread(schedule.alpha(t), x)
        inner = network(spread(scale, x) * x, level.log() / 4)
        return spread(skip, x) * x + spread(out, x) * inner

    return Model(denoise, "clean", schedule)


def step_posterior(
    x: Float[Tensor, "*shape"], clean: Float[Tensor, "*shape"], t: Times, s: Times, schedule: Schedule
) -> tuple[Float[Tensor, "*shape"], Times]:
    """Return mean and variance of the Gaussian p(x_t | x_s, x_0), t < s (Sec. 2.2).

    Args:
        x: x_s, the noisier sample.
        clean: x_0, or a prediction of it, of the same shape.
        t, s: the earlier and the later time, () or ``(B,)``.
        schedule: of the diffusion.

    Returns:
        The mean, and the variance of each coordinate, of the shape of the times.
    """
    ratio = schedule.alpha(s) / schedule.alpha(t)
    before, after = schedule.sigma(t).square(), schedule.sigma(s).square()
    added = after - ratio.square() * before
    mean = spread(ratio * before / after, x) * x + spread(schedule.alpha(t) * added / after, x) * clean
    return mean, added * before / after


def step_divergence(
    clean: Float[Tensor, "*shape"], guess: Float[Tensor, "*shape"], t: Times, s: Times, schedule: Schedule
) -> Float[Tensor, "*batch"]:
    """Return KL(p(x_t | x_s, x_0) ‖ p(x_t | x_s, guess)) = ½ [SNR(t) - SNR(s)] ‖x_0 - guess‖² (Sec. 2.2).

    The sum of these over the steps of a chain is what a variational bound pays for its denoiser; in the limit
    of many steps it is the integral of ``WEIGHTINGS["variational"]``.

    Args:
        clean: x_0, ``(B, ...)``.
        guess: the model's prediction of it.
        t, s: the earlier and the later time, () or ``(B,)``.
        schedule: of the diffusion.
    """
    lam_t, lam_s = schedule.lam(t), schedule.lam(s)
    drop = -torch.exp(2 * lam_t) * torch.expm1(2 * (lam_s - lam_t))
    return drop / 2 * (clean - guess).square().sum(dim=tuple(range(max(t.ndim, 1), clean.ndim)))
