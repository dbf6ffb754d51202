"""Schedules, predictions and grids of times: derivatives, inverses, and conversions."""

import math

import pytest
import torch
from torch.testing import assert_close

from reprobook.diffusion.grids import SPACINGS, time_grid
from reprobook.diffusion.predictions import KINDS, Model, coefficients, convert, diffuse
from reprobook.diffusion.schedules import SCHEDULES, spread, to_flow_matching

DOUBLE = {"dtype": torch.float64}
SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def times_of(schedule, num=9):
    """Times inside the range of a schedule, away from its ends."""
    return torch.linspace(schedule.first, schedule.last, num + 2, **DOUBLE)[1:-1]


def slope(function, t):
    """The derivative of an elementwise function by automatic differentiation."""
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


@SCHEDULE
def test_derivatives_are_those_of_autograd(schedule):
    t = times_of(schedule)
    assert_close(schedule.d_alpha(t), slope(schedule.alpha, t), rtol=1e-12, atol=1e-13)
    assert_close(schedule.d_sigma(t), slope(schedule.sigma, t), rtol=1e-12, atol=1e-13)
    assert_close(schedule.d_lam(t), slope(schedule.lam, t), rtol=1e-10, atol=1e-11)


@SCHEDULE
def test_time_of_undoes_lam_which_falls(schedule):
    t = times_of(schedule)
    assert_close(schedule.time_of(schedule.lam(t)), t, rtol=1e-10, atol=1e-12)
    assert (schedule.lam(t).diff() < 0).all()


@SCHEDULE
def test_drift_and_diffusion_keep_the_moments_of_the_kernel(schedule):
    # a linear equation dx = f x dt + g dw has mean' = f mean and variance' = 2 f variance + g²
    t = times_of(schedule)
    f, g2, variance = schedule.drift(t), schedule.diffusion_squared(t), schedule.sigma(t).square()
    assert_close(slope(schedule.alpha, t), f * schedule.alpha(t))
    assert_close(
        slope(lambda s: schedule.sigma(s).square(), t), 2 * f * variance + g2, rtol=1e-10, atol=1e-12
    )
    assert_close(g2, -2 * variance * schedule.d_lam(t), rtol=1e-10, atol=1e-12)
    assert (g2 > 0).all()


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "trig"])
def test_variance_preserving_schedules_preserve_variance(name):
    schedule = SCHEDULES[name]
    t = times_of(schedule)
    assert_close(schedule.alpha(t).square() + schedule.sigma(t).square(), torch.ones_like(t))


def test_the_linear_schedule_is_the_integral_of_its_rate():
    t, schedule = times_of(SCHEDULES["vp_linear"]), SCHEDULES["vp_linear"]
    integral = 0.1 * t + 19.9 * t.square() / 2
    assert_close(schedule.alpha(t), torch.exp(-integral / 2))
    assert_close(schedule.drift(t), -(0.1 + 19.9 * t) / 2)
    assert_close(schedule.diffusion_squared(t), 0.1 + 19.9 * t, rtol=1e-10, atol=0)


def test_the_cosine_schedule_is_the_published_one():
    t, schedule = times_of(SCHEDULES["vp_cosine"]), SCHEDULES["vp_cosine"]
    wave = torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert_close(schedule.alpha(t), wave)


@SCHEDULE
def test_single_precision_keeps_small_noise(schedule):
    t = torch.tensor([schedule.first], **DOUBLE)
    assert_close(schedule.sigma(t.float()).double(), schedule.sigma(t), rtol=1e-5, atol=0)


@SCHEDULE
def test_every_path_is_that_of_flow_matching_in_disguise(schedule):
    torch.manual_seed(0)
    t, clean, noise = times_of(schedule), torch.randn(9, 3, **DOUBLE), torch.randn(9, 3, **DOUBLE)
    scale, clock = to_flow_matching(schedule, t)
    straight = diffuse(clean, noise, clock, SCHEDULES["fm"])
    assert_close(diffuse(clean, noise, t, schedule), spread(scale, straight) * straight)


@SCHEDULE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", KINDS)
def test_targets_are_converted_exactly(schedule, kind, to):
    # for one known pair of clean sample and noise, each target is known
    torch.manual_seed(0)
    t = times_of(schedule)
    clean, noise = torch.randn(9, 2, 3, **DOUBLE), torch.randn(9, 2, 3, **DOUBLE)
    x = diffuse(clean, noise, t, schedule)
    sigma = spread(schedule.sigma(t), x)
    targets = {
        "clean": clean,
        "noise": noise,
        "score": -noise / sigma,
        "velocity": spread(schedule.d_alpha(t), x) * clean + spread(schedule.d_sigma(t), x) * noise,
    }
    found = convert(targets[kind], kind, to, x, t, schedule)
    assert_close(found, targets[to], rtol=1e-7, atol=1e-8 * targets[to].abs().max().item())


def test_velocity_is_the_drift_minus_half_the_diffusion_times_the_score():
    torch.manual_seed(0)
    schedule, t = SCHEDULES["vp_linear"], torch.tensor(0.3, **DOUBLE)
    x, score = torch.randn(5, 2, **DOUBLE), torch.randn(5, 2, **DOUBLE)
    expected = schedule.drift(t) * x - schedule.diffusion_squared(t) / 2 * score
    assert_close(convert(score, "score", "velocity", x, t, schedule), expected)


def test_a_model_is_asked_once_for_any_kind():
    calls = []
    model = Model(lambda x, t: calls.append(t) or -x, "score", SCHEDULES["edm"])
    x, t = torch.ones(2, 1, **DOUBLE), torch.tensor([1.0, 2.0], **DOUBLE)
    assert_close(model(x, t, "clean"), x * torch.tensor([[0.0], [-3.0]], **DOUBLE))  # x + σ² s
    assert len(calls) == 1


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="unknown prediction 'nois': choose one of clean, noise"):
        coefficients(SCHEDULES["fm"], torch.tensor(0.5), "nois")


@SCHEDULE
@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_fall_from_last_to_first(schedule, spacing):
    grid = time_grid(schedule, 6, spacing)
    assert len(grid) == 7 and (grid.diff() < 0).all()
    assert grid[0] == schedule.last and grid[-1] == schedule.first


@SCHEDULE
def test_grids_are_uniform_in_what_they_say(schedule):
    def gaps(values):
        return values.diff() / values.diff()[0] - 1

    odds = (-schedule.lam(time_grid(schedule, 6, "karras"))).exp()
    for values in (
        time_grid(schedule, 6, "t"),
        schedule.lam(time_grid(schedule, 6, "lambda")),
        odds ** (1 / 7),
    ):
        assert gaps(values).abs().max() < 1e-6


def test_the_karras_grid_is_the_published_formula():
    share = torch.arange(19, **DOUBLE) / 18
    published = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert_close(time_grid(SCHEDULES["edm"], 18, "karras"), published, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"steps": 5, "first": 0.5, "last": 0.2}, "first < last"),
        ({"steps": 5, "spacing": "cosine"}, "unknown spacing 'cosine': choose one of t, lambda, karras"),
    ],
)
def test_bad_grids_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_grid(SCHEDULES["fm"], **arguments)


@SCHEDULE
def test_samplers_start_in_noise_and_stop_at_data(schedule):
    signal, rest = schedule.lam(torch.tensor([schedule.first, schedule.last], **DOUBLE)).exp().tolist()
    assert signal > 50  # the noise that is left is at most a fiftieth of the sample
    assert rest < 1 / 49  # and so is the sample that is left in the noise
