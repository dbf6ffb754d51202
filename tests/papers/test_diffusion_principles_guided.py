"""Guided Gaussians and preferences: closed forms against other closed forms, integrals and simulation."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.guidance import classifier_free, measurement_guided
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve
from reprobook.papers.diffusion_principles.guidance_figures import draw_cloud_on_tilted, draw_film, draw_pull
from reprobook.papers.diffusion_principles.guided_gaussians import (
    clean_covariance,
    component,
    density_of_quantiles,
    dps_by_ode,
    dps_by_sde,
    draw_labelled,
    gaussian,
    gaussian_posterior,
    guided_by_ode,
    guided_by_sde,
    law_of_ode,
    law_of_sde,
    log_class_probability,
    noise_quantiles,
    posterior,
    tilted,
    tilted_density_on_line,
    tilted_log_density,
    triangle,
)
from reprobook.papers.diffusion_principles.preferences import (
    bradley_terry,
    controlled_reward,
    divergence,
    dpo_loss,
    implicit_reward,
    log_partition,
    minimise,
    optimal_policy,
    pairs_within,
)

EDM = SCHEDULES["edm"]
WEIGHTS = [0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0]
weights = pytest.mark.parametrize("weight", WEIGHTS)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def numbers(*values: float) -> list[torch.Tensor]:
    return [number(v) for v in values]


def grid(steps: int, first: float = 1e-4, last: float = 1e6) -> torch.Tensor:
    return time_grid(EDM, steps, "lambda", first=first, last=last)


# --------------------------------------------------------------------------- Gaussians under guidance


def integrals(m: float, s: float, S: float, weight: float, speed: float) -> tuple[float, float]:
    """Solve dx/du = speed (a x - b) by variation of constants, with scipy's integrals over v = √u."""

    def growth(u: float) -> float:
        return ((s**2 + u) ** weight * (S**2 + u) ** (1 - weight)) ** speed

    def push(v: float) -> float:
        return speed * weight * m / (s**2 + v**2) / growth(v**2) * 2 * v

    mean = growth(0) * quad(push, 0, math.inf, epsabs=1e-13)[0]
    if speed == 0.5:  # nothing is added on the way; at the start the variance is u and growth(u)² is about u
        return mean, growth(0) ** 2
    return mean, growth(0) ** 2 * quad(lambda v: 2 * v / growth(v**2) ** 2, 0, math.inf, epsabs=1e-13)[0]


@weights
@pytest.mark.parametrize("s", [0.3, 0.5, 0.9])
def test_both_closed_forms_are_the_integrals_of_the_linear_equations(weight, s):
    arguments = (0.8, s, 1.1, weight)
    for closed, speed in ((guided_by_ode, 0.5), (guided_by_sde, 1.0)):
        found = closed(*numbers(*arguments))
        expected = integrals(*arguments, speed)
        assert [v.item() for v in found] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("closed", [tilted, guided_by_ode, guided_by_sde])
def test_weight_one_gives_the_conditional_and_weight_zero_the_unconditional_law(closed):
    mean, variance = closed(*numbers(0.7, 0.5, 1.2, 1.0))
    assert (mean.item(), variance.item()) == pytest.approx((0.7, 0.25), rel=1e-12)
    mean, variance = closed(*numbers(0.7, 0.5, 1.2, 0.0))
    assert (mean.item(), variance.item()) == pytest.approx((0, 1.44), rel=1e-12)


def test_at_weight_two_the_mean_of_the_ordinary_equation_is_elementary():
    m, s, S = 0.7, 0.5, 1.0
    root = math.sqrt(S**2 - s**2)
    expected = m * (1 + s**2 / (S * root) * math.log((S + root) / s))
    assert guided_by_ode(*numbers(m, s, S, 2.0)).mean.item() == pytest.approx(expected, rel=1e-12)


def test_at_weight_one_half_the_stochastic_formula_is_its_own_limit():
    m, s, S = numbers(0.7, 0.5, 1.0)
    at, near = (guided_by_sde(m, s, S, number(w)).variance.item() for w in (0.5, 0.5 + 1e-7))
    assert at == pytest.approx(near, rel=1e-6)
    assert at == pytest.approx(0.25 * math.log(4) / 0.75, rel=1e-12)


@pytest.mark.parametrize("weight", [1.5, 3.0])
@pytest.mark.parametrize("name", ["edm", "fm"])
def test_solvers_find_the_closed_forms_under_any_schedule(weight, name):
    schedule = SCHEDULES[name]
    model = classifier_free(
        gaussian(0.75, 0.5).model(schedule, "score"), gaussian(0.0, 1.0).model(schedule, "score"), weight
    )
    ends = schedule.time_of(torch.tensor([-math.log(1e6), -math.log(1e-4)], dtype=torch.float64))
    times = time_grid(schedule, 300, "lambda", first=ends[1].item(), last=ends[0].item())
    arguments = numbers(0.75, 0.5, 1.0, weight)
    found, expected = law_of_ode(model, times), guided_by_ode(*arguments)
    assert [v.item() for v in found] == pytest.approx([v.item() for v in expected], rel=2e-5)
    times = time_grid(schedule, 4000, "lambda", first=ends[1].item(), last=ends[0].item())
    found, expected = law_of_sde(model, times), guided_by_sde(*arguments)
    assert [v.item() for v in found] == pytest.approx([v.item() for v in expected], rel=2e-3)


def test_paths_drawn_one_by_one_have_the_moments_that_are_propagated():
    model = classifier_free(
        gaussian(0.75, 0.5).model(EDM, "score"), gaussian(0.0, 1.0).model(EDM, "score"), 2.0
    )
    times, generator = grid(400, first=1e-2, last=1e2), torch.Generator().manual_seed(0)
    x = 1e2 * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    for t, s in pairwise(times):
        x = x + (t - s) * 2 * t * model(x, t, "score")
        x = x + ((t - s) * 2 * t).sqrt() * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    expected = guided_by_sde(*numbers(0.75, 0.5, 1.0, 2.0))
    assert x.mean().item() == pytest.approx(expected.mean.item(), abs=0.02)
    assert x.var().item() == pytest.approx(expected.variance.item(), rel=0.1)
    assert abs(x.var().item() - tilted(*numbers(0.75, 0.5, 1.0, 2.0)).variance.item()) > 0.02


def test_the_tilted_law_is_the_posterior_of_a_repeated_measurement():
    S, r, y, weight = 1.3, 0.6, 0.9, 3.0
    once, thrice = (posterior(*numbers(y, S, r / math.sqrt(n))) for n in (1, weight))
    found = tilted(once.mean, once.variance.sqrt(), number(S), number(weight))
    assert [v.item() for v in found] == pytest.approx([v.item() for v in thrice], rel=1e-12)


# --------------------------------------------------------------------------- measurements


@pytest.mark.parametrize("k", [0.1, 1.0, 6.0])
def test_dps_closed_forms_are_the_integrals_of_the_linear_equations(k):
    S, y = 1.3, 0.9
    r = S / math.sqrt(k)
    for closed, speed in ((dps_by_ode, 0.5), (dps_by_sde, 1.0)):

        def growth(u: float, speed=speed) -> float:
            return ((S**2 + u) * math.exp(-(S**4) / (r**2 * (S**2 + u)))) ** speed

        def push(v: float, speed=speed, growth=growth) -> float:
            return speed * S**2 * y / (r**2 * (S**2 + v**2)) / growth(v**2) * 2 * v

        mean = growth(0) * quad(push, 0, math.inf, epsabs=1e-13)[0]
        added = (
            1.0
            if speed == 0.5
            else quad(lambda v, g=growth: 2 * v / g(v**2) ** 2, 0, math.inf, epsabs=1e-13)[0]
        )
        expected = mean, growth(0) ** 2 * added
        found = [v.item() for v in closed(*numbers(y, S, r))]
        assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("k", [0.5, 3.0])
def test_solvers_find_what_dps_samples(k):
    one = torch.eye(1, dtype=torch.float64)
    r = 1 / math.sqrt(k)
    model = measurement_guided(gaussian(0.0, 1.0).model(EDM), one, number(0.8)[None], r)
    for law, closed in (
        (law_of_ode(model, grid(300)), dps_by_ode),
        (law_of_sde(model, grid(4000)), dps_by_sde),
    ):
        expected = closed(*numbers(0.8, 1.0, r))
        assert [v.item() for v in law] == pytest.approx([v.item() for v in expected], rel=2e-3)


def test_a_vague_measurement_is_handled_rightly_by_dps():
    exact = posterior(*numbers(0.9, 1.0, 100.0))
    for closed in (dps_by_ode, dps_by_sde):
        found = closed(*numbers(0.9, 1.0, 100.0))
        assert [v.item() for v in found] == pytest.approx([v.item() for v in exact], rel=1e-3)


# --------------------------------------------------------------------------- classes


def test_the_implied_classifier_sums_to_one_and_is_sharp_without_noise():
    data, x = triangle(), torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = number(0.7)
    probabilities = torch.stack([log_class_probability(data, k, EDM)(x, t).exp() for k in range(3)])
    torch.testing.assert_close(probabilities.sum(0), torch.ones(9).double())
    at_mean = log_class_probability(data, 1, EDM)(data.means, number(1e-3)).exp()
    assert at_mean.argmax() == 1
    assert at_mean[1] > 0.99


def test_the_corners_of_the_triangle_are_a_side_apart():
    distances = torch.cdist(triangle(side=2.0).means, triangle(side=2.0).means)
    torch.testing.assert_close(distances, 2 * (1 - torch.eye(3).double()), rtol=0, atol=1e-7)


def test_the_tilted_density_at_weight_one_is_the_class_and_at_zero_the_data():
    data, x = triangle(), torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tilted_log_density(data, 2, 1.0, x), component(data, 2).log_density(x))
    torch.testing.assert_close(tilted_log_density(data, 2, 0.0, x), data.log_density(x))


def test_quantiles_stand_for_a_gaussian():
    x = noise_quantiles(4000, 3.0)
    assert x.mean().abs() < 1e-12
    assert x.std().item() == pytest.approx(3, rel=2e-3)


def test_unguided_a_flow_returns_the_class_and_guided_it_overshoots():
    data = triangle()
    schedule_grid = grid(80, first=1e-3, last=1e3)
    noise = 1e3 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reach = {}
    for weight in (1.0, 3.0):
        model = classifier_free(component(data, 0).model(EDM), data.model(EDM), weight)
        reach[weight] = (
            solve(model, noise, schedule_grid, "heun") @ data.means[0] / data.means[0].norm()
        ).mean()
    assert reach[1.0].item() == pytest.approx(data.means[0].norm().item(), abs=0.03)
    assert reach[3.0] > reach[1.0] + 0.3


# --------------------------------------------------------------------------- preferences

REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([0.1, -0.5, 1.0, 0.7], dtype=torch.float64)
ALL = pairs_within(torch.ones(1, 4, dtype=torch.bool))


def test_no_other_policy_earns_more_controlled_reward():
    best = optimal_policy(REFERENCE, REWARD, 0.5)

    def loss(logits):
        policy = torch.softmax(torch.from_numpy(logits), 0)
        return -controlled_reward(policy, REWARD, REFERENCE, 0.5).item()

    found = minimize(loss, torch.zeros(4).double().numpy(), tol=1e-12)
    torch.testing.assert_close(torch.softmax(torch.from_numpy(found.x), 0), best, rtol=0, atol=1e-5)
    assert -found.fun == pytest.approx(0.5 * log_partition(REFERENCE, REWARD, 0.5).item(), abs=1e-9)


def test_a_policy_loses_its_divergence_from_the_best_one():
    policy, best = REFERENCE.flip(0), optimal_policy(REFERENCE, REWARD, 0.5)
    earned = controlled_reward(policy, REWARD, REFERENCE, 0.5)
    expected = 0.5 * log_partition(REFERENCE, REWARD, 0.5) - 0.5 * divergence(policy, best)
    torch.testing.assert_close(earned, expected, rtol=0, atol=1e-14)
    assert divergence(best, best) == 0


def test_the_implicit_reward_is_the_reward_less_the_partition_function():
    implicit = implicit_reward(optimal_policy(REFERENCE, REWARD, 0.5), REFERENCE, 0.5)
    torch.testing.assert_close(implicit, REWARD - 0.5 * log_partition(REFERENCE, REWARD, 0.5))
    torch.testing.assert_close(bradley_terry(implicit), bradley_terry(REWARD))


def test_the_loss_is_the_expectation_over_pairs_written_as_two_loops():
    logits, preferred, total = torch.tensor([0.3, -0.1, 0.8, 0.0]).double(), bradley_terry(REWARD), 0.0
    policy = torch.softmax(logits, 0)
    for i in range(4):
        for j in range(4):
            if i != j:
                gap = math.log(policy[i] / REFERENCE[i]) - math.log(policy[j] / REFERENCE[j])
                total -= preferred[i, j].item() / 12 * math.log(1 / (1 + math.exp(-0.5 * gap)))
    assert dpo_loss(logits, REFERENCE, 0.5, preferred, ALL).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_minimising_the_loss_finds_the_optimal_policy(beta):
    def loss(logits):
        return dpo_loss(logits, REFERENCE, beta, bradley_terry(REWARD), ALL)

    *_, last = minimise(loss, torch.tensor([1.0, 0.0, -1.0, 0.5]).double())
    best = optimal_policy(REFERENCE, REWARD, beta)
    torch.testing.assert_close(torch.softmax(last.logits, 0), best, rtol=0, atol=1e-10)
    assert torch.func.grad(loss)(REFERENCE.log()).norm() > 1e-3


def test_no_step_of_the_descent_raises_the_loss():
    losses = [
        d.loss for d in minimise(lambda z: (z[0] ** 4 + z[1] ** 2).cosh(), torch.tensor([1.2, -0.7]).double())
    ]
    assert len(losses) > 3
    assert all(b <= a * (1 + 1e-14) for a, b in pairwise(losses))


def test_groups_that_are_never_compared_can_exchange_probability():
    groups = torch.tensor([[True, True, False, False], [False, False, True, True]])
    compared = pairs_within(groups)
    assert compared.sum().item() == pytest.approx(1)
    assert (compared > 0).sum() == 4
    logits = torch.tensor([0.3, -0.1, 0.8, 0.0]).double()
    moved = logits + torch.tensor([2.0, 2.0, 0.0, 0.0]).double()
    preferred = bradley_terry(REWARD)
    one, other = (dpo_loss(z, REFERENCE, 0.5, preferred, compared).item() for z in (logits, moved))
    assert one == pytest.approx(other, rel=1e-14)
    assert dpo_loss(moved, REFERENCE, 0.5, preferred, ALL).item() != pytest.approx(one, rel=1e-3)


# --------------------------------------------------------------------------- more laws, and what is drawn


def test_the_posterior_of_a_gaussian_is_that_of_its_joint_with_the_measurement():
    generator = torch.Generator().manual_seed(0)
    root, operator = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (3, 2))
    covariance, mean, y = root @ root.T, torch.ones(3).double(), torch.tensor([0.3, -1.0]).double()
    prior = Mixture(torch.ones(1).double(), mean[None], covariance[None])
    found = gaussian_posterior(prior, operator, y, 0.7)
    gain = (
        covariance @ operator.T @ torch.linalg.inv(operator @ covariance @ operator.T + 0.49 * torch.eye(2))
    )
    torch.testing.assert_close(found.means[0], mean + gain @ (y - operator @ mean))
    torch.testing.assert_close(found.covariances[0], covariance - gain @ operator @ covariance)


@pytest.mark.parametrize("name", ["vp_cosine", "edm"])
def test_the_covariance_of_the_clean_point_is_the_slope_of_the_denoiser(name):
    """Second-order Tweedie: Cov[x_0 | x_t] = (σ²/α) ∂x̂_0/∂x_t."""
    schedule, t = SCHEDULES[name], number(0.4)
    prior = Mixture(
        torch.ones(1).double(), torch.zeros(1, 2).double(), torch.tensor([[[1.0, 0.6], [0.6, 0.5]]]).double()
    )
    slope = torch.autograd.functional.jacobian(
        lambda x: prior.denoise(x, t, schedule), torch.ones(2).double()
    )
    expected = schedule.sigma(t) ** 2 / schedule.alpha(t) * slope
    torch.testing.assert_close(clean_covariance(prior, schedule)(t), expected)


def test_the_tilted_density_on_the_line_has_mass_one_and_the_shape_of_its_logarithm():
    line = Mixture.isotropic(torch.tensor([[-1.0], [1.0]]).double(), 0.5)
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    density = tilted_density_on_line(line, 1, 3.0, x)
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-12)
    ratio = density.log() - tilted_log_density(line, 1, 3.0, x[:, None])
    assert ratio.max() - ratio.min() < 1e-9


def test_quantiles_give_back_the_density_that_they_came_from():
    places, density = density_of_quantiles(noise_quantiles(2001, 1.0))
    expected = torch.exp(-(places**2) / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(density[200:-200], expected[200:-200], rtol=1e-3, atol=0)


def test_training_data_carry_their_labels_and_lose_some():
    drawn = draw_labelled(triangle(std=0.1), 20_000, 0.1, torch.Generator().manual_seed(0))
    clean, noise, time, labels = drawn.split([2, 2, 1, 1], 1)
    told = labels[:, 0] < 3
    nearest = torch.cdist(clean, triangle().means.float()).argmin(1)
    assert torch.equal(nearest[told], labels[told, 0].long())
    assert 1 - told.double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert 0 <= time.min() < 0.01 < 0.99 < time.max() < 1


def test_figures_show_the_samples_the_tilted_contours_and_one_row_a_weight():
    from matplotlib.figure import Figure

    data, line = triangle(), Mixture.isotropic(torch.tensor([[-1.0], [1.0]]).double(), 0.5)
    cloud, film, pull = Figure().subplots(1, 3)
    assert (
        draw_cloud_on_tilted(cloud, data, 0, 2.0, data.sample(30, torch.Generator().manual_seed(0))) is cloud
    )
    assert len(cloud.collections[0].get_offsets()) == 30
    assert draw_film(film, line, 1, {w: noise_quantiles(101, 1.0) for w in (1.0, 3.0)}) is film
    assert [text.get_text() for text in film.texts] == ["ω = 3", "ω = 1"]
    model = component(data, 0).model(EDM)
    guided = classifier_free(model, data.model(EDM), 2.0)
    draw_pull(pull, model, guided, number(1.0))
    arrows = pull.collections[0]
    points = torch.as_tensor(arrows.get_offsets(), dtype=torch.float64)
    expected = guided(points, number(1.0)) - model(points, number(1.0))
    torch.testing.assert_close(
        torch.stack([torch.as_tensor(arrows.U), torch.as_tensor(arrows.V)], 1), expected
    )
