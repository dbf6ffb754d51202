"""Facts about the two biases of equilibrium propagation, on networks small enough to invert."""

import math

import numpy as np
import pytest
import torch

from reprobook.papers.equilibrium_propagation import biases as bi
from reprobook.papers.equilibrium_propagation.bias_figures import (
    draw_by_angle,
    draw_cycle,
    draw_decay,
    draw_errors,
    draw_orders,
    draw_phases,
    draw_plane,
    draw_restless,
    draw_runs_over,
    draw_turns,
    shades,
)
from reprobook.papers.equilibrium_propagation.errors import flatten, jacobian, nudged_error, orbit_error
from reprobook.papers.equilibrium_propagation.homeostasis import penalty, penalty_estimate
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered, loop
from reprobook.papers.equilibrium_propagation.relaxation import loss_slope, relax, step

SIZES, ANGLES = (6, 5, 4, 3), (0.0, 40.0, 90.0)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def case():
    net = Layered(layered(SIZES, 3), initial_weights(layered(SIZES, 3), ANGLES, [0, 0, 0], 0.6))
    x = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.eye(3).double()[:2].expand(3, 2, 3)
    settled = relax(net, x, steps=250)
    J = jacobian(net, settled)
    g = bi.loss_slope_everywhere(net, settled.r, target)
    return net, x, target, settled, J, g, *bi.both_errors(J, g)


def test_the_matrix_of_all_ways_is_the_jacobian_without_its_diagonal(case):
    net, _, _, settled, J, *_ = case
    W = bi.ways_matrix(net)
    close(J, W[:, None] - torch.diag_embed(1 / net.phi.slope(flatten(settled.u))))
    assert W.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert (W[0] - W[0].T).abs().max() < 1e-15 < (W[2] - W[2].T).abs().max()


# --------------------------------------------------------------------------- unequal ways


def test_what_a_nudge_moves_is_turned_by_the_jacobian_and_its_transpose(case):
    _, _, _, _, J, g, d, delta = case
    close(d, torch.linalg.solve(J, J.mT @ delta[..., None])[..., 0])
    close((J @ d[..., None])[..., 0], -g)


def test_raw_states_move_by_the_error_over_the_slope_even_for_symmetric_weights(case):
    net, x, target, settled, _, _, _, delta = case
    up, down = (relax(net, x, settled.u, steps=300, beta=b, target=target) for b in (1e-4, -1e-4))
    raw = (flatten(up.u) - flatten(down.u))[0] / 2e-4
    close(raw * net.phi.slope(flatten(settled.u))[0], delta[0], 1e-6)
    assert ((raw - delta[0]).norm(dim=-1) / delta[0].norm(dim=-1)).min() > 0.1


def test_the_loss_rises_with_the_nudge_at_the_rate_of_the_symmetric_part(case):
    *_, J, g, d, _ = case
    S, A = bi.parts(J)
    close(S + A, J)
    close(A, -A.mT)
    rate = bi.inner(d, d, -S)
    close(rate, bi.inner(g, d))
    assert rate.min() > 0


def test_both_errors_have_one_length_in_the_symmetric_part(case):
    *_, J, _, d, delta = case
    S, _ = bi.parts(J)
    close(bi.inner(d, d, S), bi.inner(delta, delta, S))
    assert (bi.inner(d, d) / bi.inner(delta, delta) - 1).abs().max() > 0.01  # the plain lengths differ


def test_the_largest_turn_is_attained_by_the_worst_error(case):
    *_, J, _, _, _ = case
    S, A = bi.parts(J[2, 0])
    values, vectors = torch.linalg.eig(torch.linalg.solve(S, A))
    k = values.imag.abs().argmax()
    mu = bi.turning(J)[2, 0]
    close(values.imag.abs()[k], mu, 1e-9)
    assert values.real.abs().max() < 1e-10
    worst = vectors[:, k].real[None, None]
    turned = torch.linalg.solve(J[2, 0], J[2, 0].T @ worst[0, 0])[None, None]
    metric = -S[None, None]
    cosine = bi.inner(turned, worst, metric) / bi.inner(worst, worst, metric)
    close(torch.acos(cosine)[0, 0], 2 * mu.atan(), 1e-7)


def test_no_turn_is_given_where_the_symmetric_part_is_not_definite():
    J = torch.stack([-torch.eye(3), torch.eye(3)]).double()[:, None]
    J[:, 0, 0, 1], J[:, 0, 1, 0] = 0.5, -0.5
    assert bi.turning(J).flatten().tolist() == pytest.approx([0.5, math.inf])


def test_the_first_order_leaves_a_remainder_with_a_closed_form_of_second_order():
    wiring, angles = layered(SIZES, 3), (0.05, 0.1, 0.2)
    net = Layered(wiring, initial_weights(wiring, angles, [2, 2, 2]))
    x = torch.rand(3, 1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:1].expand(
        3, 1, 6
    )
    target = torch.eye(3).double()[:1].expand(3, 1, 3)
    settled = relax(net, x, steps=250)
    J = jacobian(net, settled)
    d, delta = bi.both_errors(J, bi.loss_slope_everywhere(net, settled.r, target))
    S, A = bi.parts(J)
    exact = 2 * torch.linalg.solve(S, A @ torch.linalg.solve(J, A @ delta[..., None]))[..., 0]
    left = d - bi.first_order(J, delta)
    close(left, exact)
    order = (left[2].norm() / left[0].norm()).log() / math.log(4)
    assert order.item() == pytest.approx(2, abs=0.05)
    assert ((d - delta)[2].norm() / (d - delta)[0].norm()).log2().item() / 2 == pytest.approx(1, abs=0.05)


# --------------------------------------------------------------------------- finite nudges


def test_the_balance_has_the_derivative_of_automatic_differentiation(case):
    net, x, target, settled, *_ = case
    u, beta = flatten(settled.u) + 0.05j, torch.full((3, 2), 0.3 + 0.2j, dtype=torch.complex128)
    _, matrix = bi.nudged_balance(net, x, target, u, beta)
    for k in (0, 6, 11):
        h = torch.zeros_like(u)
        h[..., k] = 1e-6
        ends = [bi.nudged_balance(net, x, target, u + s * h, beta)[0] for s in (1, -1)]
        close(matrix[..., k], (ends[0] - ends[1]) / 2e-6, 1e-8)


def test_newton_and_the_dynamics_find_the_same_state_under_a_complex_nudge(case):
    net, x, target, settled, *_ = case
    beta = torch.full((3, 2), 0.1 + 0.1j, dtype=torch.complex128)
    u = bi.follow(net, x, target, flatten(settled.u), beta)
    assert bi.nudged_balance(net, x, target, u, beta)[0].abs().max() < 1e-12
    r, moved = bi.settle_under(net, x, target, flatten(settled.u), beta, 300)
    close(net.phi.value(u), r)
    assert moved.max() < 1e-12
    start = [part.to(torch.complex128) for part in settled.u]
    close(flatten(relax(net, x, start, steps=300, beta=0.1 + 0.1j, target=target).r), r)


def on_circle(case, radius, n):
    net, x, target, settled, *_ = case
    turns = torch.exp(2j * math.pi / n * torch.arange(n, dtype=torch.float64))
    given = [v.repeat_interleave(n, 1) for v in (x, target, flatten(settled.u))]
    u = bi.follow(net, *given, (radius[..., None] * turns).flatten(1))
    return net.phi.value(u).unflatten(1, (x.shape[1], n)).movedim(2, 0)


def test_taylor_coefficients_are_found_for_a_known_function():
    radius = torch.full((1, 1), 0.5).double()
    z = 0.5 * torch.exp(2j * math.pi / 64 * torch.arange(64).double())[:, None, None, None]
    found = bi.taylor(1 / (1 - z), radius, 10)
    close(found, torch.ones(11, 1, 1, 1).to(torch.complex128), 1e-12)
    close(bi.mean_over_circle(1 / (1 - z), radius), torch.ones(1, 1, 1).to(torch.complex128), 1e-12)
    close(bi.mean_over_circle((1 / (1 - z))[::32], radius).real.item(), 4 / 3, 1e-12)  # (2 - 2/3) / (2 · 1/2)


@pytest.mark.parametrize("star", [0.7 + 0.4j, 1.2 + 0.0j])
def test_the_branch_point_of_a_square_root_is_found_from_its_coefficients(star):
    radius = torch.full((1, 1), 0.7 * abs(star)).double()
    z = radius.item() * torch.exp(2j * math.pi / 128 * torch.arange(128).double())
    root = (1 - z / star).sqrt() + (1 - z / np.conj(star)).sqrt()
    values = torch.stack([root, root * z, root * (2 + z**2)], -1)[:, None, None]
    found = bi.nearest_by_growth(bi.taylor(values, radius, 40), 15, 40)[0, 0, 0]
    assert abs(found) == pytest.approx(abs(star), rel=0.01)


def test_the_rule_on_states_is_the_librarys_rule_and_ends_in_the_derivative(case):
    net, x, target, settled, _, _, d, _ = case
    radius = torch.full((3, 2), 0.1).double()
    states = on_circle(case, radius, 4)
    rule = nudged_error(net, x, settled, target, radius=0.1, num_points=4, steps=300)
    close(bi.mean_over_circle(states, radius).real, flatten(rule), 1e-10)
    close(bi.taylor(on_circle(case, radius, 16), radius, 3)[1].real, d, 1e-8)


def test_at_the_fold_the_jacobian_is_singular_and_two_states_meet(case):
    net, x, target, settled, *_ = case
    radius = torch.full((3, 2), 0.1).double()
    for share, first, last in ((0.6, 2, 9), (0.75, 5, 20), (0.75, 9, 24)):
        guess = bi.nearest_by_growth(bi.taylor(on_circle(case, radius, 48), radius, last), first, last)[
            ..., 0
        ]
        radius = share * guess.abs()
    u = bi.follow(net, x, target, flatten(settled.u), 0.9 * guess)
    fold = bi.fold_near(net, x, target, u, 0.9 * guess, guess)
    assert fold.smallest.max() < 1e-8
    assert (fold.beta.abs() / guess.abs() - 1).abs().max() < 0.05
    before = [
        bi.follow(net, x, target, flatten(settled.u), fold.beta * (1 - off), stages=60)
        for off in (1e-2, 1e-4)
    ]
    gaps = [(u - fold.u).norm(dim=-1) for u in before]
    torch.testing.assert_close(gaps[0] / gaps[1], torch.full((3, 2), 10.0).double(), rtol=0.2, atol=0)


# --------------------------------------------------------------------------- homeostasis, time, cycles


def test_the_variance_of_the_estimate_is_the_one_derived(case):
    net, _, _, _, J, *_ = case
    J = J[2:, :1]
    repeated = [torch.zeros(1, 20_000, n).double() for n in SIZES[1:]]

    def push(e):
        return bi.unflatten(net, flatten(e) @ J[0, 0].T)

    found = penalty_estimate(push, repeated, torch.Generator().manual_seed(0), draws=1)
    assert (found.var() / bi.estimate_variance(J)).item() == pytest.approx(1, abs=0.08)
    spread = (bi.estimate_variance(J) / found.numel()).sqrt().item()
    assert found.mean().item() == pytest.approx(penalty(net)[2].item(), abs=4 * spread)
    S, A = bi.parts(J[0, 0])
    alone = 2 * (2 * A @ A).square().sum()
    assert bi.estimate_variance(J).item() > 1.2 * alone  # the commutator matters
    assert bi.estimate_variance(S) == 0
    W = bi.ways_matrix(net)[2]  # without the diagonal: the same expectation, less noise
    close(bi.parts(W)[1], A)
    assert bi.estimate_variance(W) < bi.estimate_variance(J)[0, 0]


@pytest.mark.parametrize(("make", "factor"), [(layered, 4), (loop, 2)])
def test_homeostasis_alone_is_geometric(make, factor):
    wiring = make(SIZES, 3)
    net = Layered(wiring, initial_weights(wiring, [60.0], [0]))
    path = list(bi.homeostasis_alone(net, 0.01, 7))
    assert len(path) == 7
    for t, later in enumerate(path, 1):
        close(penalty(later), (1 - 0.01 * factor) ** (2 * t) * penalty(net))
    assert torch.equal(path[-1].weights["0>1"], net.weights["0>1"])
    if make is layered:
        sums = [n.weights["1>2"] + n.weights["2>1"].mT for n in (net, path[-1])]
        close(*sums)


def test_the_orbit_of_a_small_nudge_has_its_closed_form(case):
    net, x, target, settled, _, g, d, _ = case
    found, _ = orbit_error(net, x, settled, target, radius=1e-4, period=24, periods=6)
    predicted = bi.orbit_response(net, flatten(settled.u), g, 24)
    close(flatten(found), predicted, 1e-6)
    assert (predicted - d).norm() > 1e-3 * d.norm()
    lags = [(bi.orbit_response(net, flatten(settled.u), g, n) - d).norm() for n in (200, 400)]
    assert (lags[0] / lags[1]).item() == pytest.approx(4, rel=0.01)


def test_odd_layers_now_and_even_layers_later_are_a_network_of_their_own(case):
    net, x, *_ = case
    wiring = net.wiring
    drive = net.drive(x)
    first = [
        torch.rand(3, 2, n, generator=torch.Generator().manual_seed(n)).double() for n in wiring.sizes[1:]
    ]
    changed = [u + 1 if k % 2 else u for k, u in enumerate(first)]  # other even layers
    ends = []
    for u in (first, changed):
        films = [u]
        for _ in range(3):
            films.append(step(net, drive, films[-1])[0])
        ends.append(bi.interleave(films[2], films[3]))
    for a, b in zip(*ends, strict=True):
        close(a, b)


def test_a_cycle_of_period_two_is_two_fixed_points_interleaved():
    wiring = layered((8, 30, 30, 6), 4)
    net = Layered(wiring, initial_weights(wiring, [0.0], [0], 6.0))
    x = torch.rand(1, 60, 8, generator=torch.Generator().manual_seed(0)).double()
    now = relax(net, x, steps=250)
    later, _ = step(net, net.drive(x), now.u)
    later = [net.phi.value(u) for u in later]
    again = relax(net, x, now.u, steps=2)
    circling = ((flatten(again.r) - flatten(now.r)).abs().amax(-1) < 1e-10) & (now.moved > 1e-3)
    assert circling.sum() >= 3
    for mixed in (bi.interleave(now.r, later), bi.interleave(later, now.r)):
        after = [net.phi.value(u) for u in net.received(net.drive(x), mixed)]
        assert (flatten(after) - flatten(mixed)).abs().amax(-1)[circling].max() < 1e-9


# --------------------------------------------------------------------------- figures


def test_figures_show_the_numbers_that_they_are_given():
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 6)
    assert draw_phases(axes[0], np.ones((5, 2)), 2 * np.ones((3, 2)), np.zeros((3, 2))) is axes[0]
    starts = [line.get_xdata()[0] for line in axes[0].lines[:6]]
    assert starts == [0, 0, 4, 4, 4, 4]
    draw_errors(axes[1], [np.array([1.0, 2.0])], [np.array([0.5, -3.0])])
    assert axes[1].collections[0].get_offsets().tolist() == [[1.0, 0.5], [2.0, -3.0]]
    draw_orders(axes[2], {1: ([0.1, 1], [0.2, 2]), 2: ([0.1, 1], [0.01, 1])})
    assert axes[2].get_legend_handles_labels()[1] == ["N = 1", "N = 2"]
    draw_plane(axes[3], 2.0, np.full((3, 3), 0.25), np.array(1 + 1j), math.sqrt(2))
    assert sorted(axes[3].lines[1].get_ydata()) == [-1, 1]
    assert axes[3].images[0].get_array().max() == pytest.approx(0.25)
    draw_cycle(axes[4], np.zeros((4, 2)), np.ones((4, 2)))
    assert axes[4].lines[2].get_ydata()[0] == 1
    draw_by_angle(axes[5], [0.0, 90.0], np.ones((1, 2, 3)))
    powers = [line.get_ydata()[-1] for line in axes[5].lines if line.get_linestyle() == "--"]
    assert powers == pytest.approx([0, 0, 1])
    assert len(shades(3)) == 3
    turns, decay, noise, restless = Figure().subplots(1, 4)
    draw_turns(turns, [[10.0, 20.0]], [[5.0, 6.0]], ["one"])
    assert turns.collections[0].get_offsets().tolist() == [[10.0, 5.0], [20.0, 6.0]]
    draw_decay(decay, {"a": np.array([[0.81, 0.6561]]), "b": np.array([[1.0, 1.0]])}, {"a": 0.9, "b": 1.0})
    assert decay.lines[2].get_ydata() == pytest.approx(decay.lines[0].get_ydata())
    draw_runs_over(noise, [[1.0, 2.0]], {"with J": [[3.0, 4.0]]})
    assert [line.get_ydata()[0] for line in noise.lines[:2]] == [3.0, 4.0]
    draw_restless(restless, {(0.0, 1.0): [[0.5, 0.7], [0.0], [0.1]], (0.0, 2.0): [[1.0], [0.0], [0.2]]})
    assert restless.lines[0].get_ydata() == pytest.approx([0.6, 1.0])
    assert restless.lines[2].get_ydata() == pytest.approx([0.1, 0.2])


def test_loss_slopes_stand_at_the_last_layer(case):
    net, _, target, settled, _, g, *_ = case
    assert g[..., :9].abs().max() == 0
    close(g[..., 9:], loss_slope(net, settled.r, target))
    for a, b in zip(bi.unflatten(net, g), settled.r, strict=True):
        assert a.shape == b.shape
