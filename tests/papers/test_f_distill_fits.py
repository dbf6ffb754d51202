"""Best Gaussians, lost modes and weights: against closed forms, other integrals and automatic derivatives."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.integrate import quad
from scipy.stats import norm

from reprobook.diffusion.mixtures import Mixture, ring
from reprobook.papers.f_distill.divergences import DIVERGENCES, from_generator
from reprobook.papers.f_distill.fit_figures import draw_best, draw_last_gaps, draw_map, draw_return
from reprobook.papers.f_distill.fits import (
    NO_NOISE,
    Fit,
    Levels,
    best_gaussian,
    curvature_across,
    divergence_integrand,
    gap_and_ratio,
    jeffreys_far_fit,
    last_covering_gap,
    levels_of_algorithm,
    loss,
    loss_gradient,
    mass_on_left,
    mean_gradient,
    normalised_variance,
    price_of_one_mode,
    weighted_density,
)
from reprobook.papers.f_distill.mode_flow import (
    sample_flow,
    sample_velocity,
    skewed_start,
    time_to_restore,
)
from reprobook.papers.f_distill.ratios import effective_share

matplotlib.use("agg")
NAMES = list(DIVERGENCES)
each = pytest.mark.parametrize("name", NAMES)
NOISY = Levels(torch.tensor([0.3, 1.5], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(x: torch.Tensor, y: torch.Tensor, error: float = 1e-9) -> None:
    torch.testing.assert_close(x, y, rtol=error, atol=error)


# --------------------------------------------------------------------------- integrals


@each
def test_the_loss_is_the_integral_of_q_f_by_another_quadrature(name):
    gap, mean, std, share, sigma = 1.7, 0.4, 1.3, 0.3, 0.6
    tau, width = math.hypot(1, sigma), math.hypot(std, sigma)

    def integrand(x: float) -> float:
        p = share * norm.pdf(x, gap, tau) + (1 - share) * norm.pdf(x, -gap, tau)
        q = norm.pdf(x, mean, width)
        return q * DIVERGENCES[name].f(numbers(p / q)).item()

    expected = quad(integrand, -9, 9, limit=200)[0]
    level = Levels(numbers(sigma), numbers(2.0))
    found = loss(DIVERGENCES[name], numbers(gap), numbers(mean), numbers(std).log(), share, level)
    close(found, numbers(2 * expected), 1e-7)


@each
@pytest.mark.parametrize("levels", [NO_NOISE, NOISY], ids=["no noise", "two levels"])
def test_the_theorem_is_the_derivative_of_the_loss(name, levels):
    gap, mean, log_std = numbers(0.5, 2.0, 5.0), numbers(0.3, -1.0, 4.0), numbers(0.2, -0.5, 0.9)
    mean.requires_grad_(), log_std.requires_grad_()
    value = loss(DIVERGENCES[name], gap, mean, log_std, 0.3, levels, 1201).sum()
    automatic = torch.stack(torch.autograd.grad(value, (mean, log_std)), 1)
    theorem = loss_gradient(DIVERGENCES[name], gap, mean.detach(), log_std.detach(), 0.3, levels, 1201)
    close(theorem, automatic, 1e-8)


@each
def test_far_tails_are_continued_without_a_jump_and_without_overflow(name):
    log_q = numbers(-1.0).expand(4)
    ell = numbers(-100.001, -99.999, 99.999, 100.001)
    near = divergence_integrand(DIVERGENCES[name], log_q + ell, log_q)
    close(near[0], near[1], 1e-4)
    above = near[2:] / (log_q + ell)[2:].exp()
    close(above[0], above[1], 1e-4)
    wild = (numbers(-9000.0, -1.0), numbers(-1.0, -9000.0))
    for function in (divergence_integrand, weighted_density):
        assert torch.isfinite(function(DIVERGENCES[name], *wild)).all()
    assert weighted_density(DIVERGENCES["reverse_kl"], *wild)[0] == math.exp(-1)


def test_reverse_kl_of_far_points_grows_with_the_logarithm_of_the_ratio():
    found = divergence_integrand(DIVERGENCES["reverse_kl"], numbers(-5000.0), numbers(-2.0))
    close(found, numbers(4998 * math.exp(-2)))


# --------------------------------------------------------------------------- best Gaussians


def test_forward_kl_matches_mean_and_variance_whatever_the_weights():
    gap, share = numbers(0.7, 3.0, 9.0), 0.8
    fit = best_gaussian(DIVERGENCES["forward_kl"], gap, share)
    close(fit.mean, (2 * share - 1) * gap, 1e-7)
    close(fit.std.square(), 1 + 4 * share * (1 - share) * gap.square(), 1e-7)


@each
def test_a_single_mode_is_fitted_exactly(name):
    fit = best_gaussian(DIVERGENCES[name], numbers(0.0), levels=NOISY)
    close(torch.cat([fit.mean, fit.std, fit.value]), numbers(0.0, 1.0, 0.0), 1e-6)


@each
def test_no_other_student_on_a_fine_table_is_better(name):
    gap = 3.2
    mean, log_std = torch.meshgrid(torch.linspace(-4, 4, 41), torch.linspace(-0.6, 1.8, 37), indexing="ij")
    flat = [part.reshape(-1).double() for part in (mean, log_std)]
    table = loss(DIVERGENCES[name], torch.full_like(flat[0], gap), *flat)
    fit = best_gaussian(DIVERGENCES[name], numbers(gap))
    assert fit.value.item() <= table.min().item() + 1e-9
    assert table.min().item() <= fit.value.item() + 0.02
    assert loss_gradient(DIVERGENCES[name], numbers(gap), fit.mean, fit.std.log()).abs().max() < 1e-7


@each
def test_a_held_mean_stays_and_its_width_is_the_best_one(name):
    held, gap = numbers(-4.0, -1.0, 0.0, 2.0), numbers(3.0).expand(4)
    fit = best_gaussian(DIVERGENCES[name], gap, 0.4, held=held)
    close(fit.mean, held)
    assert loss_gradient(DIVERGENCES[name], gap, held, fit.std.log(), 0.4)[:, 1].abs().max() < 1e-7


@each
def test_the_middle_resists_as_the_formula_says(name):
    gap, eps = numbers(1.0, 4.0, 8.0), 1e-4
    for levels in (NO_NOISE, NOISY):
        fit = best_gaussian(DIVERGENCES[name], gap, levels=levels, held=torch.zeros_like(gap))
        ends = [
            loss_gradient(DIVERGENCES[name], gap, fit.mean + d, fit.std.log(), levels=levels)[:, 0]
            for d in (-eps, eps)
        ]
        close(
            (ends[1] - ends[0]) / (2 * eps),
            curvature_across(DIVERGENCES[name], gap, fit, levels=levels),
            1e-6,
        )


def test_the_middle_of_reverse_kl_has_curvature_one_over_its_variance():
    gap = numbers(1.0, 3.0, 7.0)
    fit = best_gaussian(DIVERGENCES["reverse_kl"], gap, held=torch.zeros_like(gap))
    close(curvature_across(DIVERGENCES["reverse_kl"], gap, fit), fit.std**-2)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_prices_of_one_mode_are_those_by_hand_and_those_of_far_fits(share):
    by_hand = {
        "reverse_kl": -math.log(share),
        "softened_reverse_kl": (1 + share) * math.log((1 + 1 / share) / 2) - (1 - share) * math.log(2),
        "jensen_shannon": share * math.log(share)
        - (1 + share) * math.log((1 + share) / 2)
        + (1 - share) * math.log(2),
        "squared_hellinger": 1 - math.sqrt(share),
    }
    for name, price in by_hand.items():
        assert price_of_one_mode(DIVERGENCES[name], share) == pytest.approx(price, abs=1e-6)
        far = best_gaussian(DIVERGENCES[name], numbers(9.0), share)
        assert far.value.item() == pytest.approx(price, abs=1e-6)
        close(torch.cat([far.mean, far.std]), numbers(9.0, 1.0), 1e-5)
    assert price_of_one_mode(DIVERGENCES["forward_kl"], share) == math.inf
    assert price_of_one_mode(DIVERGENCES["jeffreys"], share) == math.inf


def test_one_mode_is_never_dearer_than_missing_everything():
    for name in ("jensen_shannon", "squared_hellinger"):
        missing = DIVERGENCES[name].f(numbers(1e-18)) + DIVERGENCES[name].slope(numbers(1e15))
        assert price_of_one_mode(DIVERGENCES[name], 0.3) < missing.item()


def test_jeffreys_leans_far_out_as_its_formula_says():
    gap = numbers(25.0, 35.0)
    fit = best_gaussian(DIVERGENCES["jeffreys"], gap)
    mean, std = jeffreys_far_fit(gap)
    close(fit.mean / mean, torch.ones_like(gap), 1e-3)
    close(fit.std / std, torch.ones_like(gap), 1e-3)
    assert mass_on_left(fit).max() < 1e-4
    huge = numbers(1e6)
    close(jeffreys_far_fit(huge)[1].square() / huge, numbers(math.sqrt(2)), 1e-2)


def test_mass_on_the_left_is_a_half_in_the_middle_and_small_on_the_right():
    fit = Fit(numbers(0.0, 2.0), numbers(3.0, 1.0), numbers(0.0, 0.0))
    close(mass_on_left(fit), torch.tensor([0.5, norm.cdf(-2)]).double(), 1e-7)


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon"])
def test_at_the_last_covering_gap_one_mode_costs_what_both_cost(name):
    """The condition that defines it, for the two local minima found by themselves."""
    gap = numbers(last_covering_gap(DIVERGENCES[name], first=1.5, last=6.0))
    middle = best_gaussian(DIVERGENCES[name], gap, held=torch.zeros_like(gap))
    sides = torch.linspace(0.6, 1.1, 101, dtype=torch.float64) * gap
    aside = best_gaussian(DIVERGENCES[name], gap.expand(101), held=sides)
    close(aside.value.min(), middle.value[0], 2e-3)


def test_forward_kl_has_no_last_covering_gap_and_noise_changes_units():
    assert last_covering_gap(DIVERGENCES["forward_kl"]) == math.inf
    one = Levels(numbers(2.0), numbers(1.0))
    plain = last_covering_gap(DIVERGENCES["reverse_kl"], first=2.0, last=4.0)
    noisy = last_covering_gap(DIVERGENCES["reverse_kl"], one, first=4.0, last=9.0)
    assert noisy / plain == pytest.approx(math.sqrt(5), rel=2e-3)


def test_levels_carry_the_weight_of_a_step_of_the_algorithm():
    levels = levels_of_algorithm(0.1, 10.0, 3)
    close(levels.sigma, numbers(0.1, 1.0, 10.0))
    scale = levels.sigma / (1 + levels.sigma.square()).sqrt()
    close(levels.weight, levels.sigma.square() / scale)


# --------------------------------------------------------------------------- saturation and variance


def test_mean_gradients_of_distant_gaussians_are_the_closed_forms():
    d = numbers(0.5, 3.0, 9.0)
    close(mean_gradient(DIVERGENCES["reverse_kl"], d), d)
    close(mean_gradient(DIVERGENCES["forward_kl"], d), d)
    close(mean_gradient(DIVERGENCES["jeffreys"], d), 2 * d)
    close(mean_gradient(DIVERGENCES["squared_hellinger"], d), d / 4 * torch.exp(-d.square() / 8))
    both = mean_gradient(DIVERGENCES["jensen_shannon"], d) + mean_gradient(
        DIVERGENCES["softened_reverse_kl"], d
    )
    close(both, d)  # r/(r+1) + 1/(r+1) = 1


def test_jensen_shannon_saturates_like_its_asymptote_up_to_one_over_the_distance_squared():
    d = numbers(8.0, 16.0)
    ratio = (
        mean_gradient(DIVERGENCES["jensen_shannon"], d) * torch.exp(d.square() / 8) / math.sqrt(math.pi / 2)
    )
    missing = (1 - ratio) * d.square()
    close(missing[0] / missing[1], numbers(1.0)[0], 0.12)
    assert missing[1] == pytest.approx(math.pi**2 / 2, rel=0.1)


@each
def test_the_normalised_variance_is_that_of_samples(name):
    generator = torch.Generator().manual_seed(0)
    teacher, student = ring(4, 3.0, 0.1), ring(4, 3.0, 0.1, [4.0, 3.0, 2.0, 1.0])
    _, ratio = gap_and_ratio(teacher, student, student.sample(40000, generator))
    share = effective_share(DIVERGENCES[name].weight(ratio))
    variance = normalised_variance(DIVERGENCES[name], teacher.weights, student.weights)
    assert share.item() == pytest.approx(1 / (1 + variance.item()), rel=0.02)


def test_variances_of_kl_and_hellinger_are_their_closed_forms_and_jeffreys_has_a_quarter():
    p, q = numbers(0.1, 0.6, 0.3), numbers(0.5, 0.2, 0.3)
    found = {name: normalised_variance(d, p, q) for name, d in DIVERGENCES.items()}
    close(found["forward_kl"], (p.square() / q).sum() - 1)
    close(found["squared_hellinger"], (p * q).sqrt().sum() ** -2 - 1)
    close(found["jeffreys"], found["forward_kl"] / 4)
    close(found["reverse_kl"], torch.zeros_like(p[0]))


def test_score_gap_and_ratio_of_two_gaussians_move_apart_for_a_wide_student_and_together_for_a_narrow_one():
    x = torch.linspace(0.1, 3, 20, dtype=torch.float64)[:, None]
    teacher = Mixture.isotropic(torch.zeros(1, 1).double(), 1.0)
    for std, sign in ((2.0, -1), (0.5, 1)):
        student = Mixture.isotropic(torch.zeros(1, 1).double(), std)
        gap, ratio = gap_and_ratio(teacher, student, x)
        close(gap, x[:, 0] * abs(1 - std**-2))
        close(ratio, std * torch.exp(-x[:, 0].square() / 2 * (1 - std**-2)))
        assert (sign * ratio.diff() > 0).all()


# --------------------------------------------------------------------------- free samples


def energy(name: str, gap: float, samples: torch.Tensor, levels: Levels) -> torch.Tensor:
    """The mean over levels of ω D_f, by a plain sum over a fine grid, for automatic differentiation."""
    total = torch.zeros((), dtype=torch.float64)
    for sigma, weight in zip(*levels, strict=True):
        width = (1 + sigma**2).sqrt()
        x = torch.linspace(-1, 1, 4001, dtype=torch.float64) * (gap + 8 * width)
        p = torch.distributions.Normal(numbers(-gap, gap), width).log_prob(x[:, None]).exp().mean(1)
        q = torch.distributions.Normal(samples, sigma).log_prob(x[:, None]).exp().mean(1)
        total = total + weight * (q * DIVERGENCES[name].f(p / q)).sum() * (x[1] - x[0])
    return total / len(levels.sigma)


@each
def test_free_samples_move_against_the_gradient_of_the_divergence(name):
    samples = skewed_start(numbers(2.0), [0.25], 8)
    levels = levels_of_algorithm(0.7, 2.0, 2)
    free = samples[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(name, 2.0, free, levels), free)
    moved = sample_velocity(DIVERGENCES[name], numbers(2.0), samples, levels, mean_one=False, points=601)
    close(moved[0], -8 * gradient, 1e-5)


def test_with_mean_one_a_weight_counts_by_its_shape_and_not_by_its_size():
    samples, levels = skewed_start(numbers(2.0, 3.0), [0.25, 0.5], 12), levels_of_algorithm(0.7, 4.0, 3)
    five_times = from_generator("five times", lambda r: 5 * r * r.log())
    plain, large = (
        sample_velocity(d, numbers(2.0, 3.0), samples, levels, mean_one=True)
        for d in (DIVERGENCES["forward_kl"], five_times)
    )
    close(plain, large)
    as_is = sample_velocity(DIVERGENCES["forward_kl"], numbers(2.0, 3.0), samples, levels, mean_one=False)
    close(plain, as_is, 1e-4)  # E[r] = 1 up to what the grid leaves out


def test_a_student_that_is_right_stays_and_a_mirrored_one_moves_mirrored():
    levels, gap = levels_of_algorithm(0.5, 4.0, 3), numbers(2.0)
    right = skewed_start(gap, [0.5], 400)
    wrong = skewed_start(gap, [0.2], 400)
    still = sample_velocity(DIVERGENCES["reverse_kl"], gap, right, levels, mean_one=True)
    moved = sample_velocity(DIVERGENCES["reverse_kl"], gap, wrong, levels, mean_one=True)
    assert still.abs().max() < 0.05 < 0.2 < moved.abs().max()
    mirrored = sample_velocity(DIVERGENCES["reverse_kl"], gap, -wrong, levels, mean_one=True)
    close(mirrored, -moved)


def test_a_skewed_start_has_the_shares_asked_for_and_the_flow_moves_mass_to_the_poor_mode():
    gap = numbers(2.5, 2.5)
    begin = skewed_start(gap, [0.1, 0.3], 20)
    close((begin < 0).double().mean(1), numbers(0.1, 0.3))
    levels = levels_of_algorithm(0.5, 8.0, 3)
    moments = list(sample_flow(DIVERGENCES["jeffreys"], gap, begin, levels, mean_one=False, duration=4.0))
    assert len(moments) == 40
    assert moments[-1].time == pytest.approx(4.0)
    assert (moments[-1].share > numbers(0.3, 0.35)).all()


def test_the_time_to_restore_is_the_first_within_a_tenth_or_the_last():
    shares = torch.tensor([[0.1, 0.1], [0.449, 0.2], [0.45, 0.3], [0.5, 0.4]], dtype=torch.float64)
    close(time_to_restore([1.0, 2.0, 3.0, 4.0], shares), numbers(3.0, 4.0))


# --------------------------------------------------------------------------- figures


def test_figures_show_the_best_students_and_mark_what_lies_beyond_the_search():
    _, axes = plt.subplots(1, 4)
    fits = {name: best_gaussian(DIVERGENCES[name], numbers(6.0)) for name in NAMES[:2]}
    drawn = draw_best(axes[0], 6.0, fits).lines
    assert [float(line.get_xdata()[np.argmax(line.get_ydata())]) for line in drawn] == pytest.approx(
        [6, 6], abs=0.05
    )
    ax = draw_last_gaps(
        axes[1], [0.0, 1.0], {"forward_kl": [math.inf] * 2, "jeffreys": [6.0, math.inf]}, 20.0
    )
    assert [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "^"] == [[0.0, 1.0], [1.0]]
    assert max(line.get_ydata().max() for line in ax.lines if len(line.get_ydata())) == 20
    assert draw_map(axes[2], ring(4), torch.rand(21, 21).double(), 3.0, (0.0, 1.0)).get_aspect() == 1
    assert len(draw_return(axes[3], [0.0, 1.0, 2.0], {"jeffreys": [0.1, 0.2, 0.4]}).lines) == 1
    plt.close("all")
