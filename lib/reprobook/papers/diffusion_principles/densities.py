"""Densities that move: the equations they solve, what carries them, and how far that is optimal.

Lai, Song, Kim, Mitsufuji and Ermon, *The Principles of Diffusion Models* (arXiv 2510.21890v2), chapters 4
to 7. The forward process dx = f x dt + g dw and its reversals

    dx = [v - ½ γ² s] dt + γ dw̄        (Prop. 6.4.1; γ = 0 is the ODE, γ = g the usual reverse process)

share one family of densities p_t, with score s and velocity v. Here that is checked without sampling: the
equations by automatic differentiation, the laws of the simulated processes by integrating their kernels.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.likelihood import exact_divergence
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule
from reprobook.diffusion.solvers import steps

__all__ = [
    "residuals",
    "reverse_drift",
    "reverse_paths",
    "EXPECTATIONS",
    "expectations",
    "expectations_reached",
    "frozen_target",
    "prior_gap",
    "gaussian_path",
    "map_and_jacobian",
    "asymmetry",
    "optimal_map",
    "exchange_gain",
]

Scalar = Float[Tensor, ""]
Nodes = Float[Tensor, " N"]

#: Functions whose expectations tell laws on a line apart: position, spread, and two of the shape.
EXPECTATIONS = (
    lambda x: x,
    lambda x: x.square(),
    lambda x: torch.cos(2 * x),
    lambda x: torch.sigmoid(4 * x),
)


def residuals(
    mixture: Mixture, x: Float[Tensor, "B D"], t: Float[Tensor, " B"], schedule: Schedule
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return what is left of the equation of continuity, Eq. (5.2.8), and of Fokker and Planck (Sec. 4.1).

    Divided by p, with l = log p they read

        ∂l/∂t + ∇·v + v·∇l = 0    and    ∂l/∂t + f D + f x·∇l - ½ g² (Δl + ‖∇l‖²) = 0.

    Args:
        mixture: the data.
        x: points, ``(B, D)``.
        t: a time each, ``(B,)``.
        schedule: of the diffusion.

    Returns:
        The absolute sums, as shares of the sums of the terms' absolute values. All derivatives of the density
        are automatic, so the closed forms of score and velocity are tested, not used twice.
    """
    x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
    log = mixture.log_density(x, t, schedule)
    pull, rate = torch.autograd.grad(log.sum(), (x, t), create_graph=True)
    curved = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in pull.unbind(1)]
    laplacian = sum(row[:, i] for i, row in enumerate(curved))
    model, f, g2 = mixture.model(schedule, "velocity"), schedule.drift(t), schedule.diffusion_squared(t)
    velocity, divergence = exact_divergence(model.function, x, t.detach())
    continuity = [rate, divergence, (velocity * pull).sum(1)]
    fokker_planck = [rate, f * x.shape[1], f * (x * pull).sum(1), -g2 / 2 * laplacian]
    fokker_planck.append(-g2 / 2 * pull.square().sum(1))
    return tuple(
        (torch.stack(terms).sum(0).abs() / torch.stack(terms).abs().sum(0)).detach()
        for terms in (continuity, fokker_planck)
    )


def reverse_drift(model: Model, x: Float[Tensor, "*shape"], t: Scalar, share: float) -> Tensor:
    """Return v - ½ γ² s with γ = share g, the drift of Prop. 6.4.1.

    share=0: the probability-flow ODE; share=1: f x - g² s, the reverse process of Eq. (4.1.6).
    """
    squared = share**2 * model.schedule.diffusion_squared(t)
    return model(x, t, "velocity") - squared / 2 * model(x, t, "score")


def reverse_paths(
    model: Model,
    x: Float[Tensor, "B D"],
    grid: Float[Tensor, " num_times"],
    share: float,
    generator: torch.Generator,
) -> Float[Tensor, "num_times B D"]:
    """Follow samples backwards in time by Euler and Maruyama's scheme for Prop. 6.4.1.

    Args:
        model: of any kind.
        x: samples at the first time of the grid.
        grid: times, from noise to data.
        share: γ / g, >= 0.
        generator: on the CPU.
    """
    path = [x]
    for s, t in pairwise(grid):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        kick = share * (model.schedule.diffusion_squared(s) * (s - t)).sqrt()
        x = x - (s - t) * reverse_drift(model, x, s, share) + kick * noise
        path.append(x)
    return torch.stack(path)


def expectations(density: Nodes, x: Nodes, width: Scalar) -> Float[Tensor, " functions"]:
    """Return the expectations of :data:`EXPECTATIONS` under a density, to judge laws of Prop. 6.4.1."""
    return torch.stack([(density * function(x)).sum() * width for function in EXPECTATIONS])


def expectations_reached(
    mixture: Mixture,
    schedule: Schedule,
    grid: Float[Tensor, " num_times"],
    share: float,
    nodes: Nodes,
) -> Float[Tensor, " functions"]:
    """Return the expectations that :func:`reverse_paths` reach from p_T without drawing paths (Prop. 6.4.1).

    A step with noise spreads each node's mass by a Gaussian; a step without moves the nodes and leaves
    their masses.

    Args:
        mixture: the data, on a line.
        schedule: of the diffusion.
        grid: times, from noise to data.
        share: γ / g: 0, or so large that a step's noise is wider than the space between nodes.
        nodes: evenly spaced.
    """
    model, x, width = mixture.model(schedule, "velocity"), nodes, nodes[1] - nodes[0]
    density = mixture.log_density(nodes[:, None], grid[0], schedule).exp()
    for s, t in pairwise(grid):
        moved = x - (s - t) * reverse_drift(model, x[:, None], s, share)[:, 0]
        if share == 0:
            x = moved
            continue
        variance = share**2 * schedule.diffusion_squared(s) * (s - t)
        kernel = torch.exp(-(nodes[:, None] - moved).square() / (2 * variance))
        density = kernel @ density * width / (2 * math.pi * variance).sqrt()
    return expectations(density, x, width)


def frozen_target(
    pull: float, step: float, num_steps: int, num: int, generator: torch.Generator
) -> Float[Tensor, " num"]:
    """Follow dx = pull ∇log p dt + dw where p is a standard normal that does not move (Sec. 4.1.3).

    pull=1/2: Langevin dynamics, which reaches variance 1/(1 - step/4). pull=1: the reverse process at f = 0,
    which reaches 1/(2 - step).

    Args:
        pull: factor on the score, > 0.
        step: of Euler and Maruyama's scheme.
        num_steps: how many.
        num: of samples, which start from the standard normal.
        generator: on the CPU.
    """
    x = torch.randn(num, generator=generator, dtype=torch.float64)
    for _ in range(num_steps):
        x = x - pull * step * x + math.sqrt(step) * torch.randn(num, generator=generator, dtype=x.dtype)
    return x


def prior_gap(mixture: Mixture, t: Scalar, schedule: Schedule, nodes: Nodes) -> Scalar:
    """Return KL(p_t ‖ N(0, σ_t²)), what the prior of Eq. (4.3.7) costs on average over data, on a line.

    Args:
        mixture: the data, on a line.
        t: the last time.
        schedule: of the diffusion.
        nodes: evenly spaced, in units of σ_t.
    """
    x, std = nodes * schedule.sigma(t), schedule.sigma(t)
    log = mixture.log_density(x[:, None], t, schedule)
    prior = -nodes.square() / 2 - math.log(2 * math.pi) / 2 - std.log()
    return (log.exp() * (log - prior)).sum() * (x[1] - x[0])


def gaussian_path(
    start: Float[Tensor, "*shape"], t: Float[Tensor, "*times"], ratio: float
) -> Float[Tensor, "*out"]:
    """Return z √((1-t)² + ratio² t²), the flow between centred Gaussians (Sec. 5.3.5).

    Args:
        start: z, at t = 0.
        t: times in [0, 1].
        ratio: spread at t = 1 over spread at t = 0.
    """
    return start * ((1 - t).square() + (ratio * t).square()).sqrt()


def map_and_jacobian(
    model: Model, x: Float[Tensor, "B D"], grid: Float[Tensor, " num_times"], solver: str = "rk4"
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D D"]]:
    """Return where the probability-flow ODE (4.1.7) takes samples, and the Jacobian of that map at each.

    Args:
        model: of any kind.
        x: samples at the first time of the grid.
        grid: times.
        solver: one of ``reprobook.diffusion.solvers.SOLVERS``.
    """
    x = x.detach().requires_grad_()
    *_, last = steps(model, x, grid, solver)
    rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in last.x.unbind(1)]
    return last.x.detach(), torch.stack(rows, 1)


def asymmetry(jacobian: Float[Tensor, "*batch D D"]) -> Float[Tensor, "*batch"]:
    """Return ‖(J - Jᵀ)/2‖ / ‖J‖, which is zero for every optimal map (Sec. 7.5.1)."""
    return ((jacobian - jacobian.mT) / 2).norm(dim=(-2, -1)) / jacobian.norm(dim=(-2, -1))


def optimal_map(start: Float[Tensor, "D D"], end: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Return the matrix of the optimal map between centred Gaussians of given covariances (chapter 7).

    S^(-½) (S^½ E S^½)^½ S^(-½), symmetric and positive.
    """

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, axes = torch.linalg.eigh(matrix)
        return (axes * values.pow(exponent)) @ axes.mT

    root, inverse = power(start, 0.5), power(start, -0.5)
    return inverse @ power(root @ end @ root, 0.5) @ inverse


def exchange_gain(start: Float[Tensor, "N D"], end: Float[Tensor, "N D"]) -> float:
    """Return the share of Σ‖start - end‖² that the best exchange of endpoints saves (Sec. 7.5.1).

    Pairs of an optimal map are cyclically monotone: among finitely many of them there is nothing to gain.
    """
    from scipy.optimize import linear_sum_assignment

    costs = (start[:, None] - end).square().sum(-1)
    rows, columns = linear_sum_assignment(costs.cpu().numpy())
    paid = costs.diagonal().sum()
    return (1 - costs[rows, columns].sum() / paid).item()
