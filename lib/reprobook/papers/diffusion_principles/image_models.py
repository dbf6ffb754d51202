"""Learned models on images: data, the judge, and what is measured of samples.

Lai et al., *The Principles of Diffusion Models* (arXiv 2510.21890, version 2), assert of models what this
chapter first tests on formulas: that targets are equivalent (Sec. 6.3), that better solvers need fewer
evaluations (Ch. 9), that guidance trades variety for obedience (Sec. 8.3). Here a network has learned the
model, from digits or pictures of clothes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reprobook.data import Images, handwritten_digits, load_images
from reprobook.diffusion.guidance import classifier_free
from reprobook.diffusion.learning import fit
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.sample_metrics import frechet_distance, precision_recall
from reprobook.diffusion.schedules import Schedule, spread
from reprobook.diffusion.solvers import Solver, solve
from reprobook.diffusion.teachers import Recipe, as_model

__all__ = [
    "Pictures",
    "load_pictures",
    "posterior_mean",
    "nearest_distance",
    "Judge",
    "train_judge",
    "Quality",
    "quality",
    "sample",
    "guided",
    "gaussian_samples",
    "evaluations_needed",
]

Pixels = Float[Tensor, "N C H W"]
Labels = Int[Tensor, " N"]


class Pictures(NamedTuple):
    """Images of -1 (black) to 1 with their classes, to train on and held out (Sec. 1 of the monograph)."""

    images: Pixels
    labels: Labels
    held_out: Pixels
    held_out_labels: Labels


def load_pictures(name: str, device: torch.device | str = "cpu") -> Pictures:
    """Load a set of images, scaled to -1 .. 1 as in Ho, Jain and Abbeel (2020), Sec. 3.3 of their paper.

    They are mixed once and for all, so that the first n are n random ones; the digits come sorted by writer.

    Args:
        name: ``digits``, the 1,797 of 8×8 pixels that scikit-learn has, every sixth held out; or a set of
            :func:`reprobook.data.load_images` with its published split.
        device: where they go.
    """
    if name == "digits":
        both = handwritten_digits()
        out = torch.arange(len(both)) % 6 == 5
        parts = [Images(both.images[rows.numpy()], both.labels[rows.numpy()]) for rows in (~out, out)]
    else:
        parts = [load_images(name, split) for split in ("train", "test")]
    tensors = []
    for part in parts:
        mixed = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        tensors.append(torch.from_numpy(part.images)[mixed].float().div(127.5).sub(1).to(device))
        tensors.append(torch.from_numpy(part.labels)[mixed].to(device))
    return Pictures(*tensors)


# --------------------------------------------------------------------------- the exact minimiser


def posterior_mean(images: Pixels, schedule: Schedule) -> Model:
    """Return the minimiser of the denoising loss over finitely many images, known exactly (Sec. 6.2).

    Given x_t, image i is right with probability proportional to exp(-|x_t - α x_i|² / 2σ²), and the best
    guess of the clean sample is the mean over that. A softmax over the training set is all there is to it.

    Args:
        images: the training set.
        schedule: of the diffusion.
    """
    flat = images.flatten(1)
    squares = flat.square().sum(1)

    def function(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (
            spread(c.expand(len(x)), x.flatten(1)) for c in (schedule.alpha(t), schedule.sigma(t))
        )
        closeness = alpha * (x.flatten(1) @ flat.T) - alpha.square() * squares / 2
        return ((closeness / sigma.square()).softmax(1) @ flat).reshape(x.shape)

    return Model(function, "clean", schedule)


def nearest_distance(samples: Pixels, images: Float[Tensor, "M C H W"]) -> Float[Tensor, " N"]:
    """Return each sample's root mean square distance, a pixel, from the nearest image (Sec. 6.2).

    From differences, not from products, whose rounding errors would drown small distances.
    """
    nearest = [
        torch.stack([(one - part).square().flatten(1).mean(1).min() for part in images.split(5000)])
        for one in samples
    ]
    return torch.stack(nearest).amin(1).sqrt()


# --------------------------------------------------------------------------- the judge


class Judge(nn.Module):
    """A small classifier; its last hidden layer gives the features in which samples are compared.

    It stands in for the Inception network of Heusel et al. (2017), which knows nothing of such images; so
    distances can be compared within this chapter, not with those of other papers.
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
    """Train the classifier on the training images (Sec. 8.2 needs one too, for another purpose)."""
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
    """What is measured of samples (Sec. 8.3 of the monograph speaks of fidelity and variety).

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


# --------------------------------------------------------------------------- samples


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
    """Return samples of a class each, by a solver of Ch. 9, with classifier-free guidance (Eq. 8.3.2).

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
    """Return the guided model of Eq. (8.3.2); with weights 0 and 1 without the half that counts nothing."""
    if weight in (0.0, 1.0):
        return as_model(net, recipe, label if weight else None)
    return classifier_free(as_model(net, recipe, label), as_model(net, recipe), weight)


def gaussian_samples(images: Pixels, num: int, generator: torch.Generator) -> Float[Tensor, "num C H W"]:
    """Draw from the Gaussian with the images' mean and covariance, what any model should beat (Ch. 1)."""
    flat = images.flatten(1).double()
    values, axes = torch.linalg.eigh(flat.mT.cov())
    white = torch.randn(num, len(values), generator=generator, dtype=torch.float64).to(flat)
    drawn = flat.mean(0) + (white * values.clamp(min=0).sqrt()) @ axes.mT
    return drawn.reshape(num, *images.shape[1:]).to(images.dtype)


def evaluations_needed(distances: Mapping[int, float], enough: float) -> int:
    """Return the smallest number of evaluations from which on the distance is small enough.

    Args:
        distances: number of evaluations to Fréchet distance (Sec. 9.4 compares solvers so).
        enough: what counts as small enough.

    Returns:
        The number; twice the largest one tried if that was not enough.
    """
    counts: Sequence[int] = sorted(distances)
    good = 2 * counts[-1]
    for count in reversed(counts):
        if distances[count] > enough:
            break
        good = count
    return good
