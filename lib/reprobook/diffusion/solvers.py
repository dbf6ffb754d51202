"""Solvers of the probability-flow equation by name, and the one loop that runs them all.

A solver is a table of numbers (see :mod:`reprobook.diffusion.solver_tables`), computed once for a grid in
double precision. The loop asks the model, and adds. Where the model predicts something else than the method
is built on, the change (Lai et al., 2025, Prop. 6.3.1) is linear, and goes into the numbers beforehand.

============================  ======================================================================
name                          method
============================  ======================================================================
euler, heun, rk4              classical methods for dx/dt = v(x, t)
euler_lambda                  Euler for dx/dλ
ddim                          Eq. (9.2.2), after Song et al. (2021)
exp_heun, exp_heun_linear     Eq. (9.4.14), with the mean of both ends' noise or the line between them
dpm1, dpm2, dpm3              DPM-Solver, Eq. (9.4.4) to (9.4.11), after Lu et al. (2022)
dpmpp_1, dpmpp_2s, dpmpp_2m   DPM-Solver++, Algorithms 6 and 7, after Lu et al. (2025)
deis0 to deis3                Adams-Bashforth DEIS with polynomials in λ, after Zhang and Chen (2023)
deis0_t to deis3_t            the same with polynomials in t
============================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion import solver_tables as tables
from reprobook.diffusion.multistep import dpm_pp_2m, multistep
from reprobook.diffusion.predictions import Model, conversion
from reprobook.diffusion.solver_tables import Row, Solver

__all__ = ["SOLVERS", "Step", "steps", "solve", "find_solver", "gains_of"]

#: The solvers without noise, by name, with their declared orders.
SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("euler", "velocity", 1, 1, tables.euler),
        Solver("euler_lambda", "velocity", 1, 1, tables.euler_lambda),
        Solver("heun", "velocity", 2, 2, tables.heun),
        Solver("rk4", "velocity", 4, 4, tables.rk4),
        Solver("ddim", "noise", 1, 1, tables.ddim),
        Solver("exp_heun", "noise", 2, 2, tables.exp_heun),
        Solver("exp_heun_linear", "noise", 2, 2, tables.exp_heun_linear),
        Solver("dpm1", "noise", 1, 1, tables.dpm_1),
        tables.dpm_solver_2(),
        Solver("dpm3", "noise", 3, 3, tables.dpm_3),
        Solver("dpmpp_1", "clean", 1, 1, tables.dpm_pp_1),
        tables.dpm_solver_pp_2s(),
        Solver("dpmpp_2m", "clean", 2, 1, dpm_pp_2m, steady_order=2),
        *(multistep(degree, variable) for variable in ("lambda", "t") for degree in range(4)),
    )
}


class Step(NamedTuple):
    """Where a run of a solver is."""

    time: float
    x: Tensor
    evaluations: int  # of the model, so far


class _Plan(NamedTuple):
    """Every step of a run, in terms of what the model itself returns."""

    rows: list[Row]
    times: list[Tensor]  # of the evaluations, one after the other, as the model takes them
    gains: list[tuple[float, float]]  # (p, q) of each: the method's prediction is p y + q output
    depth: int  # how many earlier steps the method looks back at


def gains_of(model: Model, kind: str, times: Float[Tensor, " num_times"]) -> list[tuple[float, float]]:
    """Return (p, q) by which p x + q (output of the model) is a prediction of another kind (Prop. 6.3.1)."""
    pairs = conversion(model.schedule, times, model.kind, kind)
    return list(zip(*(values.tolist() for values in pairs), strict=True))


def _plan(model: Model, method: Solver, grid: Tensor, x: Tensor) -> _Plan:
    rows = method.rows(model.schedule, grid.detach().double().cpu())
    times = torch.tensor([stage.time for row in rows for stage in row.stages], dtype=torch.float64)
    depth = max(len(stage.weights) - k - 1 for row in rows for k, stage in enumerate(row.stages))
    as_taken = list(times.to(dtype=x.dtype, device=x.device).unbind())
    return _Plan(rows, as_taken, gains_of(model, method.kind, times), depth)


class _Mix(NamedTuple):
    """What becomes of the outputs of the model after a stage: a x + Σ w (output) + Σ w (older prediction)."""

    scale: float
    outputs: list[tuple[int, float]]  # (number of the stage in its step, weight)
    past: list[tuple[int, float]]  # (steps ago, less one; weight)
    noise: float


def _mixes(row: Row, gains: Sequence[tuple[float, float]]) -> list[_Mix]:
    """Write a step in terms of x and of the model's outputs, instead of the method's predictions.

    Prediction j is p_j y_j + q_j (output j), and y_j, where stage j looks, is a combination of x and of the
    outputs before: so every stage is one, too.
    """
    looks: list[tuple[float, list[float]]] = [(1.0, [])]  # y_j: its part of x, and of outputs 0 .. j-1
    mixes = []
    for k, stage in enumerate(row.stages):
        scale, outputs = stage.scale, [0.0] * (k + 1)
        for j, weight in zip(range(k, -1, -1), stage.weights, strict=False):
            p, q = gains[j]
            scale += weight * p * looks[j][0]
            outputs[j] += weight * q
            for i, share in enumerate(looks[j][1]):
                outputs[i] += weight * p * share
        looks.append((scale, outputs))
        past = list(enumerate(stage.weights[k + 1 :]))
        if (past or stage.noise) and k + 1 < len(row.stages):
            raise ValueError("only the last stage of a step may add noise or look back at earlier steps")
        used = [(i, w) for i, w in enumerate(outputs) if w]
        mixes.append(_Mix(scale, used, past, stage.noise))
    return mixes


def _mixed(
    x: Tensor,
    mix: _Mix,
    outputs: Sequence[Tensor],
    past: Sequence[Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """Form a x + Σ w (output) + Σ w (older prediction), and add noise where there is some."""
    pairs = [(outputs[i], w) for i, w in mix.outputs] + [(past[i], w) for i, w in mix.past]
    if mix.scale == 1.0 and pairs:
        y = torch.add(x, pairs[0][0], alpha=pairs[0][1])
        pairs = pairs[1:]
    else:
        y = x * mix.scale
    for value, weight in pairs:
        y.add_(value, alpha=weight)
    if mix.noise:
        where = x.device if generator is None else generator.device
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=where)
        y.add_(z.to(x.device), alpha=mix.noise)
    return y


def find_solver(solver: str | Solver) -> Solver:
    """Return a solver of :data:`SOLVERS` by name; a solver stays what it is.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(solver, Solver):
        return solver
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver '{solver}': choose one of {', '.join(SOLVERS)}")
    return SOLVERS[solver]


def steps(
    model: Model,
    x: Float[Tensor, "*shape"],
    grid: Float[Tensor, " num_times"],
    solver: str | Solver = "heun",
    *,
    generator: torch.Generator | None = None,
    before: Sequence[Float[Tensor, "*shape"]] = (),
) -> Iterator[Step]:
    """Yield the sample at the first time of the grid, and then after every step.

    Gradients are recorded as the caller has it: under ``torch.no_grad()`` they are not.

    Args:
        model: a prediction of any kind.
        x: the sample at the first time, ``(B, ...)``; with ``before``, at the time after theirs.
        grid: times, falling (sampling) or, for solvers without noise, rising (encoding).
        solver: a key of :data:`SOLVERS`, or a solver.
        generator: of the noise of stochastic samplers.
        before: exact samples at the first times of the grid; from these a method that looks back
            takes its start values.

    Raises:
        ValueError: for an unknown solver, or a grid without a step.
    """
    if grid.ndim != 1 or len(grid) < 2 + len(before):
        raise ValueError("a grid needs one axis, and at least one step behind the samples before")
    rows, times, gains, depth = _plan(model, method := find_solver(solver), grid, x)
    past: list[Tensor] = []
    at, evaluations = 0, len(before)
    for earlier, row in zip(before, rows, strict=False):
        past.insert(0, model(earlier, times[at], method.kind))
        at += len(row.stages)
    yield Step(grid[evaluations].item(), x, evaluations)
    for row in rows[evaluations:]:
        outputs: list[Tensor] = []
        y, num = x, len(row.stages)
        for mix in _mixes(row, gains[at : at + num]):
            outputs.append(model.function(y, times[at + len(outputs)]))
            y = _mixed(x, mix, outputs, past, generator)
        if depth > 0:
            p, q = gains[at]
            first = outputs[0] if (p, q) == (0.0, 1.0) else (outputs[0] * q).add_(x, alpha=p)
            past = [first, *past[: depth - 1]]
        x, at, evaluations = y, at + num, evaluations + num
        yield Step(row.time, x, evaluations)


@torch.no_grad()
def solve(
    model: Model,
    x: Float[Tensor, "*shape"],
    grid: Float[Tensor, " num_times"],
    solver: str | Solver = "heun",
    *,
    generator: torch.Generator | None = None,
    before: Sequence[Tensor] = (),
) -> Float[Tensor, "*shape"]:
    """Return the sample at the last time of the grid; arguments as of :func:`steps`, no gradients."""
    for step in steps(model, x, grid, solver, generator=generator, before=before):
        last = step.x
    return last
