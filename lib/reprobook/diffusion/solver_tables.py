"""Solvers of the probability-flow equation that take each step by itself, as tables of numbers.

A step is taken in stages. A stage asks the model for a prediction at some time (of the velocity, the noise or
the clean sample: whatever the method is built on) and then forms

    y = a x + w_1 P_1 + w_2 P_2 + ...

from the sample x at the start of the step and the predictions made so far, the newest first. The y of one
stage is where the next one looks, and that of the last is the sample at the end of the step. So a solver is
a function from a schedule and a grid of times to the numbers a and w of every step.

Equations are those of chapter 9 of Lai et al., *The Principles of Diffusion Models* (2025). Throughout,
λ = log(α/σ), and h = λ_t - λ_s > 0 for a step from time s down to time t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.schedules import Schedule

__all__ = ["Stage", "Row", "Solver", "table", "step_ends"]
__all__ += ["euler", "euler_lambda", "heun", "rk4", "ddim", "exp_heun", "exp_heun_linear"]
__all__ += ["dpm_1", "dpm_solver_2", "dpm_3", "dpm_pp_1", "dpm_solver_pp_2s"]


class Stage(NamedTuple):
    """One evaluation and what is made of it: y = scale x + Σ weights predictions + noise z."""

    time: float  # of the evaluation
    scale: float  # of the sample at the start of the step
    weights: tuple[float, ...]  # newest prediction first: those of this step, then those of earlier ones
    noise: float = 0.0  # standard deviation of what is added; stochastic samplers only


class Row(NamedTuple):
    """One step: the time where it ends, and its stages."""

    time: float
    stages: tuple[Stage, ...]


Rows = Callable[[Schedule, Float[Tensor, " num_times"]], list[Row]]


@dataclass(frozen=True)
class Solver:
    """A method as data.

    Attributes:
        name: its key in :data:`SOLVERS`, where it stands there.
        kind: the prediction that its weights are for, one of ``reprobook.diffusion.predictions.KINDS``.
        order: p, if the error at the end falls like the p-th power of the step with the method's own start.
        evaluations: of the model, a step.
        rows: from a schedule and a grid, in double precision on the CPU, to the steps.
        steady_order: the order with exact start values, where it is another one; multistep methods only.
    """

    name: str
    kind: str
    order: int
    evaluations: int
    rows: Rows
    steady_order: int | None = None


def table(ends: Float[Tensor, " num_steps"], *stages: tuple) -> list[Row]:
    """Put stages of all steps at once into rows.

    Args:
        ends: the times where the steps end.
        stages: for each stage (time, scale, weights) or (time, scale, weights, noise), where each entry
            is a tensor of the shape of ``ends`` or a number, and the weights a list of those.
    """

    def column(values) -> list[float]:
        return torch.as_tensor(values, dtype=torch.float64).expand_as(ends).tolist()

    columns = [
        [Stage(*parts[:2], tuple(parts[3:]), parts[2]) for parts in zip(*lines, strict=True)]
        for time, scale, weights, *noise in stages
        for lines in [[column(v) for v in (time, scale, noise[0] if noise else 0.0, *weights)]]
    ]
    return [Row(end, row) for end, *row in zip(ends.tolist(), *columns, strict=True)]


def step_ends(schedule: Schedule, grid: Tensor):
    """Return (s, t), (α_s, α_t), (σ_s, σ_t), and λ at s with the step h in λ; all of shape (num_steps,)."""
    alpha, sigma, lam = schedule.alpha(grid), schedule.sigma(grid), schedule.lam(grid)
    pairs = [(values[:-1], values[1:]) for values in (grid, alpha, sigma)]
    return *pairs, lam[:-1], lam.diff()


def _between(schedule: Schedule, lam: Tensor, h: Tensor, share: float):
    """Return the time a share of the step in λ after its start, with α and σ there."""
    time = schedule.time_of(lam + share * h)
    return time, schedule.alpha(time), schedule.sigma(time)


def euler(schedule: Schedule, grid: Tensor) -> list[Row]:
    """x_t = x_s + (t - s) v(x_s, s)."""
    return table(grid[1:], (grid[:-1], 1.0, [grid.diff()]))


def euler_lambda(schedule: Schedule, grid: Tensor) -> list[Row]:
    """x_t = x_s + h dx/dλ, with dx/dλ = v / λ'."""
    s, h = grid[:-1], schedule.lam(grid).diff()
    return table(grid[1:], (s, 1.0, [h / schedule.d_lam(s)]))


def heun(schedule: Schedule, grid: Tensor) -> list[Row]:
    """Euler there, then once more with the average of the velocities at both ends (Sec. 9.4)."""
    s, t, step = grid[:-1], grid[1:], grid.diff()
    return table(t, (s, 1.0, [step]), (t, 1.0, [step / 2, step / 2]))


def rk4(schedule: Schedule, grid: Tensor) -> list[Row]:
    """The classical method of Runge and Kutta."""
    s, t, step = grid[:-1], grid[1:], grid.diff()
    middle, last = (s + t) / 2, [step / 6, step / 3, step / 3, step / 6]
    return table(
        t,
        (s, 1.0, [step / 2]),
        (middle, 1.0, [step / 2, 0.0]),
        (middle, 1.0, [step, 0.0, 0.0]),
        (t, 1.0, last),
    )


def ddim(schedule: Schedule, grid: Tensor) -> list[Row]:
    """x_t = (α_t/α_s) x_s - α_t (σ_s/α_s - σ_t/α_t) ε, Eq. (9.2.2); σ_t = 0 is allowed."""
    (s, t), (a_s, a_t), (sigma_s, sigma_t), *_ = step_ends(schedule, grid)
    return table(t, (s, a_t / a_s, [-a_t * (sigma_s / a_s - sigma_t / a_t)]))


def exp_heun(schedule: Schedule, grid: Tensor) -> list[Row]:
    """DDIM there, then once more with the average of the noise at both ends (Eq. 9.4.14)."""
    (s, t), (a_s, a_t), (_, sigma_t), _, h = step_ends(schedule, grid)
    whole = -sigma_t * torch.expm1(h)
    return table(t, (s, a_t / a_s, [whole]), (t, a_t / a_s, [whole / 2, whole / 2]))


def exp_heun_linear(schedule: Schedule, grid: Tensor) -> list[Row]:
    """DDIM there, then once more with the line through the noise at both ends, integrated exactly.

    Its share of the second evaluation is -σ_t ∫_0^h e^(h-u) u/h du = -σ_t (e^h - 1 - h)/h.
    """
    (s, t), (a_s, a_t), (_, sigma_t), _, h = step_ends(schedule, grid)
    whole, second = -sigma_t * torch.expm1(h), -sigma_t * (torch.expm1(h) - h) / h
    return table(t, (s, a_t / a_s, [whole]), (t, a_t / a_s, [second, whole - second]))


def dpm_1(schedule: Schedule, grid: Tensor) -> list[Row]:
    """x_t = (α_t/α_s) x_s - σ_t (e^h - 1) ε, Eq. (9.4.4) with the noise held constant."""
    (s, t), (a_s, a_t), (_, sigma_t), _, h = step_ends(schedule, grid)
    return table(t, (s, a_t / a_s, [-sigma_t * torch.expm1(h)]))


def dpm_solver_2(gamma: float = 0.5) -> Solver:
    """Return DPM-Solver-2, whose second look is a share γ of the step in λ after the first (Eq. 9.4.11).

    Args:
        gamma: in (0, 1]; 1/2 is the midpoint of Algorithm 5, and 1 the averaging exponential Heun.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is in (0, 1], not {gamma:g}")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        (s, t), (a_s, a_t), (_, sigma_t), lam, h = step_ends(schedule, grid)
        u, a_u, sigma_u = _between(schedule, lam, h, gamma) if gamma < 1 else (t, a_t, sigma_t)
        whole, share = -sigma_t * torch.expm1(h), 1 / (2 * gamma)
        first = (s, a_u / a_s, [-sigma_u * torch.expm1(gamma * h)])
        return table(t, first, (u, a_t / a_s, [share * whole, (1 - share) * whole]))

    return Solver("dpm2", "noise", 2, 2, rows)


def dpm_3(schedule: Schedule, grid: Tensor) -> list[Row]:
    """DPM-Solver-3 with looks at a third and two thirds of the step (Sec. 9.4, after Lu et al., 2022)."""
    (s, t), (a_s, a_t), (_, sigma_t), lam, h = step_ends(schedule, grid)
    (u, a_u, sigma_u), (w, a_w, sigma_w) = (_between(schedule, lam, h, r) for r in (1 / 3, 2 / 3))
    k = 2 / 3 * h
    turn_w = -2 * sigma_w * (torch.expm1(k) / k - 1)  # of the difference of the first two predictions
    turn_t = -1.5 * sigma_t * (torch.expm1(h) / h - 1)  # of that of the third and the first
    return table(
        t,
        (s, a_u / a_s, [-sigma_u * torch.expm1(h / 3)]),
        (u, a_w / a_s, [turn_w, -sigma_w * torch.expm1(k) - turn_w]),
        (w, a_t / a_s, [turn_t, 0.0, -sigma_t * torch.expm1(h) - turn_t]),
    )


def dpm_pp_1(schedule: Schedule, grid: Tensor) -> list[Row]:
    """x_t = (σ_t/σ_s) x_s - α_t (e^(-h) - 1) x̂_0: DPM-Solver++ with the clean sample held constant."""
    (s, t), (_, a_t), (sigma_s, sigma_t), _, h = step_ends(schedule, grid)
    return table(t, (s, sigma_t / sigma_s, [-a_t * torch.expm1(-h)]))


def dpm_solver_pp_2s(gamma: float = 0.5) -> Solver:
    """Return DPM-Solver++(2S), whose second look is a share γ in (0, 1] of the step later (Algorithm 6)."""
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is in (0, 1], not {gamma:g}")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        (s, t), (_, a_t), (sigma_s, sigma_t), lam, h = step_ends(schedule, grid)
        u, a_u, sigma_u = _between(schedule, lam, h, gamma) if gamma < 1 else (t, a_t, sigma_t)
        whole, share = -a_t * torch.expm1(-h), 1 / (2 * gamma)
        first = (s, sigma_u / sigma_s, [-a_u * torch.expm1(-gamma * h)])
        return table(t, first, (u, sigma_t / sigma_s, [share * whole, (1 - share) * whole]))

    return Solver("dpmpp_2s", "clean", 2, 2, rows)
