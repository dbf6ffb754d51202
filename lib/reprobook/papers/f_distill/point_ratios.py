"""What is known exactly of a learned distillation in the plane, and how far the learned parts are from it.

The student's law under noise is known: many of its samples, each without width, are a mixture of Gaussians
too, and noise makes its density and its denoiser computable. So the discriminator's logit can be held against
the log ratio of the theorem of Xu, Nie and Vahdat (arXiv 2502.15681), the fake score against the exact
denoiser, and the noise of a step (their Table 6, column variance) measured with everything else fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reprobook.diffusion.learning import Progress, batch, fit
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.networks import Stack
from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import Schedule
from reprobook.papers.f_distill.divergences import Divergence
from reprobook.papers.f_distill.losses import discriminator_loss, student_loss
from reprobook.papers.f_distill.points import TIMES, times_of
from reprobook.papers.f_distill.ratios import BinnedMean, mean_one, ratio_from_logit
from reprobook.papers.f_distill.training import Players, Scene

__all__ = [
    "denoiser_error",
    "law_of_points",
    "level_means",
    "log_ratio",
    "logits_of",
    "rank_correlation",
    "step_noise",
    "train_discriminator",
]


# --------------------------------------------------------------------------- what is known of the ratio


def law_of_points(points: Float[Tensor, "N D"]) -> Mixture:
    """Return the mixture of N points without width: under noise, the law of samples (the theorem's q_t)."""
    return Mixture.isotropic(points, 0.0)


def log_ratio(
    data: Mixture, law: Mixture, x: Float[Tensor, "*b D"], t: Float[Tensor, "*t"], schedule: Schedule
) -> Float[Tensor, "*b"]:
    """Return log p_t/q_t, the data's over the student's: what the logit is to be, by the theorem."""
    return data.log_density(x, t, schedule) - law.log_density(x, t, schedule)


def rank_correlation(a: Float[Tensor, "*s N"], b: Float[Tensor, "*s N"]) -> Float[Tensor, "*s"]:
    """Return Spearman's rank correlation along the last axis, for values without ties (compare Fig. 5)."""
    ranks = [v.argsort(-1).argsort(-1).double() for v in (a, b)]
    ranks = [r - r.mean(-1, keepdim=True) for r in ranks]
    product = (ranks[0] * ranks[1]).sum(-1)
    return (product / (ranks[0].square().sum(-1) * ranks[1].square().sum(-1)).sqrt()).to(a)


def train_discriminator(
    discriminator: Stack,
    student_law: Mixture,
    data: Mixture,
    schedule: Schedule,
    steps: int,
    seeds: Sequence[int],
    batch_size: int = 256,
    times: tuple[float, float] = TIMES,
) -> Iterator[Progress]:
    """Train a stack of discriminators between two known laws under noise, by the loss of the paper.

    Args:
        discriminator: one member a seed.
        student_law, data: what it is to tell apart, in single precision.
        schedule: of the diffusion.
        steps: of training.
        seeds: of samples, times and noise.
        batch_size: samples of each law a step.
        times: between which times are uniform; equal ones for a single noise level.
    """

    def draw(g: torch.Generator) -> Tensor:
        parts = []
        for law in (student_law, data):
            x, t = law.sample(batch_size, g), times_of(batch_size, g, times)
            parts += [diffuse(x, torch.randn(x.shape, generator=g), t, schedule), t[:, None]]
        return torch.cat(parts, 1)

    def loss(net: Stack, sources: list[torch.Generator]) -> Tensor:
        x, t, y, s = batch(draw, sources, device).split([2, 1, 2, 1], -1)
        return discriminator_loss(net(x, t[..., 0]), net(y, s[..., 0]))

    device = next(discriminator.parameters()).device
    yield from fit(discriminator, loss, steps, seed=list(seeds), learning_rate=4e-3, ema=0.98)


@torch.no_grad()
def logits_of(
    discriminator: nn.Module, x: Float[Tensor, "N D"], t: Float[Tensor, "*t"]
) -> Float[Tensor, "S N"]:
    """Return the logits of a stack's members at the same noisy points, on the CPU; the theorem's log r."""
    members, device = len(discriminator.seeds), next(discriminator.parameters()).device
    times = t.expand(len(x)).to(device).expand(members, -1)
    return discriminator(x.to(device).expand(members, -1, -1), times).cpu()


def level_means(
    discriminator: nn.Module, law: Mixture, schedule: Schedule, bins: BinnedMean, num: int, seed: int
) -> Float[Tensor, "S bins"]:
    """Return the mean ratio on ``num`` samples of the student's law in every bin of time (stage one).

    Before, ``bins`` divides the ratios; one that has seen nothing leaves them as they are. After, it has
    seen these samples: a second call, with another seed, shows what stage one does to fresh ones. Exact
    ratios have mean one at each level (Fig. 4b's first normalisation).
    """
    g = torch.Generator().manual_seed(seed)
    x, t = law.sample(num, g), times_of(num, g)
    noisy, members = diffuse(x, torch.randn(x.shape, generator=g), t, schedule), len(discriminator.seeds)
    ratio = ratio_from_logit(logits_of(discriminator, noisy, t))
    level = t.expand(members, -1)
    fresh = BinnedMean(bins.first, bins.last, bins.num_bins, 0.0, members)
    fresh.update(level, bins.normalise(level, ratio))
    bins.update(level, ratio)
    return fresh.means()


# --------------------------------------------------------------------------- the fake score, and the step


@torch.no_grad()
def denoiser_error(players: Players, scene: Scene, num_points: int, seed: int) -> Float[Tensor, " S"]:
    """Return how far each fake score is from the exact denoiser of its student's samples (Table 5's ratio).

    The mean square of the difference between clean predictions, over times in [0.2, 0.95]: there the law of
    so many points is smooth.

    Args:
        players: stacks.
        scene: where they were trained.
        num_points: samples of the student that make its law; a quarter as many others are asked about.
        seed: of latents, times and noise; all members get the same.
    """
    g = torch.Generator().manual_seed(seed)
    members, num = len(players.student.seeds), num_points // 4
    z, t = torch.randn(num_points + num, 2, generator=g), times_of(num, g, (0.2, TIMES[1]))
    noise = torch.randn(num, 2, generator=g)
    z, t, noise = (v.to(scene.device).expand(members, *v.shape) for v in (z, t, noise))
    points = players.student(z)
    x = diffuse(points[:, num_points:], noise, t, scene.schedule)
    learned = Model(players.fake, players.kind, scene.schedule)(x, t)
    exact = torch.stack(
        [
            law_of_points(p[:num_points]).denoise(y, s, scene.schedule)
            for p, y, s in zip(points, x, t, strict=True)
        ]
    )
    return (learned - exact).square().mean((-1, -2))


def step_noise(
    players: Players,
    scene: Scene,
    divergences: Sequence[Divergence],
    seeds: Sequence[int],
    num_batches: int,
    by_sample: bool = True,
) -> tuple[Float[Tensor, "F S"], Float[Tensor, "F S"]]:
    """Return for every divergence the noise of weights and of gradients (Table 6, column variance).

    All divergences see the same frozen players and the same batches; weights are divided by their batch's
    mean.

    Args:
        players: stacks of S members.
        scene: gives the batches.
        divergences: F of them.
        seeds: one a member.
        num_batches: M > 1.
        by_sample: as in :class:`~reprobook.papers.f_distill.training.Settings`.

    Returns:
        The normalised variance of the weights, Var h / (mean h)², over all samples; and the variance of a
        mini-batch's gradient over the square norm of the mean gradient, which is at most M.
    """
    draw, sources = _drawing(scene), [torch.Generator().manual_seed(s) for s in seeds]
    total, squares, weights = [0.0] * len(divergences), [0.0] * len(divergences), [[] for _ in divergences]
    for _ in range(num_batches):
        z, t, noise = (torch.stack(v).to(scene.device) for v in zip(*map(draw, sources), strict=True))
        generated = players.student(z)
        with torch.no_grad():
            logit = players.discriminator(diffuse(generated, noise, t, scene.schedule), t)
        fake = Model(players.fake, players.kind, scene.schedule)
        for i, divergence in enumerate(divergences):
            h = divergence.weight(ratio_from_logit(logit))
            loss = student_loss(generated, noise, t, fake, scene.teacher(None), mean_one(h), by_sample)
            parts = torch.autograd.grad(loss.sum(), list(players.student.parameters()), retain_graph=True)
            g = torch.cat([p.flatten(1) for p in parts], 1).double()
            total[i], squares[i] = total[i] + g, squares[i] + g.square().sum(1)
            weights[i].append(h)
    h = torch.stack([torch.cat(w, 1) for w in weights])
    mean = torch.stack(total).div(num_batches).square().sum(-1)
    variance = (torch.stack(squares) - num_batches * mean) / (num_batches - 1)
    return h.var(-1) / h.mean(-1).square(), (variance / mean).to(h)


def _drawing(scene: Scene) -> Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    """Return a function from a generator to latents, times and noise of a batch."""

    def draw(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        z, _ = scene.latent(g)
        t = scene.times(g)
        return z, t, torch.randn(z.shape, generator=g)

    return draw
