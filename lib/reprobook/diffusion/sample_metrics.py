"""How far two sets of samples are apart: what judges a generative model by its samples alone.

A set of N points in D dimensions is ``(N, D)``; the two sets may be of different sizes. Every measure weighs
all points of a set alike, does not care for their order, and gives zero (``precision_recall``: one) for a set
and itself. All but :func:`mode_recall` and :func:`precision_recall` estimate a distance of two laws from
finite samples, so two samples of the *same* law are some way apart: compare with that, not with zero.

======================  =====================================================================================
sliced Wasserstein      transport along random lines; Rabin et al. (2012)
energy distance         2 E|X-Y| - E|X-X'| - E|Y-Y'|; Székely & Rizzo (2013)
MMD                     largest gap of means over functions of a Gaussian kernel; Gretton et al. (2012)
Fréchet                 of the Gaussians with the samples' moments; Heusel et al. (2017)
precision, recall       share of points that lie in the other set's neighbourhood; Kynkäänniemi et al. (2019)
mode recall             share of known modes that were found
======================  =====================================================================================
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "sliced_wasserstein",
    "wasserstein_on_a_line",
    "energy_distance",
    "mmd",
    "frechet_distance",
    "frechet_of_gaussians",
    "precision_recall",
    "mode_recall",
]

ROWS = 2048  # of a table of distances that are computed at a time


def sliced_wasserstein(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    num_projections: int = 100,
    generator: torch.Generator | None = None,
    p: float = 2.0,
) -> float:
    """Return (mean over directions of W_p^p)^(1/p), with W_p between the sets' shadows on a line.

    Args:
        x, y: the sets.
        num_projections: how many directions, drawn uniformly from the sphere; on a line one is enough.
        generator: on the CPU, whatever the device of the sets.
        p: the exponent, >= 1.

    Returns:
        A number in the units of the points. A set and the set moved by d are sqrt(|d|²/D) apart for p = 2, as
        the number of directions grows.
    """
    directions = torch.randn(x.shape[1], num_projections, generator=generator, dtype=x.dtype)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    return wasserstein_on_a_line(x @ directions, y @ directions, p).pow(p).mean().pow(1 / p).item()


def wasserstein_on_a_line(
    x: Float[Tensor, "N lines"], y: Float[Tensor, "M lines"], p: float = 2.0
) -> Float[Tensor, " lines"]:
    """Return W_p between the points in each column, exactly: the p-norm between their quantile functions.

    Quantile functions of N and M equal weights are constant between multiples of 1/N and 1/M; counted in
    units of 1/(NM) these are whole numbers.
    """
    num_x, num_y = len(x), len(y)
    ends_x = torch.arange(1, num_x + 1, device=x.device) * num_y
    ends_y = torch.arange(1, num_y + 1, device=x.device) * num_x
    ends = torch.cat([ends_x, ends_y]).unique()
    widths = torch.diff(ends, prepend=ends.new_zeros(1)).to(x.dtype) / (num_x * num_y)
    gaps = x.sort(0).values[(ends - 1) // num_y] - y.sort(0).values[(ends - 1) // num_x]
    return (widths @ gaps.abs().pow(p)).pow(1 / p)


def energy_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """Return 2 E|X-Y| - E|X-X'| - E|Y-Y'| >= 0, all pairs included, also a point with itself."""
    return (2 * _mean_of(x, y) - _mean_of(x, x) - _mean_of(y, y)).clamp(min=0).item()


def mmd(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], bandwidth: float) -> float:
    """Return the maximum mean discrepancy for the kernel k(a, b) = exp(-|a-b|² / 2h²), all pairs included.

    Args:
        x, y: the sets.
        bandwidth: h > 0, in the units of the points: structure much finer than h is not seen.

    Returns:
        sqrt(E k(X,X') + E k(Y,Y') - 2 E k(X,Y)), in [0, sqrt(2)].
    """

    def kernel(distances: Tensor) -> Tensor:
        return torch.exp(-distances.square() / (2 * bandwidth**2))

    squared = _mean_of(x, x, kernel) + _mean_of(y, y, kernel) - 2 * _mean_of(x, y, kernel)
    return squared.clamp(min=0).sqrt().item()


def _mean_of(x: Tensor, y: Tensor, function=lambda distances: distances) -> Tensor:
    """Return the mean over all pairs of a function of the distance, a slab of the table at a time."""
    sums = [function(_distances(rows, y)).sum() for rows in x.split(ROWS)]
    return torch.stack(sums).sum() / (len(x) * len(y))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j| from differences: the usual short cut by a product loses half of the digits."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def frechet_distance(features_x: Float[Tensor, "N D"], features_y: Float[Tensor, "M D"]) -> float:
    """Return the squared Fréchet distance between Gaussians of the sets' means and covariances.

    With the features of a classifier this is the FID of Heusel et al. (2017), Eq. (6); covariances are
    divided by N - 1 as there. It is biased upwards for few samples, the more the larger D.
    """
    moments = [(f.mean(0), f.mT.cov().reshape(f.shape[1], -1)) for f in (features_x, features_y)]
    return frechet_of_gaussians(*moments[0], *moments[1]).item()


def frechet_of_gaussians(
    mean_x: Float[Tensor, " D"],
    covariance_x: Float[Tensor, "D D"],
    mean_y: Float[Tensor, " D"],
    covariance_y: Float[Tensor, "D D"],
) -> Float[Tensor, ""]:
    """Return |m_x - m_y|² + tr(C_x + C_y - 2 (C_x^½ C_y C_x^½)^½), the squared W_2 of two Gaussians."""
    values, axes = torch.linalg.eigh(covariance_x)
    root = (axes * values.clamp(min=0).sqrt()) @ axes.mT
    cross = torch.linalg.eigvalsh(root @ covariance_y @ root).clamp(min=0).sqrt().sum()
    between = (mean_x - mean_y).square().sum()
    return (between + covariance_x.trace() + covariance_y.trace() - 2 * cross).clamp(min=0)


def precision_recall(
    real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], neighbours: int = 3
) -> tuple[float, float]:
    """Return the shares of generated points near real ones, and of real points near generated ones.

    The neighbourhood of a set is the union of balls round its points, each as large as the distance to the
    point's k-th neighbour in the set (Kynkäänniemi et al., 2019, Eqs. 1-2).

    Args:
        real, generated: the sets, of more than k points each.
        neighbours: k, >= 1; k = 3 is the paper's.

    Raises:
        ValueError: if a set has no k-th neighbour.
    """
    if not 1 <= neighbours < min(len(real), len(generated)):
        raise ValueError(f"{neighbours} neighbours of {len(real)} and {len(generated)} points")
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points: Tensor, by: Tensor, neighbours: int) -> float:
    """Return the share of points within the neighbourhood of the set ``by``."""
    nearest = [_distances(rows, by).kthvalue(neighbours + 1, dim=1).values for rows in by.split(ROWS)]
    radii = torch.cat(nearest)  # neighbour 1 of a point is the point itself
    inside = [(_distances(rows, by) <= radii).any(1) for rows in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def mode_recall(x: Float[Tensor, "N D"], means: Float[Tensor, "K D"], radius: float, least: int = 1) -> float:
    """Return the share of known modes that have at least ``least`` samples within ``radius``."""
    close = [(_distances(rows, means) <= radius).sum(0) for rows in x.split(ROWS)]
    return (torch.stack(close).sum(0) >= least).double().mean().item()
