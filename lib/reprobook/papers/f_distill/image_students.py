"""One-step students of image teachers: their three networks, what stays fixed around them, and their samples.

The set-up of Xu, Nie and Vahdat (arXiv 2502.15681): student and fake score begin as copies of the teacher,
and the discriminator looks at noised images through the teacher's first half (one of the choices of their
Fig. 7). Everything is conditional on the class. The loop itself is
:func:`reprobook.papers.f_distill.training.distil`, the one that also distils in the plane.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reprobook.diffusion.images import Pictures
from reprobook.diffusion.networks import UNet
from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.teachers import Recipe, as_model
from reprobook.errors import UserError
from reprobook.papers.f_distill.divergences import DIVERGENCES, Divergence
from reprobook.papers.f_distill.losses import student_loss
from reprobook.papers.f_distill.networks import FeatureDiscriminator, OneStep
from reprobook.papers.f_distill.ratios import ratio_from_logit
from reprobook.papers.f_distill.training import Players, Scene

__all__ = [
    "CHOICES",
    "chosen",
    "image_players",
    "image_scene",
    "draw",
    "class_means",
    "first_gradient",
    "mean_logits",
    "evaluations",
]

Pixels = Float[Tensor, "N C H W"]
Labels = Int[Tensor, " N"]

#: The divergences of a run: one of each kind in the paper's Table 6, or all of its Table 1.
CHOICES: dict[str, tuple[str, ...]] = {
    "three": ("reverse_kl", "jensen_shannon", "forward_kl"),
    "six": tuple(DIVERGENCES),
}


def chosen(name: str) -> dict[str, Divergence]:
    """Return the divergences of a choice, in the order of the paper's Table 1.

    Raises:
        UserError: for a name that is not in :data:`CHOICES`.
    """
    if name not in CHOICES:
        raise UserError(f"unknown choice of divergences '{name}'; allowed: {', '.join(CHOICES)}")
    return {key: DIVERGENCES[key] for key in CHOICES[name]}


def image_players(teacher: UNet, recipe: Recipe, seed: int, head_width: int = 64) -> Players:
    """Return student and fake score as copies of the teacher, and a discriminator on its features (Fig. 7).

    Args:
        teacher: a trained network; it is copied and stays as it is.
        recipe: of its training.
        seed: of the discriminator's head, the only weights that begin at random.
        head_width: of that head.
    """
    schedule = SCHEDULES[recipe.schedule]
    student, fake = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
    where = next(teacher.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        discriminator = FeatureDiscriminator(teacher, head_width).to(where)
    return Players(OneStep(student, schedule, recipe.kind), fake, discriminator, recipe.kind)


def image_scene(
    teacher: UNet,
    recipe: Recipe,
    pictures: Pictures,
    batch: int,
    ends: tuple[float, float] = (0.02, 0.98),
    num_classes: int = 10,
) -> Scene:
    """Return what stays fixed: the teacher, its diffusion, the data, noise, labels and times of a batch.

    Students are asked for all classes alike; data come with their own labels.

    Args:
        teacher: a trained network.
        recipe: of its training.
        pictures: the data that the discriminator sees.
        batch: how many samples, and how many images.
        ends: times at which student and teacher are compared, uniform between these shares of the schedule.
        num_classes: labels are 0 .. num_classes - 1.
    """
    schedule, images, labels = SCHEDULES[recipe.schedule], pictures.images, pictures.labels
    low, high = (schedule.first + share * (schedule.last - schedule.first) for share in ends)

    def latent(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(batch, *images.shape[1:], generator=generator)
        return z, torch.randint(num_classes, (batch,), generator=generator)

    def data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (batch,), generator=generator).to(images.device)
        return images[rows], labels[rows]

    return Scene(
        teacher=lambda label: as_model(teacher, recipe, label),
        schedule=schedule,
        latent=latent,
        data=data,
        times=lambda generator: low + (high - low) * torch.rand(batch, generator=generator),
        device=images.device,
    )


@torch.no_grad()
def draw(student: nn.Module, noise: Pixels, label: Labels, *, bf16: bool = False, part: int = 500) -> Pixels:
    """Return the student's sample for every noise and label: one evaluation each (the paper's one step).

    Args:
        student: noise and ``label=`` to clean samples.
        noise: standard normal.
        label: what each sample shall show.
        bf16: whether to compute products and convolutions as they were trained.
        part: how many are computed at a time.
    """
    parts = zip(noise.split(part), label.split(part), strict=True)
    with torch.autocast(noise.device.type, torch.bfloat16, enabled=bf16):
        return torch.cat([student(z, label=show).float() for z, show in parts])


def class_means(pictures: Pictures, num_classes: int = 10) -> Float[Tensor, "K C H W"]:
    """Return the mean image of each class: what a perfect teacher answers when it is asked once.

    Where a student of the paper begins, then, is a picture a class.
    """
    return torch.stack([pictures.images[pictures.labels == k].mean(0) for k in range(num_classes)])


def first_gradient(
    players: Players, scene: Scene, divergence: Divergence, seed: int, *, bf16: bool = False
) -> float:
    """Return the largest coordinate of the theorem's gradient by the samples, for the players as they are.

    Args:
        players: of images.
        scene: of the same teacher.
        divergence: gives the weight, for the ratio that the discriminator sees.
        seed: of latents, times and noise.
        bf16: whether to compute products and convolutions as they are trained.
    """
    source = torch.Generator().manual_seed(seed)
    z, label = scene.latent(source)
    t, noise = scene.times(source), torch.randn(z.shape, generator=source)
    z, label, t, noise = (part.to(scene.device) for part in (z, label, t, noise))
    teacher = scene.teacher(label)
    samples = draw(players.student, z, label, bf16=bf16).requires_grad_()
    fake = Model(lambda x, t: players.fake(x, t, label=label), players.kind, scene.schedule)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
        ratio = ratio_from_logit(_logits(players, scene, samples, label, t, noise))
        loss = student_loss(samples, noise, t, fake, teacher, divergence.weight(ratio))
    return torch.autograd.grad(loss, samples)[0].abs().max().item()


def mean_logits(
    players: Players, scene: Scene, samples: Pixels, label: Labels, time: float, num_noises: int, seed: int
) -> Float[Tensor, " N"]:
    """Return for every sample the mean of the discriminator's log r over several noises at one time.

    By this the paper's weights h(r) tell samples apart.

    Args:
        players: their discriminator is asked.
        scene: of the same teacher.
        samples: clean.
        label: what they show.
        time: of the schedule, the same for all.
        num_noises: how many noised copies of a sample are looked at.
        seed: of the noises.
    """
    source, t = torch.Generator().manual_seed(seed), torch.full((len(samples),), time, device=samples.device)
    noises = (torch.randn(samples.shape, generator=source).to(samples) for _ in range(num_noises))
    return torch.stack([_logits(players, scene, samples, label, t, noise) for noise in noises]).mean(0)


@torch.no_grad()
def _logits(
    players: Players, scene: Scene, samples: Tensor, label: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Return the discriminator's logits of noised samples."""
    return players.discriminator(diffuse(samples, noise, t, scene.schedule), t, label=label)


def evaluations(steps: int, batch: int, updates: int, head_start: int) -> int:
    """Return how many samples a distillation sends through networks of the teacher's size, for a budget.

    Forwards and backwards together count as one, a look of the discriminator as half of one. An update of
    fake score and discriminator asks the student, the fake score, and the discriminator twice; an update of
    the student asks all three and the teacher. Counts of the paper are in its Table 5.
    """
    following, leading = 1 + 1 + 2 * 0.5, 3 + 0.5
    return round(batch * ((head_start + steps * updates) * following + steps * leading))
