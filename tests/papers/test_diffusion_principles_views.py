"""The three views of a diffusion model: identities, closed forms, orders."""

import math

import pytest
import torch
from torch.testing import assert_close

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.likelihood import log_likelihood
from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.predictions import KINDS
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve
from reprobook.papers.diffusion_principles.densities import (
    asymmetry,
    exchange_gain,
    expectations,
    expectations_reached,
    frozen_target,
    gaussian_path,
    map_and_jacobian,
    optimal_map,
    prior_gap,
    residuals,
    reverse_drift,
    reverse_paths,
)
from reprobook.papers.diffusion_principles.views import (
    Encoder,
    LinearGaussian,
    chain_gap,
    entropy,
    implicit_score_matching,
    line,
    regression_losses,
    reverse_kernel_losses,
    small_network,
    unlike,
)

F64 = torch.float64
FM, TRIG, VP, EDM = (SCHEDULES[name] for name in ("fm", "trig", "vp_linear", "edm"))


def number(x):
    return torch.tensor(x, dtype=F64)


def two_bumps(shift=0.0):
    """An uneven mixture of two Gaussians on a line."""
    return Mixture.isotropic(
        torch.tensor([[-1.2], [0.9]], dtype=F64) + shift,
        torch.tensor([0.35, 0.55], dtype=F64),
        torch.tensor([0.35, 0.65], dtype=F64),
    )


def one_gaussian(std=0.8, mean=0.0):
    return Mixture.isotropic(torch.tensor([[mean]], dtype=F64), std)


def candidates(num=4, seed=0):
    return torch.randn(num, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --------------------------------------------------------------------------- the conditional trick


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [FM, TRIG, VP], ids=lambda s: s.name)
def test_marginal_and_conditional_regressions_differ_by_a_constant(kind, schedule):
    def losses(p):
        return regression_losses(
            lambda x: small_network(p, x), kind, two_bumps(), number(0.3), schedule, line()
        )

    spread, gradients = unlike(losses, candidates())
    assert spread < 1e-10 and gradients.max() < 1e-10


def test_implicit_and_explicit_score_matching_differ_by_a_constant():
    def losses(p):
        def net(x):
            return small_network(p, x)

        explicit = regression_losses(net, "score", two_bumps(), number(0.4), TRIG, line()).marginal
        return explicit, implicit_score_matching(net, two_bumps(), number(0.4), TRIG, line())

    spread, gradients = unlike(losses, candidates())
    assert spread < 1e-10 and gradients.max() < 1e-10


def test_marginal_and_conditional_divergences_of_a_step_differ_by_a_constant():
    def losses(p):
        return reverse_kernel_losses(
            lambda x: small_network(p, x), two_bumps(), number(0.3), number(0.45), VP, line()
        )

    spread, gradients = unlike(losses, candidates())
    assert spread < 1e-10 and gradients.max() < 1e-10


def test_unlike_sees_losses_that_are_not_equal_up_to_a_constant():
    spread, gradients = unlike(lambda p: (p.square().sum(), 1.01 * p.square().sum()), candidates())
    assert spread == pytest.approx(0.01, rel=1e-6)
    assert_close(gradients, torch.full((4,), 0.01, dtype=F64))


def test_conditional_regression_is_half_the_mean_square_error_of_a_known_case():
    """Gaussian data of spread d, guess 0 for the clean sample: the loss is d²/2."""
    loss = regression_losses(torch.zeros_like, "clean", one_gaussian(0.8), number(0.3), FM, line())
    assert loss.conditional.item() == pytest.approx(0.32, rel=1e-9)
    # the marginal target is the posterior mean, of variance (alpha d²)² / (alpha² d² + sigma²)
    assert loss.marginal.item() == pytest.approx(0.5 * (0.7 * 0.64) ** 2 / (0.49 * 0.64 + 0.09), rel=1e-9)


def test_the_marginal_divergence_of_a_gaussian_step_is_the_closed_form():
    """For Gaussian data the reverse kernel is Gaussian, so its divergence from q is known."""
    mixture, t, s, nodes = one_gaussian(), number(0.3), number(0.5), line()
    loss = reverse_kernel_losses(torch.zeros_like, mixture, t, s, VP, nodes).marginal
    v_t, v_s = (mixture.diffused(x, VP).covariances[0, 0, 0] for x in (t, s))
    ratio = VP.alpha(s) / VP.alpha(t)
    left = v_t - (ratio * v_t) ** 2 / v_s  # variance of x_t given x_s
    added = VP.sigma(s) ** 2 - ratio**2 * VP.sigma(t) ** 2
    given = added * VP.sigma(t) ** 2 / VP.sigma(s) ** 2
    mean_square = (ratio * v_t / v_s) ** 2 * v_s
    expected = ((left + mean_square) / given - 1 - (left / given).log()) / 2
    assert_close(loss, expected, rtol=1e-8, atol=0)


# --------------------------------------------------------------------------- variational bounds


def test_the_entropy_of_a_gaussian():
    expected = 0.5 * math.log(2 * math.pi * math.e * (0.6**2 * 0.64 + 0.4**2))
    assert entropy(one_gaussian(), number(0.4), FM, line()).item() == pytest.approx(expected, rel=1e-10)


def test_the_gap_of_a_gaussian_chain_is_the_sum_by_hand():
    """mmse = d²/(1 + d² SNR), and the mutual information lost is half a logarithm of 1 + d² SNR."""
    grid, d2 = time_grid(TRIG, 10, first=0.2, last=1.3), 0.64
    snr = (TRIG.alpha(grid) / TRIG.sigma(grid)) ** 2
    paid = (snr.diff() / 2 * d2 / (1 + d2 * snr[:-1])).sum()
    free = ((1 + d2 * snr[-1]) / (1 + d2 * snr[0])).log() / 2
    assert_close(chain_gap(one_gaussian(), grid, TRIG, line()), paid - free, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", [FM, TRIG, VP], ids=lambda s: s.name)
def test_the_gap_of_a_chain_is_positive_and_falls_like_one_over_its_length(schedule):
    ends = schedule.time_of(torch.tensor([2.0, -2.0], dtype=F64)).tolist()
    gaps = [
        chain_gap(
            two_bumps(), time_grid(schedule, n, "lambda", first=ends[0], last=ends[1]), schedule, line()
        )
        for n in (64, 128)
    ]
    assert gaps[1] > 0
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.1)


def autoencoder(seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    model = LinearGaussian(draw(4, 2), draw(4), number(0.7))
    root = draw(2, 2)
    encoder = Encoder(draw(2, 4) / 2, draw(2), root @ root.mT + 0.1 * torch.eye(2, dtype=F64))
    return model, encoder, draw(10, 4)


def test_the_bound_is_tight_at_the_posterior_and_misses_the_divergence_elsewhere():
    model, encoder, x = autoencoder()
    known = model.log_likelihood(x)
    assert_close(model.elbo(x, model.posterior()), known, rtol=0, atol=1e-10)
    assert_close(model.elbo(x, encoder) + model.missing(x, encoder), known, rtol=0, atol=1e-9)
    assert (model.elbo(x, encoder) < known).all()


def test_the_bound_is_what_sampling_the_encoder_gives():
    model, encoder, x = autoencoder()
    q = torch.distributions.MultivariateNormal(
        (x - model.offset) @ encoder.gain.mT + encoder.shift, encoder.covariance
    )
    torch.manual_seed(0)
    z = q.sample((100_000,))
    log_p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_p_x = torch.distributions.Normal(z @ model.weights.mT + model.offset, model.std).log_prob(x).sum(-1)
    sampled = log_p_x + log_p_z - q.log_prob(z)
    errors = (sampled.mean(0) - model.elbo(x, encoder)).abs() / sampled.std(0)
    assert errors.max() < 5 / math.sqrt(100_000)


# --------------------------------------------------------------------------- equations of densities


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_mixture_solves_continuity_and_fokker_planck(schedule):
    g = torch.Generator().manual_seed(0)
    t = schedule.time_of(4 * torch.rand(50, generator=g, dtype=F64) - 2)
    x = torch.stack([leaves().diffused(one, schedule).sample(1, g)[0] for one in t])
    for residual in residuals(leaves(), x, t, schedule):
        assert residual.max() < 1e-11


def test_a_wrong_density_leaves_a_residual():
    """Another mixture's density does not fit: shift the time by which the schedule is read."""
    from dataclasses import replace

    late = replace(FM, d_sigma=lambda t: 1.1 * torch.ones_like(t))
    x, t = leaves().sample(20, torch.Generator().manual_seed(0)), torch.full((20,), 0.4, dtype=F64)
    for residual in residuals(leaves(), x, t, late):
        assert residual.mean() > 1e-3


def test_with_the_usual_noise_the_reverse_drift_is_that_of_the_reverse_process():
    x, t = leaves().sample(9, torch.Generator().manual_seed(0)), number(0.5)
    model, score = leaves().model(TRIG), leaves().score(x, t, TRIG)
    expected = TRIG.drift(t) * x - TRIG.diffusion_squared(t) * score
    assert_close(reverse_drift(model, x, t, 1.0), expected, rtol=1e-10, atol=1e-10)
    assert_close(reverse_drift(model, x, t, 0.0), model(x, t, "velocity"), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 2.0])
def test_every_noise_reaches_the_same_law_with_weak_order_one(share):
    nodes, errors = line(6.0, 401), []
    exact = expectations(
        two_bumps().log_density(nodes[:, None], number(0.5), TRIG).exp(), nodes, nodes[1] - nodes[0]
    )
    for num in (16, 32):
        grid = time_grid(TRIG, num, first=0.5, last=1.3)
        errors.append(expectations_reached(two_bumps(), TRIG, grid, share, nodes) - exact)
    assert math.log2(errors[0].norm() / errors[1].norm()) == pytest.approx(1, abs=0.12)
    assert (2 * errors[1] - errors[0]).abs().max() < 8e-3


def test_simulated_paths_have_the_law_that_was_integrated():
    grid, nodes, share, num = time_grid(TRIG, 12, first=0.5, last=1.3), line(6.0, 401), 1.0, 200_000
    g = torch.Generator().manual_seed(0)
    start = two_bumps().diffused(grid[0], TRIG).sample(num, g)
    x = reverse_paths(two_bumps().model(TRIG), start, grid, share, g)[-1, :, 0]
    reached = expectations_reached(two_bumps(), TRIG, grid, share, nodes)
    ones = torch.full_like(x, 1 / num)
    assert_close(expectations(ones, x, number(1.0)), reached, rtol=0, atol=0.012)


def test_without_noise_reverse_paths_are_eulers_method():
    x, grid = leaves().sample(5, torch.Generator().manual_seed(0)), time_grid(TRIG, 7, first=0.4)
    path = reverse_paths(leaves().model(TRIG), x, grid, 0.0, torch.Generator().manual_seed(0))
    assert_close(path[-1], solve(leaves().model(TRIG), x, grid, "euler"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pull, step", [(0.5, 0.1), (1.0, 0.1)])
def test_a_frozen_target_gets_the_variance_of_the_linear_recursion(pull, step):
    x = frozen_target(pull, step, 200, 100_000, torch.Generator().manual_seed(0))
    assert x.var().item() == pytest.approx(step / (1 - (1 - pull * step) ** 2), rel=0.02)


@pytest.mark.parametrize("shift, power", [(0.0, 4), (1.0, 2)])
def test_the_price_of_the_prior_falls_with_the_derived_power(shift, power):
    mixture = two_bumps(shift - two_bumps().mean().item())
    gaps = [prior_gap(mixture, number(T), EDM, line(12.0, 2401)) for T in (16.0, 32.0)]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(power, abs=0.05)
    second = mixture.covariance()[0, 0]
    leading = shift**2 / 2 / 32**2 + (second / 32**2) ** 2 / 4
    assert gaps[1].item() == pytest.approx(leading.item(), rel=0.01)


def test_the_price_of_the_prior_is_what_the_likelihood_loses_on_average():
    mixture, nodes = two_bumps(), line(4.0, 161)
    grid = time_grid(EDM, 60, "lambda", first=0.3, last=3.0)
    x = nodes[:, None]
    weights = mixture.log_density(x, grid[-1], EDM).exp() * (nodes[1] - nodes[0])
    found = log_likelihood(mixture.model(EDM), x, grid)
    lost = weights @ (mixture.log_density(x, grid[-1], EDM) - found.log_density)
    assert_close(lost, prior_gap(mixture, number(3.0), EDM, line(12.0, 2401)), rtol=0, atol=1e-4)


# --------------------------------------------------------------------------- transport


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_flow_between_gaussians_follows_the_closed_form(ratio):
    """Noise has spread 1, data have spread ``ratio``; the book's time runs the other way."""
    mixture = Mixture.isotropic(torch.zeros(1, 1, dtype=F64), ratio)
    start = torch.tensor([[1.5], [-0.4]], dtype=F64)
    grid = time_grid(FM, 100, first=0.1, last=1 - 1e-6)
    found = solve(mixture.model(FM, "velocity"), start, grid, "rk4")
    assert_close(found, gaussian_path(start, number(0.9), ratio), rtol=0, atol=1e-5)


def test_gaussian_path_starts_and_ends_where_it_should():
    z, t = torch.tensor([2.0], dtype=F64), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    assert_close(gaussian_path(z, t, 0.5), torch.tensor([2.0, 2 * math.sqrt(0.3125), 1.0], dtype=F64))


def skewed():
    """One Gaussian, not round, not along the axes, not at the origin."""
    return Mixture(
        torch.ones(1, dtype=F64),
        torch.tensor([[0.5, -1.0]], dtype=F64),
        torch.tensor([[[1.0, 0.6], [0.6, 0.5]]], dtype=F64),
    )


def test_the_map_onto_one_gaussian_is_the_optimal_one():
    grid = time_grid(TRIG, 100, "lambda")
    start, end = (skewed().diffused(t, TRIG) for t in (grid[0], grid[-1]))
    x = start.sample(60, torch.Generator().manual_seed(0))
    y, jacobian = map_and_jacobian(skewed().model(TRIG), x, grid)
    best = optimal_map(start.covariance(), end.covariance())
    assert_close(jacobian, best.expand_as(jacobian), rtol=0, atol=1e-6)
    assert asymmetry(jacobian).max() < 1e-12
    assert exchange_gain(x, y) < 1e-12


def test_the_optimal_map_takes_one_covariance_to_the_other():
    start, end = skewed().covariances[0], torch.diag(torch.tensor([2.0, 0.3], dtype=F64))
    T = optimal_map(start, end)
    assert_close(T @ start @ T.mT, end, rtol=1e-12, atol=1e-12)
    assert_close(T, T.mT, rtol=0, atol=1e-12)


def test_the_map_onto_a_mixture_is_not_optimal():
    grid = time_grid(TRIG, 60, "lambda")
    x = leaves().diffused(grid[0], TRIG).sample(300, torch.Generator().manual_seed(0))
    y, jacobian = map_and_jacobian(leaves().model(TRIG), x, grid)
    assert asymmetry(jacobian).median() > 0.01
    assert exchange_gain(x, y) > 1e-4


def test_a_jacobian_is_the_limit_of_differences():
    grid, x = time_grid(TRIG, 10, first=0.5), torch.tensor([[0.3, -0.5]], dtype=F64)
    model = ring(3).model(TRIG)
    y, jacobian = map_and_jacobian(model, x, grid)
    for i in range(2):
        step = torch.zeros(1, 2, dtype=F64)
        step[0, i] = 1e-6
        column = (solve(model, x + step, grid, "rk4") - solve(model, x - step, grid, "rk4")) / 2e-6
        assert_close(jacobian[0, :, i], column[0], rtol=1e-6, atol=1e-7)
    assert_close(y, solve(model, x, grid, "rk4"), rtol=0, atol=1e-13)


def test_exchanging_endpoints_undoes_a_permutation():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert exchange_gain(x, x.roll(1, 0) + 1e-9) == pytest.approx(1, abs=1e-6)
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    assert asymmetry(quarter).item() == 1
