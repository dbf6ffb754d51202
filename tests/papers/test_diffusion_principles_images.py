"""Facts about the experiments on images: the exact minimiser, the judge, and what is measured of samples."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.testing import assert_close

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve
from reprobook.diffusion.teachers import Recipe
from reprobook.papers.diffusion_principles.image_figures import (
    draw_dots,
    draw_sheet,
    draw_strip,
    draw_sweep,
)
from reprobook.papers.diffusion_principles.image_models import (
    Judge,
    evaluations_needed,
    gaussian_samples,
    guided,
    load_pictures,
    nearest_distance,
    posterior_mean,
    quality,
    sample,
    train_judge,
)

matplotlib.use("Agg")
FM = SCHEDULES["fm"]
RECIPE = Recipe(schedule="fm", kind="velocity")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    return load_pictures("digits")


@pytest.fixture(scope="module")
def judge(digits):
    return train_judge(digits, 150)


# --------------------------------------------------------------------------- data


def test_the_digits_are_divided_without_overlap_and_reach_from_black_to_white(digits):
    assert (len(digits.images), len(digits.held_out)) == (1498, 299)
    assert (digits.images.min(), digits.images.max()) == (-1, 1)
    kept, out = ({x.numpy().tobytes() for x in part} for part in (digits.images, digits.held_out))
    assert not kept & out
    assert all(100 < n < 200 for n in digits.labels.bincount())


def test_mixed_images_keep_their_labels(digits):
    from reprobook.data import handwritten_digits

    original = handwritten_digits()
    pixels = torch.from_numpy(original.images).float() / 127.5 - 1
    known = {x.numpy().tobytes(): label for x, label in zip(pixels, original.labels, strict=True)}
    for images, labels in (digits[:2], digits[2:]):
        assert [known[x.numpy().tobytes()] for x in images] == labels.tolist()
    first = digits.labels[:300].bincount(minlength=10)
    assert first.min() > 15  # mixed: the original order would do that too, but not for writers


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


# --------------------------------------------------------------------------- judge and measures


def test_the_judge_knows_digits(judge, digits):
    _, seen = judge.look(digits.held_out)
    assert (seen == digits.held_out_labels).double().mean() > 0.9
    features, seen = judge.look(digits.images[:50])
    assert_close(judge.head(features.float()).argmax(1), seen)
    assert_close(judge(digits.images[:50]).argmax(1), seen)


def test_the_judge_looks_at_images_in_parts_of_any_size():
    judge, x = Judge(1, 28).eval(), random(2100, 1, 28, 28).float()
    features, _ = judge.look(x)
    assert_close(features[2050:2060].float(), judge.look(x[2050:2060])[0].float(), rtol=1e-4, atol=1e-6)


def test_real_images_are_judged_perfect(judge, digits):
    real, seen = judge.look(digits.images[:200])
    found = quality(judge, digits.images[:200], seen, real)
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert found[1:] == (1, 1, 1)
    assert quality(judge, digits.images[:200], (seen + 1) % 10, real).agreement == 0


def test_copies_of_few_images_have_precision_but_little_recall(judge, digits):
    real, seen = judge.look(digits.images[:200])
    copies = digits.images[torch.arange(200) % 10]
    found = quality(judge, copies, seen[torch.arange(200) % 10], real)
    assert found.precision == 1
    assert found.recall < 0.2


def test_samples_are_judged_within_the_range_of_images(judge, digits):
    real, seen = judge.look(digits.images[:200])
    loud = digits.images[:200] + 5 * (digits.images[:200] == 1) - 5 * (digits.images[:200] == -1)
    assert quality(judge, loud, seen, real).frechet == pytest.approx(0, abs=1e-6)


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


# --------------------------------------------------------------------------- sampling


class Constant(nn.Module):
    """A velocity that depends on nothing but the label: -label, or 1 without one."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, label=None):
        self.calls += 1
        value = torch.tensor(1.0) if label is None else -label.to(x.dtype)
        return value.expand(len(x))[:, None, None, None].expand_as(x)


def test_samples_move_by_the_velocity_of_their_own_label():
    noise, label, grid = random(7, 1, 2, 2).float(), torch.arange(7), time_grid(FM, 3)
    drawn = sample(Constant(), RECIPE, noise, label, grid, "euler", part=3)
    length = FM.last - FM.first
    assert_close(drawn, noise * FM.last + length * label[:, None, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 5), (1.0, 5), (2.0, 10), (0.5, 10)])
def test_guidance_goes_along_the_line_through_both_models_at_the_cost_of_both(weight, calls):
    net, noise, label = Constant(), random(4, 1, 2, 2).float(), torch.full((4,), 3)
    drawn = sample(net, RECIPE, noise, label, time_grid(FM, 5), "euler", weight=weight)
    velocity = weight * -3 + (1 - weight) * 1
    assert_close(drawn, noise * FM.last - (FM.last - FM.first) * velocity, rtol=1e-5, atol=1e-5)
    assert net.calls == calls
    assert_close(
        guided(net, RECIPE, label, weight)(noise, torch.tensor(0.5), "velocity")[0, 0, 0, 0].item(), velocity
    )


# --------------------------------------------------------------------------- figures


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_sheet_reads_from_left_to_right(ax):
    values = torch.linspace(-1, 1, 6)
    draw_sheet(ax, values[:, None, None, None].expand(6, 1, 3, 3), 3)
    shown = np.asarray(ax.images[0].get_array()).reshape(8, 12)
    assert_close(torch.tensor(shown[::4, ::4].ravel()), (values + 1) / 2, check_dtype=False)


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
