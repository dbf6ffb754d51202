"""Solvers against closed forms: orders on a Gaussian, exactness, identities, and algorithms written out."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture, leaves
from reprobook.diffusion.multistep import multistep, started
from reprobook.diffusion.predictions import KINDS, Model
from reprobook.diffusion.schedules import SCHEDULES, Schedule
from reprobook.diffusion.solver_tables import dpm_solver_2, dpm_solver_pp_2s
from reprobook.diffusion.solvers import SOLVERS, solve, steps

VP, FM = SCHEDULES["vp_linear"], SCHEDULES["fm"]
MEAN, STD = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.5
GAUSSIAN = Mixture.isotropic(MEAN[None], STD)
FIRST_ORDER = ("ddim", "dpm1", "dpmpp_1", "deis0", "deis0_t")
LOOKING_BACK = tuple(name for name, s in SOLVERS.items() if s.steady_order is not None)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid_in_lambda(schedule: Schedule, num_steps: int, low: float = -2.0, high: float = 2.0) -> Tensor:
    last, first = schedule.time_of(torch.tensor([low, high], dtype=torch.float64)).tolist()
    return time_grid(schedule, num_steps, "lambda", last=last, first=first)


def gaussian_flow(x: Tensor, s: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The flow keeps every point's place in units of the standard deviation."""
    std = [(schedule.alpha(u) ** 2 * STD**2 + schedule.sigma(u) ** 2).sqrt() for u in (s, t)]
    return schedule.alpha(t) * MEAN + std[1] / std[0] * (x - schedule.alpha(s) * MEAN)


def measured_order(counts: tuple[int, ...], error: Callable[[int], float]) -> float:
    """The slope over the last doubling."""
    errors = [error(n) for n in counts]
    return math.log2(errors[-2] / errors[-1])


def gaussian_error(solver, num_steps: int, schedule: Schedule = VP, num_known: int = 0) -> float:
    grid, x = grid_in_lambda(schedule, num_steps), noise(20, 2)
    known = [gaussian_flow(x, grid[0], t, schedule) for t in grid[: num_known + 1]]
    found = solve(GAUSSIAN.model(schedule), known[-1], grid, solver, before=known[:-1])
    return (found - gaussian_flow(x, grid[0], grid[-1], schedule)).abs().max().item()


# --------------------------------------------------------------------------- orders


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("schedule", [VP, FM], ids=["vp", "fm"])
def test_every_solver_has_its_declared_order_on_a_gaussian(name, schedule):
    counts = {"deis2": (1500, 3000), "deis3": (512, 1024)}.get(name[:5], (64, 128))
    order = measured_order(counts, lambda n: gaussian_error(name, n, schedule))
    assert order == pytest.approx(SOLVERS[name].order, abs=0.25)


@pytest.mark.parametrize("name", LOOKING_BACK)
def test_methods_that_look_back_have_their_steady_order_with_exact_start_values(name):
    wanted = SOLVERS[name].steady_order
    counts = (256, 512) if wanted == 3 else (64, 128)
    order = measured_order(counts, lambda n: gaussian_error(name, n, num_known=max(1, wanted - 1)))
    assert order == pytest.approx(wanted, abs=0.15)


@pytest.mark.parametrize("degree", [2, 3])
def test_a_start_by_dpm_solver_3_gives_deis_its_full_order(degree):
    method = started(multistep(degree), SOLVERS["dpm3"], degree)
    counts = (256, 512) if degree == 2 else (64, 128)
    order = measured_order(counts, lambda n: gaussian_error(method, n))
    assert method.order == degree + 1
    assert order == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.parametrize("gamma", [0.2, 0.75, 1.0])
@pytest.mark.parametrize("family", [dpm_solver_2, dpm_solver_pp_2s])
def test_second_looks_anywhere_give_second_order(family, gamma):
    order = measured_order((64, 128), lambda n: gaussian_error(family(gamma), n))
    assert order == pytest.approx(2, abs=0.1)


# --------------------------------------------------------------------------- exactness


def of_time(schedule: Schedule, kind: str, value: Callable[[Tensor], Tensor]) -> Model:
    """A model that looks at the time alone."""
    return Model(lambda x, t: value(t) * torch.ones_like(x), kind, schedule)


def noise_integral(schedule: Schedule, value: Callable[[Tensor], Tensor], grid: Tensor, x: Tensor) -> Tensor:
    """x_t = α_t (x_s/α_s - ∫ e^(-λ) ε dλ), by adaptive quadrature."""

    def integrand(lam: float) -> float:
        t = schedule.time_of(torch.tensor(lam, dtype=torch.float64))
        return math.exp(-lam) * value(t).item()

    ends = schedule.lam(grid[[0, -1]]).tolist()
    whole = quad(integrand, *ends, epsabs=1e-13, epsrel=1e-13)[0]
    return schedule.alpha(grid[-1]) * (x / schedule.alpha(grid[0]) - whole)


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if s.kind != "velocity"])
def test_exponential_methods_are_exact_where_their_prediction_is_constant(name):
    kind = SOLVERS[name].kind
    clean, eps = noise(2, 5, 3)
    grid = grid_in_lambda(VP, 4)
    x = VP.alpha(grid[0]) * clean + VP.sigma(grid[0]) * eps
    model = Model(lambda x, t: {"clean": clean, "noise": eps}[kind], kind, VP)
    wanted = VP.alpha(grid[-1]) * clean + VP.sigma(grid[-1]) * eps
    torch.testing.assert_close(solve(model, x, grid, name), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("schedule", [VP, FM], ids=["vp", "fm"])
@pytest.mark.parametrize("variable", ["lambda", "t"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_deis_is_exact_for_polynomials_of_its_degree(degree, variable, schedule):
    def value(t: Tensor) -> Tensor:
        u = schedule.lam(t) if variable == "lambda" else t
        return 1 - 0.3 * u**degree

    grid = grid_in_lambda(schedule, degree + 2)
    model, x = of_time(schedule, "noise", value), noise(3, 2)
    before = [noise_integral(schedule, value, grid[: k + 1], x) if k else x for k in range(degree + 1)]
    found = solve(model, before[-1], grid, multistep(degree, variable), before=before[:-1])
    torch.testing.assert_close(found, noise_integral(schedule, value, grid, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["exp_heun_linear", "dpm3"])
def test_these_integrate_noise_that_is_linear_in_lambda_exactly(name):
    grid, x = grid_in_lambda(VP, 3), noise(3, 2)
    model = of_time(VP, "noise", lambda t: 0.4 + VP.lam(t))
    wanted = noise_integral(VP, lambda t: 0.4 + VP.lam(t), grid, x)
    torch.testing.assert_close(solve(model, x, grid, name), wanted, rtol=0, atol=1e-12)
    assert (solve(model, x, grid, "dpm2") - wanted).abs().max() > 1e-3  # which holds the middle one constant


def test_rk4_is_simpsons_rule_for_a_velocity_of_time_alone():
    grid = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    model = of_time(FM, "velocity", lambda t: t**3)
    found = solve(model, torch.zeros(1, 1, dtype=torch.float64), grid, "rk4")
    torch.testing.assert_close(found, torch.tensor([[(0.2**4 - 0.9**4) / 4]], dtype=torch.float64))


# --------------------------------------------------------------------------- identities


@pytest.mark.parametrize("spacing", ["t", "lambda", "karras"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ddim_dpm_1_deis_0_and_dpm_pp_1_are_one_method(schedule, spacing):
    grid, model = time_grid(schedule, 12, spacing), leaves().model(schedule)
    x = schedule.sigma(grid[0]) * noise(6, 2)
    ends = [solve(model, x, grid, name) for name in FIRST_ORDER]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_model_predicts_changes_nothing(name):
    grid, x = grid_in_lambda(VP, 9, -3, 3), noise(7, 2)
    ends = [solve(leaves().model(VP, kind), x, grid, name) for kind in KINDS]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-11)


def test_dpm_solver_2_at_gamma_one_is_the_averaging_exponential_heun_and_at_one_half_it_is_not():
    model, x, grid = leaves().model(VP), noise(7, 2), grid_in_lambda(VP, 9)
    wanted = solve(model, x, grid, "exp_heun")
    torch.testing.assert_close(solve(model, x, grid, dpm_solver_2(1.0)), wanted, rtol=0, atol=1e-13)
    assert (solve(model, x, grid, "dpm2") - wanted).abs().max() > 1e-3


def test_deis_in_t_and_in_lambda_differ_from_degree_one_on():
    model, x, grid = leaves().model(VP), noise(7, 2), grid_in_lambda(VP, 9)
    for degree in (1, 2, 3):
        ends = [solve(model, x, grid, f"deis{degree}{end}") for end in ("", "_t")]
        assert (ends[0] - ends[1]).abs().max() > 1e-4


# --------------------------------------------------------------------------- the same by hand


def test_dpm_solver_pp_2m_is_algorithm_7_written_out():
    grid = torch.tensor([0.9, 0.6, 0.45, 0.2, 0.15], dtype=torch.float64)  # uneven on purpose
    model, x = leaves().model(VP), noise(5, 2)
    a, s, lam = VP.alpha(grid), VP.sigma(grid), VP.lam(grid)
    y, older = x, None
    for i in range(1, 5):
        newest, h = model(y, grid[i - 1]), lam[i] - lam[i - 1]
        mix = newest
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            mix = (1 + 1 / (2 * r)) * newest - older / (2 * r)
        y, older = s[i] / s[i - 1] * y - a[i] * (torch.exp(-h) - 1) * mix, newest
    torch.testing.assert_close(solve(model, x, grid, "dpmpp_2m"), y, rtol=0, atol=1e-13)


def test_dpm_solver_3_is_the_algorithm_of_lu_et_al_written_out():
    s, t = torch.tensor([0.7, 0.3], dtype=torch.float64)
    model, x = leaves().model(VP), noise(5, 2)
    lam, h = VP.lam(s), VP.lam(t) - VP.lam(s)
    u1, u2 = VP.time_of(lam + h / 3), VP.time_of(lam + 2 * h / 3)

    def move(to: Tensor, eps: Tensor, step: Tensor) -> Tensor:
        return VP.alpha(to) / VP.alpha(s) * x - VP.sigma(to) * (step.exp() - 1) * eps

    e0 = model(x, s, "noise")
    e1 = model(move(u1, e0, h / 3), u1, "noise")
    k = 2 * h / 3
    x2 = move(u2, e0, k) - VP.sigma(u2) * 2 * ((k.exp() - 1) / k - 1) * (e1 - e0)
    e2 = model(x2, u2, "noise")
    wanted = move(t, e0, h) - VP.sigma(t) * 1.5 * ((h.exp() - 1) / h - 1) * (e2 - e0)
    found = solve(model, x, torch.stack([s, t]), "dpm3")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_heun_is_the_average_of_both_ends_written_out():
    grid, model, x = grid_in_lambda(VP, 3), leaves().model(VP), noise(5, 2)
    y = x
    for s, t in pairwise(grid):
        v = model(y, s, "velocity")
        y = y + (t - s) / 2 * (v + model(y + (t - s) * v, t, "velocity"))
    torch.testing.assert_close(solve(model, x, grid, "heun"), y, rtol=0, atol=1e-13)


def test_euler_in_lambda_divides_the_velocity_by_the_slope_of_lambda():
    grid, model, x = grid_in_lambda(VP, 1, 0, 1e-6), leaves().model(VP), noise(5, 2)
    t = grid[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(VP.lam(t), t)
    wanted = x + 1e-6 * model(x, grid[0], "velocity") / slope
    torch.testing.assert_close(solve(model, x, grid, "euler_lambda"), wanted, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("name", SOLVERS)
def test_the_evaluations_reported_and_declared_are_those_made(name):
    calls = []
    exact = GAUSSIAN.model(VP)
    model = replace(exact, function=lambda x, t: calls.append(t) or exact.function(x, t))
    made = [s.evaluations for s in steps(model, noise(3, 2), grid_in_lambda(VP, 5), name)]
    assert made == [k * SOLVERS[name].evaluations for k in range(6)]
    assert len(calls) == made[-1]


def test_steps_are_yielded_at_the_times_of_the_grid_and_begin_with_the_start():
    grid, x = grid_in_lambda(VP, 5), noise(3, 2)
    film = list(steps(GAUSSIAN.model(VP), x, grid, "dpm2"))
    assert [s.time for s in film] == grid.tolist()
    assert film[0].x is x
    torch.testing.assert_close(film[-1].x, solve(GAUSSIAN.model(VP), x, grid, "dpm2"), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["heun", "dpm3", "dpmpp_2m", "deis3"])
def test_samples_may_have_any_shape(name):
    model = Model(lambda x, t: torch.tanh(x) * t, "noise", VP)
    grid, x = grid_in_lambda(VP, 6), noise(4, 1, 3, 2)
    flat = solve(model, x.flatten(), grid, name)
    torch.testing.assert_close(solve(model, x, grid, name).flatten(), flat, rtol=0, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_single_precision_is_double_precision_to_five_digits(name):
    grid, x = grid_in_lambda(VP, 12, -2, 2), noise(8, 2)
    exact = solve(leaves().model(VP), x, grid, name)
    rough = solve(leaves().to(torch.float32).model(VP), x.float(), grid.float(), name)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["rk4", "dpm3", "deis1", "dpmpp_2m"])
def test_up_to_the_noise_and_down_again_returns_to_the_point(name):
    x = 0.5 * noise(6, 2)
    grid = grid_in_lambda(VP, 400, -1, 1)
    up = solve(GAUSSIAN.model(VP), x, grid.flip(0), name)
    assert (up - x).abs().max() > 0.05
    torch.testing.assert_close(solve(GAUSSIAN.model(VP), up, grid, name), x, rtol=0, atol=2e-4)


def test_ddim_may_end_without_noise_and_then_returns_the_clean_prediction():
    model, x = leaves().model(FM), noise(6, 2)
    grid = torch.tensor([0.8, 0.0], dtype=torch.float64)
    torch.testing.assert_close(solve(model, x, grid, "ddim"), model(x, grid[0]), rtol=0, atol=1e-14)


def test_neither_start_nor_output_of_the_model_is_changed_in_place():
    kept, x = noise(3, 2, seed=1), noise(3, 2)
    before = kept.clone(), x.clone()
    for name in SOLVERS:
        solve(Model(lambda x, t: kept, "clean", VP), x, grid_in_lambda(VP, 5), name)
        solve(Model(lambda x, t: x, "noise", VP), x, grid_in_lambda(VP, 5), name)
    assert torch.equal(kept, before[0]) and torch.equal(x, before[1])


@pytest.mark.parametrize("name", ["ddim", "heun", "deis2"])
def test_gradients_pass_through_steps_and_not_through_solve(name):
    grid, x = grid_in_lambda(VP, 8), noise(1, 2).requires_grad_()
    model = GAUSSIAN.model(VP)
    *_, last = steps(model, x, grid, name)
    (slope,) = torch.autograd.grad(last.x.sum(), x)
    step = 1e-6 * torch.ones_like(x)
    change = (solve(model, x + step, grid, name) - solve(model, x - step, grid, name)).sum() / 2e-6
    assert slope.sum().item() == pytest.approx(change.item(), rel=1e-6)
    assert not solve(model, x, grid, name).requires_grad


def test_exact_samples_before_are_counted_as_evaluations_and_not_yielded():
    grid, x = grid_in_lambda(VP, 6), noise(3, 2)
    known = [gaussian_flow(x, grid[0], t, VP) for t in grid[:3]]
    film = list(steps(GAUSSIAN.model(VP), known[-1], grid, "deis2", before=known[:-1]))
    assert [s.evaluations for s in film] == [2, 3, 4, 5, 6]
    assert [s.time for s in film] == grid[2:].tolist()


def test_wrong_requests_are_refused_with_what_is_allowed():
    model, x, grid = GAUSSIAN.model(VP), noise(3, 2), grid_in_lambda(VP, 2)
    with pytest.raises(ValueError, match="unknown solver 'hoin': choose one of euler, "):
        solve(model, x, grid, "hoin")
    with pytest.raises(ValueError, match="at least one step"):
        solve(model, x, grid[:1])
    with pytest.raises(ValueError, match="at least one step"):
        solve(model, x, grid[:2], "deis1", before=[x])
    for bad in (0.0, 1.5):
        for family in (dpm_solver_2, dpm_solver_pp_2s):
            with pytest.raises(ValueError, match="gamma is in"):
                family(bad)
    with pytest.raises(ValueError, match="degree >= 0"):
        multistep(2, "sigma")
    with pytest.raises(ValueError, match="predicts velocity, 'deis2' noise"):
        started(multistep(2), SOLVERS["heun"], 2)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_grids_with_fewer_steps_than_a_method_looks_back_are_served(name, num_steps):
    found = solve(GAUSSIAN.model(VP), noise(3, 2), grid_in_lambda(VP, num_steps), name)
    assert np.isfinite(found.numpy()).all()
    if num_steps == 1 and name in LOOKING_BACK:
        wanted = solve(GAUSSIAN.model(VP), noise(3, 2), grid_in_lambda(VP, 1), "ddim")
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
