"""Log-likelihood along the probability-flow ODE, against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.likelihood import (
    PROBES,
    TABLEAUS,
    draw_probes,
    exact_divergence,
    gaussian_log_density,
    log_likelihood,
    probe_variance,
    probed_divergence,
)
from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import SCHEDULES

TRIG = SCHEDULES["trig"]


def swirl(x, t):
    """A field with a Jacobian that is neither symmetric nor constant; x of shape (B, 3)."""
    a, b, c = x.unbind(1)
    return torch.stack([a * b * t, torch.sin(c) + b**2, a - b * c], 1)


def points(num=6, seed=0):
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


T = torch.tensor(0.7, dtype=torch.float64)


# --------------------------------------------------------------------------- divergence


def test_the_exact_divergence_is_the_trace_of_the_jacobian_by_hand():
    x = points()
    value, divergence = exact_divergence(swirl, x, T)
    assert_close(value, swirl(x, T), rtol=0, atol=0)
    a, b, _ = x.unbind(1)
    assert_close(divergence, b * T + 2 * b - b, rtol=1e-12, atol=1e-12)
    assert not divergence.requires_grad and not value.requires_grad and a.shape == (6,)


def test_probes_along_the_axes_add_up_to_the_exact_divergence():
    x = points()
    parts = [
        probed_divergence(swirl, x, T, torch.eye(3, dtype=torch.float64)[i].expand(6, 3))[1] for i in range(3)
    ]
    assert_close(sum(parts), exact_divergence(swirl, x, T)[1], rtol=1e-12, atol=1e-12)


def test_images_are_differentiated_pixel_by_pixel():
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, divergence = exact_divergence(lambda x, t: x**3, x, T)
    assert_close(divergence, (3 * x**2).sum((1, 2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", PROBES)
def test_probes_have_mean_zero_and_unit_covariance(kind):
    probes = draw_probes(torch.zeros(40_000, 3, dtype=torch.float64), kind, torch.Generator().manual_seed(0))
    assert_close(probes.mT @ probes / len(probes), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.03)
    assert probes.mean(0).abs().max() < 0.02


def test_signs_are_signs_and_other_probes_are_refused():
    g = torch.Generator().manual_seed(0)
    assert set(draw_probes(torch.zeros(100), "signs", g).tolist()) == {-1.0, 1.0}
    with pytest.raises(ValueError, match="signs, normal"):
        draw_probes(torch.zeros(2), "cauchy", g)


@pytest.mark.parametrize("kind", PROBES)
def test_the_variance_of_a_probe_is_the_closed_form(kind):
    A = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 0.5, 0.7], [0.3, 0.1, -2.0]], dtype=torch.float64)
    num = 200_000
    probes = draw_probes(torch.zeros(num, 3, dtype=torch.float64), kind, torch.Generator().manual_seed(0))
    found = torch.einsum("bi,ij,bj->b", probes, A, probes)
    assert_close(found.mean(), A.trace(), rtol=0, atol=0.05)
    assert_close(found.var(), probe_variance(A, kind), rtol=0.02, atol=0)


def test_signs_estimate_a_diagonal_jacobian_without_error():
    diagonal = torch.diag(torch.tensor([1.0, -2.0, 3.0]))
    assert probe_variance(diagonal, "signs") == 0
    assert probe_variance(diagonal, "normal") == 28
    x = points()
    probes = draw_probes(x, "signs", torch.Generator().manual_seed(1))
    assert_close(probed_divergence(lambda x, t: x**2, x, T, probes)[1], (2 * x).sum(1))


# --------------------------------------------------------------------------- likelihood


def exact(mixture, schedule, grid):
    """The data at the grid's last time, their log-density, and the density at the other end."""
    x = mixture.diffused(grid[-1], schedule).sample(20, torch.Generator().manual_seed(3))
    known = mixture.log_density(x, grid[-1], schedule)
    return x, known, lambda z: mixture.log_density(z, grid[0], schedule)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_likelihood_is_that_of_the_mixture(schedule):
    kind = "clean" if schedule.name in ("fm", "vp_cosine") else "velocity"
    ends = schedule.time_of(torch.tensor([2.0, -2.0], dtype=torch.float64)).tolist()
    grid = time_grid(schedule, 60, "lambda", first=ends[0], last=ends[1])
    x, known, last = exact(leaves(), schedule, grid)
    found = log_likelihood(leaves().model(schedule, kind), x, grid, prior=last)
    assert_close(found.log_density, known, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_each_solver_has_its_order(solver, order):
    mixture, errors = ring(4, radius=1.0, std=0.4), []
    for num in (16, 32):
        grid = time_grid(TRIG, num, first=0.3, last=1.2)
        x, known, last = exact(mixture, TRIG, grid)
        found = log_likelihood(mixture.model(TRIG), x, grid, prior=last, solver=solver)
        errors.append((found.log_density - known).abs().mean().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_tableaus_are_consistent():
    for rows, weights in TABLEAUS.values():
        assert sum(weights) == pytest.approx(1)
        assert [len(row) for row in rows] == list(range(len(weights)))


def test_one_gaussian_is_stretched_by_the_ratio_of_its_spreads():
    """The map is x -> x std_T / std_0, so the divergences add up to D log(std_T / std_0)."""
    mixture = Mixture.isotropic(torch.zeros(1, 2, dtype=torch.float64), 0.5)
    grid = time_grid(TRIG, 60, first=0.2, last=1.4)
    x = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    found = log_likelihood(mixture.model(TRIG), x, grid)
    stds = [mixture.diffused(t, TRIG).covariances[0, 0, 0].sqrt() for t in (grid[-1], grid[0])]
    assert_close(found.end, x * stds[1] / stds[0], rtol=1e-7, atol=0)
    assert_close(found.change[0], 2 * (stds[1] / stds[0]).log(), rtol=1e-7, atol=0)


def test_the_default_prior_is_a_gaussian_of_the_last_noise():
    x = points()
    std = torch.tensor(2.5, dtype=torch.float64)
    assert_close(gaussian_log_density(x, std), Normal(0, std).log_prob(x).sum(1), rtol=1e-12, atol=0)
    grid = torch.tensor([40.0, 39.0], dtype=torch.float64)
    still = Model(lambda x, t: 0 * x, "velocity", SCHEDULES["edm"])
    found = log_likelihood(still, x, grid).log_density
    assert_close(found, gaussian_log_density(x, grid[0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", PROBES)
def test_probed_likelihoods_are_right_on_average_and_the_path_is_the_same(kind):
    mixture, grid = leaves(), time_grid(TRIG, 20, "lambda", first=0.2, last=1.4)
    x, _, last = exact(mixture, TRIG, grid)
    model = mixture.model(TRIG)
    sure = log_likelihood(model, x, grid, prior=last)
    many = x[:4].repeat(600, 1)
    probes = draw_probes(many, kind, torch.Generator().manual_seed(0))
    guess = log_likelihood(model, many, grid, prior=last, probes=probes, solver="rk4")
    assert_close(guess.end[:4], sure.end[:4], rtol=1e-10, atol=1e-10)
    errors = guess.log_density.reshape(600, 4) - sure.log_density[:4]
    assert (errors.mean(0).abs() <= 4 * errors.std(0) / math.sqrt(600) + 1e-9).all()
    assert errors.std() > 0.1
