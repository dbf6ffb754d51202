"""Learned models of images, and what is measured of their samples: pictures, a judge, and its verdict.

Distances between sets of images are taken in the features of a small classifier that is trained on the spot.
Those of the literature use the Inception network, which is too large to travel with a book and knows nothing
of digits; so numbers can be compared within this book, not with those of other papers.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reprobook.data import Images, handwritten_digits, load_images
from reprobook.data.cifar10 import load_cifar10
from reprobook.diffusion.guidance import classifier_free
from reprobook.diffusion.learning import fit
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.sample_metrics import frechet_distance, precision_recall
from reprobook.diffusion.solvers import Solver, solve
from reprobook.diffusion.teachers import Recipe, as_model

__all__ = [
    "Pictures",
    "load_pictures",
    "sample",
    "guided",
    "Judge",
    "train_judge",
    "Quality",
    "quality",
]

Pixels = Float[Tensor, "N C H W"]
Labels = Int[Tensor, " N"]


class Pictures(NamedTuple):
    """Images of -1 (black) to 1 with their classes, to train on and held out."""

    images: Pixels
    labels: Labels
    held_out: Pixels
    held_out_labels: Labels


def load_pictures(name: str, device: torch.device | str = "cpu") -> Pictures:
    """Load a set of images, scaled to -1 .. 1 as Ho, Jain and Abbeel (2020) do.

    They are mixed once and for all, so that the first n are n random ones; the digits come sorted by writer.

    Args:
        name: ``digits``, the 1,797 of 8×8 pixels that scikit-learn has, every sixth held out; ``cifar10``;
            or a set of :func:`reprobook.data.loading.load_images`, with its published split.
        device: where they go.
    """
    if name == "digits":
        both = handwritten_digits()
        out = torch.arange(len(both)) % 6 == 5
        parts = [Images(both.images[rows.numpy()], both.labels[rows.numpy()]) for rows in (~out, out)]
    else:
        load = load_cifar10 if name == "cifar10" else partial(load_images, name)
        parts = [load(split) for split in ("train", "test")]
    tensors = []
    for part in parts:
        mixed = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        tensors.append(torch.from_numpy(part.images)[mixed].float().div(127.5).sub(1).to(device))
        tensors.append(torch.from_numpy(part.labels)[mixed].to(device))
    return Pictures(*tensors)


@torch.no_grad()
def sample(
    net: nn.Module,
    recipe: Recipe,
    noise: Pixels,
    label: Labels,
    grid: Float[Tensor, " num_times"],
    solver: str | Solver = "dpmpp_2m",
    *,
    weight: float = 1.0,
    generator: torch.Generator | None = None,
    part: int = 500,
) -> Pixels:
    """Return samples of a class each, by any solver, with classifier-free guidance.

    Args:
        net: a trained network.
        recipe: of its training.
        noise: standard normal; the first sample is that times σ at the first time.
        label: what each sample shall show.
        grid: falling times.
        solver: of the probability flow, or of the reverse stochastic equation.
        weight: ω; 1 asks the conditional model alone, 0 the unconditional one alone.
        generator: of the noise of stochastic solvers.
        part: how many are computed at a time.
    """
    done = []
    for start, show in zip(noise.split(part), label.split(part), strict=True):
        model = guided(net, recipe, show, weight)
        first = start * model.schedule.sigma(grid[0]).to(start)
        done.append(solve(model, first, grid, solver, generator=generator))
    return torch.cat(done)


def guided(net: nn.Module, recipe: Recipe, label: Labels, weight: float) -> Model:
    """Return the model with classifier-free guidance; weights 0 and 1 ask only the half that counts."""
    if weight in (0.0, 1.0):
        return as_model(net, recipe, label if weight else None)
    return classifier_free(as_model(net, recipe, label), as_model(net, recipe), weight)


class Judge(nn.Module):
    """A small classifier; its last hidden layer gives the features in which samples are compared.

    It stands in for the Inception network of Heusel et al. (2017).
    """

    def __init__(self, channels: int, side: int, num_features: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        small = (side + 3) // 4
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 24, 3, stride=2, padding=1), nn.SiLU()),
            *(nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten()),
            *(nn.Linear(48 * small**2, num_features), nn.SiLU()),
        )
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return a score for each class."""
        return self.head(self.body(x))

    @torch.no_grad()
    def look(self, x: Float[Tensor, "N C H W"]) -> tuple[Float[Tensor, "N F"], Int[Tensor, " N"]]:
        """Return features, in double precision, and the class seen (Fréchet distance and agreement)."""
        features = torch.cat([self.body(part) for part in x.split(2000)])
        return features.double(), self.head(features).argmax(1)


def train_judge(pictures: Pictures, steps: int, seed: int = 0, batch: int = 128) -> Judge:
    """Train the classifier on the training images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(pictures.images.shape[1], pictures.images.shape[-1]).to(pictures.images.device)

    def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pictures.images), (batch,), generator=generator)
        chosen = chosen.to(pictures.images.device)
        return F.cross_entropy(net(pictures.images[chosen]), pictures.labels[chosen])

    for _ in fit(judge, loss, steps, seed=seed, ema=0.95, weight_decay=1e-2):
        pass
    return judge.eval()


class Quality(NamedTuple):
    """What is measured of samples: fidelity and variety.

    Attributes:
        frechet: squared distance of the features' Gaussians; small is good.
        precision: share of samples among real images.
        recall: share of real images among samples.
        agreement: how often the judge sees what was asked for.
    """

    frechet: float
    precision: float
    recall: float
    agreement: float


def quality(
    judge: Judge, samples: Pixels, asked: Labels, real: Float[Tensor, "M F"], neighbours: int = 3
) -> Quality:
    """Judge samples, as Heusel et al. (2017) and Kynkäänniemi et al. (2019) do in their papers.

    Args:
        judge: gives features and classes.
        samples: to be judged.
        asked: the class that each should show.
        real: features of real images. Precision and recall compare as many of them as there are samples.
        neighbours: k of precision and recall.
    """
    features, seen = judge.look(samples.clamp(-1, 1))  # what a file of an image can hold
    precision, recall = precision_recall(real[: len(features)], features, neighbours)
    return Quality(
        frechet_distance(real, features), precision, recall, (seen == asked).double().mean().item()
    )
