"""Samplers with noise against posteriors and closed-form variances; Picard against step by step."""

import math

import pytest
import torch
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture, leaves
from reprobook.diffusion.picard import sliding_window, sweeps
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import SCHEDULES, Schedule
from reprobook.diffusion.solvers import SOLVERS, solve, steps
from reprobook.diffusion.stochastic import ancestral, eta_ddim, eta_step, predictor_corrector, reverse_sde

VP, FM = SCHEDULES["vp_linear"], SCHEDULES["fm"]
ETAS = (0.0, 0.3, 0.7, 1.0)
STD = 0.6
GAUSSIAN = Mixture.isotropic(torch.zeros(1, 1, dtype=torch.float64), STD)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(s: float, t: float) -> Tensor:
    return torch.tensor([s, t], dtype=torch.float64)


def variance_at(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2


def variances(sampler, schedule: Schedule, grid: Tensor) -> list[float]:
    """The variance after every row for data N(0, STD²), where every prediction is a number times x."""
    found = [variance_at(schedule, grid[0]).item()]
    one = torch.ones(1, 1, dtype=torch.float64)
    for row in sampler.rows(schedule, grid):
        (stage,) = row.stages
        t = torch.tensor(stage.time, dtype=torch.float64)
        gain = GAUSSIAN.model(schedule)(one, t, sampler.kind).item()
        found.append((stage.scale + stage.weights[0] * gain) ** 2 * found[-1] + stage.noise**2)
    return found


# --------------------------------------------------------------------------- one step


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_given_the_clean_sample_the_eta_family_keeps_the_forward_kernel(schedule, eta):
    grid = time_grid(schedule, 7)
    scale, weight, noise = eta_step(schedule, grid, eta)
    alpha, sigma = schedule.alpha(grid), schedule.sigma(grid)
    # x_s = α_s x_0 + σ_s e, and ε̂ = e: so x_t = (a α_s) x_0 + (a σ_s + b) e + c z
    torch.testing.assert_close(scale * alpha[:-1], alpha[1:], rtol=1e-12, atol=0)
    spread = (scale * sigma[:-1] + weight).square() + noise.square()
    torch.testing.assert_close(spread.sqrt(), sigma[1:], rtol=1e-9, atol=1e-12)


def test_the_ancestral_step_draws_from_the_posterior_of_a_joint_gaussian():
    s, t, clean, x = 0.8, 0.3, 0.9, -0.4
    (a_s, a_t), (sigma_s, sigma_t) = VP.alpha(pair(s, t)).tolist(), VP.sigma(pair(s, t)).tolist()
    # condition (x_t, x_s) given x_0, with covariance (α_s/α_t) σ_t², on x_s
    covariance = a_s / a_t * sigma_t**2
    mean = a_t * clean + covariance / sigma_s**2 * (x - a_s * clean)
    variance = sigma_t**2 - covariance**2 / sigma_s**2
    ((row,),) = [ancestral().rows(VP, pair(s, t))]
    (stage,) = row.stages
    assert stage.scale * x + stage.weights[0] * clean == pytest.approx(mean, rel=1e-12)
    assert stage.noise**2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("schedule", [VP, FM], ids=["vp", "fm"])
def test_the_family_ends_in_ddim_and_in_the_ancestral_sampler(schedule):
    model, x, grid = leaves().model(schedule), normal(20, 2), time_grid(schedule, 9)

    def run(sampler) -> Tensor:
        return solve(model, x, grid, sampler, generator=torch.Generator().manual_seed(3))

    torch.testing.assert_close(run(eta_ddim(0)), run("ddim"), rtol=0, atol=1e-11)
    torch.testing.assert_close(run(eta_ddim(1)), run(ancestral()), rtol=0, atol=1e-11)
    assert (run(eta_ddim(0.5)) - run(eta_ddim(1))).abs().max() > 1e-2


@pytest.mark.parametrize("schedule", [VP, FM, SCHEDULES["edm"]], ids=["vp", "fm", "edm"])
def test_without_noise_the_reverse_equation_is_eulers_method_on_the_flow(schedule):
    grid = time_grid(schedule, 8, first=0.1)
    model, x = leaves().model(schedule), schedule.sigma(grid[0]) * normal(9, 2)
    wanted = solve(model, x, grid, "euler")
    torch.testing.assert_close(solve(model, x, grid, reverse_sde(0)), wanted, rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------- the limit of small steps


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_with_any_noise_the_reverse_equation_reaches_the_data_to_first_order(gamma):
    grids = (time_grid(VP, n, first=0.05) for n in (400, 800))
    errors = [variances(reverse_sde(gamma), VP, g)[-1] - variance_at(VP, g[-1]).item() for g in grids]
    assert abs(errors[1]) < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("eta", ETAS)
def test_the_eta_family_reaches_the_data_to_first_order_and_with_too_little_variance(eta):
    grids = (time_grid(VP, n, "lambda", first=0.01) for n in (200, 400))
    errors = [variances(eta_ddim(eta), VP, g)[-1] - variance_at(VP, g[-1]).item() for g in grids]
    assert errors[0] < errors[1] < 0
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_langevin_corrections_leave_the_marginal_alone_up_to_second_order_and_repair_a_wrong_one():
    grid = pair(0.5, 0.3)
    wanted = variance_at(VP, grid[1]).item()

    def corrected(variance: float, ratio: float, num: int) -> float:
        rows = predictor_corrector(reverse_sde(1), ratio, num).rows(VP, grid)[1:]
        for row in rows:
            (stage,) = row.stages
            assert stage.time == row.time == grid[1].item()
            variance = (stage.scale - stage.weights[0] / wanted) ** 2 * variance + stage.noise**2
        return variance

    drift = [abs(corrected(wanted, ratio, 1) - wanted) for ratio in (0.2, 0.1)]
    assert math.log2(drift[0] / drift[1]) == pytest.approx(4, abs=0.01)  # τ goes with the square of the ratio
    assert abs(corrected(1.5 * wanted, 0.1, 50) - wanted) < 0.25 * 0.5 * wanted


# --------------------------------------------------------------------------- samples


@pytest.mark.parametrize(
    "sampler",
    [ancestral(), eta_ddim(0.5), reverse_sde(0.5), reverse_sde(2), predictor_corrector(reverse_sde(1))],
    ids=lambda s: s.name,
)
def test_samples_have_the_variance_that_the_table_says(sampler):
    num, grid = 20_000, time_grid(VP, 12, first=0.1)
    x = variance_at(VP, grid[0]).sqrt() * normal(num, 1, seed=1)
    generator = torch.Generator().manual_seed(2)
    found = solve(GAUSSIAN.model(VP), x, grid, sampler, generator=generator).square().mean().item()
    (wanted,) = variances(sampler, VP, grid)[-1:]
    assert found == pytest.approx(wanted, rel=5 * math.sqrt(2 / num))  # five standard errors


def test_the_noise_of_every_step_is_new_and_follows_the_generator():
    model = Model(lambda x, t: torch.zeros_like(x), "score", VP)
    x, grid = torch.zeros(4000, dtype=torch.float64), time_grid(VP, 3)
    runs = [list(steps(model, x, grid, reverse_sde(1), generator=torch.Generator().manual_seed(5)))] * 2
    runs.append(list(steps(model, x, grid, reverse_sde(1), generator=torch.Generator().manual_seed(6))))
    assert torch.equal(runs[0][-1].x, runs[1][-1].x)
    scales = [row.stages[0].scale for row in reverse_sde(1).rows(VP, grid)]
    added = [b.x - k * a.x for a, b, k in zip(runs[0], runs[0][1:], scales, strict=False)]
    added.append(runs[2][1].x)
    correlations = torch.corrcoef(torch.stack(added)).fill_diagonal_(0).abs()
    assert correlations.max() < 5 / math.sqrt(4000)


def test_all_modes_of_a_mixture_get_their_share_from_the_ancestral_sampler():
    data, schedule, num = leaves(3), VP, 3000
    x = normal(num, 2, seed=4)
    end = solve(data.model(schedule), x, time_grid(schedule, 60), ancestral(), generator=torch.Generator())
    shares = data.responsibilities(end).mean(0)
    torch.testing.assert_close(shares, data.weights, rtol=0, atol=5 * 0.5 / math.sqrt(num))


def test_wrong_settings_are_refused():
    for make in (lambda: eta_ddim(1.2), lambda: eta_ddim(-0.1), lambda: reverse_sde(-1)):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(ValueError, match="predictor on the score"):
        predictor_corrector(ancestral())


# --------------------------------------------------------------------------- Picard's iteration


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm1", "dpmpp_1", "deis0", "euler_lambda"])
def test_after_k_sweeps_the_first_k_nodes_are_those_of_the_solver_and_the_next_is_not(name):
    model, x, grid = leaves().model(VP), normal(6, 2), time_grid(VP, 10, "lambda", last=0.5)
    wanted = torch.stack([s.x for s in steps(model, x, grid, name)])
    scale = wanted.abs().max()
    for sweep in sweeps(model, x, grid, name):
        k = sweep.number
        assert (sweep.path[: k + 1] - wanted[: k + 1]).abs().max() < 1e-11 * scale
        if k <= 5:
            assert (sweep.path[k + 1] - wanted[k + 1]).abs().max() > 1e-7 * scale
        assert (sweep.settled, sweep.evaluations) == (k, 10 * k)
    assert k == 10


def test_the_first_guess_is_that_all_of_the_start_is_noise():
    model, x, grid = leaves().model(VP), normal(6, 2), time_grid(VP, 5)
    path = next(sweeps(model, x, grid, "euler")).path
    nothing = Model(lambda x, t: torch.zeros_like(x), "clean", VP)
    wanted = torch.stack([s.x for s in steps(nothing, x, grid, "ddim")])
    torch.testing.assert_close(path, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [1, 4, 30])
def test_a_window_without_tolerance_gives_the_solvers_own_path(window):
    model, x, grid = leaves().model(VP), normal(6, 2), time_grid(VP, 20, "lambda")
    wanted = torch.stack([s.x for s in steps(model, x, grid, "ddim")])
    *_, last = sliding_window(model, x, grid, window, 0.0)
    torch.testing.assert_close(last.path, wanted, rtol=0, atol=1e-10)
    assert last.settled == 20 and (window > 1 or last.number == last.evaluations == 20)


def test_a_tolerant_window_needs_fewer_rounds_and_stays_near():
    model, x, grid = leaves().model(VP), normal(6, 2), time_grid(VP, 100, "lambda")
    wanted = solve(model, x, grid, "ddim")
    *_, last = sliding_window(model, x, grid, 50, 1e-4)
    assert last.number < 50 < last.evaluations
    assert (last.path[-1] - wanted).abs().max() < 0.02


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "deis1"])
def test_picard_refuses_methods_of_another_form(name):
    with pytest.raises(ValueError, match="not a sampler of one stage"):
        next(sweeps(leaves().model(VP), normal(6, 2), time_grid(VP, 4), name))
    assert name in SOLVERS
