"""Image models that are trained once and used again: by the full description of their training.

A teacher is a U-Net with its architecture, its recipe and its images. Its weights are no file of the book.
Whoever needs them calls :func:`load_or_train`, which looks for them in the cache folder under a name that
holds a hash of everything they depend on: images, labels, architecture, recipe, and the code that trains.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reprobook.data.store import cache_folder
from reprobook.diffusion import learning, networks, predictions, schedules
from reprobook.diffusion.learning import Progress, fit
from reprobook.diffusion.networks import UNet
from reprobook.diffusion.predictions import Model, coefficients, diffuse
from reprobook.diffusion.schedules import SCHEDULES, Schedule, spread

__all__ = [
    "Architecture",
    "Recipe",
    "as_model",
    "load_or_train",
    "new_network",
    "stratified_times",
    "teacher_loss",
    "train_teacher",
    "weights_file",
]

Images = Float[Tensor, "N C H W"]
Labels = Int[Tensor, " N"]


@dataclass(frozen=True)
class Architecture:
    """The arguments of :class:`~reprobook.diffusion.networks.UNet`, all of them plain numbers."""

    channels: int = 1
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    num_classes: int = 10
    patch: int = 1


@dataclass(frozen=True)
class Recipe:
    """How a teacher is trained.

    Attributes:
        schedule: a key of ``SCHEDULES`` whose times are of order one.
        kind: what the network predicts.
        steps: of the optimiser.
        batch: images a step.
        learning_rate: the highest one.
        averaged: the weights are averaged over about this share of the steps, in (0, 1].
        label_dropped: how often a label is withheld, so that the network also learns to do without
            (Ho and Salimans, 2022, take 0.1 to 0.2).
        bf16: whether convolutions and products are computed in bfloat16.
        seed: of weights, batches, times and noise.
    """

    schedule: str = "vp_cosine"
    kind: str = "velocity"
    steps: int = 2000
    batch: int = 64
    learning_rate: float = 2e-3
    averaged: float = 0.05
    label_dropped: float = 0.1
    bf16: bool = False
    seed: int = 0


def stratified_times(
    num: int, schedule: Schedule, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " num"]:
    """Return times that are uniform each and evenly spread together, one in every ``num``-th of the range.

    One random number shifts an even grid, as in Kingma et al. (2021), App. I.1; the mean over a batch then
    varies less from batch to batch.
    """
    shares = (torch.rand((), generator=generator, dtype=dtype) + torch.arange(num, dtype=dtype)) / num
    return schedule.first + (schedule.last - schedule.first) * shares


def teacher_loss(images: Images, labels: Labels, recipe: Recipe, num_classes: int) -> learning.Loss:
    """Return the loss of a batch: the mean square of prediction minus target, labels withheld now and then.

    Args:
        images: all of them, about -1 to 1, ``(N, C, H, W)``.
        labels: their classes, ``(N,)``.
        recipe: gives schedule, target, size of the batch, and how often labels are withheld.
        num_classes: the label that means "no label".
    """
    schedule, where = SCHEDULES[recipe.schedule], images.device

    def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (recipe.batch,), generator=generator)
        withheld = torch.rand(recipe.batch, generator=generator) < recipe.label_dropped
        t = stratified_times(recipe.batch, schedule, generator).to(where)
        noise = torch.randn(recipe.batch, *images.shape[1:], generator=generator).to(where)
        clean = images[chosen.to(where)]
        label = torch.where(withheld.to(where), num_classes, labels[chosen.to(where)])
        a, b = coefficients(schedule, t, recipe.kind)
        target = spread(a, clean) * clean + spread(b, clean) * noise
        return (net(diffuse(clean, noise, t, schedule), t, label) - target).square().mean()

    return loss


def new_network(architecture: Architecture, seed: int) -> UNet:
    """Return an untrained network, with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(**asdict(architecture))


def train_teacher(
    net: nn.Module, images: Images, labels: Labels, recipe: Recipe, num_classes: int
) -> Iterator[Progress]:
    """Train a network in place, a step at a time; arguments as of :func:`teacher_loss`."""
    return fit(
        net,
        teacher_loss(images, labels, recipe, num_classes),
        recipe.steps,
        seed=recipe.seed,
        learning_rate=recipe.learning_rate,
        ema=max(0.0, 1 - 1 / (recipe.averaged * recipe.steps)),
        precision=torch.bfloat16 if recipe.bf16 else None,
    )


def load_or_train(
    images: Images,
    labels: Labels,
    architecture: Architecture,
    recipe: Recipe,
    *,
    cached: bool = True,
    watch: Callable[[Iterable[Progress]], Iterable[Progress]] = iter,
) -> UNet:
    """Return a trained network in evaluation mode: from the cache folder if it is there, else train it.

    Args:
        images: to train on, about -1 to 1, ``(N, C, H, W)``; the network goes to their device.
        labels: their classes, ``(N,)``.
        architecture: of the network.
        recipe: of the training.
        cached: whether to look in the cache folder, and to leave the weights there afterwards.
        watch: is given the steps of a training and yields them again, to show progress.
    """
    net = new_network(architecture, recipe.seed).to(images.device)
    file = weights_file(images, labels, architecture, recipe) if cached else None
    if file and file.is_file():
        net.load_state_dict(torch.load(file, map_location=images.device, weights_only=True))
        return net.eval()
    for _ in watch(train_teacher(net, images, labels, recipe, architecture.num_classes)):
        pass
    if file:
        _store(net.state_dict(), file)
    return net.eval()


def weights_file(images: Images, labels: Labels, architecture: Architecture, recipe: Recipe) -> Path:
    """Return where the weights of a teacher are kept; the name changes with all that they depend on."""
    modules = (learning, networks, predictions, schedules, sys.modules[__name__])
    told = {
        "architecture": asdict(architecture),
        "recipe": asdict(recipe),
        "code": [inspect.getsource(module) for module in modules],
        "torch": torch.__version__,
        "device": images.device.type,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for part in (images, labels):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return cache_folder() / "teachers" / f"{recipe.kind}-{recipe.seed}-{digest.hexdigest()[:20]}.pt"


def as_model(net: nn.Module, recipe: Recipe, label: Int[Tensor, "*labels"] | None = None) -> Model:
    """Return a network as a model that can be asked for any prediction, computed as it was trained.

    Args:
        net: a teacher.
        recipe: of its training.
        label: what to show, () or one a sample; no label if None. Gradients are the caller's business.
    """

    def function(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bf16):
            return net(x, t, label).to(x.dtype)

    return Model(function, recipe.kind, SCHEDULES[recipe.schedule])


def _store(state: dict[str, Tensor], file: Path) -> None:
    """Write weights so that nobody ever meets half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as sink:
            torch.save(state, sink)
        Path(temporary).replace(file)
    finally:
        Path(temporary).unlink(missing_ok=True)
