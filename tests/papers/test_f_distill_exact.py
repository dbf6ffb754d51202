"""The theorem of f-distill on the line: against closed forms, finite differences and samples."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch.testing import assert_close

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.f_distill import exact as ex
from reprobook.papers.f_distill import exact_figures as figures
from reprobook.papers.f_distill.divergences import DIVERGENCES, from_generator
from reprobook.papers.f_distill.losses import scale_of_level
from reprobook.papers.f_distill.ratios import BinnedMean

FM, EDM, VP = (SCHEDULES[name] for name in ("fm", "edm", "vp_linear"))
GENERATORS = [d.f for d in DIVERGENCES.values()]
WEIGHTS = [d.weight for d in DIVERGENCES.values()]
PARAMETERS = {"straight": [0.7, 1.1], "bent": [0.7, 1.1, -0.5, 0.9]}
each = pytest.mark.parametrize("name", DIVERGENCES)
levels = pytest.mark.parametrize(
    "schedule, time", [(EDM, 0.4), (EDM, 2.0), (VP, 0.3), (VP, 0.6), (FM, 0.3), (FM, 0.7)]
)


def number(value) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def teacher() -> Mixture:
    return Mixture.isotropic(number([[-1.5], [0.5], [2.0]]), number([0.5, 0.4, 0.7]), number([0.5, 0.2, 0.3]))


def problem(student="straight", schedule=FM, time=0.5, **grids):
    theta = number(PARAMETERS[student])
    return ex.problem_on_line(teacher(), student, theta, schedule, number(time), **grids), theta


# --------------------------------------------------------------------------- the densities


@levels
def test_straight_students_density_and_score_are_gaussian(schedule, time):
    scene, theta = problem(schedule=schedule, time=time)
    law = Mixture.isotropic(theta[None, :1], theta[1].item())
    near = (scene.x - schedule.alpha(scene.t) * theta[0]).abs() < 4
    x = scene.x[near, None]
    expected = law.log_density(x, scene.t, schedule)
    assert_close(ex.log_student(scene, theta)[near], expected, rtol=0, atol=1e-9)
    score = law.score(x, scene.t, schedule)[:, 0]
    assert_close(ex.score_of_student(scene, theta)[near], score, rtol=0, atol=1e-8)


@pytest.mark.parametrize("student", ["straight", "bent"])
def test_score_of_student_is_the_derivative_of_its_log_density(student):
    scene, theta = problem(student, num_points=6001)
    log_q = ex.log_student(scene, theta)
    slope = (log_q[2:] - log_q[:-2]) / (2 * scene.spacing)
    assert_close(ex.score_of_student(scene, theta)[1:-1], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("student", ["straight", "bent"])
@levels
def test_grid_holds_all_of_teacher_and_student(student, schedule, time):
    scene, theta = problem(student, schedule, time)
    for log_density in (scene.log_teacher(), ex.log_student(scene, theta)):
        assert_close(log_density.exp().sum() * scene.spacing, number(1.0), rtol=0, atol=1e-10)


@levels
def test_exact_ratio_has_mean_one_under_the_student(schedule, time):
    scene, theta = problem("bent", schedule, time)
    assert_close(ex.mean_ratio(scene, theta), number(1.0), rtol=0, atol=1e-10)


# --------------------------------------------------------------------------- the theorem


@pytest.mark.parametrize("student", ["straight", "bent"])
@levels
def test_weighted_score_difference_is_the_gradient(student, schedule, time):
    scene, theta = problem(student, schedule, time)
    left = ex.gradient_by_derivative(scene, theta, GENERATORS)
    right = ex.gradient_by_theorem(scene, theta, WEIGHTS)
    assert ((left - right).norm(dim=1) < 1e-9 * left.norm(dim=1)).all()


def test_derivative_agrees_with_finite_differences():
    scene, theta = problem("bent")
    for k, found in enumerate(ex.gradient_by_derivative(scene, theta, GENERATORS).T):
        nudge = 1e-5 * torch.eye(4, dtype=torch.float64)[k]
        for f, value in zip(GENERATORS, found, strict=True):
            up, down = (ex.divergence_on_line(scene, theta + s * nudge, f) for s in (1, -1))
            assert_close((up - down) / 2e-5, value, rtol=1e-6, atol=1e-8)


def test_theorem_serves_a_generator_that_is_not_in_the_table():
    scene, theta = problem()
    own = from_generator("alpha", ex.alpha_generator(0.3))
    left = ex.gradient_by_derivative(scene, theta, [own.f])
    assert_close(ex.gradient_by_theorem(scene, theta, [own.weight]), left, rtol=1e-9, atol=0)


def test_theorem_fails_without_alpha_or_with_the_ratio_upside_down():
    scene, theta = problem(time=0.3)
    left = ex.gradient_by_derivative(scene, theta, GENERATORS)
    without = ex.gradient_by_theorem(scene, theta, WEIGHTS) / FM.alpha(scene.t)
    assert ((without - left).norm(dim=1) > 0.1 * left.norm(dim=1)).all()
    turned = ex.gradient_by_theorem(scene, theta, [lambda r, h=h: h(1 / r) for h in WEIGHTS])
    assert ((turned - left).norm(dim=1) > 0.05 * left.norm(dim=1))[1:].all()


@pytest.mark.parametrize("name", ex.GAUSSIAN_DIVERGENCES)
def test_closed_forms_for_gaussians_are_the_integrals(name):
    p, q = norm(0.3, 1.2), norm(-0.4, 0.9)
    f = DIVERGENCES[name].f
    value, _ = quad(lambda x: q.pdf(x) * f(number(p.pdf(x) / q.pdf(x))).item(), -8, 8, epsabs=1e-11)
    closed = ex.GAUSSIAN_DIVERGENCES[name](*(number(v) for v in (0.3, 1.44, -0.4, 0.81)))
    assert math.isclose(closed, value, rel_tol=1e-8)


@pytest.mark.parametrize("name", ex.GAUSSIAN_DIVERGENCES)
@levels
def test_theorem_gives_the_gradient_of_the_closed_forms(name, schedule, time):
    one = Mixture.isotropic(number([[0.8]]), 0.9)
    theta, t = number([-0.3, 1.2]), number(time)
    a, s = schedule.alpha(t), schedule.sigma(t)
    there = theta.clone().requires_grad_()
    law = (a * 0.8, (a * 0.9).square() + s.square(), a * there[0], (a * there[1]).square() + s.square())
    (left,) = torch.autograd.grad(ex.GAUSSIAN_DIVERGENCES[name](*law), there)
    scene = ex.problem_on_line(one, "straight", theta, schedule, t)
    found = ex.gradient_by_theorem(scene, theta, [DIVERGENCES[name].weight])[0]
    assert_close(found, left, rtol=1e-8, atol=1e-10)


@each
def test_unit_gaussians_have_the_gap_times_the_mean_weight_as_derivative(name):
    narrow, gap = Mixture.isotropic(number([[0.0]]), math.sqrt(0.75)), number(1.5)
    theta = torch.stack([gap, number(0.75).sqrt()])
    scene = ex.problem_on_line(narrow, "straight", theta, EDM, number(0.5))
    slope = ex.gradient_by_derivative(scene, theta, [DIVERGENCES[name].f])[0, 0]
    mean, _ = ex.moments_of_weight(DIVERGENCES[name].weight, gap)
    assert_close(slope, gap * mean, rtol=1e-9, atol=0)


@each
def test_mean_gradient_of_the_students_loss_is_the_theorems(name):
    scene, theta = problem(time=0.6)
    dice = torch.Generator().manual_seed(5)
    t = number(0.6).expand(100, 200)
    found = ex.gradient_by_sampling(teacher(), theta, DIVERGENCES[name], FM, t, dice)
    expected = ex.gradient_by_theorem(scene, theta, [DIVERGENCES[name].weight])[0]
    error = found.std(0) / 10
    assert ((found.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.1 * expected.norm()).all(), "too noisy to say anything"


# --------------------------------------------------------------------------- the step with a scale


@each
def test_step_with_a_scale_of_the_level_is_a_multiple_of_the_gradient(name):
    scene, theta = problem(schedule=VP, time=0.3)
    weight = DIVERGENCES[name].weight
    factor = (VP.sigma(scene.t) / VP.alpha(scene.t)).square() / scale_of_level(VP, scene.t)
    gradient = ex.gradient_by_theorem(scene, theta, [weight])[0]
    step = ex.expected_step(scene, theta, weight, by_sample=False)
    assert_close(step, factor * gradient, rtol=1e-9, atol=0)


def test_step_with_a_scale_of_the_sample_has_no_potential():
    scene, theta = problem(num_latents=201, num_points=1201)
    ones = torch.ones_like
    assert ex.asymmetry(lambda at: ex.expected_step(scene, at, ones, by_sample=False), theta) < 1e-9
    assert ex.asymmetry(lambda at: ex.expected_step(scene, at, ones, by_sample=True), theta) > 0.02


@pytest.mark.parametrize("by_sample", [False, True])
def test_step_of_a_perfect_student_is_zero_with_either_scale(by_sample):
    same, theta = Mixture.isotropic(number([[0.4]]), 1.3), number([0.4, 1.3])
    scene = ex.problem_on_line(same, "straight", theta, FM, number(0.5))
    for weight in WEIGHTS:
        assert ex.expected_step(scene, theta, weight, by_sample).abs().max() < 1e-9


def test_asymmetry_is_zero_for_a_gradient_and_one_for_a_rotation():
    at = number([0.3, -0.7])
    assert ex.asymmetry(lambda v: torch.stack([2 * v[0] * v[1], v[0] ** 2]), at) < 1e-12
    assert ex.asymmetry(lambda v: torch.stack([-v[1], v[0]]), at) == 1


def test_walk_descends_a_bowl_in_strides():
    path = [*ex.walk(lambda v: 2 * v, number([1.0, 0.0]), 0.1, 40)]
    assert len(path) == 41
    assert_close(path[1], number([0.9, 0.0]))
    assert path[-1].norm() < 1e-3


# --------------------------------------------------------------------------- the variance of the weights

gaps = pytest.mark.parametrize("gap", [0.5, 1.0, 2.0, 3.0])


@gaps
@pytest.mark.parametrize("name", ex.NORMALISED_VARIANCES)
def test_closed_form_of_the_variance_is_the_quadrature(name, gap):
    found = ex.moments_of_weight(DIVERGENCES[name].weight, number(gap))[1]
    assert_close(found, ex.NORMALISED_VARIANCES[name](number(gap)), rtol=1e-10, atol=1e-12)


@gaps
def test_moments_of_jensen_shannon_are_scipys_integrals(gap):
    log_ratio = norm(-gap * gap / 2, gap)
    first, second = (
        quad(lambda v, k=k: log_ratio.pdf(v) * expit(v) ** k, -60, 60, points=[0], limit=200)[0]
        for k in (1, 2)
    )
    mean, variance = ex.moments_of_weight(DIVERGENCES["jensen_shannon"].weight, number(gap))
    assert math.isclose(mean, first, rel_tol=1e-6)
    assert math.isclose(variance, second / first**2 - 1, rel_tol=1e-5)


@gaps
def test_softened_and_jensen_shannon_share_the_variance_and_add_up_to_one(gap):
    moments = [
        ex.moments_of_weight(DIVERGENCES[n].weight, number(gap))
        for n in ("softened_reverse_kl", "jensen_shannon")
    ]
    (one, v), (other, w) = moments
    assert_close(one + other, number(1.0))
    assert_close(v * one.square(), w * other.square(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("gap", [8.0, 12.0, 16.0])
def test_variance_of_jensen_shannon_grows_by_the_derived_law(gap):
    found = ex.moments_of_weight(DIVERGENCES["jensen_shannon"].weight, number(gap))[1]
    law = gap * math.exp(gap * gap / 8) / math.sqrt(2 * math.pi)
    second = 1 + math.pi**2 / (2 * gap * gap)
    assert abs(found / law - 1) < 0.1
    assert abs(found / (law * second) - 1) < 2.5 / gap**2, "the next term has the wrong size"


@each
def test_sampled_variance_agrees_where_it_can_be_seen(name):
    weight, gap = DIVERGENCES[name].weight, number(0.7)
    dice = torch.Generator().manual_seed(1)
    found = ex.variance_by_sampling(weight, gap, 200_000, dice)
    assert_close(found, ex.moments_of_weight(weight, gap)[1], rtol=0.05, atol=1e-12)


def test_running_mean_of_an_exact_ratio_stays_near_one():
    student, bins = Mixture.isotropic(number([[0.2]]), 2.0), BinnedMean(0.0, 1.0, 5)
    dice = torch.Generator().manual_seed(2)
    for _ in range(60):
        t = 0.02 + 0.96 * torch.rand(1000, generator=dice).double()
        noise = torch.randn(1000, 1, generator=dice, dtype=torch.float64)
        x = FM.alpha(t)[:, None] * student.sample(1000, dice) + FM.sigma(t)[:, None] * noise
        bins.update(t, (teacher().log_density(x, t, FM) - student.log_density(x, t, FM)).exp())
    assert (bins.means() - 1).abs().max() < 0.1


def test_drawn_teachers_are_laws_within_their_range():
    for seed in range(20):
        drawn = ex.draw_teacher(torch.Generator().manual_seed(seed))
        assert_close(drawn.weights.sum(), number(1.0))
        assert drawn.means.abs().max() <= 2.5 and drawn.weights.min() > 0.05


# --------------------------------------------------------------------------- drawings


@pytest.fixture
def ax():
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_pieces_are_drawn_a_row_a_piece_with_the_first_on_top(ax):
    by_name = {name: [1e-3, 2e-3] for name in DIVERGENCES}
    figures.draw_pieces(ax, {"whole": by_name, "part": by_name})
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["whole", "part"]
    assert ax.yaxis_inverted() and len(ax.lines) == 12


def test_walks_show_start_and_end(ax):
    path = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    figures.draw_walks(ax, [path, path + 1], "ours", "theorem")
    ends = [line.get_xydata().tolist() for line in ax.lines[1:3]]
    assert ends == [[[0.0, 1.0]], [[2.0, 3.0]]]
    assert ax.get_legend_handles_labels()[1] == ["theorem"]


def test_results_put_later_numbers_into_the_row_of_their_divergence(ax):
    figures.draw_results(ax, {"forward_kl": 2.0, "reverse_kl": 3.0}, {"reverse_kl": 2.5}, 1.0)
    assert [line.get_xydata().tolist() for line in ax.lines[1:3]] == [[[3.0, 1.0]], [[2.5, 1.0]]]
