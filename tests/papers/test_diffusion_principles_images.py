"""Facts about the experiments on images: the exact minimiser, other yardsticks, and drawings."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.testing import assert_close

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.images import load_pictures
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve
from reprobook.papers.diffusion_principles.image_figures import (
    draw_dots,
    draw_strip,
    draw_sweep,
)
from reprobook.papers.diffusion_principles.image_models import (
    evaluations_needed,
    gaussian_samples,
    nearest_distance,
    posterior_mean,
)

matplotlib.use("Agg")
FM = SCHEDULES["fm"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    return load_pictures("digits")


# --------------------------------------------------------------------------- data


# --------------------------------------------------------------------------- the exact minimiser


def test_the_minimiser_is_the_denoiser_of_a_mixture_of_points():
    images, t = random(7, 1, 3, 3), torch.tensor([0.9, 0.5, 0.2, 0.05]).double()
    mixture = Mixture.isotropic(images.flatten(1), 0.0)
    x = 0.5 * random(4, 1, 3, 3, seed=1)
    for schedule in (FM, SCHEDULES["vp_cosine"], SCHEDULES["ve"]):
        found = posterior_mean(images, schedule)(x, t)
        assert_close(found.flatten(1), mixture.denoise(x.flatten(1), t, schedule))
    one = posterior_mean(images, FM)(x, t[1])
    assert_close(one[1], posterior_mean(images, FM)(x, t)[1])


def test_no_constant_change_of_the_minimiser_lowers_the_loss():
    images, t = random(5, 1, 2, 2), torch.tensor(0.6).double()
    noise = random(40000, 1, 2, 2, seed=2)
    clean = images[torch.arange(40000) % 5]
    x = FM.alpha(t) * clean + FM.sigma(t) * noise
    best = posterior_mean(images, FM)(x, t)
    for other in (best, images.mean(0), x):  # the error is orthogonal to every function of x
        assert ((clean - best) * other).mean().abs() < 0.01


def test_sampling_with_the_minimiser_returns_images_of_the_training_set():
    images, noise = random(30, 1, 4, 4), random(12, 1, 4, 4, seed=1)
    drawn = solve(posterior_mean(images, FM), noise, time_grid(FM, 60, "lambda"), "dpmpp_2m")
    alpha, sigma = 1 - FM.first, FM.first
    distance = nearest_distance(drawn / alpha, images) * alpha / sigma
    assert distance.max() < 2
    assert distance.mean() == pytest.approx(1, abs=0.25)


def test_the_nearest_distance_is_the_root_mean_square_of_the_difference():
    images = random(6, 1, 4, 4)
    shifts = torch.tensor([0.0, 1e-6, -0.01, 0.02]).double()
    assert_close(nearest_distance(images[:4] + shifts[:, None, None, None], images), shifts.abs())


def test_gaussian_samples_have_the_moments_of_the_images(digits):
    drawn = gaussian_samples(digits.images, 40000, torch.Generator().manual_seed(0)).flatten(1).double()
    flat = digits.images.flatten(1).double()
    assert_close(drawn.mean(0), flat.mean(0), rtol=0, atol=0.02)
    assert_close(drawn.mT.cov(), flat.mT.cov(), rtol=0, atol=0.04)


@pytest.mark.parametrize(
    ("distances", "needed"),
    [
        ({4: 9.0, 8: 5.0, 16: 2.0, 32: 1.0}, 16),
        ({4: 2.0, 8: 5.0, 16: 2.0, 32: 1.0}, 16),  # luck at four does not count
        ({4: 1.0, 8: 1.0}, 4),
        ({32: 3.0, 8: 5.0}, 64),
    ],
)
def test_evaluations_are_enough_from_where_the_distance_stays_small(distances, needed):
    assert evaluations_needed(distances, 2.0) == needed


# --------------------------------------------------------------------------- figures


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_strip_has_a_row_a_name_and_stretches_signed_images(ax):
    x = random(4, 1, 2, 2).float()
    draw_strip(ax, {"a": x, "b": 100 * x}, ["1", "2", "3", "4"], signed=True)
    shown = np.asarray(ax.images[0].get_array())
    assert_close(shown[:3], shown[3:])
    assert np.abs(shown[:2, :2]).max() == 1
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_sweep_has_a_line_of_means_for_each_method(ax):
    draw_sweep(
        ax, {"one": {8: [1.0, 3.0], 4: [5.0, 7.0]}, "two": {4: [0.0, 0.0]}}, {"one": "ours", "two": "third"}
    )
    means = [c.lines[0].get_xydata().tolist() for c in ax.containers]
    assert means == [[[4, 6], [8, 2]], [[4, 0]]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "8"]


def test_dots_show_every_run_and_their_mean(ax):
    draw_dots(ax, {"one": [1.0, 3.0], "two": [5.0, 6.0]}, ["ours", "third"])
    assert [list(line.get_xdata()) for line in ax.lines] == [[2, 2], [1, 3], [5.5, 5.5], [5, 6]]
