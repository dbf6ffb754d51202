"""Gaussian mixtures under diffusion, against scipy, autograd, and samples."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch.testing import assert_close

from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.predictions import KINDS, diffuse
from reprobook.diffusion.schedules import SCHEDULES

DOUBLE = {"dtype": torch.float64}
SCHEDULE = pytest.mark.parametrize("name", SCHEDULES)
MIXTURES = {"ring": ring(5, 1.5, 0.3), "leaves": leaves(), "one": ring(1, 0.7, 0.5)}
MIXTURE = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)


def middle(schedule):
    """The time at which a sample is as much noise as data."""
    return schedule.time_of(torch.tensor(0.0, **DOUBLE))


@MIXTURE
@SCHEDULE
def test_density_is_scipys(mixture, name):
    schedule, x = SCHEDULES[name], torch.randn(20, 2, **DOUBLE)
    t = middle(schedule)
    a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
    parts = zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    density = sum(
        float(w)
        * multivariate_normal(a * m.numpy(), (a * a * c + s * s * torch.eye(2)).numpy()).pdf(x.numpy())
        for w, m, c in parts
    )
    assert_close(mixture.log_density(x, t, schedule), torch.as_tensor(density).log(), rtol=1e-10, atol=1e-10)
    assert_close(mixture.diffused(t, schedule).log_density(x), mixture.log_density(x, t, schedule))


@MIXTURE
def test_score_is_the_gradient_of_the_log_density(mixture):
    schedule, t = SCHEDULES["vp_linear"], torch.linspace(0.05, 0.9, 12, **DOUBLE)
    x = torch.randn(12, 2, **DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture.log_density(x, t, schedule).sum(), x)
    assert_close(mixture.score(x.detach(), t, schedule), gradient, rtol=1e-9, atol=1e-9)


@MIXTURE
@SCHEDULE
@pytest.mark.parametrize("kind", KINDS)
def test_the_four_predictions_of_the_perfect_model_agree(mixture, name, kind):
    schedule, x = SCHEDULES[name], torch.randn(20, 2, **DOUBLE)
    t = middle(schedule)
    model = mixture.model(schedule, kind)
    assert_close(model(x, t, "clean"), mixture.denoise(x, t, schedule), rtol=1e-8, atol=1e-8)
    assert_close(model(x, t, "score"), mixture.score(x, t, schedule), rtol=1e-8, atol=1e-8)


def test_the_denoiser_is_the_mean_of_the_clean_samples_that_look_alike():
    # E[x_0 | x_t] weighs every clean sample by how likely it is to have become x_t
    generator = torch.Generator().manual_seed(0)
    mixture, schedule, t = leaves(), SCHEDULES["fm"], torch.tensor(0.6, **DOUBLE)
    clean = mixture.sample(200_000, generator)
    x = torch.tensor([[0.3, 0.2], [-0.4, 0.8], [0.9, -0.5]], **DOUBLE)
    logits = -(x[:, None] - schedule.alpha(t) * clean).square().sum(-1) / (2 * schedule.sigma(t).square())
    shares = logits.softmax(-1)
    spread_of = (shares @ clean.square() - (shares @ clean).square()).sqrt()
    error = (shares @ clean - mixture.denoise(x, t, schedule)) / (
        spread_of * shares.square().sum(-1, True).sqrt()
    )
    assert error.abs().max() < 4  # standard errors


@MIXTURE
def test_samples_have_the_moments_of_the_mixture(mixture):
    num = 200_000
    x = mixture.sample(num, torch.Generator().manual_seed(1))
    spread_of = mixture.covariance().diagonal().sqrt()
    assert ((x.mean(0) - mixture.mean()).abs() < 4 * spread_of / math.sqrt(num)).all()
    assert_close(x.T.cov(), mixture.covariance(), rtol=0.02, atol=0.01)


def test_labels_say_where_a_sample_comes_from():
    mixture = ring(4, 3.0, 0.05, weights=[1.0, 2.0, 3.0, 4.0])
    x, label = mixture.sample(4000, torch.Generator().manual_seed(0), labels=True)
    assert torch.equal(torch.cdist(x, mixture.means).argmin(1), label)
    assert_close(label.bincount() / 4000, torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.03)
    assert_close(mixture.responsibilities(x).argmax(1), label)


def test_a_sample_that_is_diffused_follows_the_diffused_mixture():
    generator = torch.Generator().manual_seed(2)
    mixture, schedule, t = leaves(), SCHEDULES["edm"], torch.tensor(0.5, **DOUBLE)
    clean = mixture.sample(100_000, generator)
    x = diffuse(clean, torch.randn(clean.shape, generator=generator, **DOUBLE), t, schedule)
    assert_close(x.T.cov(), mixture.diffused(t, schedule).covariance(), rtol=0.03, atol=0.01)


def test_rotated_covariances_are_those_of_space_seen_from_another_side():
    # rotate components, means and points: the score rotates along
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], **DOUBLE)
    flat = Mixture(
        torch.tensor([0.3, 0.7], **DOUBLE),
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]], **DOUBLE),
        torch.diag_embed(torch.tensor([[1.0, 0.1], [0.2, 0.5]], **DOUBLE)),
    )
    turned = Mixture(flat.weights, flat.means @ turn.T, turn @ flat.covariances @ turn.T)
    x, t, schedule = torch.randn(9, 2, **DOUBLE), torch.tensor(0.4, **DOUBLE), SCHEDULES["fm"]
    for function in ("score", "denoise"):
        expected = getattr(flat, function)(x, t, schedule) @ turn.T
        assert_close(getattr(turned, function)(x @ turn.T, t, schedule), expected)


def test_one_time_a_point_and_batches_of_any_shape():
    mixture, schedule = leaves(), SCHEDULES["trig"]
    x, t = torch.randn(3, 4, 2, **DOUBLE), torch.rand(3, 4, **DOUBLE) + 0.1
    together = mixture.score(x, t, schedule)
    for i in range(3):
        for j in range(4):
            assert_close(together[i, j], mixture.score(x[i, j], t[i, j], schedule))


def test_single_precision_is_close_to_double():
    mixture, schedule, t = ring(), SCHEDULES["fm"], torch.tensor(0.5, **DOUBLE)
    x = torch.randn(50, 2, **DOUBLE)
    single = mixture.to(torch.float32).score(x.float(), t.float(), schedule)
    assert_close(single.double(), mixture.score(x, t, schedule), rtol=1e-4, atol=1e-4)
