"""Learned distillation in the plane: the players, where they start, and how their ends are judged.

The teacher is an exact mixture of Gaussians, so only fake score, discriminator and student are learned, as in
Xu, Nie and Vahdat (arXiv 2502.15681, the toy experiments of Fig. 2 and 4, with the parts of Table 5). What
can be computed exactly beside them is in :mod:`reprobook.papers.f_distill.point_ratios`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.learning import Progress, batch, fit
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.networks import Stack, TimeMLP
from reprobook.diffusion.sample_metrics import sliced_wasserstein
from reprobook.diffusion.schedules import Schedule
from reprobook.diffusion.solvers import solve
from reprobook.papers.f_distill.networks import OneStep, PointDiscriminator
from reprobook.papers.f_distill.training import Players, Scene

__all__ = [
    "TIMES",
    "Ends",
    "chosen",
    "ends_of",
    "floor_of",
    "judge",
    "mode_shares",
    "new_players",
    "pretrain",
    "samples_of",
    "scene_of",
    "some_modes",
    "times_of",
]

#: Times at which scores and ratios are asked for: not the very first and last, where they say nothing.
TIMES = (0.05, 0.95)


# --------------------------------------------------------------------------- players and their start


def scene_of(
    data: Mixture,
    teacher: Mixture,
    schedule: Schedule,
    batch_size: int,
    times: tuple[float, float] = TIMES,
    device: torch.device | str = "cpu",
) -> Scene:
    """Return a scene in the plane, with uniform times (settings of the paper's Table 5 where they apply).

    Args:
        data: what the discriminator gets to see, in single precision.
        teacher: the mixture whose exact model teaches; the same, except where the teacher shall be wrong.
        schedule: of the diffusion, with times from 0 to 1.
        batch_size: B.
        times: the first and the last one.
        device: where to compute.
    """
    model = teacher.to(device=device).model(schedule, "velocity")
    return Scene(
        lambda label: model,
        schedule,
        latent=lambda g: (torch.randn(batch_size, 2, generator=g), None),
        data=lambda g: (data.sample(batch_size, g), None),
        times=lambda g: times_of(batch_size, g, times),
        device=device,
    )


def new_players(
    width: int, schedule: Schedule, seeds: Sequence[int], device: torch.device | str = "cpu"
) -> Players:
    """Return three stacks of fresh networks, one member a seed; the paper starts from its teacher."""
    student = Stack(lambda: OneStep(TimeMLP(2, width, 2), schedule, "velocity"), seeds)
    # DEPARTURE: an exact teacher has no weights to start from
    fake = Stack(lambda: TimeMLP(2, width, 2), seeds)
    discriminator = Stack(lambda: PointDiscriminator(2, width, 2), seeds)
    return Players(student.to(device), fake.to(device), discriminator.to(device), "velocity")


def chosen(players: Players, members: Sequence[int]) -> Players:
    """Return copies of members of the stacks, in this order, perhaps repeated; the paper has one each."""

    def pick(stack: Stack) -> Stack:
        picked = copy.deepcopy(stack)
        for value in [*picked.parameters(), *picked.buffers()]:
            value.data = value.data[list(members)].clone()
        picked.seeds = tuple(stack.seeds[i] for i in members)
        return picked

    return Players(pick(players.student), pick(players.fake), pick(players.discriminator), players.kind)


def some_modes(data: Mixture, num_modes: int) -> Mixture:
    """Return the mixture of the first components alone, as a student might know them (compare Fig. 8)."""
    weights = data.weights[:num_modes]
    return Mixture(weights / weights.sum(), data.means[:num_modes], data.covariances[:num_modes])


def pretrain(
    student: Stack,
    part: Mixture,
    schedule: Schedule,
    steps: int,
    seeds: Sequence[int],
    batch_size: int = 256,
    num_pairs: int = 2048,
) -> Iterator[Progress]:
    """Fit students to the ends of the probability flow of ``part``, from the same noise; the start of Fig. 8.

    Args:
        student: a stack, one member a seed.
        part: the modes that the student shall know.
        schedule: of the diffusion.
        steps: of training, with mean square error.
        seeds: of noise and batches.
        batch_size: pairs a step.
        num_pairs: pairs of noise and end, the same for all members.
    """
    z = torch.randn(num_pairs, 2, generator=torch.Generator().manual_seed(0))
    grid = time_grid(schedule, 24, "lambda")
    ends = solve(part.model(schedule, "velocity"), grid[0].float() * z, grid, "heun")
    pairs = torch.cat([z, ends.to(z)], 1)
    device = next(student.parameters()).device

    def loss(net: Stack, sources: list[torch.Generator]) -> Tensor:
        taken = batch(lambda g: pairs[torch.randint(num_pairs, (batch_size,), generator=g)], sources, device)
        return (net(taken[..., :2]) - taken[..., 2:]).square().mean((-1, -2))

    yield from fit(student, loss, steps, seed=list(seeds), learning_rate=3e-3, ema=0.9)


# --------------------------------------------------------------------------- how ends are judged


class Ends(NamedTuple):
    """What is said of sets of samples, each ``(S,)`` for the members of a stack.

    Attributes:
        recall: share of modes with at least a tenth of their fair share of samples.
        precision: share of samples on some mode.
        variation: total variation between the samples' shares of the modes and the fair ones.
        distance: sliced Wasserstein distance to as many samples of the data.
    """

    recall: Tensor
    precision: Tensor
    variation: Tensor
    distance: Tensor


def mode_shares(x: Float[Tensor, "N D"], data: Mixture, reach: float = 3.0) -> Float[Tensor, " K"]:
    """Return for each mode the share of samples within ``reach`` standard deviations of its centre.

    A sample counts for the nearest mode only. Under the data each mode has in the plane
    1 - exp(-reach²/2) of its weight (as long as modes are far apart).
    """
    gaps = x[:, None] - data.means
    far = torch.einsum("nkd,kde,nke->nk", gaps, torch.linalg.inv(data.covariances), gaps)
    near, mode = far.min(1)
    hits = torch.nn.functional.one_hot(mode, len(data.weights)) * (near <= reach**2)[:, None]
    return hits.to(x).mean(0)


def judge(x: Float[Tensor, "S N D"], data: Mixture, seed: int) -> Ends:
    """Return recall, precision, variation and distance of samples: columns of Table 6, put to a test.

    Args:
        x: N samples of each of S students.
        data: what they should be samples of.
        seed: of the data's samples and of the directions of the distance, the same for all.
    """
    shares = torch.stack([mode_shares(one, data) for one in x])
    belonging = data.responsibilities(x).mean(1)
    real = data.sample(x.shape[1], torch.Generator().manual_seed(seed))
    far = [sliced_wasserstein(one, real, 50, torch.Generator().manual_seed(seed)) for one in x]
    return Ends(
        recall=(shares >= 0.1 * data.weights).to(x).mean(-1),
        precision=shares.sum(-1),
        variation=(belonging - data.weights).abs().sum(-1) / 2,
        distance=torch.tensor(far, dtype=x.dtype),
    )


def ends_of(student: Stack, data: Mixture, num: int, seed: int) -> Ends:
    """Judge ``num`` samples of every member of a stack, all from the same noise (compare Fig. 8)."""
    return judge(samples_of(student, num, seed), data, seed + 1)


@torch.no_grad()
def samples_of(student: Stack, num: int, seed: int) -> Float[Tensor, "S num 2"]:
    """Return samples of every member, from the same noise, on the CPU; one evaluation each, as the paper."""
    z = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    device = next(student.parameters()).device
    return student(z.to(device).expand(len(student.seeds), -1, -1)).cpu()


def floor_of(data: Mixture, num: int, repeats: int = 10) -> float:
    """Return the mean distance of two samples of the data, which no student can be asked to beat (Fig. 8)."""
    draws = torch.stack([data.sample(num, torch.Generator().manual_seed(10**6 + k)) for k in range(repeats)])
    return judge(draws, data, 1).distance.mean().item()


# --------------------------------------------------------------------------- drawing


def times_of(num: int, g: torch.Generator, between: tuple[float, float] = TIMES) -> Float[Tensor, " num"]:
    """Return uniform times; the paper's noise levels are those of its teachers."""
    first, last = between
    return first + (last - first) * torch.rand(num, generator=g)
