"""Flow maps, distillation and Reflow: losses and samplers against closed forms and slow references."""

import math

import pytest
import torch
from torch.func import jvp
from torch.testing import assert_close

from reprobook.diffusion.distillation import progressive_step, progressive_target, vsd_loss
from reprobook.diffusion.flow_maps import (
    adaptive,
    average_velocity,
    consistency_loss,
    consistency_sampling,
    ctm_network,
    from_average_velocity,
    from_ctm,
    gamma_sampling,
    landing_time,
    meanflow_loss,
    meanflow_target,
    noise_up,
    scm_loss,
    tangent,
    tangent_loss,
    trajectory_loss,
    trig_consistency,
)
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.networks import Stack, TimeMLP
from reprobook.diffusion.predictions import diffuse
from reprobook.diffusion.rectification import (
    COSTS,
    between,
    follow,
    reflow_loss,
    relative_cost,
    straightness,
)
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve

DOUBLE = {"dtype": torch.float64}
FM, TRIG = SCHEDULES["fm"], SCHEDULES["trig"]


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=dice(seed), **DOUBLE)


def network(dim: int = 2, num_times: int = 1, seed: int = 0) -> TimeMLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TimeMLP(dim, 16, 1, num_times=num_times, highest=3.0).double()


def gradient(loss: torch.Tensor, net: torch.nn.Module) -> torch.Tensor:
    slopes = torch.autograd.grad(loss.sum(), net.parameters(), materialize_grads=True)
    return torch.cat([g.flatten() for g in slopes])


def stretch(x: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The flow map of data N(0, 4) on the straight path."""

    def deviation(u: torch.Tensor) -> torch.Tensor:
        return (4 * (1 - u).square() + u.square()).sqrt()

    ratio = deviation(t) / deviation(s)
    return x * (ratio[..., None] if ratio.ndim else ratio)


# --------------------------------------------------------------------------- parameterisations


def test_both_forms_are_the_identity_on_the_diagonal_whatever_the_network_says():
    x, out, s = normal(5, 2), normal(5, 2, seed=1), torch.linspace(0.1, 0.9, 5, **DOUBLE)
    assert_close(from_average_velocity(out, x, s, s), x)
    assert_close(from_ctm(out, x, s, s), x)


def test_the_forms_have_their_inverses_and_differ_by_x_minus_s_times_h():
    x, psi = normal(5, 2), normal(5, 2, seed=1)
    s, t = torch.linspace(0.5, 2, 5, **DOUBLE), torch.linspace(0.1, 0.4, 5, **DOUBLE)
    h, g = average_velocity(psi, x, s, t), ctm_network(psi, x, s, t)
    assert_close(from_average_velocity(h, x, s, t), psi)
    assert_close(from_ctm(g, x, s, t), psi)
    assert_close(g, x - s[:, None] * h)


def test_one_step_of_meanflow_goes_against_the_velocity():
    """Data at 0: paths are t ε, the velocity is x/t, and the step from 1 must end at 0, not at 2x."""
    x, one, zero = normal(3, 2), torch.ones(3, **DOUBLE), torch.zeros(3, **DOUBLE)
    assert_close(from_average_velocity(x, x, one, zero), torch.zeros_like(x))


# --------------------------------------------------------------------------- consistency


def test_consistency_loss_learns_on_the_noisier_side_only():
    """With a linear f(x, s) = w x the gradient by hand is 2 (w x_s - w x_t) x_s."""
    x_s, x_t = normal(7, 1), normal(7, 1, seed=1)
    s, t = torch.full((7,), 0.5, **DOUBLE), torch.full((7,), 0.4, **DOUBLE)
    w = torch.tensor(0.7, requires_grad=True, **DOUBLE)
    held, free = (
        torch.autograd.grad(
            consistency_loss(lambda x, s: w * x, x_s, x_t, s, t, stop_gradient=stop).sum(), w
        )[0]
        for stop in (True, False)
    )
    gap = (0.7 * (x_s - x_t)).detach()
    assert_close(held, (2 * gap * x_s).sum())
    assert_close(free, (2 * gap * (x_s - x_t)).sum())


def test_consistency_loss_takes_another_function_on_the_right():
    x, s = normal(3, 2), torch.full((3,), 0.5, **DOUBLE)
    loss = consistency_loss(lambda x, s: x, x, x, s, s / 2, target=lambda x, t: x + t[:, None])
    assert_close(loss, torch.full((3,), 2 * 0.25**2, **DOUBLE))


def test_tangent_is_the_slope_along_a_trajectory():
    net, x, s, v = network(), normal(4, 2), torch.linspace(0.2, 0.8, 4, **DOUBLE), normal(4, 2, seed=3)
    value, change = tangent(net, x, s, v)
    step = 1e-6
    ahead, behind = net(x + step * v, s + step), net(x - step * v, s - step)
    assert_close(value, net(x, s))
    assert_close(change, (ahead - behind) / (2 * step), atol=1e-8, rtol=1e-6)


def test_tangent_loss_is_the_limit_of_the_discrete_one():
    net, x, s, v = network(), normal(6, 2), torch.linspace(0.2, 0.8, 6, **DOUBLE), normal(6, 2, seed=3)
    limit, errors = gradient(tangent_loss(net, x, s, v), net), []
    for step in (1e-3, 5e-4):
        discrete = gradient(consistency_loss(net, x, x - step * v, s, s - step), net) / (2 * step)
        errors.append((discrete - limit).norm() / limit.norm())
    assert errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)


def test_trig_consistency_is_the_identity_without_noise():
    x = normal(3, 2)
    assert_close(trig_consistency(network(), x, torch.zeros(3, **DOUBLE), 0.5), x)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_scm_has_the_gradient_of_the_tangent_loss_weighted_by_its_cotangent(sigma_data: float):
    net, x, v = network(), normal(6, 2), normal(6, 2, seed=3)
    s = torch.linspace(0.2, 1.4, 6, **DOUBLE)
    ours = gradient(scm_loss(net, x, s, v, sigma_data, normalise=False), net)

    def f(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return trig_consistency(net, x, s, sigma_data)

    weight = 2 / torch.tan(s) / sigma_data
    assert_close(ours, gradient(weight * tangent_loss(f, x, s, v), net))


def test_scm_tangent_is_warmed_up_and_normalised():
    net, x, v, s = network(), normal(6, 2), normal(6, 2, seed=3), torch.linspace(0.2, 1.4, 6, **DOUBLE)
    cosine = torch.cos(s)[:, None]
    cold = scm_loss(net, x, s, v, 1.0, warmup=0.0, normalise=False)
    assert_close(cold, (cosine.square() * (net(x, s) - v)).square().sum(-1))
    raw, even = (scm_loss(net, x, s, v, 1.0, constant=c, normalise=n) for c, n in ((0.1, False), (0.1, True)))
    assert_close(even, (raw.sqrt() / (raw.sqrt() + 0.1)).square())


# --------------------------------------------------------------------------- whole maps


def test_the_exact_map_has_no_trajectory_loss_and_a_map_with_swapped_times_has():
    s, u, t = (torch.full((5,), value, **DOUBLE) for value in (0.9, 0.5, 0.2))
    x = normal(5, 1)
    y = stretch(x, s, u)
    assert trajectory_loss(stretch, x, y, s, u, t).max() < 1e-28
    assert trajectory_loss(lambda x, s, t: stretch(x, t, s), x, y, s, u, t).mean() > 1e-2


def test_trajectory_loss_learns_from_the_later_point_only():
    x, y = normal(4, 1), normal(4, 1, seed=1)
    s, u, t = (torch.full((4,), value, **DOUBLE) for value in (0.9, 0.5, 0.2))
    w = torch.tensor(0.7, requires_grad=True, **DOUBLE)
    loss = trajectory_loss(lambda x, s, t: w * x, x, y, s, u, t).sum()
    assert_close(torch.autograd.grad(loss, w)[0], (2 * 0.7 * (x - y) * x).sum())


def test_meanflow_target_is_h_itself_for_the_exact_average_velocity():
    mixture = Mixture.isotropic(torch.zeros(1, 1, **DOUBLE), 2.0)
    s, t, x = torch.linspace(0.5, 0.9, 5, **DOUBLE), torch.linspace(0.1, 0.4, 5, **DOUBLE), normal(5, 1)
    v = mixture.model(FM, "velocity")(x, s, "velocity")

    def h(x: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return average_velocity(stretch(x, s, t), x, s, t)

    assert_close(*meanflow_target(h, x, s, t, v))


def test_meanflow_target_by_hand():
    """For h = x² + 3 s + 5 t the bracket is 2 x v + 3: no part of it comes from t."""
    x, v = normal(4, 1), normal(4, 1, seed=1)
    s, t = torch.full((4,), 0.8, **DOUBLE), torch.full((4,), 0.3, **DOUBLE)
    value, target = meanflow_target(lambda x, s, t: x.square() + 3 * s[:, None] + 5 * t[:, None], x, s, t, v)
    assert_close(value, x.square() + 2.4 + 1.5)
    assert_close(target, v - 0.5 * (2 * x * v + 3))


def test_meanflow_on_the_diagonal_is_flow_matching():
    net, x, v, s = (
        network(num_times=2),
        normal(6, 2),
        normal(6, 2, seed=3),
        torch.linspace(0.2, 0.8, 6, **DOUBLE),
    )
    plain = (net(x, s, s) - v).square().sum(-1)
    loss = meanflow_loss(net, x, s, s, v)
    assert_close(loss, plain)
    assert_close(gradient(loss, net), gradient(plain, net))


def test_meanflow_loss_holds_its_target():
    net, x, v = network(num_times=2), normal(6, 2), normal(6, 2, seed=3)
    s, t = torch.full((6,), 0.8, **DOUBLE), torch.full((6,), 0.3, **DOUBLE)
    _, change = jvp(net, (x, s, t), (v, torch.ones_like(s), torch.zeros_like(t)))
    target = (v - 0.5 * change).detach()
    by_hand = gradient((net(x, s, t) - target).square().sum(-1), net)
    assert_close(gradient(meanflow_loss(net, x, s, t, v), net), by_hand)
    free = gradient(meanflow_loss(net, x, s, t, v, stop_gradient=False), net)
    assert (free - by_hand).norm() > 1e-2 * by_hand.norm()


def test_losses_of_a_stack_are_those_of_its_members():
    stack = Stack(lambda: TimeMLP(2, 16, 1, num_times=2, highest=3.0), (4, 5)).double()
    x, v = normal(2, 6, 2), normal(2, 6, 2, seed=3)
    s, t = torch.full((2, 6), 0.8, **DOUBLE), torch.full((2, 6), 0.3, **DOUBLE)
    together = meanflow_loss(stack, x, s, t, v)
    for k in range(2):
        net = stack.member(k, network(num_times=2))
        assert_close(together[k], meanflow_loss(net, x[k], s[k], t[k], v[k]))


def test_adaptive_weights_keep_the_direction_of_each_gradient():
    w = torch.tensor([3.0, 0.1], requires_grad=True, **DOUBLE)
    (slope,) = torch.autograd.grad(adaptive(w.square(), 1.0, 0.01).sum(), w)
    assert_close(slope, (2 * w / (w.square() + 0.01)).detach())
    assert_close(adaptive(w.square(), 0.0), w.square())


# --------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("name", SCHEDULES)
def test_noising_up_is_the_forward_process(name: str):
    """From the law at u one comes to the law at t: variances of data N(0, 1) agree."""
    schedule = SCHEDULES[name]
    u, t = schedule.time_of(torch.tensor([1.0, -0.5], **DOUBLE))
    zero, one = torch.zeros(1, 1, **DOUBLE), torch.ones(1, 1, **DOUBLE)
    before = schedule.alpha(u).square() + schedule.sigma(u).square()
    kept, new = noise_up(one, u, t, zero, schedule), noise_up(zero, u, t, one, schedule)
    after = kept.square() * before + new.square()
    assert_close(after.squeeze(), schedule.alpha(t).square() + schedule.sigma(t).square())


def test_landing_time_is_that_of_algorithm_11_under_edm():
    t, end = torch.tensor(2.0, **DOUBLE), torch.tensor(0.002, **DOUBLE)
    edm = SCHEDULES["edm"]
    assert_close(landing_time(t, end, 0.6, edm), t * 0.8)
    assert landing_time(t, end, 0.0, edm).item() == pytest.approx(2.0)
    assert landing_time(t, end, 1.0, edm) is end


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_sampling_with_the_exact_map_keeps_the_law(gamma: float):
    """The sampler is linear in its noises here, so the variance of its samples is a sum of squares."""
    grid = torch.tensor([1.0, 0.7, 0.4, 0.0], **DOUBLE)
    units = torch.eye(3, **DOUBLE)
    *_, out = gamma_sampling(stretch, units[0, :, None], grid, gamma, FM, units[1:, :, None])
    assert_close(out.square().sum(), torch.tensor(4.0, **DOUBLE))
    if gamma == 0.0:
        assert_close(out.squeeze(), torch.tensor([2.0, 0.0, 0.0], **DOUBLE))


def test_multistep_consistency_sampling_by_hand():
    x, noises = normal(4, 1), normal(2, 4, 1, seed=1)
    grid = torch.tensor([1.0, 0.6, 0.3, 0.0], **DOUBLE)

    def f(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return x * (1 - s / 2) + s

    by_hand = f(x, grid[0])
    for t, noise in zip((0.6, 0.3), noises, strict=True):
        by_hand = f((1 - t) * by_hand + t * noise, torch.tensor(t, **DOUBLE))
    assert_close(consistency_sampling(f, x, grid, FM, noises), by_hand)


# --------------------------------------------------------------------------- distillation


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_with_the_pseudo_target_does_the_work_of_two(name: str):
    schedule = SCHEDULES[name]
    mixture = Mixture.isotropic(normal(3, 2, seed=2), 0.4)
    grid = schedule.time_of(torch.tensor([-1.5, 0.0, 1.0], **DOUBLE))
    x = diffuse(normal(5, 2), normal(5, 2, seed=1), grid[0], schedule)
    two = solve(mixture.model(schedule, "noise"), x, grid, "ddim")
    target = progressive_target(x, two, grid[0], grid[2], schedule)
    assert_close(progressive_step(target, x, grid[0], grid[2], schedule), two)


def test_the_pseudo_target_is_the_clean_sample_where_the_teacher_knows_it():
    clean, noise = normal(5, 2), normal(5, 2, seed=1)
    s, t = torch.linspace(0.6, 0.9, 5, **DOUBLE), torch.linspace(0.1, 0.5, 5, **DOUBLE)
    x_s, x_t = (diffuse(clean, noise, time, TRIG) for time in (s, t))
    assert_close(progressive_target(x_s, x_t, s, t, TRIG), clean)


def test_vsd_gradient_is_that_of_the_divergence_and_scales_with_its_weight():
    """G(z) = a z against data N(1, 1/4) on a line, where KL is (log of ratio + ratio + shift²/v - 1)/2."""
    t = torch.tensor(0.4, **DOUBLE)
    data = Mixture.isotropic(torch.ones(1, 1, **DOUBLE), 0.5)
    a = torch.tensor(1.5, requires_grad=True, **DOUBLE)
    points = math.sqrt(2) * torch.cat([torch.eye(2, **DOUBLE), -torch.eye(2, **DOUBLE)])
    fake = Mixture.isotropic(torch.zeros(1, 1, **DOUBLE), 1.5)
    models = (fake.model(FM, "score"), data.model(FM, "score"))
    loss = vsd_loss(a * points[:, :1], points[:, 1:], t.expand(4), *models)
    own, right = 0.36 * a.square() + 0.16, 0.36 * 0.25 + 0.16
    divergence = (own / right + 0.36 / right - 1 - (own / right).log()) / 2
    (ours,), (exact,) = (
        torch.autograd.grad(value, a, retain_graph=True) for value in (loss.mean(), divergence)
    )
    assert_close(ours, exact)
    weighted = vsd_loss(a * points[:, :1], points[:, 1:], t.expand(4), *models, 3 * torch.ones(4, **DOUBLE))
    assert_close(weighted, 3 * loss)


# --------------------------------------------------------------------------- Reflow


def test_reflow_loss_is_the_scatter_of_displacements_at_its_minimum():
    x_0, x_1, t = normal(50, 2), normal(50, 2, seed=1), torch.rand(50, generator=dice(), **DOUBLE)
    assert reflow_loss(lambda x, t: x_1 - x_0, x_0, x_1, t).max() == 0
    assert_close(reflow_loss(lambda x, t: x_0 - x_1, x_0, x_1, t), 4 * (x_1 - x_0).square().sum(-1))
    assert_close(between(x_0, x_1, torch.zeros(50, **DOUBLE)), x_0)
    assert_close(between(x_0, x_1, torch.ones(50, **DOUBLE)), x_1)


def test_following_a_flow_is_of_fourth_order_in_both_directions():
    x, exact, errors = torch.ones(1, 1, **DOUBLE), math.exp(-1), []
    for steps in (10, 20):
        *_, (_, end, _) = follow(lambda x, t: x, x, torch.linspace(1, 0, steps + 1, **DOUBLE))
        errors.append(abs(end.item() - exact))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.1)
    *_, (_, back, _) = follow(lambda x, t: x, end, torch.linspace(0, 1, 21, **DOUBLE))
    assert back.item() == pytest.approx(1, abs=1e-7)


def test_straightness_is_the_variance_of_the_speed_on_a_line():
    """v = 2 t x/|x| covers distance 1 with squared excess ∫ (1 - 2t)² dt = 1/3."""
    x = torch.tensor([[3.0, 4.0], [0.0, -5.0]], **DOUBLE)
    times = torch.linspace(1, 0, 1001, **DOUBLE)
    end, bent = straightness(lambda x, t: 2 * t * x / x.norm(dim=-1, keepdim=True), x, times)
    assert_close(end, 0.8 * x)
    assert_close(bent, torch.full((2,), 1 / 3, **DOUBLE), atol=1e-5, rtol=0)
    _, straight = straightness(lambda x, t: torch.ones_like(x), x, times)
    assert straight.abs().max() < 1e-20


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_is_convex(cost: str):
    a, b = normal(500, 2), normal(500, 2, seed=1)
    gap = COSTS[cost](a) / 2 + COSTS[cost](b) / 2 - COSTS[cost]((a + b) / 2)
    assert gap.min() > -1e-12
    assert gap.max() > 1e-2


def test_relative_cost_of_halved_displacements():
    d = normal(100, 2)
    assert relative_cost("square", d, d / 2) == pytest.approx(-0.75)
    assert relative_cost("length", d, d / 2) == pytest.approx(-0.5)
