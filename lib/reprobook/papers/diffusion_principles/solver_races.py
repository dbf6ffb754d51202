"""What the solvers of chapter 9 do on problems whose flow is known to rounding: orders, races, differences.

Lai, Song, Kim, Mitsufuji and Ermon, *The Principles of Diffusion Models*, arXiv 2510.21890 v2, chapter 9. The
problems are Gaussian mixtures, whose score is exact; so what a solver gets wrong is the solver's own. In
y = x/α the flow is dy/dn = ε̂ with n = σ/α = e^(-λ), whatever the schedule: the true end of every path is
computed once, in that form, by RK4 with small steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import SCHEDULES, Schedule
from reprobook.diffusion.solver_tables import Solver
from reprobook.diffusion.solvers import solve, steps
from reprobook.diffusion.stochastic import eta_step

__all__ = ["Problem", "problem_of", "random_problem", "lambda_grid", "rms", "relative", "fitted_order"]
__all__ += ["global_errors", "local_errors", "race", "evaluations_to_reach"]
__all__ += ["euler_in", "trajectory", "straightness", "gaussian_variances"]

EXACT = SCHEDULES["edm"]  # α = 1, σ = t: the form without a schedule


def lambda_grid(
    schedule: Schedule, num_steps: int, noisy: float, clean: float
) -> Float[Tensor, " num_times"]:
    """Return ``num_steps`` + 1 falling times, uniform in λ from ``noisy`` up to ``clean`` (Sec. 9.4)."""
    ends = schedule.time_of(torch.tensor([noisy, clean], dtype=torch.float64)).tolist()
    return time_grid(schedule, num_steps, "lambda", last=ends[0], first=ends[1])


@dataclass(frozen=True)
class Problem:
    """Points y = x/α at one λ, and where the flow takes them at another.

    Attributes:
        mixture: the data.
        noisy, clean: λ at the start and at the end.
        start: y at the start, ``(B, D)``.
        fine: steps of RK4 to a unit of λ, for the truth.
    """

    mixture: Mixture
    noisy: float
    clean: float
    start: Float[Tensor, "B D"]
    fine: int = 120

    def model(self, schedule: Schedule, kind: str = "noise") -> Model:
        """Return the exact model of the data under a schedule."""
        return self.mixture.model(schedule, kind)

    def grid(self, schedule: Schedule, num_steps: int) -> Float[Tensor, " num_times"]:
        """Return times uniform in λ over the whole problem."""
        return lambda_grid(schedule, num_steps, self.noisy, self.clean)

    def flow(self, y: Float[Tensor, "B D"], noisy: float, clean: float) -> Float[Tensor, "B D"]:
        """Return where the flow takes points y = x/α from one λ to a larger one, to about eleven digits.

        RK4 with n and with 2 n steps, and Richardson's extrapolation of the two (a reference for Sec. 9.1).
        """
        if clean == noisy:
            return y
        num_steps = math.ceil(self.fine / 2 * (clean - noisy))
        grids = (lambda_grid(EXACT, n, noisy, clean) for n in (num_steps, 2 * num_steps))
        coarse, fine = (solve(self.model(EXACT), y, grid, "rk4") for grid in grids)
        return fine + (fine - coarse) / 15

    @cached_property
    def truth(self) -> Float[Tensor, "B D"]:
        """Where the flow takes the start."""
        return self.flow(self.start, self.noisy, self.clean)

    def end(
        self, schedule: Schedule, grid: Float[Tensor, " num_times"], solver: str | Solver, **settings
    ) -> Float[Tensor, "B D"]:
        """Return x/α at the end of a grid, as a solver finds it."""
        x = schedule.alpha(grid[0]) * self.start
        return solve(self.model(schedule), x, grid, solver, **settings) / schedule.alpha(grid[-1])


def random_problem(
    seed: int,
    num_points: int = 64,
    device: torch.device | str = "cpu",
    noisy: float = -2.0,
    clean: float = 2.0,
) -> Problem:
    """Draw a mixture of three broad Gaussians in the plane, and points of it at λ = ``noisy``.

    The span of λ leaves out pure noise and the last polish, where every solver is good: to measure an order
    (Sec. 9.1), errors have to be far above rounding. And the Gaussians overlap: where they do not, points
    near a watershed between them settle into a method's order only on very fine grids.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    stds = 0.5 + 0.3 * torch.rand(3, generator=generator, dtype=torch.float64)
    mixture = Mixture.isotropic(means, stds)
    return problem_of(mixture, seed, num_points, device, noisy, clean)


def problem_of(
    mixture: Mixture,
    seed: int,
    num_points: int,
    device: torch.device | str = "cpu",
    noisy: float = -4.0,
    clean: float = 3.5,
) -> Problem:
    """Draw points of a mixture at λ = ``noisy``, for the flow of Sec. 9.1 to take to λ = ``clean``.

    Everything is drawn on the CPU, so that a seed means the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    points = mixture.sample(num_points, generator)
    noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    start = points + math.exp(-noisy) * noise
    return Problem(mixture.to(device), noisy, clean, start.to(device))


def rms(difference: Float[Tensor, "B D"]) -> float:
    """Return the root of the mean over points of the squared distance."""
    return difference.square().sum(-1).mean().sqrt().item()


def relative(found: Float[Tensor, "B D"], wanted: Float[Tensor, "B D"]) -> float:
    """Return the largest distance of any coordinate, in units of the largest coordinate."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def fitted_order(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """Return the slope of log error over log step, by least squares."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sizes, errors))
    return ((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


# --------------------------------------------------------------------------- orders


def global_errors(
    problem: Problem, schedule: Schedule, solver: str | Solver, counts: Iterable[int], num_known: int = 0
) -> list[float]:
    """Return the error at the end of the problem for each number of steps (orders of Sec. 9.1 to 9.5).

    Args:
        problem: has the true end.
        schedule: to solve it under; times are uniform in λ.
        solver: its name, or itself.
        counts: numbers of steps.
        num_known: steps from the start whose ends are taken from the exact flow, for methods that look back.
    """
    errors = []
    for num_steps in counts:
        h = (problem.clean - problem.noisy) / num_steps
        grid, known = problem.grid(schedule, num_steps), [problem.start]
        for k in range(num_known):
            known.append(problem.flow(known[-1], problem.noisy + k * h, problem.noisy + (k + 1) * h))
        errors.append(_error(problem, schedule, solver, grid, known, problem.truth))
    return errors


def local_errors(
    problem: Problem, schedule: Schedule, solver: str | Solver, sizes: Sequence[float], num_known: int = 0
) -> list[float]:
    """Return the error of a single step of each size in λ, taken from exact values (Sec. 9.3).

    All steps begin at one λ, some way behind the start, so that ``num_known`` steps before fit in.
    """
    errors, at = [], problem.noisy + max(num_known, 1) * max(sizes)
    for h in sizes:
        oldest = at - num_known * h
        known = [problem.flow(problem.start, problem.noisy, oldest)]
        for k in range(num_known + 1):
            known.append(problem.flow(known[-1], oldest + k * h, oldest + (k + 1) * h))
        grid = lambda_grid(schedule, num_known + 1, oldest, at + h)
        errors.append(_error(problem, schedule, solver, grid, known[:-1], known[-1]))
    return errors


def _error(
    problem: Problem, schedule: Schedule, solver: str | Solver, grid: Tensor, known: Sequence[Tensor], truth
) -> float:
    """Return the error in x/α at the end of a grid, begun from exact values at its first times."""
    *before, x = (schedule.alpha(t) * y for t, y in zip(grid, known, strict=False))
    found = solve(problem.model(schedule), x, grid, solver, before=before)
    return rms(found / schedule.alpha(grid[-1]) - truth)


# --------------------------------------------------------------------------- races


def race(
    problem: Problem, schedule: Schedule, solver: Solver, counts: Iterable[int], spacing: str = "lambda"
) -> tuple[list[int], list[float]]:
    """Return evaluations of the model and error at the end, for each number of steps (Sec. 9.4)."""
    ends = schedule.time_of(torch.tensor([problem.noisy, problem.clean], dtype=torch.float64)).tolist()
    evaluations, errors = [], []
    for num_steps in counts:
        grid = time_grid(schedule, num_steps, spacing, last=ends[0], first=ends[1])
        evaluations.append(num_steps * solver.evaluations)
        errors.append(rms(problem.end(schedule, grid, solver) - problem.truth))
    return evaluations, errors


def evaluations_to_reach(
    problem: Problem, schedule: Schedule, solver: Solver, error: float, most: int = 4096
) -> int:
    """Return the least number of evaluations from which on the error stays at or below a bound.

    Doubles the steps until the error is small enough, then bisects.

    Raises:
        ValueError: if ``most`` steps are not enough.
    """

    def enough(num_steps: int) -> bool:
        end = problem.end(schedule, problem.grid(schedule, num_steps), solver)
        return rms(end - problem.truth) <= error

    high = 1
    while not enough(high):
        if high >= most:
            raise ValueError(f"'{solver.name}' needs more than {most} steps")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * solver.evaluations


# --------------------------------------------------------------------------- E1, straightness, the η-family


def euler_in(
    model: Model, x: Float[Tensor, "B D"], s: float, t: float, variable: str
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Take one step of Euler on the velocity in t or in λ; return it with what DDIM adds to it.

    Both methods hold x̂ and ε̂; DDIM moves along α x̂ + σ ε̂ and Euler along its tangent. So DDIM minus
    Euler is (Δα - α'Δu) x̂ + (Δσ - σ'Δu) ε̂, whatever the variable u (about Obs. 9.2.1).
    """
    schedule, ends = model.schedule, torch.tensor([s, t], dtype=x.dtype)
    slope = 1.0 if variable == "t" else 1 / schedule.d_lam(ends[0])  # dt/du
    step = (ends if variable == "t" else schedule.lam(ends)).diff() * slope
    clean, noise = model(x, ends[0]), model(x, ends[0], "noise")
    along = [d(ends[0]) * step for d in (schedule.d_alpha, schedule.d_sigma)]
    jumps = [f(ends).diff() for f in (schedule.alpha, schedule.sigma)]
    euler = x + along[0] * clean + along[1] * noise
    return euler, (jumps[0] - along[0]) * clean + (jumps[1] - along[1]) * noise


def straightness(path: Float[Tensor, "T B D"]) -> Float[Tensor, " B"]:
    """Return length of the way over distance of its ends, 1 for a straight line (Sec. 9.1)."""
    return path.diff(dim=0).norm(dim=-1).sum(0) / (path[-1] - path[0]).norm(dim=-1)


def trajectory(
    model: Model, x: Float[Tensor, "B D"], grid: Float[Tensor, " T"], solver: str | Solver
) -> Float[Tensor, "T B D"]:
    """Return the samples at all times of a grid (Sec. 9.1)."""
    return torch.stack([step.x for step in steps(model, x, grid, solver)])


def gaussian_variances(
    schedule: Schedule, grid: Float[Tensor, " num_times"], eta: float | int, variance: float
) -> Float[Tensor, " num_times"]:
    """Return the variance along the η-family (Eq. 9.2.10) for data N(0, variance), without sampling.

    The noise predicted is ε̂ = σ x / (α² variance + σ²), so a step a x + b ε̂ + c z turns V into
    (a + b σ/(α² variance + σ²))² V + c².
    """
    alpha, sigma = schedule.alpha(grid), schedule.sigma(grid)
    marginal = alpha.square() * variance + sigma.square()
    scale, weight, noise = eta_step(schedule, grid, eta)
    gain = scale + weight * sigma[:-1] / marginal[:-1]
    found = [marginal[0]]
    for a, c in zip(gain, noise, strict=True):
        found.append(a.square() * found[-1] + c.square())
    return torch.stack(found)
