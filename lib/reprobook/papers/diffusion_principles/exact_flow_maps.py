"""Flow maps that are known exactly, and expectations without sampling error, for Chapters 5, 10 and 11.

The probability-flow ODE of a Gaussian stretches every axis by a ratio of standard deviations. That of a
mixture on the line keeps quantiles, because paths cannot cross. Both give Ψ(x, s, t) in closed form, the
second up to solving for a quantile. Expectations over data and noise are taken by Gauss and Hermite's
quadrature or, for quadratic polynomials, by points with the right moments.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.flow_maps import Map
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule, spread

__all__ = [
    "gaussian_flow_map",
    "quantile_flow_map",
    "averaged_velocity",
    "relative_gap",
    "relative_sum",
    "local_orders",
    "pairs_on_a_line",
    "moment_points",
    "gamma_moments",
    "trained_scales",
    "gaussian_balance",
    "gaussian_divergence",
]

Points = Float[Tensor, "*batch dim"]
Times = Float[Tensor, "*times"]


# --------------------------------------------------------------------------- maps


def gaussian_flow_map(mean: Float[Tensor, " D"], covariance: Float[Tensor, "D D"], schedule: Schedule) -> Map:
    """Return Ψ(x, s, t) of the probability-flow ODE of one Gaussian (solves Eq. 4.1.7 in closed form).

    Ψ = α_t m + (M_t / M_s)^½ (x - α_s m) with M_t = α_t² C + σ_t² I: along an axis of C the velocity is
    ½ (log M)' times the distance from the mean.

    Args:
        mean, covariance: m and C of the data.
        schedule: of the diffusion.

    Returns:
        A function of points ``(B, D)`` and times s, t, () or ``(B,)``.
    """
    variances, axes = torch.linalg.eigh(covariance)

    def moments(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]
        return alpha * mean, alpha.square() * variances + sigma.square()

    def flow_map(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        (before, spread_s), (after, spread_t) = moments(s), moments(t)
        return after + (((x - before) @ axes) * (spread_t / spread_s).sqrt()) @ axes.mT

    return flow_map


def quantile_flow_map(mixture: Mixture, schedule: Schedule, *, halvings: int = 40) -> Map:
    """Return Ψ(x, s, t) of a mixture on the line: the point at time t with the same quantile (Sec. 11.1).

    Bisection finds it, and one step of Newton's method makes it exact and differentiable. Below the median
    the distribution function is compared, above it its complement, so that both tails keep their digits.

    Args:
        mixture: of one dimension.
        schedule: of the diffusion.
        halvings: of the interval in which the quantile is sought.
    """
    weights, means, variances = mixture.weights, mixture.means[:, 0], mixture.covariances[:, 0, 0]

    def standardised(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]
        scale = (alpha.square() * variances + sigma.square()).sqrt()
        return (x[..., None] - alpha * means) / scale, scale

    def tail(x: Tensor, t: Tensor, side: Tensor) -> Tensor:
        z = -side[..., None] * standardised(x, t)[0] / math.sqrt(2)
        return (weights * torch.special.erfc(z) / 2).sum(-1)  # ndtr loses all digits from 8 deviations on

    def density(x: Tensor, t: Tensor) -> Tensor:
        z, scale = standardised(x, t)
        return (weights * torch.exp(-z.square() / 2) / (math.sqrt(2 * math.pi) * scale)).sum(-1)

    def flow_map(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        x = x[..., 0]
        with torch.no_grad():
            side = torch.where(tail(x, s, torch.ones_like(x)) <= 0.5, 1.0, -1.0).to(x)
        level = tail(x, s, side)
        with torch.no_grad():
            low, high = torch.full_like(x, -1e3), torch.full_like(x, 1e3)
            for _ in range(halvings):
                middle = (low + high) / 2
                beyond = (tail(middle, t, side) - level) * side > 0
                low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            found = (low + high) / 2
        # Newton's step repairs the last digits, and carries the derivatives by x, s and t
        return (found - side * (tail(found, t, side) - level) / density(found, t))[..., None]

    return flow_map


def averaged_velocity(
    flow_map: Map, model: Model, x: Tensor, s: Times, t: Times, nodes: int = 64
) -> Float[Tensor, "B D"]:
    """Return the mean of the velocity over [t, s] along the trajectory through x, by quadrature (Sec. 11.5).

    This is what h is by definition; it does not know that Ψ = x - (s - t) h.

    Args:
        flow_map: exact, to find the trajectory.
        model: exact, for its velocity.
        x: points at time s, ``(B, D)``.
        s, t: s > t, ``(B,)``.
        nodes: of Gauss and Legendre's quadrature.
    """
    places, masses = (torch.as_tensor(a, dtype=x.dtype) for a in np.polynomial.legendre.leggauss(nodes))
    total = torch.zeros_like(x)
    for place, mass in zip((places + 1) / 2, masses / 2, strict=True):
        u = t + place * (s - t)
        total = total + mass * model(flow_map(x, s, u), u, "velocity")
    return total


# --------------------------------------------------------------------------- measuring


def relative_gap(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest size of the second (Sec. 11)."""
    return ((value - expected).abs().max() / expected.abs().max()).item()


def relative_sum(*parts: Tensor) -> float:
    """Return the largest size of a sum that should vanish, relative to the largest part (Eq. 11.3.3)."""
    largest = torch.stack([part.abs().max() for part in parts]).max()
    return (torch.stack(parts).sum(0).abs().max() / largest).item()


def local_orders(steps: Float[Tensor, " n"], errors: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
    """Return the measured order between neighbouring step sizes, log(e_i/e_{i+1}) / log(Δ_i/Δ_{i+1}).

    Theorem 11.2.1 predicts 2 for the difference of the losses.

    Args:
        steps: Δ, falling.
        errors: k errors for each step.
    """
    ratio = torch.log(steps[:-1] / steps[1:])
    return torch.log(errors[:-1] / errors[1:]) / spread(ratio, errors[1:])


# --------------------------------------------------------------------------- expectations


def pairs_on_a_line(
    mixture: Mixture, num: int = 48
) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"], Float[Tensor, " N"]]:
    """Return clean points, noises and weights with which sums are expectations over both (Sec. 11.2).

    Args:
        mixture: of one dimension, with K components.
        num: nodes of Gauss and Hermite's quadrature along each of data and noise; N = K num².
    """
    nodes, masses = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(num))
    masses = masses / masses.sum()
    data = mixture.means + mixture.covariances[:, 0, 0].sqrt()[:, None] * nodes
    clean, noise = data[:, :, None].expand(-1, -1, num), nodes.expand(len(data), num, num)
    weights = mixture.weights[:, None, None] * masses[:, None] * masses
    return clean.reshape(-1, 1), noise.reshape(-1, 1), weights.reshape(-1)


def moment_points(dim: int) -> Float[Tensor, "N dim"]:
    """Return points whose equally weighted mean of any quadratic polynomial is that of a standard normal.

    They are ±sqrt(dim) along each axis; N = 2 dim. For the closed forms of Eq. (10.2.2).
    """
    axes = math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)
    return torch.cat([axes, -axes])


def gamma_moments(sampler, num_noises: int, dim: int) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
    """Return mean and covariance of an affine function of standard normals (for Algorithm 11 on Gaussians).

    Args:
        sampler: a function of ``(num_noises, D)`` to ``(D,)``.
        num_noises, dim: of its argument.
    """
    origin = torch.zeros(num_noises, dim, dtype=torch.float64)
    slope = torch.func.jacfwd(sampler)(origin).reshape(dim, -1)
    return sampler(origin), slope @ slope.mT


# --------------------------------------------------------------------------- consistency training, solved


def trained_scales(
    variance: float, times: Float[Tensor, " n"], schedule: Schedule
) -> dict[str, Float[Tensor, " n"]]:
    """Solve consistency training (Eq. 11.2.6) exactly for data N(0, c) and f(x, s) = κ(s) x.

    With M the variance at a time and K the covariance of neighbours that share data and noise, the loss is
    Σ κ_i² M_i - 2 κ_i κ_{i-1} K_i + κ_{i-1}² M_{i-1}, and κ = 1 at the first time. With the right-hand side
    held fixed each κ_i is κ_{i-1} K_i / M_i; without, all of them solve one tridiagonal system.

    Args:
        variance: c > 0.
        times: rising; the first one is where f is the identity.
        schedule: of the diffusion.

    Returns:
        κ at the times: ``exact`` (the flow map), ``held`` and ``free`` (with and without the stop-gradient).
    """
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    own = variance * alpha.square() + sigma.square()
    shared = variance * alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]
    held = torch.cat([torch.ones_like(own[:1]), (shared / own[1:]).cumprod(0)])
    diagonal = own[1:] * torch.where(torch.arange(1, len(own)) < len(own) - 1, 2.0, 1.0)
    system = torch.diag(diagonal) - torch.diag(shared[1:], 1) - torch.diag(shared[1:], -1)
    right = torch.zeros_like(diagonal)
    right[0] = shared[0]
    free = torch.cat([torch.ones_like(own[:1]), torch.linalg.solve(system, right)])
    return {"exact": (own[0] / own).sqrt(), "held": held, "free": free}


# --------------------------------------------------------------------------- Reflow and VSD on Gaussians


def gaussian_balance(variances: Float[Tensor, " D"], times: Float[Tensor, " n"]) -> dict[str, float]:
    """Return the terms of E|x_1 - x_0|² = E|z_1 - z_0|² + S + V for data N(0, diag c) and independent noise
    (Sec. 5.4).

    S is the straightness of the flow, V the scatter of x_1 - x_0 about its mean given x_t. Along an axis the
    velocity is b x with b = (t - (1 - t) c) / M, M = (1 - t)² c + t²; the flow maps z_1 to sqrt(c) z_1.

    Args:
        variances: c, along the axes.
        times: rising nodes from 0 to 1 of Simpson's rule, an odd number of them, evenly spaced.
    """
    t, c = times[:, None], variances
    spread_t = (1 - t).square() * c + t.square()
    rate = (t - (1 - t) * c) / spread_t
    scatter = (1 + c) - rate.square() * spread_t
    bend = (1 - c.sqrt() - rate * spread_t.sqrt()).square()
    simpson = torch.ones_like(times)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    simpson = simpson / simpson.sum()
    return {
        "before": (1 + c).sum().item(),
        "after": (1 - c.sqrt()).square().sum().item(),
        "straightness": (simpson @ bend).sum().item(),
        "scatter": (simpson @ scatter).sum().item(),
    }


def gaussian_divergence(
    first: tuple[Float[Tensor, " D"], Float[Tensor, "D D"]],
    second: tuple[Float[Tensor, " D"], Float[Tensor, "D D"]],
) -> Float[Tensor, ""]:
    """Return KL(N(m_1, C_1) ‖ N(m_2, C_2)), which Eq. (10.2.2) differentiates."""
    (m_1, c_1), (m_2, c_2) = first, second
    inverse, gap = torch.linalg.inv(c_2), m_2 - m_1
    trace = torch.trace(inverse @ c_1) + gap @ inverse @ gap - len(m_1)
    return (trace + torch.logdet(c_2) - torch.logdet(c_1)) / 2
