"""Exact flow maps and expectations of the monograph, Chapters 5, 10 and 11, by independent references."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch.func import jvp
from torch.testing import assert_close

from reprobook.diffusion.figures import draw_cloud
from reprobook.diffusion.flow_maps import average_velocity, consistency_loss
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import diffuse
from reprobook.diffusion.rectification import straightness
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve
from reprobook.papers.diffusion_principles.exact_flow_maps import (
    averaged_velocity,
    gamma_moments,
    gaussian_balance,
    gaussian_divergence,
    gaussian_flow_map,
    local_orders,
    moment_points,
    pairs_on_a_line,
    quantile_flow_map,
    relative_gap,
    relative_sum,
    trained_scales,
)
from reprobook.papers.diffusion_principles.flow_map_figures import (
    draw_jumps,
    draw_orders,
    draw_paths,
    draw_qualities,
    draw_scales,
    draw_trajectories,
)

DOUBLE = {"dtype": torch.float64}
FM, TRIG = SCHEDULES["fm"], SCHEDULES["trig"]
MIXTURE = Mixture.isotropic(torch.tensor([[-1.0], [1.2]], **DOUBLE), 0.4, torch.tensor([0.3, 0.7], **DOUBLE))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def gaussian() -> Mixture:
    root = normal(3, 3, seed=1)
    covariance = root @ root.mT / 3 + 0.1 * torch.eye(3, **DOUBLE)
    return Mixture(torch.ones(1, **DOUBLE), normal(1, 3, seed=2), covariance[None])


def maps(schedule):
    one = gaussian()
    return (
        (one, gaussian_flow_map(one.means[0], one.covariances[0], schedule)),
        (MIXTURE, quantile_flow_map(MIXTURE, schedule)),
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_maps_are_where_a_solver_arrives(name: str):
    schedule = SCHEDULES[name]
    lam = torch.linspace(-2, 2, 121, **DOUBLE)
    grid = schedule.time_of(lam)
    for mixture, flow_map in maps(schedule):
        clean = mixture.sample(8, torch.Generator().manual_seed(3))
        x = diffuse(clean, normal(*clean.shape), grid[0], schedule)
        walked = solve(mixture.model(schedule, "velocity"), x, grid, "rk4")
        assert_close(flow_map(x, grid[0], grid[-1]), walked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_maps_are_the_identity_for_equal_times_and_move_with_the_velocity(name: str):
    schedule = SCHEDULES[name]
    s, t = schedule.time_of(torch.tensor([[-1.0] * 6, [0.5] * 6], **DOUBLE))
    for mixture, flow_map in maps(schedule):
        x = mixture.sample(6, torch.Generator().manual_seed(3)) * schedule.alpha(s)[:, None]
        assert_close(flow_map(x, s, s), x)
        y, moved = jvp(lambda t, x=x, m=flow_map: m(x, s, t), (t,), (torch.ones_like(t),))
        assert_close(moved, mixture.model(schedule, "velocity")(y, t, "velocity"))


def test_the_quantile_map_keeps_its_digits_far_out_in_both_tails():
    s, t = torch.full((4,), 0.6, **DOUBLE), torch.full((4,), 0.55, **DOUBLE)
    x = torch.tensor([[-9.0], [-6.0], [6.0], [9.0]], **DOUBLE)
    flow_map = quantile_flow_map(MIXTURE, FM)
    y = flow_map(x, s, t)
    assert_close(flow_map(y, t, s), x)
    grid = torch.linspace(0.6, 0.55, 201, **DOUBLE)
    assert_close(y, solve(MIXTURE.model(FM, "velocity"), x, grid, "rk4"), atol=1e-8, rtol=0)


def test_the_averaged_velocity_is_displacement_by_time():
    s, t = torch.full((5,), 0.9, **DOUBLE), torch.full((5,), 0.2, **DOUBLE)
    for mixture, flow_map in maps(FM):
        x = mixture.sample(5, torch.Generator().manual_seed(3))
        h = averaged_velocity(flow_map, mixture.model(FM, "velocity"), x, s, t, 100)
        assert_close(h, average_velocity(flow_map(x, s, t), x, s, t), atol=1e-10, rtol=1e-8)


def test_quadrature_takes_expectations_over_data_and_noise():
    clean, noise, weights = pairs_on_a_line(MIXTURE, 20)
    assert_close(weights.sum(), torch.tensor(1.0, **DOUBLE))
    assert_close((weights * clean[:, 0]).sum(), MIXTURE.mean()[0])
    second = MIXTURE.covariance()[0, 0] + MIXTURE.mean()[0].square()
    assert_close((weights * (clean * noise)[:, 0].square()).sum(), second)


def test_moment_points_have_the_moments_of_a_standard_normal():
    points = moment_points(5)
    assert_close(points.mean(0), torch.zeros(5, **DOUBLE))
    assert_close(points.mT @ points / len(points), torch.eye(5, **DOUBLE))


def test_gamma_moments_of_an_affine_map():
    a, b = normal(2, 3, 2), normal(2, seed=4)
    mean, covariance = gamma_moments(lambda n: b + torch.einsum("ind,nd->i", a.reshape(2, 3, 2), n), 3, 2)
    assert_close(mean, b)
    assert_close(covariance, a.reshape(2, -1) @ a.reshape(2, -1).mT)


def test_local_orders_of_powers():
    steps = torch.tensor([0.4, 0.2, 0.1], **DOUBLE)
    orders = local_orders(steps, torch.stack([3 * steps**2, steps**0.5], 1))
    assert_close(orders, torch.tensor([[2.0, 0.5]] * 2, **DOUBLE))


def test_relative_measures():
    a = torch.tensor([1.0, -4.0], **DOUBLE)
    assert relative_gap(a + 0.4, a) == pytest.approx(0.1)
    assert relative_sum(a, -a) == 0
    assert relative_sum(a, a) == pytest.approx(2)


# --------------------------------------------------------------------------- consistency training, solved


def test_training_minus_matching_is_the_spread_of_velocities_given_the_sample():
    """On N(0, c), f = κ x, it is 2 κ κ' (√(M M') - K), and M M' - K² = c (α_s σ_t - α_t σ_s)²."""
    c, kappa, (s, t) = 0.5, (1.3, 1.1), torch.tensor([0.7, 0.6], **DOUBLE)
    data = Mixture.isotropic(torch.zeros(1, 1, **DOUBLE), c**0.5)
    clean, noise, weights = pairs_on_a_line(data, 8)
    times = [time.expand(len(weights)) for time in (s, t)]
    x_s, x_t = (diffuse(clean, noise, time, TRIG) for time in (s, t))
    exact = gaussian_flow_map(data.means[0], data.covariances[0], TRIG)(x_s, *times)

    def f(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x * torch.where(time == s, *torch.tensor(kappa, **DOUBLE))[:, None]

    losses = [(weights * consistency_loss(f, x_s, y, *times)).sum() for y in (x_t, exact)]
    own = [c * torch.cos(time) ** 2 + torch.sin(time) ** 2 for time in (s, t)]
    shared = c * torch.cos(s) * torch.cos(t) + torch.sin(s) * torch.sin(t)
    assert_close(own[0] * own[1] - shared**2, c * torch.sin(s - t) ** 2)
    assert_close(losses[0] - losses[1], 2 * kappa[0] * kappa[1] * ((own[0] * own[1]).sqrt() - shared))


def test_without_the_stop_gradient_the_scale_is_a_hyperbolic_cosine():
    """N(0, 1) under (cos, sin): κ'' = κ with κ(0) = 1 and κ'(T) = 0, while the map is the identity."""
    times = torch.linspace(0, 1.5, 2001, **DOUBLE)
    scales = trained_scales(1.0, times, TRIG)
    assert_close(scales["exact"], torch.ones_like(times))
    assert_close(scales["held"], torch.ones_like(times), atol=1e-3, rtol=0)
    assert_close(scales["free"], torch.cosh(1.5 - times) / math.cosh(1.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["held", "free"])
def test_trained_scales_are_where_gradient_descent_stands_still(kind: str):
    times = torch.linspace(0, 1, 6, **DOUBLE)
    clean, noise, weights = pairs_on_a_line(Mixture.isotropic(torch.zeros(1, 1, **DOUBLE), 0.7), 8)
    kappa = trained_scales(0.49, times, FM)[kind].clone().requires_grad_()
    total = 0.0
    for i in range(1, 6):
        s, t = (times[k].expand(len(weights)) for k in (i, i - 1))
        x_s, x_t = (diffuse(clean, noise, time, FM) for time in (s, t))

        def f(x: torch.Tensor, time: torch.Tensor, i=i) -> torch.Tensor:
            return x * torch.where(time == times[i], kappa[i], kappa[i - 1])[:, None]

        total = total + (weights * consistency_loss(f, x_s, x_t, s, t, stop_gradient=kind == "held")).sum()
    (slope,) = torch.autograd.grad(total, kappa)
    assert slope[1:].abs().max() < 1e-12


# --------------------------------------------------------------------------- Reflow and divergence


def test_the_balance_of_reflow_is_even_and_its_straightness_that_of_the_flow():
    variances = torch.tensor([0.2, 3.0], **DOUBLE)
    terms = gaussian_balance(variances, torch.linspace(0, 1, 1001, **DOUBLE))
    assert terms["before"] == pytest.approx(5.2)
    assert terms["after"] == pytest.approx((1 - 0.2**0.5) ** 2 + (1 - 3**0.5) ** 2)
    rest = terms["before"] - terms["after"] - terms["straightness"] - terms["scatter"]
    assert abs(rest) < 1e-10
    data = Mixture(torch.ones(1, **DOUBLE), torch.zeros(1, 2, **DOUBLE), torch.diag(variances)[None])
    model = data.model(FM, "velocity")
    times = torch.linspace(1, 0, 401, **DOUBLE)
    _, bent = straightness(lambda x, t: model(x, t, "velocity"), moment_points(2), times)
    assert bent.mean().item() == pytest.approx(terms["straightness"], rel=1e-4)


def test_gaussian_divergence_is_that_of_torch():
    first, second = ((normal(3, seed=k), torch.eye(3, **DOUBLE) * (k + 1) + 0.2) for k in (1, 2))
    laws = [torch.distributions.MultivariateNormal(*law) for law in (first, second)]
    assert_close(gaussian_divergence(first, second), torch.distributions.kl_divergence(*laws))
    assert_close(gaussian_divergence(first, first), torch.tensor(0.0, **DOUBLE), atol=1e-12, rtol=0)


# --------------------------------------------------------------------------- figures


def test_figures_draw_what_they_are_given_on_the_axes_they_are_given():
    _, axes = plt.subplots(1, 7)
    flow_map, times = quantile_flow_map(MIXTURE, FM), torch.linspace(0.9, 0, 7, **DOUBLE)
    assert draw_trajectories(axes[0], flow_map, torch.zeros(3, 1, **DOUBLE), times) is axes[0]
    assert len(axes[0].lines) == 3
    draw_jumps(axes[1], flow_map, torch.ones(1, 1, **DOUBLE), [(0.9, 0.5), (0.5, 0.0)], "ours")
    start = axes[1].lines[1].get_xydata()[0]
    assert start[1] == pytest.approx(flow_map(torch.ones(1, 1, **DOUBLE), times[0], times[0] * 5 / 9).item())
    steps = torch.tensor([0.2, 0.1], **DOUBLE)
    draw_orders(axes[2], steps, {"error": (steps**2, "ours")}, 2.0)
    assert axes[2].lines[1].get_ydata()[0] / axes[2].lines[1].get_ydata()[1] == pytest.approx(4)
    names = {"exact": "a", "held": "b", "free": "c"}
    draw_scales(axes[3], times.flip(0), trained_scales(1.0, times.flip(0), FM), names)
    assert [line.get_label() for line in axes[3].lines] == ["a", "b", "c"]
    assert len(draw_cloud(axes[4], normal(9, 2)).collections[0].get_offsets()) == 9
    assert len(draw_paths(axes[5], normal(4, 3, 2)).lines) == 3
    methods = {name: [[0.2, 0.4], [0.1, 0.3]] for name in "abcde"}
    draw_qualities(axes[6], (1, 2), methods, [0.1, 0.3], [0.05, 0.05])
    assert [line.get_ydata()[0] for line in axes[6].lines if line.get_linestyle() in ("--", ":")] == [
        0.2,
        0.05,
    ]
    plt.close("all")
