r"""What guidance really samples, in closed form, where data, classes and measurements are Gaussian.

Supplement to chapter 8 of Lai et al., *The Principles of Diffusion Models* (2025, arXiv 2510.21890). On the
line, let x ~ N(0, S²), and let a noisy look c = x + noise say something of x, so that p(x|c) = N(m, s²) with
s < S. Then every guided score is affine in x, and both sampling equations can be solved. In the variable
u = (σ/α)², for which x/α obeys the same equation whatever the schedule, the guided score of Eq. (8.3.2) is

    -a(u) x + b(u),   a = ω/(s²+u) + (1-ω)/(S²+u),   b = ωm/(s²+u).

The ordinary equation is dx/du = (a x - b)/2; the stochastic one, run backwards, has twice that drift and
noise of variance du. From infinite noise both arrive at Gaussians, whose moments stand below.

======  ==============================================================
symbol  meaning
======  ==============================================================
ω       weight of guidance; 1 is the conditional model
m, s    mean and standard deviation of p(x|c)
S       standard deviation of p(x), whose mean is 0
ρ       s²/S², below one
k       S²/r², precision of a measurement with noise r, in priors
======  ==============================================================

Bradley and Nakkiran (2024, arXiv 2408.09000) were first to compute such variances, for special cases, and to
find that the two samplers differ from each other and from the tilted law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import dawsn
from torch import Tensor

from reprobook.diffusion.guidance import drop_labels
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule
from reprobook.diffusion.solvers import solve

__all__ = [
    "Moments",
    "tilted",
    "guided_by_ode",
    "guided_by_sde",
    "posterior",
    "dps_by_ode",
    "dps_by_sde",
    "gaussian_posterior",
    "clean_covariance",
    "law_of_ode",
    "law_of_sde",
    "gaussian",
    "component",
    "log_class_probability",
    "tilted_log_density",
    "tilted_density_on_line",
    "density_of_quantiles",
    "draw_labelled",
    "noise_quantiles",
    "triangle",
]

Numbers = Float[Tensor, "*shape"]


class Moments(NamedTuple):
    """Mean and variance of a Gaussian on the line."""

    mean: Tensor
    variance: Tensor


# --------------------------------------------------------------------------- classifier-free guidance


def tilted(m: Numbers, s: Numbers, S: Numbers, weight: Numbers) -> Moments:
    """Return the moments of p(x) p(c|x)^ω ∝ p(x|c)^ω p(x)^(1-ω), the harmonic mean of variances (Eq. 8.2.2).

    Args:
        m, s: mean and standard deviation of p(x|c).
        S: standard deviation of p(x), > s.
        weight: ω >= 0.
    """
    variance = 1 / (weight / s**2 + (1 - weight) / S**2)
    return Moments(variance * weight * m / s**2, variance)


def guided_by_ode(m: Numbers, s: Numbers, S: Numbers, weight: Numbers) -> Moments:
    """Return the moments that the probability-flow equation of the guided score (Eq. 8.3.2) samples.

    The variance is the geometric mean s^(2ω) S^(2-2ω) = S² ρ^ω. The mean is ω m / sqrt(1-ρ) times the
    integral from 0 to arccos(sqrt ρ) of (sqrt(ρ) sec θ)^ω sec θ. Arguments as of :func:`tilted`.
    """
    rho = (s / S) ** 2
    nodes, shares = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200))
    end = torch.acos(rho.sqrt())[..., None]
    cosine = torch.cos(end * (nodes + 1) / 2)
    integrand = (rho.sqrt()[..., None] / cosine) ** weight[..., None] / cosine
    integral = (integrand * shares).sum(-1) * end[..., 0] / 2
    return Moments(weight * m / (1 - rho).sqrt() * integral, S**2 * rho**weight)


def guided_by_sde(m: Numbers, s: Numbers, S: Numbers, weight: Numbers) -> Moments:
    """Return the moments that the reverse stochastic equation of the guided score (Eq. 8.3.2) samples.

    The variance is S² (ρ - ρ^(2ω)) / ((2ω-1)(1-ρ)), the mean m (1-ρ^ω) / (1-ρ). Arguments as of
    :func:`tilted`.
    """
    log_rho = 2 * torch.log(s / S)
    n = 2 * weight - 1
    rate = torch.where(n == 0, -log_rho, -torch.expm1(n * log_rho) / torch.where(n == 0, 1, n))
    outside = -torch.expm1(log_rho)
    return Moments(-m * torch.expm1(weight * log_rho) / outside, s**2 * rate / outside)


# --------------------------------------------------------------------------- diffusion posterior sampling


def posterior(y: Numbers, S: Numbers, r: Numbers) -> Moments:
    """Return the moments of x ~ N(0, S²) given y = x + N(0, r²): y k/(1+k) and S²/(1+k).

    It is what the sampler of Eq. (8.4.5) is made for.
    """
    k = (S / r) ** 2
    return Moments(y * k / (1 + k), S**2 / (1 + k))


def dps_by_ode(y: Numbers, S: Numbers, r: Numbers) -> Moments:
    """Return the moments that DPS (Eq. 8.4.5) samples by the probability-flow equation.

    The variance is S² e^(-k), the mean sqrt(2k) y D(sqrt(k/2)) with Dawson's integral
    D(z) = e^(-z²) ∫_0^z e^(v²) dv.
    """
    k = (S / r) ** 2
    dawson = torch.from_numpy(np.asarray(dawsn((k / 2).sqrt().numpy())))
    return Moments((2 * k).sqrt() * y * dawson, S**2 * torch.exp(-k))


def dps_by_sde(y: Numbers, S: Numbers, r: Numbers) -> Moments:
    """Return the moments that DPS (Eq. 8.4.5) samples by the reverse stochastic equation.

    The variance is S² (1-e^(-2k)) / 2k, the mean y (1-e^(-k)).
    """
    k = (S / r) ** 2
    return Moments(-y * torch.expm1(-k), -(S**2) * torch.expm1(-2 * k) / (2 * k))


def gaussian_posterior(
    prior: Mixture, operator: Float[Tensor, "M D"], measured: Float[Tensor, " M"], noise_std: float
) -> Mixture:
    """Return the posterior of a Gaussian given y = A x + N(0, r² I), what Sec. 8.4 wants samples of."""
    root = torch.linalg.inv(prior.covariances[0])
    covariance = torch.linalg.inv(root + operator.mT @ operator / noise_std**2)
    mean = covariance @ (root @ prior.means[0] + operator.mT @ measured / noise_std**2)
    return Mixture(prior.weights, mean[None], (covariance + covariance.mT)[None] / 2)


def clean_covariance(prior: Mixture, schedule: Schedule) -> Callable[[Tensor], Tensor]:
    """Return t -> Cov[x_0 | x_t] of a Gaussian, the term that DPS drops (Sec. 8.4)."""
    root = torch.linalg.inv(prior.covariances[0])

    def covariance(t: Tensor) -> Tensor:
        return torch.linalg.inv(
            root + torch.exp(2 * schedule.lam(t)) * torch.eye(len(root), dtype=root.dtype)
        )

    return covariance


# --------------------------------------------------------------------------- the same by numbers alone


def law_of_ode(model: Model, grid: Float[Tensor, " num_times"], solver: str = "rk4") -> Moments:
    """Return the law of x/α to which a solver carries pure noise, for a model on the line, affine in x.

    The solver's map is then affine too, and two points determine it: no sampling error (Sec. 4.1's equation).

    Args:
        model: of points ``(B, 1)``; affinity is the caller's promise.
        grid: from noise to data.
        solver: a key of ``SOLVERS``.
    """
    points = torch.tensor([[0.0], [1.0]], dtype=grid.dtype)
    start = model.schedule.sigma(grid[0])
    low, high = solve(model, start * points, grid, solver)[:, 0] / model.schedule.alpha(grid[-1])
    return Moments(low, (high - low).square())


def law_of_sde(model: Model, grid: Float[Tensor, " num_times"]) -> Moments:
    """Return the law of x/α to which the reverse stochastic equation carries pure noise; affine models.

    Mean and variance of the Euler-Maruyama scheme for Eq. (4.1.6) are propagated exactly on the grid and on
    every second time of it, and extrapolated to step zero. The grid has an even number of steps.
    """
    fine, coarse = (_law_of_euler_maruyama(model, grid[::every]) for every in (1, 2))
    return Moments(*(2 * a - b for a, b in zip(fine, coarse, strict=True)))


def _law_of_euler_maruyama(model: Model, grid: Tensor) -> Moments:
    schedule, times, steps = model.schedule, grid[:-1], -grid.diff()
    noise = schedule.diffusion_squared(times)
    offset, one = (
        model(torch.full((len(times), 1), point, dtype=grid.dtype), times, "score")[:, 0]
        for point in (0.0, 1.0)
    )
    factors = 1 + steps * (noise * (one - offset) - schedule.drift(times))
    mean, variance = 0.0, schedule.sigma(grid[0]).item() ** 2
    rows = torch.stack([factors, steps * noise * offset, steps * noise], 1).tolist()
    for factor, push, added in rows:
        mean, variance = factor * mean + push, factor**2 * variance + added
    left = schedule.alpha(grid[-1])
    return Moments(mean / left, variance / left**2)


# --------------------------------------------------------------------------- laws to be guided


def gaussian(mean: float, std: float) -> Mixture:
    """Return a Gaussian on the line as a mixture of one, the example of Eq. (8.3.2) here."""
    return Mixture.isotropic(torch.tensor([[mean]], dtype=torch.float64), std)


def triangle(std: float = 0.5, side: float = 2.0) -> Mixture:
    """Return three round classes at the corners of a triangle in the plane, for the figures of Sec. 8.3."""
    angles = torch.arange(3, dtype=torch.float64) * (2 * torch.pi / 3) + torch.pi / 2
    return Mixture.isotropic(side / 3**0.5 * torch.stack([angles.cos(), angles.sin()], 1), std)


def component(mixture: Mixture, label: int) -> Mixture:
    """Return one class of a mixture, p(x|c) of Eq. (8.3.2), as a mixture of one."""
    one = slice(label, label + 1)
    return Mixture(torch.ones_like(mixture.weights[one]), mixture.means[one], mixture.covariances[one])


def log_class_probability(
    mixture: Mixture, label: int, schedule: Schedule
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return (x, t) -> log p_t(c|x), the perfect classifier of noisy samples (Sec. 8.2)."""

    def log_classifier(x: Tensor, t: Tensor) -> Tensor:
        own = component(mixture, label).log_density(x, t, schedule) + mixture.weights[label].log()
        return own - mixture.log_density(x, t, schedule)

    return log_classifier


def tilted_log_density(
    mixture: Mixture, label: int, weight: float, x: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch"]:
    """Return log of p(x) p(c|x)^ω at clean samples (Eq. 8.2.2), up to a constant."""
    own = component(mixture, label).log_density(x)
    return weight * own + (1 - weight) * mixture.log_density(x)


def noise_quantiles(num: int, std: float) -> Float[Tensor, "num 1"]:
    """Return points that stand for N(0, std²) without chance: its quantiles at the middles of equal parts.

    A flow on the line, such as that of Eq. (8.3.2), carries them to quantiles of what it samples.
    """
    levels = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    return std * torch.special.ndtri(levels)[:, None]


def tilted_density_on_line(
    mixture: Mixture, label: int, weight: float, x: Float[Tensor, " num"]
) -> Float[Tensor, " num"]:
    """Return the density p(x) p(c|x)^ω / Z on the line (Eq. 8.2.2), with Z by trapezoids on the points."""
    logs = tilted_log_density(mixture, label, weight, x[:, None])
    values = torch.exp(logs - logs.max())
    return values / torch.trapezoid(values, x)


def density_of_quantiles(x: Float[Tensor, "num 1"]) -> tuple[Float[Tensor, " gaps"], Float[Tensor, " gaps"]]:
    """Return points and the density there of a law given by equally likely quantiles in growing order.

    Between neighbours lies a probability of 1/num. What a flow such as that of Eq. (8.3.2) does to
    :func:`noise_quantiles` can so be drawn without estimating anything.
    """
    gaps = x[:, 0].diff()
    return x[:-1, 0] + gaps / 2, 1 / (len(x) * gaps)


def draw_labelled(
    data: Mixture, num: int, unlabelled: float, generator: torch.Generator
) -> Float[Tensor, "num columns"]:
    """Draw what a step of training with dropped labels needs (Sec. 8.3): clean point, noise, time, label.

    Args:
        data: a mixture whose components are the classes.
        num: of samples.
        unlabelled: the share of labels that are dropped.
        generator: on the CPU.

    Returns:
        Single precision, ``(num, 2 D + 2)``: D columns each of x_0 and ε, the time, uniform in [0, 1), and
        the label as a number.
    """
    clean, labels = data.sample(num, generator, labels=True)
    labels = drop_labels(labels, len(data.weights), unlabelled, generator)
    noise = torch.randn(clean.shape, generator=generator)
    time = torch.rand(num, 1, generator=generator)
    return torch.cat([clean.float(), noise, time, labels[:, None].float()], 1)
