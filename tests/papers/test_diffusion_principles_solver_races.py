"""The measuring instruments of the solver races, against closed forms; and the claims E1 to E3 in small."""

import math

import pytest
import torch

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.multistep import multistep, started
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solver_tables import dpm_solver_2
from reprobook.diffusion.solvers import SOLVERS, solve
from reprobook.diffusion.stochastic import eta_ddim
from reprobook.papers.diffusion_principles.solver_races import (
    Problem,
    euler_in,
    evaluations_to_reach,
    fitted_order,
    gaussian_variances,
    global_errors,
    lambda_grid,
    local_errors,
    race,
    random_problem,
    relative,
    rms,
    straightness,
    trajectory,
)

VP, FM, EDM = (SCHEDULES[name] for name in ("vp_linear", "fm", "edm"))
FIXED = {"vp_linear": False, "vp_cosine": False, "ve": False, "fm": True, "edm": True, "trig": False}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return random_problem(3, num_points=24)


# --------------------------------------------------------------------------- the instruments


def test_a_power_law_has_its_exponent_as_fitted_order():
    sizes = [0.3, 0.1, 0.05, 0.02]
    assert fitted_order(sizes, [7 * h**2.5 for h in sizes]) == pytest.approx(2.5, abs=1e-12)


def test_distances_are_those_of_pythagoras():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert rms(x) == pytest.approx(math.sqrt(25 / 2))
    assert relative(x + 0.2, x) == pytest.approx(0.05)


def test_the_true_flow_of_a_gaussian_keeps_places_in_units_of_its_standard_deviation():
    std, mean = 0.5, torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    start = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gauss = Problem(Mixture.isotropic(mean, std), -1.0, 2.0, start)
    spread = [math.hypot(std, math.exp(-lam)) for lam in (-1.0, 2.0)]
    wanted = mean + spread[1] / spread[0] * (start - mean)
    torch.testing.assert_close(gauss.truth, wanted, rtol=0, atol=1e-9)
    halfway = gauss.flow(start, -1.0, 0.3)
    torch.testing.assert_close(gauss.flow(halfway, 0.3, 2.0), wanted, rtol=0, atol=1e-9)
    assert gauss.flow(start, 0.5, 0.5) is start


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_grids_run_between_the_same_levels_under_every_schedule(schedule, problem):
    wanted = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(schedule.lam(problem.grid(schedule, 8)), wanted, rtol=0, atol=1e-9)


def test_the_number_of_evaluations_is_the_least_that_suffices(problem):
    for name in ("dpm2", "dpmpp_2m"):
        solver = SOLVERS[name]
        found = evaluations_to_reach(problem, VP, solver, 1e-2)
        num_steps = found // solver.evaluations
        at, before = global_errors(problem, VP, name, (num_steps, num_steps - 1))
        assert at <= 1e-2 < before
    with pytest.raises(ValueError, match="'euler' needs more than 4 steps"):
        evaluations_to_reach(problem, VP, SOLVERS["euler"], 1e-9, most=4)


def test_a_race_counts_evaluations_and_measures_the_same_errors(problem):
    evaluations, errors = race(problem, VP, SOLVERS["dpm3"], (4, 8))
    assert evaluations == [12, 24]
    assert errors == pytest.approx(global_errors(problem, VP, "dpm3", (4, 8)), rel=1e-6)


def test_straight_lines_have_straightness_one_and_a_quarter_circle_half_pi_over_root_two():
    share = torch.linspace(0, 1, 500, dtype=torch.float64)[:, None]
    line = share * torch.tensor([1.0, 2.0], dtype=torch.float64)
    circle = torch.cat([(share * math.pi / 2).cos(), (share * math.pi / 2).sin()], 1)
    found = straightness(torch.stack([line, circle], 1))
    wanted = torch.tensor([1, math.pi / 2 / math.sqrt(2)], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_trajectory_ends_where_solve_ends(problem):
    grid = problem.grid(FM, 5)
    path = trajectory(problem.model(FM), problem.start, grid, "ddim")
    assert path.shape == (6, 24, 2)
    assert torch.equal(path[0], problem.start)
    assert torch.equal(path[-1], solve(problem.model(FM), problem.start, grid, "ddim"))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_variances_in_closed_form_are_those_of_many_samples(eta):
    grid, num = lambda_grid(VP, 6, -2.0, 2.0), 40_000
    wanted = gaussian_variances(VP, grid, eta, 0.25)
    data = Mixture.isotropic(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    x = wanted[0].sqrt() * torch.randn(
        num, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    end = solve(data.model(VP), x, grid, eta_ddim(eta), generator=torch.Generator().manual_seed(2))
    assert end.square().mean().item() == pytest.approx(wanted[-1].item(), rel=5 * math.sqrt(2 / num))


# --------------------------------------------------------------------------- what the chapter says, in small


@pytest.mark.parametrize("name", ["ddim", "dpm2", "dpm3", "dpmpp_2s", "dpmpp_2m", "deis3", "exp_heun"])
def test_exponential_solvers_see_nothing_of_a_schedule_but_lambda(name, problem):
    ends = [problem.end(s, problem.grid(s, 7), name) for s in SCHEDULES.values()]
    assert max(relative(end, ends[0]) for end in ends) < 1e-9


@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "deis2_t", "euler_lambda"])
def test_the_others_do(name, problem):
    ends = [problem.end(s, problem.grid(s, 7), name) for s in (VP, FM)]
    assert relative(*ends) > 1e-6


@pytest.mark.parametrize("variable", ["t", "lambda"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_e1_euler_misses_ddim_by_the_bend_of_the_coefficients(schedule, variable, problem):
    s, t = lambda_grid(schedule, 1, -0.5, 0.0).tolist()
    x, grid = problem.start, torch.tensor([s, t], dtype=torch.float64)
    model = problem.model(schedule)
    euler, gap = euler_in(model, x, s, t, variable)
    name = "euler" if variable == "t" else "euler_lambda"
    torch.testing.assert_close(solve(model, x, grid, name), euler, rtol=0, atol=1e-11)
    torch.testing.assert_close(solve(model, x, grid, "ddim"), euler + gap, rtol=0, atol=1e-11)
    assert (gap.abs().max() < 1e-12) == (FIXED[schedule.name] and variable == "t")


def test_e2_exponential_heun_and_dpm_solver_2_part_in_the_third_order(problem):
    for name in ("exp_heun", "exp_heun_linear"):
        gaps, sizes = [], (0.1, 0.05)
        for h in sizes:
            grid = lambda_grid(VP, 1, -1.0, -1.0 + h)
            ends = [problem.end(VP, grid, solver) for solver in (name, "dpm2")]
            gaps.append(rms(ends[0] - ends[1]))
        assert fitted_order(sizes, gaps) == pytest.approx(3, abs=0.2)
    ends = [problem.end(VP, problem.grid(VP, 6), s) for s in ("exp_heun", dpm_solver_2(1.0))]
    assert relative(*ends) < 1e-12


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_e3_a_step_of_deis_is_wrong_by_the_power_degree_plus_two(degree, problem):
    sizes = (0.06, 0.03)
    errors = local_errors(problem, VP, multistep(degree), sizes, num_known=degree)
    assert fitted_order(sizes, errors) == pytest.approx(degree + 2, abs=0.2)


@pytest.mark.parametrize("degree", [2, 3])
def test_e3_the_ramp_up_costs_deis_its_order_and_a_better_start_returns_it(degree, problem):
    counts, solver = (128, 256), multistep(degree)
    sizes = [1 / n for n in counts]
    exact = fitted_order(sizes, global_errors(problem, VP, solver, counts, num_known=degree))
    repaired = global_errors(problem, VP, started(solver, SOLVERS["dpm3"], degree), counts)
    assert exact == pytest.approx(degree + 1, abs=0.2)
    assert fitted_order(sizes, repaired) == pytest.approx(degree + 1, abs=0.2)
    many = (800, 1600)
    ramp = fitted_order([1 / n for n in many], global_errors(problem, VP, solver, many))
    assert ramp == pytest.approx(2, abs=0.2)
