"""mSDA: the closed form against noise that is really drawn, and against every erasure there is."""

from itertools import product

import pytest
import torch

from reprobook.errors import UserError
from reprobook.papers.dann.msda import denoised, denoiser, layers, scatter


@pytest.fixture
def points():
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5


def with_one(X):
    return torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], 1)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_closed_form_is_least_squares_over_every_erasure(points, p):
    rows, wanted = [], []
    for kept in product([0, 1], repeat=5):
        kept = torch.tensor(kept, dtype=torch.float64)
        root = (p ** (5 - kept.sum()) * (1 - p) ** kept.sum()).sqrt()
        rows.append(root * with_one(points * kept))  # the constant stays
        wanted.append(root * points)
    expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(wanted)).solution.T
    torch.testing.assert_close(denoiser(scatter(points), p, 1e-13), expected, atol=1e-9, rtol=1e-9)


def test_the_closed_form_is_the_limit_of_drawn_noise(points):
    g = torch.Generator().manual_seed(1)
    distance = []
    for copies in (100, 10_000):
        X = points.repeat(copies, 1)
        noisy = with_one(X * (torch.rand(X.shape, generator=g) > 0.5))
        drawn = torch.linalg.lstsq(noisy, X).solution.T
        distance.append(float((drawn - denoiser(scatter(points), 0.5)).norm()))
    assert distance[1] < 0.02 and distance[1] < distance[0] / 4  # a tenth, give or take


def test_without_noise_the_denoiser_is_the_identity(points):
    W = denoiser(scatter(points), 0.0, 1e-12)
    torch.testing.assert_close(with_one(points) @ W.T, points, atol=1e-9, rtol=0.0)


def test_a_review_with_every_word_erased_is_guessed_from_the_constant_alone():
    # with one feature: slope = covariance over variance of the noisy one, and the constant is the rest
    x = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    p, mean, square = 0.25, x.mean(), x.square().mean()
    slope = ((1 - p) * (square - mean**2)) / ((1 - p) * square - (1 - p) ** 2 * mean**2)
    W = denoiser(scatter(x), p, 1e-13)
    torch.testing.assert_close(W, torch.stack([slope, mean - slope * (1 - p) * mean])[None])


def test_scatter_counts_the_points_last(points):
    torch.testing.assert_close(scatter(points), with_one(points).T @ with_one(points))
    assert scatter(points.float()).dtype == torch.float64


def test_a_layer_squashes_the_guess(points):
    W = denoiser(scatter(points), 0.5)
    torch.testing.assert_close(denoised(points, W), torch.tanh(with_one(points) @ W.T))


def test_layers_learn_from_the_training_points_only(points):
    changed = points.clone()
    changed[20:] += 3
    pairs = list(zip(layers(points, 20, 3), layers(changed, 20, 3), strict=True))
    assert len(pairs) == 4
    for a, b in pairs:
        torch.testing.assert_close(a[:20], b[:20], atol=0.0, rtol=0.0)
        assert not torch.equal(a[20:], b[20:])


def test_each_layer_denoises_the_one_before(points):
    found = list(layers(points, 30, 2, 0.3))
    again = list(layers(found[1], 30, 1, 0.3))
    torch.testing.assert_close(found[2], again[1])


def test_a_word_that_stands_in_for_another_is_filled_in():
    g = torch.Generator().manual_seed(3)
    mood = torch.randint(0, 2, (500, 1), generator=g).double()
    X = torch.cat([mood, mood, torch.rand(500, 1, generator=g).double()], 1)  # words 0 and 1 go together
    W = denoiser(scatter(X), 0.5)
    only_second = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)
    neither = torch.tensor([[0.0, 0.0, 0.5]], dtype=torch.float64)
    assert denoised(only_second, W)[0, 0] > denoised(neither, W)[0, 0] + 0.2


def test_certain_erasure_is_refused(points):
    with pytest.raises(UserError, match="corruption"):
        denoiser(scatter(points), 1.0)
