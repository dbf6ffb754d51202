"""Distillation of a many-step teacher into a one-step student: three networks in turn.

The fake score learns what the student draws, the discriminator learns the ratio of data to student, and the
student follows both, less often than they are updated (two-time-scale rule; Xu, Nie and Vahdat, arXiv
2502.15681, Table 5). One loop serves points and images, a single student and a stack of them: in a stack
every member has its own seed and its own divergence, and is trained exactly as it would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reprobook.diffusion.learning import learning_rate_at
from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import Schedule
from reprobook.papers.f_distill.divergences import Divergence
from reprobook.papers.f_distill.losses import (
    adversarial_loss,
    discriminator_loss,
    fake_score_loss,
    gradient_penalty,
    student_loss,
)
from reprobook.papers.f_distill.ratios import BinnedMean, effective_share, mean_one, ratio_from_logit

__all__ = ["Settings", "Players", "Scene", "Progress", "distil", "weights_of"]

#: One generator of random numbers, or one a member of a stack.
Generators = torch.Generator | list[torch.Generator]
#: Samples, and labels of the same leading shape or None.
Labelled = tuple[Tensor, Tensor | None]
Values = Float[Tensor, "*members batch"]


@dataclass(frozen=True)
class Settings:
    """How a student is trained; defaults are those of the paper's Table 5 for CIFAR-10, where it has them.

    Attributes:
        steps: updates of the student.
        updates: of fake score and discriminator for each of the student's.
        head_start: updates of both before the student's first.
        learning_rate: of the student's AdamW, warmed up and then lowered along a cosine.
        fake_rate: of the fake score's, constant.
        discriminator_rate: of the discriminator's, constant.
        gan_weight: of the adversarial loss, >= 0.
        r1: γ of the gradient penalty on data, >= 0; it counts γ times half the mean square.
        by_bins: whether ratios are divided by their running mean at their noise level (stage one).
        by_batch: whether weights are divided by their mean over the batch (stage two).
        num_bins: of the noise level.
        bins_in: ``t``, or ``lambda`` for bins that are even in log(σ/α).
        decay: of the running mean, in [0, 1).
        weight_decay: of all three.
        by_sample: whether a step is divided by the sample's distance from what the teacher sees, as in the
            paper, or by a function of the noise level alone.
        bf16: whether products and convolutions are computed in bfloat16; weights and ratios never are.
    """

    steps: int
    updates: int = 5
    head_start: int = 0
    learning_rate: float = 1e-4
    fake_rate: float = 1e-4
    discriminator_rate: float = 1e-4
    gan_weight: float = 1e-3
    r1: float = 1.0
    by_bins: bool = True
    by_batch: bool = True
    num_bins: int = 10
    bins_in: str = "t"
    decay: float = 0.95
    weight_decay: float = 1e-2
    by_sample: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class Players:
    """The three networks that learn.

    Attributes:
        student: noise z, and ``label=`` where there are labels, to clean samples.
        fake: noisy samples and times to predictions of the kind ``kind``.
        discriminator: noisy samples and times to logits of the times' shape.
        kind: what the fake score predicts, one of :data:`~reprobook.diffusion.predictions.KINDS`.
    """

    student: nn.Module
    fake: nn.Module
    discriminator: nn.Module
    kind: str


@dataclass(frozen=True)
class Scene:
    """What stays fixed while they learn; all functions draw from one generator on the CPU.

    Attributes:
        teacher: labels (or None) to the model of the data; it is asked without gradients.
        schedule: of the diffusion.
        latent: draws z and labels of a batch, what a student begins with.
        data: draws clean data and labels of a batch, for the discriminator.
        times: draws the times of a batch, ``(B,)``.
        device: of all of it.
    """

    teacher: Callable[[Tensor | None], Model]
    schedule: Schedule
    latent: Callable[[torch.Generator], Labelled]
    data: Callable[[torch.Generator], Labelled]
    times: Callable[[torch.Generator], Tensor]
    device: torch.device | str = "cpu"


class Progress(NamedTuple):
    """Where a distillation stands after an update of the student; all () or ``(S,)``, detached.

    Attributes:
        step: how many updates the student has had, from 1.
        student: its loss.
        fake: the fake score's loss, of the last update.
        discriminator: the discriminator's loss, of the last update.
        ratio: mean of the ratio over the batch, before any normalisation.
        share: share of the batch that the weights h leave in effect, in [1/B, 1].
    """

    step: int
    student: Tensor
    fake: Tensor
    discriminator: Tensor
    ratio: Tensor
    share: Tensor


def distil(
    players: Players,
    scene: Scene,
    divergence: Divergence | Sequence[Divergence],
    settings: Settings,
    seed: int | Sequence[int] = 0,
) -> Iterator[Progress]:
    """Train the players in place; yield after every update of the student.

    Args:
        players: single networks, or stacks of S members each.
        scene: teacher, data, noise and times.
        divergence: of a single student, or one for every member of the stack.
        settings: counts, rates and switches.
        seed: of latents, data, times and noise; one for every member of a stack. Equal seeds draw alike.

    Raises:
        ValueError: if a stack has not one divergence and one seed for each member, or if the student would be
            updated without the other two.
    """
    if settings.updates < 1:
        raise ValueError("fake score and discriminator need at least one update for each of the student's")
    stacked = not isinstance(seed, int)
    if stacked != isinstance(divergence, Sequence) or (stacked and len(seed) != len(divergence)):
        raise ValueError(
            "a stack needs one divergence and one seed for every member, a single student one each"
        )
    sources = (
        [torch.Generator().manual_seed(s) for s in seed] if stacked else torch.Generator().manual_seed(seed)
    )
    bins = _bins(scene.schedule, settings, len(seed) if stacked else None)
    optimisers = _optimisers(players, settings)
    for _ in range(settings.head_start):
        _follow(players, scene, settings, optimisers, sources)
    for step in range(settings.steps):
        for group in optimisers[0].param_groups:
            group["lr"] = learning_rate_at(step, settings.steps, settings.learning_rate, 0.05)
        for _ in range(settings.updates):
            followed = _follow(players, scene, settings, optimisers, sources)
        led = _lead(players, scene, divergence, settings, optimisers[0], bins, sources)
        yield Progress(step + 1, led[0], *followed, *led[1:])


def weights_of(divergence: Divergence | Sequence[Divergence], ratio: Values) -> Values:
    """Return h(r) of one divergence, ``(B,)``, or of one for each member of a stack, ``(S, B)``."""
    if isinstance(divergence, Divergence):
        return divergence.weight(ratio)
    return torch.stack([one.weight(r) for one, r in zip(divergence, ratio, strict=True)])


def _lead(players, scene, divergence, settings, optimiser, bins, sources) -> tuple[Tensor, ...]:
    """Update the student once: the weighted score difference, and a little of the adversarial loss."""
    z, label, t, noise = _draw(scene.latent, scene, sources)
    with _precision(scene, settings):
        generated = _ask(players.student, label, z)
        seen = _seen(players.discriminator, label)
        logit = seen(diffuse(generated, noise, t, scene.schedule), t)
        ratio = ratio_from_logit(logit.detach())
        weight = _normalised(weights_of, divergence, ratio, t, scene.schedule, settings, bins)
        fake = Model(_seen(players.fake, label), players.kind, scene.schedule)
        moved = student_loss(
            generated.float(), noise, t, fake, scene.teacher(label), weight, settings.by_sample
        )
        loss = moved + settings.gan_weight * adversarial_loss(logit.float())
    _step(optimiser, loss)
    return moved.detach(), ratio.mean(-1), effective_share(weight)


def _follow(players, scene, settings, optimisers, sources) -> tuple[Tensor, Tensor]:
    """Update fake score and discriminator once, on fresh samples of the student and fresh data."""
    z, label, t, noise = _draw(scene.latent, scene, sources)
    real, real_label, real_t, real_noise = _draw(scene.data, scene, sources)
    with _precision(scene, settings):
        with torch.no_grad():
            generated = _ask(players.student, label, z).float()
        fake = Model(_seen(players.fake, label), players.kind, scene.schedule)
        denoising = fake_score_loss(generated, noise, t, fake)
        of_student = _seen(players.discriminator, label)(diffuse(generated, noise, t, scene.schedule), t)
        of_data, x = (
            _seen(players.discriminator, real_label),
            diffuse(real, real_noise, real_t, scene.schedule),
        )
        telling = discriminator_loss(of_student.float(), of_data(x, real_t).float())
        smooth = settings.r1 * gradient_penalty(of_data, x, real_t) if settings.r1 else 0.0
    _step(optimisers[1], denoising)
    _step(optimisers[2], telling + smooth)
    return denoising.detach(), telling.detach()


def _normalised(weights, divergence, ratio, t, schedule, settings, bins) -> Tensor:
    """Return the weights h(r), normalised in two stages as the settings say."""
    if settings.by_bins:
        level = _level(schedule, settings, t)
        bins.update(level, ratio)
        ratio = bins.normalise(level, ratio)
    weight = weights(divergence, ratio)
    return mean_one(weight) if settings.by_batch else weight


def _level(schedule: Schedule, settings: Settings, t: Tensor) -> Tensor:
    """Return the noise level in which bins are even: the time, or log(σ/α)."""
    return t if settings.bins_in == "t" else -schedule.lam(t)


def _bins(schedule: Schedule, settings: Settings, num_members: int | None) -> BinnedMean:
    ends = _level(schedule, settings, torch.tensor([schedule.first, schedule.last], dtype=torch.float64))
    return BinnedMean(*ends.tolist(), settings.num_bins, settings.decay, num_members)


def _optimisers(players: Players, settings: Settings) -> list[torch.optim.AdamW]:
    """Return an optimiser each for student, fake score and discriminator."""
    rates = (settings.learning_rate, settings.fake_rate, settings.discriminator_rate)
    nets = (players.student, players.fake, players.discriminator)
    return [
        torch.optim.AdamW(
            [p for p in net.parameters() if p.requires_grad],
            lr=rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        for net, rate in zip(nets, rates, strict=True)
    ]


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step on the sum over members; only this optimiser's weights get a gradient."""
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad()
    loss.sum().backward(inputs=weights)
    optimiser.step()


def _draw(what, scene: Scene, sources: Generators) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Draw samples or latents with labels, times, and noise, from one generator or from each of several."""

    def one(generator: torch.Generator) -> tuple[Tensor, ...]:
        x, label = what(generator)
        t = scene.times(generator)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return (x, t, noise) if label is None else (x, t, noise, label)

    drawn = (
        one(sources)
        if isinstance(sources, torch.Generator)
        else map(torch.stack, zip(*map(one, sources), strict=True))
    )
    x, t, noise, *label = (part.to(scene.device) for part in drawn)
    return x, label[0] if label else None, t, noise


def _ask(net: nn.Module, label: Tensor | None, *inputs: Tensor) -> Tensor:
    """Evaluate a network, with labels where there are any."""
    return net(*inputs) if label is None else net(*inputs, label=label)


def _seen(net: nn.Module, label: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a network as a function of noisy samples and times."""
    return lambda x, t: _ask(net, label, x, t)


def _precision(scene: Scene, settings: Settings):
    kind = torch.device(scene.device).type
    return torch.autocast(kind, torch.bfloat16) if settings.bf16 else nullcontext()
