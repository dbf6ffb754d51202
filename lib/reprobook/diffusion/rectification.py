"""Reflow: couple noise and data by a flow, draw straight lines between the pairs, and learn a flow again.

Rectified flow (Liu et al., 2023) starts with data and noise drawn independently. The velocity v(x, t) =
E[x_1 - x_0 | x_t = x] of the lines x_t = (1 - t) x_0 + t x_1 gives a flow whose ends are a new,
deterministic coupling with the same marginals. Its displacements cost no more than the old ones for any
convex cost, and its paths are straighter. Equations are those of Lai et al. (2025), Sec. 5.4; t = 0 is
data, t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.schedules import spread

__all__ = ["COSTS", "reflow_loss", "between", "follow", "straightness", "relative_cost"]

Points = Float[Tensor, "*shape"]
Times = Float[Tensor, "*times"]
#: x, t to dx/dt
Velocity = Callable[[Tensor, Tensor], Tensor]

#: Convex costs of a displacement ``(B, D)``, one value a row.
COSTS: dict[str, Callable[[Tensor], Tensor]] = {
    "length": lambda d: d.norm(dim=-1),
    "length to the power 3/2": lambda d: d.norm(dim=-1).pow(1.5),
    "square": lambda d: d.square().sum(-1),
    "fourth power": lambda d: d.square().sum(-1).square(),
    "largest coordinate": lambda d: d.abs().amax(-1),
    "forwards only": lambda d: d[..., 0].clamp(min=0),
}


def between(x_0: Points, x_1: Points, t: Times) -> Points:
    """Return the point (1 - t) x_0 + t x_1 of the line between a pair."""
    return x_0 + spread(t, x_0) * (x_1 - x_0)


def reflow_loss(velocity: Velocity, x_0: Points, x_1: Points, t: Times) -> Float[Tensor, "*times"]:
    """Return |v(x_t, t) - (x_1 - x_0)|² for pairs of a coupling (Sec. 5.4); minimal at the conditional mean.

    Args:
        velocity: the one that learns.
        x_0, x_1: pairs of data and noise, ``(B, ...)``; independent ones give flow matching.
        t: times in [0, 1], ``(B,)``.
    """
    gap = velocity(between(x_0, x_1, t), t) - (x_1 - x_0)
    return gap.square().flatten(t.ndim).sum(-1)


def follow(
    velocity: Velocity, x: Points, times: Float[Tensor, " num_times"]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Solve dx/dt = v(x, t) along given times, up or down, by Runge and Kutta's method of fourth order.

    Yields:
        Time, points and velocity at every time of the grid, the first one included.
    """
    for t, later in pairwise(times):
        first = velocity(x, t)
        yield t, x, first
        step = later - t
        second = velocity(x + step / 2 * first, t + step / 2)
        third = velocity(x + step / 2 * second, t + step / 2)
        x = x + step / 6 * (first + 2 * second + 2 * third + velocity(x + step * third, later))
    yield times[-1], x, velocity(x, times[-1])


def straightness(
    velocity: Velocity, x_1: Points, times: Float[Tensor, " num_times"]
) -> tuple[Points, Float[Tensor, "*rows"]]:
    """Return where a flow ends, and ∫ |z_1 - z_0 - v(z_t, t)|² dt along it: zero where paths are straight
    lines run at constant speed (Sec. 5.4).

    Args:
        velocity: of the flow.
        x_1: where it starts, ``(B, D)``.
        times: falling, from 1 to 0; the integral is taken by the trapezoidal rule on them.

    Returns:
        z_0, of the shape of ``x_1``, and one value a row.
    """
    _, points, velocities = zip(*follow(velocity, x_1, times), strict=True)
    gaps = torch.stack([(x_1 - points[-1] - v).square().sum(-1) for v in velocities])
    return points[-1], -torch.trapezoid(gaps.movedim(0, -1), times)


def relative_cost(cost: str, before: Float[Tensor, "n D"], after: Float[Tensor, "k D"]) -> float:
    """Return the relative change of the mean cost of displacements, by a key of :data:`COSTS` (Eq. 5.4.1)."""
    return (COSTS[cost](after).mean() / COSTS[cost](before).mean() - 1).item()
