"""What learned models of images are held against: the exact minimiser, and a Gaussian.

Lai et al., *The Principles of Diffusion Models* (arXiv 2510.21890, version 2), assert of models what this
chapter first tests on formulas: that targets are equivalent (Sec. 6.3), that better solvers need fewer
evaluations (Ch. 9), that guidance trades variety for obedience (Sec. 8.3). Here a network has learned the
model, from digits or pictures of clothes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule, spread

__all__ = ["posterior_mean", "nearest_distance", "gaussian_samples", "evaluations_needed"]

Pixels = Float[Tensor, "N C H W"]


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
