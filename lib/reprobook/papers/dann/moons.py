"""Two moons, turned by 35° (Sec. 5.1.1), and what Fig. 2 shows of them, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reprobook.data import two_moons
from reprobook.papers.dann.shallow import Shallow

__all__ = [
    "Moons",
    "END_CLASSES",
    "rotated_moons",
    "principal_plane",
    "lonely_share",
    "ends_apart",
    "domain_gap_of_neurons",
    "rising_share",
]

#: the ends of two moons as scikit-learn draws them, before any noise, and the class of each
_ENDS = np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0], [2.0, 0.5]])
END_CLASSES = (0, 1, 0, 1)


class Moons(NamedTuple):
    """One problem a seed: a source, a target, and where the target's moons end.

    Attributes:
        xs, ys: source points and their classes.
        xt, yt: target points, and the classes that only the final count may see.
        ends: the ends of the target's moons, without noise: A the outer one of class 0 and B, next to it, the
            inner one of class 1; C the inner one of class 0 and D, next to it, the outer one of class 1.
    """

    xs: Float[Tensor, "B n 2"]
    ys: Int[Tensor, "B n"]
    xt: Float[Tensor, "B n 2"]
    yt: Int[Tensor, "B n"]
    ends: Float[Tensor, "B 4 2"]


def rotated_moons(
    seeds: Sequence[int],
    num_per_moon: int,
    *,
    noise: float = 0.05,
    degrees: float = 35.0,
    device: torch.device | str = "cpu",
) -> Moons:
    """Draw the problem of Sec. 5.1.1, as the authors' released code does.

    Source and target are fresh draws of two moons. Both are centred by the mean of the source and made twice
    as large; then the target is turned anticlockwise about the origin.

    Args:
        seeds: one a problem; source and target of seed s come from the generator seeds 2s and 2s + 1.
        num_per_moon: points on each moon.
        noise: standard deviation of a point about its moon, in radii of the moon.
        degrees: by how much the target is turned.
        device: where the tensors go; they are in float64.
    """
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    problems = []
    for s in seeds:
        (xs, ys), (xt, yt) = (two_moons(num_per_moon, noise, 2 * s + i) for i in (0, 1))
        centre = xs.mean(0)
        problems.append(
            (2 * (xs - centre), ys, 2 * (xt - centre) @ turn.T, yt, 2 * (_ENDS - centre) @ turn.T)
        )
    return Moons(
        *(torch.as_tensor(np.stack(column), device=device) for column in zip(*problems, strict=True))
    )


def principal_plane(
    h: Float[Tensor, "B n D"],
) -> tuple[Float[Tensor, "B 1 D"], Float[Tensor, "B D 2"]]:
    """Return the mean of the points and their first two principal directions (the PCA of Fig. 2).

    The coordinates are ``(h - mean) @ directions``. A direction's sign is such that its largest entry is
    positive, so that pictures do not flip.
    """
    mean = h.mean(1, keepdim=True)
    directions = torch.linalg.svd(h - mean, full_matrices=False).Vh[:, :2].mT
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return mean, directions * largest.sign()


def lonely_share(
    hs: Float[Tensor, "B n D"], ht: Float[Tensor, "B k D"], num_neighbours: int = 5
) -> Float[Tensor, " B"]:
    """Return the share of target points among whose nearest neighbours there is no source point.

    Sec. 5.1.1 says that a number of NN's target points sit in clusters without any source point. In a perfect
    mixture of equal parts this happens by chance to one point in 2 to the power of ``num_neighbours``.
    """
    n = hs.shape[1]
    distance = torch.cdist(ht, torch.cat([hs, ht], 1))
    itself = torch.arange(ht.shape[1], device=ht.device)
    distance[:, itself, n + itself] = torch.inf
    near = distance.topk(num_neighbours, largest=False).indices
    return (near >= n).all(-1).to(hs.dtype).mean(1)


def ends_apart(h: Float[Tensor, "B n D"], ends: Float[Tensor, "B 4 D"]) -> Float[Tensor, " B"]:
    """Return how far the nearest two moon ends of different classes are from one another.

    Distances are in the plane of the first two principal directions; the unit is the root of the mean squared
    distance of the points from their mean there. Sec. 5.1.1 says that such ends nearly coincide in NN's plane
    and stand in opposite corners of DANN's.
    """
    mean, directions = principal_plane(h)
    spread = ((h - mean) @ directions).square().sum(-1).mean(1).sqrt()
    corner = (ends - mean) @ directions
    return torch.cdist(corner[:, ::2], corner[:, 1::2]).amin((1, 2)) / spread


def domain_gap_of_neurons(hs: Float[Tensor, "B n D"], ht: Float[Tensor, "B k D"]) -> Float[Tensor, " B"]:
    """Return by how much a neuron's mean activation differs between the domains, on average over neurons.

    Sec. 5.1.1 says that DANN prevents neurons that tell the domains apart.
    """
    return (hs.mean(1) - ht.mean(1)).abs().mean(1)


def rising_share(state: Shallow, radius: float) -> Float[Tensor, " B"]:
    """Return the share of neurons whose line W_i x + b_i = 0 rises from left to right within the picture.

    The last column of Fig. 2 draws these lines, where a neuron's activation is 1/2. A line counts as within
    the picture if it comes nearer than ``radius`` to the origin.
    """
    within = state.b.abs() < radius * state.W.norm(dim=-1)
    return (within & (state.W.prod(-1) < 0)).to(state.b.dtype).mean(1)
