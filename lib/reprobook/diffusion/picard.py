"""Picard's iteration: all steps of a sampler at once, again and again, until nothing moves (ParaDiGMS).

A sampler of one stage is x_{k+1} = a_k x_k + w_k P(x_k, t_k), so with A_k = a_0 ... a_{k-1} node k is

    x_k = A_k (x_0 + Σ_{j<k} w_j P(x_j, t_j) / A_{j+1}),

which is a fixed point in the whole path. To put a guess of the path into the right side costs one evaluation
of a large batch, not one evaluation after another; and since node k needs only nodes before it, k sweeps
settle the first k nodes for good (Lai et al., 2025, Eq. 9.7.3, after Shih et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import spread
from reprobook.diffusion.solver_tables import Solver
from reprobook.diffusion.solvers import find_solver, gains_of

__all__ = ["Sweep", "sweeps", "sliding_window"]


class Sweep(NamedTuple):
    """The path after a sweep."""

    number: int  # of sweeps so far: sequential rounds of the model
    path: Tensor  # (num_times, *shape), the first node is the start
    change: float  # largest root mean square change of a node in this sweep
    settled: int  # how many nodes behind the start are taken as final
    evaluations: int  # of the model so far, one a node and sweep


class _Linear(NamedTuple):
    """x_{k+1} = scales_k x_k + weights_k (output of the model at times_k)."""

    times: Tensor
    scales: Tensor
    weights: Tensor


def _one_stage(model: Model, method: Solver, grid: Tensor, x: Tensor) -> _Linear:
    """Return the numbers of a sampler with one stage, a step each, for the model's own output."""
    rows = method.rows(model.schedule, grid.detach().double().cpu())
    stages = [stage for row in rows for stage in row.stages]
    if len(stages) != len(rows) or any(len(s.weights) > 1 or s.noise for s in stages):
        raise ValueError(f"'{method.name}' is not a sampler of one stage without memory and noise")
    times = torch.tensor([stage.time for stage in stages], dtype=torch.float64)
    gains = torch.tensor(gains_of(model, method.kind, times), dtype=torch.float64)
    scale, weight = torch.tensor([(s.scale, *s.weights) for s in stages], dtype=torch.float64).mT
    numbers = (times, scale + weight * gains[:, 0], weight * gains[:, 1])
    return _Linear(*(n.to(dtype=x.dtype, device=x.device) for n in numbers))


def _outputs(model: Model, times: Tensor, path: Tensor) -> Tensor:
    """Evaluate the model at all nodes of a path in one batch, ``(num_nodes, B, ...)``."""
    batch = path.shape[1]
    return model.function(path.flatten(0, 1), times.repeat_interleave(batch)).unflatten(0, path.shape[:2])


def _integrated(start: Tensor, outputs: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Return the nodes behind ``start`` that the outputs at all nodes lead to, ``(num_nodes, B, ...)``."""
    product = scales.cumprod(0)
    terms = spread(weights / product, outputs) * outputs
    return spread(product, outputs) * (start + terms.cumsum(0))


def _largest_change(new: Tensor, old: Tensor) -> float:
    return (new - old).square().flatten(1).mean(1).sqrt().max().item()


def _shrinking(model: Model, x: Tensor, grid: Tensor) -> Tensor:
    """Return the path on which all of the start is noise, and shrinks like σ."""
    sigma = model.schedule.sigma(grid.detach().double().cpu())
    ratio = (sigma / sigma[0]).to(dtype=x.dtype, device=x.device)
    return ratio.reshape(-1, *[1] * x.ndim) * x


@torch.no_grad()
def sweeps(
    model: Model,
    x: Float[Tensor, "*shape"],
    grid: Float[Tensor, " num_times"],
    solver: str | Solver = "ddim",
) -> Iterator[Sweep]:
    """Yield the path after each sweep over all nodes (Eq. 9.7.3), beginning with the guess that all of the
    start is noise, which shrinks like σ.

    After as many sweeps as there are steps it is the path of the solver that goes step by step.

    Args:
        model: a prediction of any kind, whose function takes one time a sample.
        x: the sample at the first time, ``(B, ...)``.
        grid: falling times.
        solver: a method of one stage without memory: ``euler``, ``ddim``, ``dpmpp_1``, ...

    Raises:
        ValueError: for a method of another form.
    """
    times, scales, weights = _one_stage(model, find_solver(solver), grid, x)
    num, path = len(times), _shrinking(model, x, grid)
    yield Sweep(0, path, float("inf"), 0, 0)
    for number in range(1, num + 1):
        new = _integrated(x, _outputs(model, times, path[:-1]), scales, weights)
        change = _largest_change(new, path[1:])
        path = torch.cat([x[None], new])
        yield Sweep(number, path, change, number, number * num)


@torch.no_grad()
def sliding_window(
    model: Model,
    x: Float[Tensor, "*shape"],
    grid: Float[Tensor, " num_times"],
    window: int,
    tolerance: float,
    solver: str | Solver = "ddim",
) -> Iterator[Sweep]:
    """Yield the path while a window of nodes slides along it (ParaDiGMS; Shih et al., 2023, Algorithm 1).

    Each sweep moves the nodes of the window; then the window advances past the nodes that moved by
    no more than ``tolerance``, by one at least, and the nodes that enter are guessed from the last one in it.

    Args:
        model, x, grid, solver: as in :func:`sweeps`.
        window: nodes that are evaluated at once, >= 1.
        tolerance: root mean square change of a node that passes as none; 0 gives the solver's own path.
    """
    times, scales, weights = _one_stage(model, find_solver(solver), grid, x)
    num = len(times)
    path = noise = _shrinking(model, x, grid)
    start = number = evaluations = 0
    while start < num:
        stop = min(start + window, num)
        part = slice(start, stop)
        new = _integrated(path[start], _outputs(model, times[part], path[part]), scales[part], weights[part])
        moved = (new - path[start + 1 : stop + 1]).square().flatten(1).mean(1).sqrt()
        path = torch.cat([path[: start + 1], new, new[-1] + noise[stop + 1 :] - noise[stop]])
        still = (moved <= tolerance).long().cumprod(0).sum().item()
        number, evaluations = number + 1, evaluations + stop - start
        start += max(1, still)
        yield Sweep(number, path, moved.max().item(), start, evaluations)
