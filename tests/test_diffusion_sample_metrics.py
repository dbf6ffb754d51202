"""Measures between sets of samples: closed forms, slow references, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import erf
from scipy.stats import wasserstein_distance

from reprobook.diffusion import sample_metrics
from reprobook.diffusion.sample_metrics import (
    energy_distance,
    frechet_distance,
    frechet_of_gaussians,
    mmd,
    mode_recall,
    precision_recall,
    sliced_wasserstein,
    wasserstein_on_a_line,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(num: int, dim: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=generator(seed), dtype=torch.float64)


DISTANCES = {
    "sliced": lambda x, y: sliced_wasserstein(x, y, 50, generator(9)),
    "energy": energy_distance,
    "mmd": lambda x, y: mmd(x, y, 0.7),
    "frechet": frechet_distance,
}
distances = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)


@distances
def test_a_set_is_no_distance_from_itself(distance):
    x = normal(80, 3)
    assert distance(x, x) < 2e-7  # a root of rounding


@distances
def test_the_order_of_points_does_not_matter(distance):
    x, y = normal(60, 3), 2 * normal(40, 3, seed=1) + 1
    shuffled = x[torch.randperm(len(x), generator=generator())]
    assert distance(shuffled, y) == pytest.approx(distance(x, y), rel=1e-12)


@distances
def test_a_distance_is_the_same_both_ways_and_under_a_common_move(distance):
    x, y = normal(60, 3), 2 * normal(40, 3, seed=1) + 1
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-10)
    assert distance(x + 5, y + 5) == pytest.approx(distance(x, y), rel=1e-9)


@pytest.mark.parametrize("name", ["sliced", "energy", "mmd"])  # Fréchet's divides by N - 1
def test_doubling_every_point_of_a_set_changes_no_law(name):
    x, y, distance = normal(60, 3), 2 * normal(40, 3, seed=1) + 1, DISTANCES[name]
    assert distance(torch.cat([x, x]), y) == pytest.approx(distance(x, y), rel=1e-10)


# --------------------------------------------------------------------------- transport


@pytest.mark.parametrize(("num", "other"), [(7, 7), (12, 5), (5, 12), (9, 6)])
def test_on_a_line_the_distance_is_that_of_scipy_for_sets_of_any_size(num, other):
    x, y = normal(num, 3), 1 + normal(other, 3, seed=1)
    expected = [wasserstein_distance(a, b) for a, b in zip(x.T.numpy(), y.T.numpy(), strict=True)]
    np.testing.assert_allclose(wasserstein_on_a_line(x, y, p=1.0), expected, rtol=1e-12)


def test_on_a_line_the_second_power_is_that_of_all_pairs_of_repeated_points():
    x, y = normal(4, 1), normal(6, 1, seed=1)
    repeated = x.repeat_interleave(3, 0).sort(0).values - y.repeat_interleave(2, 0).sort(0).values
    expected = repeated.square().mean().sqrt().item()
    assert wasserstein_on_a_line(x, y, p=2.0).item() == pytest.approx(expected, rel=1e-12)


def test_a_set_moved_by_d_is_d_over_root_of_the_dimension_away():
    x, move = normal(30, 3), torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    found = sliced_wasserstein(x, x + move, 20_000, generator())
    assert found == pytest.approx(3 / math.sqrt(3), rel=0.01)


def test_a_set_scaled_by_two_is_one_standard_deviation_away_in_every_direction():
    x = normal(3000, 1)
    assert sliced_wasserstein(x, 2 * x) == pytest.approx(x.square().mean().sqrt().item(), rel=1e-12)


# --------------------------------------------------------------------------- energy, kernel


def test_the_energy_distance_of_two_points_is_twice_their_distance():
    x, y = torch.zeros(3, 2), torch.tensor([[3.0, 4.0]])
    assert energy_distance(x, y) == pytest.approx(10)


def folded(mean: float, std: float) -> float:
    """Return E|N(mean, std²)|."""
    bell = std * math.sqrt(2 / math.pi) * math.exp(-((mean / std) ** 2) / 2)
    return bell + mean * erf(mean / (std * math.sqrt(2)))


def test_the_energy_distance_of_shifted_gaussians_is_the_closed_form():
    levels = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000  # quantiles instead of draws
    x = torch.special.ndtri(levels)[:, None]
    expected = 2 * (folded(1.5, math.sqrt(2)) - folded(0, math.sqrt(2)))
    assert energy_distance(x, x + 1.5) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_mmd_of_shifted_gaussians_is_the_closed_form(bandwidth):
    levels = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = torch.special.ndtri(levels)[:, None]
    scale = bandwidth**2 + 2
    squared = 2 * bandwidth / math.sqrt(scale) * (1 - math.exp(-(1.5**2) / (2 * scale)))
    assert mmd(x, x + 1.5, bandwidth) == pytest.approx(math.sqrt(squared), rel=2e-3)


def test_mmd_of_two_far_points_is_the_root_of_two():
    assert mmd(torch.zeros(1, 2), torch.full((1, 2), 100.0), 1.0) == pytest.approx(math.sqrt(2))


def test_means_over_pairs_do_not_depend_on_the_size_of_a_slab(monkeypatch):
    x, y = normal(50), normal(30, seed=1) + 0.3
    whole = energy_distance(x, y), mmd(x, y, 1.0), precision_recall(x, y)
    monkeypatch.setattr(sample_metrics, "ROWS", 7)
    sliced = energy_distance(x, y), mmd(x, y, 1.0), precision_recall(x, y)
    assert whole[:2] == pytest.approx(sliced[:2], rel=1e-9)
    assert whole[2] == sliced[2]


# --------------------------------------------------------------------------- Fréchet


def test_the_frechet_distance_of_gaussians_that_share_axes_compares_standard_deviations():
    turn = torch.linalg.qr(normal(3, 3)).Q
    first, second = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 0.5]], dtype=torch.float64)
    mean, zero = torch.tensor([0.0, 1.0, 2.0]).double(), torch.zeros(3).double()
    covariances = [turn @ torch.diag(s**2) @ turn.T for s in (first, second)]
    found = frechet_of_gaussians(mean, covariances[0], zero, covariances[1])
    assert found.item() == pytest.approx(5 + (first - second).square().sum().item(), rel=1e-12)


def test_the_frechet_distance_of_general_gaussians_agrees_with_a_matrix_root():
    a, b = normal(4, 4), normal(4, 4, seed=1)
    c, d = a @ a.T, b @ b.T
    expected = torch.trace(c + d).item() - 2 * np.trace(sqrtm(c.numpy() @ d.numpy())).real
    zero = torch.zeros(4, dtype=torch.float64)
    assert frechet_of_gaussians(zero, c, zero, d).item() == pytest.approx(expected, rel=1e-8)


def test_the_frechet_distance_of_samples_uses_their_unbiased_moments():
    x, y = normal(20, 2), 2 * normal(30, 2, seed=1) + 1
    moments = [np.mean(z.numpy(), 0) for z in (x, y)], [np.cov(z.numpy().T) for z in (x, y)]
    expected = np.sum((moments[0][0] - moments[0][1]) ** 2) + np.trace(sum(moments[1]))
    expected -= 2 * np.trace(sqrtm(moments[1][0] @ moments[1][1])).real
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x[:, :1], x[:, :1] + 3) == pytest.approx(9, rel=1e-12)


# --------------------------------------------------------------------------- coverage


def slow_coverage(points, by, neighbours: int) -> float:
    """The share of points within the k-NN balls of a set, by two loops."""
    radii = [
        sorted(math.dist(b, c) for j, c in enumerate(by) if j != i)[neighbours - 1] for i, b in enumerate(by)
    ]
    return np.mean([any(math.dist(p, b) <= r for b, r in zip(by, radii, strict=True)) for p in points])


def test_precision_and_recall_are_those_of_two_loops():
    real, generated = normal(40), 0.6 * normal(50, seed=1) + 0.8
    found = precision_recall(real, generated, 3)
    expected = [slow_coverage(a.tolist(), b.tolist(), 3) for a, b in ((generated, real), (real, generated))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] != found[1]


def test_a_model_that_drops_a_mode_keeps_precision_and_loses_recall():
    real = torch.cat([normal(200) / 10 - 3, normal(200, seed=1) / 10 + 3])
    generated = normal(200, seed=2) / 20 - 3
    precision, recall = precision_recall(real, generated)
    assert precision > 0.95
    assert recall < 0.5
    assert precision_recall(real, real) == (1, 1)


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="3 neighbours of 3 and 9 points"):
        precision_recall(normal(3), normal(9))


def test_mode_recall_counts_the_modes_that_were_found_often_enough():
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    x = torch.tensor([[0.1, 0.0], [0.0, 0.2], [4.0, 0.5], [0.0, 4.6]])
    assert mode_recall(x, means, 0.5) == 0.5
    assert mode_recall(x, means, 0.7) == 0.75
    assert mode_recall(x, means, 0.5, least=2) == 0.25
