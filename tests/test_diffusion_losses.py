"""The losses of diffusion models: what their weights, their preconditioning and their steps must satisfy."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from reprobook.diffusion.losses import (
    WEIGHTINGS,
    Weighting,
    denoising_loss,
    edm_times,
    edm_weighting,
    error_factor,
    precondition,
    step_divergence,
    step_posterior,
    weight_of,
)
from reprobook.diffusion.mixtures import leaves
from reprobook.diffusion.predictions import KINDS, Model, coefficients, convert, diffuse
from reprobook.diffusion.schedules import SCHEDULES

ALL = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def times(schedule, num=7):
    """Times from little to much noise, away from both ends."""
    return schedule.time_of(torch.linspace(2.0, -2.0, num, dtype=torch.float64))


def draw(num, dim=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(num, dim, generator=g, dtype=torch.float64) for _ in range(2)]


# --------------------------------------------------------------------------- Eq. (6.3.6)


@ALL
def test_errors_of_the_four_predictions_have_the_printed_ratios(schedule):
    t = times(schedule)
    a, s = schedule.alpha(t), schedule.sigma(t)
    da, ds = schedule.d_alpha(t), schedule.d_sigma(t)
    printed = {
        "score": torch.ones_like(t),
        "noise": s**-2,
        "clean": a**2 * s**-4,
        "velocity": (a / (s * (da * s - a * ds))) ** 2,
    }
    for kind in KINDS:
        assert_close(error_factor(schedule, t, kind, "score"), printed[kind], rtol=1e-12, atol=0)


@ALL
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_gives_one_loss_and_one_gradient_whatever_is_predicted(schedule, name):
    t, (clean, noise) = times(schedule), draw(7)
    weights = torch.randn(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses, gradients = [], []
    for kind in KINDS:
        theta = weights.clone().requires_grad_()

        def function(x, t, theta=theta, kind=kind):
            return convert(torch.tanh(x @ theta), "noise", kind, x, t, schedule)

        loss = denoising_loss(Model(function, kind, schedule), clean, t, noise, WEIGHTINGS[name])
        gradients.append(torch.autograd.grad(loss.sum(), theta)[0])
        losses.append(loss.detach())
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert_close(loss, losses[0], rtol=1e-9, atol=0)
        assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


@ALL
def test_the_variational_weight_is_that_of_maximum_likelihood(schedule):
    t = times(schedule)
    for kind in KINDS:
        one, other = (weight_of(WEIGHTINGS[n], kind, schedule, t) for n in ("variational", "likelihood"))
        assert_close(one, other, rtol=1e-11, atol=0)


@ALL
def test_the_variational_weight_is_the_slope_of_half_the_signal_to_noise_ratio(schedule):
    t = times(schedule).requires_grad_()
    ratio = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    (slope,) = torch.autograd.grad(ratio.sum(), t)
    assert_close(WEIGHTINGS["variational"].function(schedule, t).detach(), -slope / 2, rtol=1e-10, atol=0)


def test_denoising_with_weight_sigma_squared_is_the_simple_loss():
    schedule = SCHEDULES["vp_linear"]
    t = times(schedule)
    assert_close(weight_of(WEIGHTINGS["denoising"], "noise", schedule, t), torch.ones_like(t))


# --------------------------------------------------------------------------- the loss itself


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_squared_distance_from_the_target_by_hand(kind):
    schedule, (clean, noise) = SCHEDULES["fm"], draw(5)
    t = torch.linspace(0.2, 0.8, 5, dtype=torch.float64)
    model = Model(lambda x, t: x.sin() * t[:, None], kind, schedule)
    found = denoising_loss(model, clean, t, noise, Weighting(kind, lambda schedule, t: 3 * t))
    target = {
        "clean": clean,
        "noise": noise,
        "score": -noise / t[:, None],
        "velocity": noise - clean,
    }[kind]
    x = (1 - t[:, None]) * clean + t[:, None] * noise
    assert_close(found, 3 * t * ((x.sin() * t[:, None] - target) ** 2).sum(1), rtol=1e-12, atol=1e-12)


def test_images_stacks_and_one_time_for_all_give_one_loss_a_sample():
    schedule = SCHEDULES["trig"]
    model = Model(lambda x, t: 0 * x, "noise", schedule)
    noise = torch.ones(3, 4, 2, 5, dtype=torch.float64)
    images = denoising_loss(model, 0 * noise, torch.full((3,), 0.4, dtype=torch.float64), noise)
    stack = denoising_loss(model, 0 * noise, torch.full((3, 4), 0.4, dtype=torch.float64), noise)
    single = denoising_loss(model, 0 * noise, torch.tensor(0.4, dtype=torch.float64), noise)
    assert_close(images, torch.full((3,), 40.0, dtype=torch.float64))
    assert_close(stack, torch.full((3, 4), 10.0, dtype=torch.float64))
    assert_close(single, images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_conditional_mean_is_the_best_prediction(kind):
    """Nudging the perfect model in any direction makes the average loss larger."""
    schedule, mixture = SCHEDULES["trig"], leaves()
    g = torch.Generator().manual_seed(0)
    clean = mixture.sample(40_000, g)
    noise = torch.randn(clean.shape, generator=g, dtype=torch.float64)
    t = torch.tensor(0.7, dtype=torch.float64)
    best = mixture.model(schedule, kind)

    def average(nudge):
        model = Model(lambda x, t: best.function(x, t) + nudge(x), kind, schedule)
        return denoising_loss(model, clean, t, noise).mean()

    least = average(torch.zeros_like)
    for nudge in (torch.ones_like, torch.sin, lambda x: -0.3 * x):
        assert least < average(nudge)


# --------------------------------------------------------------------------- EDM


@ALL
def test_preconditioned_inputs_and_targets_have_unit_variance(schedule):
    d, t = 0.7, times(schedule, 5)
    g = torch.Generator().manual_seed(0)
    clean = d * torch.randn(200_000, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=g, dtype=torch.float64)
    for time in t:
        seen = []
        precondition(lambda x, _, seen=seen: seen.append(x) or 0 * x, schedule, d)(
            diffuse(clean, noise, time, schedule), time
        )
        assert_close(seen[0].var(), torch.tensor(1.0, dtype=torch.float64), rtol=0.02, atol=0)
        # the target is what F has to output for a perfect answer: solve D = x_0 for F
        x = diffuse(clean, noise, time, schedule)
        zero = precondition(lambda x, _: 0 * x, schedule, d)(x, time)
        one = precondition(lambda x, _: 0 * x + 1, schedule, d)(x, time)
        target = (clean - zero) / (one - zero)
        assert_close(target.var(), torch.tensor(1.0, dtype=torch.float64), rtol=0.02, atol=0)


@ALL
def test_edm_weight_makes_an_untrained_network_lose_one_a_coordinate(schedule):
    d = 0.5
    g = torch.Generator().manual_seed(1)
    clean = d * torch.randn(100_000, 2, generator=g, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=g, dtype=torch.float64)
    model = precondition(lambda x, _: 0 * x, schedule, d)
    for time in times(schedule, 3):
        loss = denoising_loss(model, clean, time, noise, edm_weighting(d))
        assert_close(loss.mean(), torch.tensor(2.0, dtype=torch.float64), rtol=0.03, atol=0)


def test_with_a_silent_network_the_preconditioned_model_is_right_for_gaussian_data():
    """E[x_0 | x] = d² x / (s² + d²) is the skip connection."""
    schedule, d = SCHEDULES["edm"], 0.5
    x, t = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    found = precondition(lambda x, _: 0 * x, schedule, d)(x, t)
    assert_close(found, x * 0.25 / (2.25 + 0.25), rtol=1e-12, atol=0)


def test_the_network_is_told_a_quarter_of_the_logarithm_of_the_noise():
    told = []
    model = precondition(lambda x, c: told.append(c) or x, SCHEDULES["edm"], 1.0)
    model(torch.zeros(1, 1), torch.tensor(2.0))
    assert_close(told[0], torch.tensor(2.0).log() / 4)


def test_edm_draws_log_normal_noise_levels():
    t = edm_times(100_000, SCHEDULES["edm"], torch.Generator().manual_seed(0), mean=-1.0, std=0.8)
    assert_close(t.log().mean().item(), -1.0, rtol=0, atol=0.01)
    assert_close(t.log().std().item(), 0.8, rtol=0, atol=0.01)
    assert edm_times(1000, SCHEDULES["fm"], torch.Generator().manual_seed(0), std=9.0).max() <= 0.999 + 1e-9


# --------------------------------------------------------------------------- one step of the chain


@ALL
def test_the_posterior_of_a_step_is_bayes_rule(schedule):
    """Condition the joint Gaussian of (x_t, x_s) given x_0 on x_s, by the textbook formula."""
    t, s = schedule.time_of(torch.tensor([1.0, -0.5], dtype=torch.float64))
    clean, x = draw(4)
    mean, variance = step_posterior(x, clean, t, s, schedule)
    a_t, a_s, v_t = schedule.alpha(t), schedule.alpha(s), schedule.sigma(t) ** 2
    cross, v_s = (a_s / a_t) * v_t, schedule.sigma(s) ** 2
    assert_close(mean, a_t * clean + cross / v_s * (x - a_s * clean), rtol=1e-10, atol=1e-10)
    assert_close(variance, v_t - cross**2 / v_s, rtol=1e-9, atol=0)


@ALL
def test_the_divergence_of_a_step_is_the_drop_of_the_ratio_times_the_squared_error(schedule):
    t, s = schedule.time_of(torch.tensor([1.0, -0.5], dtype=torch.float64))
    clean, guess = draw(4)
    x = guess.cos()
    (m, v), (n, _) = (step_posterior(x, c, t, s, schedule) for c in (clean, guess))
    eye = v * torch.eye(2, dtype=torch.float64)
    expected = kl_divergence(MultivariateNormal(m, eye), MultivariateNormal(n, eye))
    assert_close(step_divergence(clean, guess, t, s, schedule), expected, rtol=1e-9, atol=0)


def test_many_small_steps_add_up_to_the_variational_weight():
    schedule = SCHEDULES["vp_cosine"]
    clean, guess = draw(1)
    errors = []
    for num in (50, 100, 200):
        grid = torch.linspace(0.1, 0.9, num + 1, dtype=torch.float64)
        chain = step_divergence(
            clean.expand(num, -1), guess.expand(num, -1), grid[:-1], grid[1:], schedule
        ).sum()
        middle = (grid[:-1] + grid[1:]) / 2
        weights = WEIGHTINGS["variational"].function(schedule, middle) * grid.diff()
        errors.append((chain - (weights * (clean - guess).square().sum()).sum()).abs().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_coefficients_of_a_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="unknown prediction 'x0'"):
        coefficients(SCHEDULES["fm"], torch.tensor(0.5), "x0")
