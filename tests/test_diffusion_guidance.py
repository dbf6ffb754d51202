"""Guidance: Bayes' rule, the two conventions, cost, and the exact posterior of a linear measurement."""

import pytest
import torch

from reprobook.diffusion.guidance import (
    classifier_free,
    classifier_guided,
    extrapolate,
    extrapolate_by,
    measurement_guided,
    within_interval,
)
from reprobook.diffusion.mixtures import Mixture, leaves
from reprobook.diffusion.predictions import KINDS, Model
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve

schedules = pytest.mark.parametrize("name", SCHEDULES)
DATA = leaves(4)


def one(label: int) -> Mixture:
    chosen = slice(label, label + 1)
    return Mixture(torch.ones(1).double(), DATA.means[chosen], DATA.covariances[chosen])


def points(num: int = 12, dim: int = 2, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def middle(name: str) -> torch.Tensor:
    """A time where signal and noise are alike."""
    return SCHEDULES[name].time_of(torch.tensor(0.3, dtype=torch.float64))


def guided(name: str, weight: float, kind: str = "score", other: str = "score", **options) -> Model:
    schedule = SCHEDULES[name]
    return classifier_free(one(1).model(schedule, kind), DATA.model(schedule, other), weight, **options)


@schedules
@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.4, 1.0, 3.0])
def test_the_guided_score_is_the_gradient_of_the_tilted_log_density(name, weight):
    schedule, t = SCHEDULES[name], middle(name)
    x = points().requires_grad_()
    tilted = weight * one(1).log_density(x, t, schedule) + (1 - weight) * DATA.log_density(x, t, schedule)
    (expected,) = torch.autograd.grad(tilted.sum(), x)
    torch.testing.assert_close(guided(name, weight)(x.detach(), t, "score"), expected, rtol=1e-9, atol=1e-9)


@schedules
def test_classifier_guidance_by_bayes_rule_is_classifier_free_guidance(name):
    schedule, t = SCHEDULES[name], middle(name)

    def log_classifier(x, t):
        return one(1).log_density(x, t, schedule) - DATA.log_density(x, t, schedule) - 1.7  # any constant

    model = classifier_guided(DATA.model(schedule), log_classifier, 2.5)
    expected = guided(name, 2.5)(points(), t, "score")
    torch.testing.assert_close(model(points(), t, "score"), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model(points(), t.expand(12), "score"), expected, rtol=1e-8, atol=1e-8)


@schedules
@pytest.mark.parametrize("kind", KINDS)
def test_any_prediction_may_be_extrapolated(name, kind):
    x, t = points(), middle(name)
    expected = guided(name, 3.0)(x, t, "clean")
    for other in ("clean", kind):
        found = guided(name, 3.0, kind, other)
        assert found.kind == kind
        torch.testing.assert_close(found(x, t, "clean"), expected, rtol=1e-9, atol=1e-9)


def test_weight_one_is_the_conditional_and_weight_zero_the_unconditional_model():
    x, t, schedule = points(), middle("fm"), SCHEDULES["fm"]
    for weight, data in ((1.0, one(1)), (0.0, DATA)):
        torch.testing.assert_close(
            guided("fm", weight)(x, t), data.model(schedule)(x, t), rtol=1e-9, atol=1e-9
        )
    assert (guided("fm", 2.0)(x, t) - guided("fm", 1.0)(x, t)).abs().max() > 0.1


def test_the_two_conventions_differ_by_one():
    x, t = points(), middle("edm")
    torch.testing.assert_close(
        guided("edm", 3.0)(x, t), guided("edm", 2.0, convention="added")(x, t), rtol=1e-12, atol=1e-12
    )
    c, u = points(seed=1), points(seed=2)
    assert torch.equal(extrapolate(c, u, 1.0), c)
    assert torch.equal(extrapolate_by(c, u, 0.0), c)
    torch.testing.assert_close(extrapolate(c, u, 2.0), 2 * c - u)
    torch.testing.assert_close(extrapolate_by(c, u, 2.0), 3 * c - 2 * u)


def test_wrong_conventions_and_mixed_schedules_are_refused():
    with pytest.raises(ValueError, match="unknown convention 'half': choose one of whole, added"):
        guided("fm", 1.0, convention="half")
    with pytest.raises(ValueError, match="schedules differ: fm, edm"):
        classifier_free(DATA.model(SCHEDULES["fm"]), DATA.model(SCHEDULES["edm"]), 2.0)


# --------------------------------------------------------------------------- cost, intervals


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.function(x, t)


def counted(data: Mixture, name: str) -> tuple[Model, Counted]:
    counter = Counted(data.model(SCHEDULES[name], "clean").function)
    return Model(counter, "clean", SCHEDULES[name]), counter


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 10), ("heun", 20), ("dpmpp_2m", 10)])
def test_guidance_doubles_the_evaluations(solver, evaluations):
    (first, a), (second, b) = counted(one(1), "edm"), counted(DATA, "edm")
    grid = SCHEDULES["edm"].time_of(torch.linspace(-4, 4, 11, dtype=torch.float64))
    solve(classifier_free(first, second, 3.0), points(), grid, solver)
    assert (a.calls, b.calls) == (evaluations, evaluations)


def test_outside_its_interval_guidance_costs_and_changes_nothing():
    (first, a), (second, b) = counted(one(1), "edm"), counted(DATA, "edm")
    model = within_interval(classifier_free(first, second, 3.0), first, 0.3, 9.0)
    grid = SCHEDULES["edm"].time_of(torch.linspace(-4, 4, 11, dtype=torch.float64))
    solve(model, points(), grid, "euler")
    inside = ((grid[:-1] >= 0.3) & (grid[:-1] <= 9.0)).sum().item()
    assert 0 < inside < 10
    assert (a.calls, b.calls) == (10, inside)


def test_an_interval_means_the_same_for_one_time_and_for_many():
    plain = one(1).model(SCHEDULES["vp_cosine"])
    model = within_interval(guided("vp_cosine", 3.0), plain, 0.5, 5.0)
    levels = torch.tensor([0.2, 0.499, 0.501, 1.0, 4.99, 5.01], dtype=torch.float64)
    times, x = SCHEDULES["vp_cosine"].time_of(-levels.log()), points(6)
    together = model(x, times)
    alone = torch.cat([model(x[i : i + 1], times[i]) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    changed = (together - plain(x, times)).abs().amax(1) > 1e-9
    assert changed.tolist() == [False, False, True, True, True, False]


# --------------------------------------------------------------------------- measurements


def linear_gaussian():
    """A correlated Gaussian in three dimensions, of which two noisy combinations are measured."""
    root, operator = points(3, 3) / 2, points(2, 3, seed=1) / 2
    mean, covariance = points(1, 3, seed=2), root @ root.T + 0.1 * torch.eye(3).double()
    prior = Mixture(torch.ones(1).double(), mean, covariance[None])
    return prior, operator, points(1, 2, seed=3)[0], 0.4


def posterior_by_hand(prior, operator, measured, noise_std) -> Mixture:
    precision = torch.linalg.inv(prior.covariances[0]) + operator.T @ operator / noise_std**2
    pull = torch.linalg.solve(prior.covariances[0], prior.means[0]) + operator.T @ measured / noise_std**2
    covariance = torch.linalg.inv(precision)
    return Mixture(torch.ones(1).double(), (covariance @ pull)[None], ((covariance + covariance.T) / 2)[None])


@schedules
def test_guided_by_a_measurement_with_its_covariance_a_gaussian_is_its_posterior(name):
    prior, operator, measured, noise_std = linear_gaussian()
    schedule, t = SCHEDULES[name], middle(name)

    def covariance(t):
        ratio = (schedule.sigma(t) / schedule.alpha(t)).square()
        return torch.linalg.inv(torch.linalg.inv(prior.covariances[0]) + torch.eye(3).double() / ratio)

    model = measurement_guided(prior.model(schedule), operator, measured, noise_std, covariance)
    expected = posterior_by_hand(prior, operator, measured, noise_std).score(points(7, 3), t, schedule)
    torch.testing.assert_close(model(points(7, 3), t, "score"), expected, rtol=1e-9, atol=1e-9)


def test_dps_is_the_gradient_of_the_residual_at_the_denoised_point():
    prior, operator, measured, noise_std = linear_gaussian()
    schedule, t, x = SCHEDULES["fm"], middle("fm"), points(5, 3)
    model = measurement_guided(prior.model(schedule), operator, measured, noise_std)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda z: prior.denoise(z[None], t, schedule)[0], x[i])
        residual = measured - operator @ prior.denoise(x[i : i + 1], t, schedule)[0]
        expected = prior.score(x[i], t, schedule) + jacobian.T @ operator.T @ residual / noise_std**2
        torch.testing.assert_close(model(x[i : i + 1], t, "score")[0], expected, rtol=1e-9, atol=1e-9)


def test_dps_is_exact_in_the_end_and_far_too_sure_before():
    prior, operator, measured, noise_std = linear_gaussian()
    schedule = SCHEDULES["edm"]
    model = measurement_guided(prior.model(schedule), operator, measured, noise_std)
    exact = posterior_by_hand(prior, operator, measured, noise_std)
    pulls = []
    for t in (1e-3, 1.0):
        time = torch.tensor(t, dtype=torch.float64)
        base = prior.score(points(5, 3), time, schedule)
        pulls.append(
            (
                (model(points(5, 3), time, "score") - base).norm(),
                (exact.score(points(5, 3), time, schedule) - base).norm(),
            )
        )
    assert pulls[0][0] == pytest.approx(pulls[0][1].item(), rel=1e-3)
    assert pulls[1][0] > 1.5 * pulls[1][1]


def test_gradients_are_taken_also_where_nothing_else_wants_them():
    prior, operator, measured, noise_std = linear_gaussian()
    model = measurement_guided(prior.model(SCHEDULES["fm"]), operator, measured, noise_std)
    with torch.no_grad():
        found = model(points(2, 3), middle("fm"), "score")
    assert not found.requires_grad
    assert torch.equal(found, model(points(2, 3), middle("fm"), "score"))
