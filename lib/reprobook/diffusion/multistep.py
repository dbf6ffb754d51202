"""Solvers that look back: the predictions at the starts of earlier steps serve once more.

One evaluation a step, whatever the order; the price is a start, where there is nothing to look back at.
Equations are those of chapter 9 of Lai et al., *The Principles of Diffusion Models* (2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from reprobook.diffusion.schedules import Schedule
from reprobook.diffusion.solver_tables import Row, Solver, dpm_pp_1, step_ends, table

__all__ = ["multistep", "dpm_pp_2m", "started"]


def dpm_pp_2m(schedule: Schedule, grid: Tensor) -> list[Row]:
    """DPM-Solver++(2M), Algorithm 7: (1 + r/2) x̂_0 - (r/2) x̂_0 of the step before, r = h/h_before."""
    start = dpm_pp_1(schedule, grid[:2])
    if len(grid) == 2:
        return start
    (s, t), (_, a_t), (sigma_s, sigma_t), _, h = step_ends(schedule, grid[1:])
    ratio = h / schedule.lam(grid).diff()[:-1]
    whole = -a_t * torch.expm1(-h)
    return start + table(t, (s, sigma_t / sigma_s, [whole * (1 + ratio / 2), -whole * ratio / 2]))


def _lagrange_weights(schedule: Schedule, grid: Tensor, degree: int, variable: str) -> Tensor:
    """Return -α_t ∫ e^(-λ) ℓ_j dλ for the steps with ``degree`` + 1 looks back, ``(num_steps, degree + 1)``.

    ℓ_j are Lagrange's polynomials in λ or in t through the present and the last ``degree`` times, the newest
    first. The integral runs over λ, where everything is smooth, by Gauss's rule with 32 nodes.
    """
    import numpy as np

    nodes, shares = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))
    lam, sigma = schedule.lam(grid), schedule.sigma(grid)[degree + 1 :]
    start, h = lam[degree:-1, None], lam.diff()[degree:, None]
    inner = start + h * (nodes + 1) / 2
    u, v = (lam, inner) if variable == "lambda" else (grid, schedule.time_of(inner))
    known = u[:-1].unfold(0, degree + 1, 1).flip(1)  # (num_steps, degree + 1), newest first
    weight = -sigma[:, None] * torch.exp(start + h - inner) * shares * h / 2
    columns = []
    for j in range(degree + 1):
        others = [k for k in range(degree + 1) if k != j]
        factors = [(v - known[:, k, None]) / (known[:, j, None] - known[:, k, None]) for k in others]
        columns.append(torch.stack([weight, *factors]).prod(0).sum(1))
    return torch.stack(columns, 1)


def multistep(degree: int, variable: str = "lambda") -> Solver:
    """Return AB-DEIS: the noise is the polynomial through the last ``degree`` + 1 predictions (Sec. 9.3).

    It starts with what it has: degree 0 in the first step, 1 in the second, and so on. A step of degree m is
    wrong by O(h^(m+2)), and the first one is DDIM: so the order is 2 at most, whatever the degree, unless the
    start is a better one (``before`` of :func:`reprobook.diffusion.solvers.steps`, or :func:`started`).

    Args:
        degree: of the polynomial, >= 0.
        variable: what it is a polynomial in, ``lambda`` or ``t``.
    """
    if degree < 0 or variable not in ("lambda", "t"):
        raise ValueError(f"degree >= 0 and variable 'lambda' or 't' are needed, not {degree}, '{variable}'")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        found, alpha = [], schedule.alpha(grid)
        for m in range(min(degree, len(grid) - 2) + 1):
            part = grid if m == degree else grid[: m + 2]  # all that is left, or the one step with m looks
            weights = _lagrange_weights(schedule, part, m, variable)
            s, t = part[m:-1], part[m + 1 :]
            scale = alpha[m + 1 : len(part)] / alpha[m : len(part) - 1]
            found += table(t, (s, scale, list(weights.mT)))
        return found

    name = f"deis{degree}" + ("_t" if variable == "t" else "")
    return Solver(name, "noise", min(degree + 1, 2), 1, rows, steady_order=degree + 1)


def started(solver: Solver, starter: Solver, num: int) -> Solver:
    """Return a multistep method whose first ``num`` steps are taken by another one of the same kind.

    Args:
        solver: the multistep method.
        starter: takes the first steps; built on the same prediction, and without looking back.
        num: how many.

    Raises:
        ValueError: if they are built on different predictions.
    """
    if starter.kind != solver.kind:
        raise ValueError(f"'{starter.name}' predicts {starter.kind}, '{solver.name}' {solver.kind}")

    def rows(schedule: Schedule, grid: Tensor) -> list[Row]:
        return starter.rows(schedule, grid[: num + 1]) + solver.rows(schedule, grid)[num:]

    order = min(solver.steady_order or solver.order, starter.order + 1)
    return Solver(f"{solver.name}_{starter.name}", solver.kind, order, solver.evaluations, rows)
