"""Samplers with noise: tables like those of the solvers, with one more number a step, run by the same loop.

A step from time s to an earlier time t is x_t = a x_s + b (prediction) + c z with z standard normal. The
equations are those of Lai et al., *The Principles of Diffusion Models* (2025): the ancestral step of DDPM
(2.2.14), the η-family (9.2.10) between it and DDIM, and the reverse equation with any amount of
noise γ (Prop. 6.4.1),

    dx = [v - γ²/2 score] dt + γ dw̄,

whose marginals do not depend on γ: γ = 0 is the probability flow, γ = g Anderson's reverse equation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.schedules import Schedule
from reprobook.diffusion.solver_tables import Row, Solver, step_ends, table

__all__ = ["ancestral", "eta_ddim", "eta_step", "reverse_sde", "predictor_corrector"]

Column = Float[Tensor, " num_steps"]


def _conditional_variance(schedule: Schedule, grid: Float[Tensor, " num_times"]) -> Column:
    """Return σ_{s|t}² = σ_s² - (α_s/α_t)² σ_t² = σ_s² (1 - e^(-2h)): what the way from t to s adds."""
    _, _, (sigma_s, _), _, h = step_ends(schedule, grid)
    return -sigma_s.square() * torch.expm1(-2 * h)


def ancestral() -> Solver:
    """Return the ancestral sampler of DDPM: the posterior given the predicted x_0 (Eq. 2.2.14).

    Its mean is (α_s/α_t) (σ_t/σ_s)² x_s + α_t (σ_{s|t}/σ_s)² x̂_0, its variance (σ_{s|t} σ_t/σ_s)².
    """

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        (s, t), (a_s, a_t), (sigma_s, sigma_t), *_ = step_ends(schedule, grid)
        added = _conditional_variance(schedule, grid)
        scale = a_s / a_t * (sigma_t / sigma_s).square()
        clean, noise = a_t * added / sigma_s.square(), added.sqrt() * sigma_t / sigma_s
        return table(t, (s, scale, [clean], noise))

    return Solver("ddpm", "clean", 1, 1, rows)


def eta_step(
    schedule: Schedule, grid: Float[Tensor, " num_times"], eta: float | int
) -> tuple[Column, Column, Column]:
    """Return (a, b, c) of x_t = a x_s + b ε̂ + c z, the η-family (Eq. 9.2.10), for every step of a grid.

    x_t = α_t x̂_0 + sqrt(σ_t² - c²) ε̂ + c z with x̂_0 = (x_s - σ_s ε̂)/α_s and c = η (σ_t/σ_s) σ_{s|t}.
    """
    _, (a_s, a_t), (sigma_s, sigma_t), *_ = step_ends(schedule, grid)
    noise = eta * sigma_t / sigma_s * _conditional_variance(schedule, grid).sqrt()
    kept = (sigma_t.square() - noise.square()).sqrt()
    return a_t / a_s, kept - a_t * sigma_s / a_s, noise


def eta_ddim(eta: float | int) -> Solver:
    """Return a member of the η-family (Eq. 9.2.10).

    Args:
        eta: in [0, 1]; 0 is DDIM, 1 the ancestral sampler of DDPM.

    Raises:
        ValueError: for another η.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is in [0, 1], not {eta:g}")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        scale, weight, noise = eta_step(schedule, grid, eta)
        return table(grid[1:], (grid[:-1], scale, [weight], noise))

    return Solver(f"ddim_eta{eta:g}", "noise", 1, 1, rows)


def reverse_sde(gamma: float | int = 1.0) -> Solver:
    """Return Euler-Maruyama's method for the reverse equation of Prop. 6.4.1 with γ = ``gamma`` g(t).

    With v = f x - g²/2 score, a step of length d = s - t back in time is
    x_t = (1 - f d) x + d (g² + γ²)/2 score + γ sqrt(d) z.

    Args:
        gamma: ratio of γ to the g of the forward equation, >= 0; 0 is Euler's method for the flow.
    """
    if gamma < 0:
        raise ValueError(f"gamma is not negative, as {gamma:g} is")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        s, d = grid[:-1], -grid.diff()
        squared = schedule.diffusion_squared(s)
        pull = d * (1 + gamma**2) / 2 * squared
        noise = gamma * (squared * d).sqrt()
        return table(grid[1:], (s, 1 - schedule.drift(s) * d, [pull], noise))

    return Solver(f"sde_gamma{gamma:g}", "score", 1, 1, rows)


def predictor_corrector(predictor: Solver, ratio: float = 0.1, corrections: int = 1) -> Solver:
    """Return a sampler that follows each step of another with steps of Langevin's equation (Sec. 4.1).

    A correction at time t is x + τ score + sqrt(2 τ) z with τ = 2 (ratio σ_t)²: Song et al. (2021) choose
    τ by the norms of score and noise, which for a Gaussian score is this.

    Args:
        predictor: a sampler of one stage that does not look back.
        ratio: of signal to noise in a correction, > 0.
        corrections: after every step, each one evaluation; every one is yielded as a step of its own.

    Raises:
        ValueError: for a predictor that is not built on the score, or corrections without size.
    """
    if predictor.kind != "score" or ratio <= 0 or corrections < 0:
        raise ValueError("a predictor on the score, ratio > 0 and corrections >= 0 are needed")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        size = 2 * (ratio * schedule.sigma(grid[1:])).square()
        langevin = table(grid[1:], (grid[1:], 1.0, [size], (2 * size).sqrt()))
        pairs = zip(predictor.rows(schedule, grid), langevin, strict=True)
        return [row for step, correction in pairs for row in (step, *[correction] * corrections)]

    name = f"{predictor.name}_corrected{corrections}"
    return Solver(name, "score", predictor.order, predictor.evaluations + corrections, rows)
