"""Flow maps: functions that jump along the trajectories of a probability-flow ODE, and how they are learned.

The flow map Ψ(x, s, t), s >= t, takes a point at time s to where the ODE brings it at time t, in one
evaluation. A consistency function is its special case with t = 0 (Song et al., 2023). Consistency
trajectory models (Kim et al., 2024) and MeanFlow (Geng et al., 2025) learn the whole of it; they differ in
what the network stands for and in the loss. Equations are those of Lai et al. (2025), Chapter 11.

====================  =====================================================================================
symbol                meaning
====================  =====================================================================================
Ψ(x, s, t)            the flow map, from time s down to time t <= s
f(x, s)               consistency function, Ψ(x, s, 0)
h(x, s, t)            velocity averaged over [t, s] along the trajectory: Ψ = x - (s - t) h
g(x, s, t)            network of CTM: Ψ = (t/s) x + (1 - t/s) g, so g = x - s h
v(x, t)               velocity of the ODE; h on the diagonal t = s
====================  =====================================================================================

Every loss here is a regression on a target that is computed with the network itself, and the target is held
fixed: ``stop_gradient`` is an argument so that one can see what happens when it is not. Losses return one
value a sample; times are of shape ``(B,)``, or ``(S, B)`` for a stack of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from reprobook.diffusion.schedules import Schedule, spread

__all__ = [
    "from_average_velocity",
    "average_velocity",
    "from_ctm",
    "ctm_network",
    "consistency_loss",
    "tangent",
    "tangent_loss",
    "trig_consistency",
    "scm_loss",
    "trajectory_loss",
    "meanflow_target",
    "meanflow_loss",
    "adaptive",
    "landing_time",
    "noise_up",
    "gamma_sampling",
    "consistency_sampling",
]

Points = Float[Tensor, "*shape"]
Times = Float[Tensor, "*times"]
#: x, s, t to a point at time t, or to an average velocity
Map = Callable[[Tensor, Tensor, Tensor], Tensor]
#: x, s to a point at time 0
Consistency = Callable[[Tensor, Tensor], Tensor]


def _squared(x: Points, t: Times) -> Float[Tensor, "*times"]:
    """Return |x|², one value for each time: all axes behind those of ``t`` are summed."""
    return x.square().flatten(t.ndim).sum(-1)


def _held(value: Tensor, held: bool) -> Tensor:
    return value.detach() if held else value


# --------------------------------------------------------------------------- two ways to write one map


def from_average_velocity(h: Points, x: Points, s: Times, t: Times) -> Points:
    """Return Ψ = x - (s - t) h: the average velocity times the time, backwards (Sec. 11.5).

    Args:
        h: average velocity over [t, s], of the shape of ``x``.
        x: points at time s, ``(B, ...)``.
        s, t: times, s >= t, () or ``(B,)``; t = s returns ``x``.
    """
    return x - spread(s - t, x) * h


def average_velocity(psi: Points, x: Points, s: Times, t: Times) -> Points:
    """Return h = (x - Ψ) / (s - t), the inverse of :func:`from_average_velocity`; s > t."""
    return (x - psi) / spread(s - t, x)


def from_ctm(g: Points, x: Points, s: Times, t: Times) -> Points:
    """Return G = (t/s) x + (1 - t/s) g, the parameterisation of CTM (Sec. 11.4); s > 0."""
    share = spread(t / s, x)
    return share * x + (1 - share) * g


def ctm_network(psi: Points, x: Points, s: Times, t: Times) -> Points:
    """Return g = (s Ψ - t x) / (s - t), the inverse of :func:`from_ctm`; s > t.

    On the diagonal, where this is 0/0, it is x - s v(x, s) (Prop. 11.4.1).
    """
    return (spread(s, x) * psi - spread(t, x) * x) / spread(s - t, x)


# --------------------------------------------------------------------------- consistency functions


def consistency_loss(
    f: Consistency,
    x_s: Points,
    x_t: Points,
    s: Times,
    t: Times,
    *,
    target: Consistency | None = None,
    stop_gradient: bool = True,
) -> Float[Tensor, "*times"]:
    """Return |f(x_s, s) - sg f(x_t, t)|² for two neighbours on a trajectory.

    Where x_t comes from decides the name: with one step of a teacher from x_s it is consistency distillation
    (Eq. 11.2.4), with the same data and noise as x_s consistency training (Eq. 11.2.6), with the exact flow
    map the loss that both stand in for.

    Args:
        f: the consistency function that learns.
        x_s, x_t: the neighbours, ``(B, ...)``.
        s, t: their times, s > t, ``(B,)``.
        target: another function on the right, such as a moving average of ``f``; ``f`` by default.
        stop_gradient: hold the right-hand side fixed, as the method asks for.
    """
    return _squared(f(x_s, s) - _held((target or f)(x_t, t), stop_gradient), s)


def tangent(f: Consistency, x: Points, s: Times, velocity: Points) -> tuple[Points, Points]:
    """Return f(x, s) and its change along a trajectory, df/ds = ∂f/∂s + (∂f/∂x) v (Eq. 11.3.3).

    One forward derivative in the direction (v, 1) of (x, s) gives both.

    Args:
        f: a consistency function.
        x: points at time s, ``(B, ...)``.
        s: times, ``(B,)``.
        velocity: dx/ds, of the shape of ``x``: v(x, s), or that of one pair of data and noise.
    """
    return jvp(f, (x, s), (velocity, torch.ones_like(s)))


def tangent_loss(f: Consistency, x: Points, s: Times, velocity: Points) -> Float[Tensor, "*times"]:
    """Return ⟨f(x, s), sg df/ds⟩, whose gradient is that of consistency in continuous time (Sec. 11.3).

    It is the limit of the gradient of half the squared :func:`consistency_loss`, divided by s - t. The value
    itself means nothing: it may be negative.
    """
    value, change = tangent(f, x, s, velocity)
    return (value * change.detach()).flatten(s.ndim).sum(-1)


def trig_consistency(
    network: Consistency, x: Points, s: Times, sigma_data: float | Float[Tensor, ""]
) -> Points:
    """Return f = cos(s) x - σ_d sin(s) F(x/σ_d, s), which is x at s = 0 (sCM, Sec. 11.3)."""
    return spread(torch.cos(s), x) * x - sigma_data * spread(torch.sin(s), x) * network(x / sigma_data, s)


def scm_loss(
    network: Consistency,
    x: Points,
    s: Times,
    velocity: Points,
    sigma_data: float,
    *,
    warmup: float = 1.0,
    constant: float = 0.1,
    normalise: bool = True,
) -> Float[Tensor, "*times"]:
    """Return |F - sg(F + tangent)|² of sCM with its warm-up and normalisation (Sec. 11.3, Algorithm 10).

    The tangent is cos(s) df/ds, taken apart: what needs the network's own derivative is multiplied by the
    warm-up. With ``warmup = 1`` and without normalisation the gradient is that of :func:`tangent_loss`,
    weighted by 2 cot(s) / σ_d.

    Args:
        network: F, of x/σ_d and s in (0, π/2).
        x: points at time s on the schedule ``trig``, whose data have standard deviation σ_d.
        s: times, ``(B,)``.
        velocity: dx/ds, of the shape of ``x``.
        sigma_data: σ_d > 0.
        warmup: r in [0, 1], which grows early in training.
        constant: c >= 0, what keeps the normalised tangent finite.
        normalise: divide the tangent by its norm plus c.
    """
    d, cosine, sine = sigma_data, spread(torch.cos(s), x), spread(torch.sin(s), x)
    value, change = jvp(network, (x / d, s), (velocity / d, torch.ones_like(s)))
    fixed, change = value.detach(), change.detach()
    direction = -cosine.square() * (d * fixed - velocity) - warmup * cosine * sine * (x + d * change)
    if normalise:
        direction = direction / (spread(_squared(direction, s).sqrt(), x) + constant)
    return _squared(value - fixed - direction, s)


# --------------------------------------------------------------------------- whole flow maps


def trajectory_loss(
    flow_map: Map,
    x_s: Points,
    x_u: Points,
    s: Times,
    u: Times,
    t: Times,
    *,
    target: Map | None = None,
    stop_gradient: bool = True,
) -> Float[Tensor, "*times"]:
    """Return |Ψ(x_s, s, t) - sg Ψ(x_u, u, t)|²: two points of one trajectory must land together (Sec. 11.4).

    DEPARTURE: the original compares where the two land at time 0, after another jump of the fixed network;
    this compares them where they land, which has the same minimum.

    Args:
        flow_map: the map that learns.
        x_s: points at time s, ``(B, ...)``.
        x_u: where a teacher brings them at time u.
        s, u, t: s > u >= t, ``(B,)``.
        target: another map on the right; ``flow_map`` by default.
        stop_gradient: hold the right-hand side fixed.
    """
    return _squared(flow_map(x_s, s, t) - _held((target or flow_map)(x_u, u, t), stop_gradient), s)


def meanflow_target(h: Map, x: Points, s: Times, t: Times, velocity: Points) -> tuple[Points, Points]:
    """Return h(x, s, t) and v - (s - t)(∂h/∂x v + ∂h/∂s), which are equal for the exact h (Eq. 11.5.3).

    One forward derivative in the direction (v, 1, 0) of (x, s, t) gives the bracket.
    """
    value, change = jvp(h, (x, s, t), (velocity, torch.ones_like(s), torch.zeros_like(t)))
    return value, velocity - spread(s - t, x) * change


def meanflow_loss(
    h: Map, x: Points, s: Times, t: Times, velocity: Points, *, stop_gradient: bool = True
) -> Float[Tensor, "*times"]:
    """Return |h - sg(v - (s - t) dh/ds)|² (Eq. 11.5.3); for t = s it is flow matching.

    Args:
        h: average velocity that learns, of x, s and t.
        x: points at time s, ``(B, ...)``.
        s, t: s >= t, ``(B,)``.
        velocity: dx/ds; that of one pair of data and noise, α' x_0 + σ' ε, will do.
        stop_gradient: hold the target fixed.
    """
    value, target = meanflow_target(h, x, s, t, velocity)
    return _squared(value - _held(target, stop_gradient), s)


def adaptive(losses: Float[Tensor, "*times"], power: float = 1.0, constant: float = 1e-2) -> Tensor:
    """Return losses divided by (loss + constant)^power, held fixed, so that outliers pull less.

    The weight of MeanFlow's training (Geng et al., 2025).

    Args:
        losses: squared norms, one a sample.
        power: 0 leaves them as they are, 1/2 gives gradients like those of a norm.
        constant: > 0.
    """
    return losses / (losses.detach() + constant).pow(power)


# --------------------------------------------------------------------------- sampling


def landing_time(t: Float[Tensor, ""], end: Float[Tensor, ""], gamma: float, schedule: Schedule) -> Tensor:
    """Return the time u in [end, t] at which σ/α is sqrt(1 - γ²) times that of t (Algorithm 11)."""
    if gamma >= 1:
        return end
    u = schedule.time_of(schedule.lam(t) - torch.log1p(torch.tensor(-(gamma**2), dtype=t.dtype)) / 2)
    return torch.minimum(torch.maximum(u, end), t)


def noise_up(x: Points, u: Times, t: Times, noise: Points, schedule: Schedule) -> Points:
    """Return a sample of x_t given x_u for t >= u: x scaled by α_t/α_u plus the noise that is missing."""
    shrink = schedule.alpha(t) / schedule.alpha(u)
    missing = (schedule.sigma(t).square() - (shrink * schedule.sigma(u)).square()).clamp(min=0).sqrt()
    return spread(shrink, x) * x + spread(missing, x) * noise


def gamma_sampling(
    flow_map: Map,
    x: Points,
    grid: Float[Tensor, " num_times"],
    gamma: float,
    schedule: Schedule,
    noises: Float[Tensor, "..."],
) -> Iterator[Points]:
    """Jump along a grid of times, each time below the next one and back up by fresh noise (Algorithm 11).

    γ = 0 only jumps (deterministic), γ = 1 goes down to the end of the grid each time, which for a
    consistency function is multistep sampling.

    Args:
        flow_map: of x, s and t; it is evaluated once a step, with times of shape ().
        x: points at the first time of the grid, ``(B, ...)``.
        grid: falling times.
        gamma: share of the noise that is renewed, in [0, 1].
        schedule: of the diffusion.
        noises: standard normal, one of the shape of ``x`` for each step but the last.

    Yields:
        The points at each following time of the grid.
    """
    for index, (s, t) in enumerate(pairwise(grid)):
        is_last = index == len(grid) - 2
        u = t if is_last else landing_time(t, grid[-1], gamma, schedule)
        x = flow_map(x, s, u)
        x = x if is_last else noise_up(x, u, t, noises[index], schedule)
        yield x


def consistency_sampling(
    f: Consistency,
    x: Points,
    grid: Float[Tensor, " num_times"],
    schedule: Schedule,
    noises: Float[Tensor, "..."],
) -> Points:
    """Return samples of a consistency function with as many evaluations as the grid has steps (Sec. 11.2)."""
    *_, last = gamma_sampling(lambda x, s, t: f(x, s), x, grid, 1.0, schedule, noises)
    return last
