"""Training by error signals: against automatic differentiation, members alone, and what is watched."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from torch.nn import functional as F

from reprobook.papers.equilibrium_propagation.errors import gradients, jacobian, linear_error
from reprobook.papers.equilibrium_propagation.homeostasis import penalty, penalty_slope
from reprobook.papers.equilibrium_propagation.layered import Layered, layered, loop
from reprobook.papers.equilibrium_propagation.relaxation import relax
from reprobook.papers.equilibrium_propagation.training import Method, Recipe, error_of, evaluate, train
from reprobook.papers.equilibrium_propagation.training_figures import (
    draw_course,
    draw_layers,
    draw_over_angle,
    draw_told,
    draw_unsettled,
)
from reprobook.papers.equilibrium_propagation.watching import (
    Cell,
    angle_under_penalty,
    asymmetry,
    descend_by_autograd,
    follow,
    signal_cosines,
    stack,
    unsettled,
)

PAIR, LOOP = layered((6, 5, 4, 3), 3), loop((6, 5, 4, 3), 3)
GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(12, 6, generator=GENERATOR, dtype=torch.float64)
Y = torch.arange(12) % 3
FULL = Recipe(epochs=4, batch=12, free_steps=200, learning_rate=0.5, momentum=0.9)
RECURRENT = Method("recurrent", steps=200)


def fresh(wiring, cells, seeds):
    return stack(wiring, cells, seeds, gain=0.7)[0]


def trained(wiring, cells, seeds, recipe, method):
    net, strengths, orders = stack(wiring, cells, seeds, gain=0.7)
    log = list(train(net, X, Y, recipe, method, homeostasis=strengths, seeds=orders))
    return net, log


def apart(a, b):
    return max((a.weights[name] - b.weights[name]).abs().max().item() for name in a.weights)


def settled_on(net):
    members = len(net.weights["readout"])
    x, target = X.expand(members, -1, -1), F.one_hot(Y, 3).to(X).expand(members, -1, -1)
    return x, target, relax(net, x, steps=300)


# --------------------------------------------------------------------------- training


def test_recurrent_training_is_gradient_descent_through_the_settling():
    cells, seeds = [Cell(0.0), Cell(60.0)], [0, 1]
    begin = fresh(PAIR, cells, seeds)
    slow = descend_by_autograd(begin, X, Y, FULL)
    assert apart(slow, begin) > 0.05
    assert apart(trained(PAIR, cells, seeds, FULL, RECURRENT)[0], slow) < 1e-10


def test_training_by_the_nudge_from_equal_ways_begins_as_gradient_descent_and_leaves_it():
    one = replace(FULL, epochs=1)
    nudge = Method("derivative", steps=200)
    begin = fresh(PAIR, [Cell(0.0)], [0])
    assert (
        apart(trained(PAIR, [Cell(0.0)], [0], one, nudge)[0], descend_by_autograd(begin, X, Y, one)) < 1e-11
    )
    assert (
        apart(trained(PAIR, [Cell(0.0)], [0], FULL, nudge)[0], descend_by_autograd(begin, X, Y, FULL)) > 1e-4
    )


def test_homeostasis_of_the_loop_is_weight_decay():
    begin = fresh(LOOP, [Cell(90.0)], [0, 1])
    net = trained(LOOP, [Cell(90.0, 0.6)], [0, 1], FULL, RECURRENT)[0]
    assert apart(net, descend_by_autograd(begin, X, Y, FULL, decay=2 * 0.6 / 12)) < 1e-10
    assert apart(net, descend_by_autograd(begin, X, Y, FULL)) > 1e-3


def test_homeostasis_of_opposite_ways_is_no_weight_decay():
    begin = fresh(PAIR, [Cell(90.0)], [0])
    net = trained(PAIR, [Cell(90.0, 0.6)], [0], FULL, RECURRENT)[0]
    assert apart(net, descend_by_autograd(begin, X, Y, FULL, decay=2 * 0.6 / 12)) > 1e-3


def test_members_of_a_stack_train_as_if_alone():
    cells, seeds = [Cell(30.0), Cell(90.0, 0.5)], [0, 1]
    recipe = Recipe(epochs=2, batch=5, free_steps=40)
    method = Method("nudged", radius=0.3, num_points=2)
    together, _ = trained(PAIR, cells, seeds, recipe, method)
    for k, (cell, seed) in enumerate((c, s) for c in cells for s in seeds):
        alone, _ = trained(PAIR, [cell], [seed], recipe, method)
        assert max((together.weights[n][k] - w[0]).abs().max() for n, w in alone.weights.items()) < 1e-12


def test_an_epoch_leaves_out_the_last_short_batch_and_counts_its_steps():
    _, log = trained(PAIR, [Cell(0.0)], [0], Recipe(epochs=3, batch=5, free_steps=5), Method("derivative"))
    assert [p.step for p in log] == list(range(1, 7))


def test_each_seed_has_its_own_order_and_each_epoch_another():
    recipe = Recipe(epochs=2, batch=12, free_steps=30, learning_rate=0.0)
    losses = torch.stack([p.loss for p in trained(PAIR, [Cell(0.0)], [0, 1], recipe, RECURRENT)[1]])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-12, rtol=0)  # all inputs, in whatever order
    half = replace(recipe, batch=6)
    first = torch.stack([p.loss for p in trained(PAIR, [Cell(0.0)], [0], half, RECURRENT)[1]])[:, 0]
    assert abs(first[0] - first[2]) > 1e-6
    torch.testing.assert_close(first[:2].mean(), losses[0, 0], atol=1e-12, rtol=0)


def test_adam_takes_first_steps_of_the_size_of_its_rate():
    recipe = replace(FULL, epochs=1, adam=True, learning_rate=1e-3)
    net, _ = trained(PAIR, [Cell(60.0)], [0], recipe, RECURRENT)
    begin = fresh(PAIR, [Cell(60.0)], [0])
    moved = (net.weights["1>2"] - begin.weights["1>2"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), atol=1e-5, rtol=0)


def test_a_method_without_a_name_is_refused():
    net = fresh(PAIR, [Cell(0.0)], [0])
    x, target, settled = settled_on(net)
    with pytest.raises(ValueError, match="unknown method 'guess'"):
        error_of(Method("guess"), net, x, settled, target)


def test_every_method_agrees_with_the_derivative_where_it_should():
    net = fresh(PAIR, [Cell(50.0)], [0])
    x, target, settled = settled_on(net)
    exact = torch.cat(error_of(Method("derivative", steps=200), net, x, settled, target), -1)
    for method in (
        Method("nudged", radius=1e-4, num_points=2, steps=300),
        Method("nudged", radius=0.05, num_points=6, steps=300),
    ):
        found = torch.cat(error_of(method, net, x, settled, target), -1)
        assert ((found - exact).norm() / exact.norm()).item() < 1e-4
    slow = torch.cat(error_of(Method("orbit", radius=0.02, steps=1000), net, x, settled, target), -1)
    assert ((slow - exact).norm() / exact.norm()).item() < 0.05
    turned = torch.cat(error_of(Method("recurrent", steps=300), net, x, settled, target), -1)
    assert ((turned - exact).norm() / exact.norm()).item() > 0.01


def test_evaluation_counts_wrong_answers_over_batches_of_any_size():
    net = fresh(PAIR, [Cell(0.0), Cell(90.0)], [0])
    whole, parts = evaluate(net, X, Y, batch=12), evaluate(net, X, Y, batch=5)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    log = trained(PAIR, [Cell(0.0), Cell(90.0)], [0], replace(FULL, epochs=1, learning_rate=0.0), RECURRENT)[
        1
    ]
    torch.testing.assert_close(whole[1], log[0].loss, atol=1e-10, rtol=0)


# --------------------------------------------------------------------------- what is watched


@pytest.mark.parametrize("wiring", [PAIR, LOOP], ids=["opposite ways", "loop"])
def test_asymmetry_is_that_of_the_full_jacobian(wiring):
    net = fresh(wiring, [Cell(0.0), Cell(40.0), Cell(90.0)], [0, 1])
    _, _, settled = settled_on(net)
    J = jacobian(net, settled)
    share = torch.linalg.matrix_norm((J - J.mT) / 2) / torch.linalg.matrix_norm(J)
    torch.testing.assert_close(asymmetry(net, settled), share, atol=1e-12, rtol=0)


def test_signals_agree_with_equal_ways_and_disagree_below_the_readout_with_others():
    net = fresh(PAIR, [Cell(0.0), Cell(90.0)], [0])
    _, target, settled = settled_on(net)
    cosines = signal_cosines(net, settled, target, steps=300)
    torch.testing.assert_close(cosines[0], torch.ones(12, 3, dtype=torch.float64), atol=1e-10, rtol=0)
    assert cosines[1, :, 0].mean() < 0.9


def test_cosines_do_not_shrink_with_the_error():
    net = fresh(PAIR, [Cell(0.0)], [0])
    net.weights["readout bias"][:, 0] = 60.0  # the first class is sure: errors of the size of e^-60
    _, target, settled = settled_on(net)
    right = signal_cosines(net, settled, target, steps=300)[0, Y == 0]
    assert max(e.abs()[:, Y == 0].max() for e in linear_error(net, settled, target, transposed=True)) < 1e-20
    torch.testing.assert_close(right, torch.ones_like(right), atol=1e-3, rtol=0)


def test_angle_under_penalty_is_what_homeostasis_does_to_orthogonal_ways():
    rate, momentum, strength = 0.02, 0.9, 0.3
    begin, slope = stack(layered((4, 40, 40, 3), 3), [Cell(90.0)], [0])[0], None
    forth, back = begin.weights["1>2"], begin.weights["2>1"]
    flat = forth.flatten()
    back -= ((back.mT.flatten() @ flat) / (flat @ flat)) * forth.mT  # exactly orthogonal, of one length
    back *= forth.norm() / back.norm()
    course, velocity = [], dict.fromkeys(("1>2", "2>1"), 0.0)
    for _ in range(40):
        course.append(begin.angles()["1>2"].item())
        slope = penalty_slope(begin)
        for name in velocity:
            velocity[name] = momentum * velocity[name] + strength * slope[name]
            begin.weights[name] -= rate * velocity[name]
    told = angle_under_penalty(rate, momentum, strength, 39)
    torch.testing.assert_close(torch.tensor(course, dtype=torch.float64), told, atol=1e-6, rtol=0)


def test_angle_under_penalty_decays_at_the_rate_of_its_slow_mode():
    rate, momentum, strength = 1e-4, 0.9, 0.5
    course = torch.deg2rad(angle_under_penalty(rate, momentum, strength, 3000)) / 2
    measured = (course[-1].tan().log() - course[1000].tan().log()) / 2000
    assert math.isclose(measured, -4 * rate * strength / (1 - momentum), rel_tol=0.03)


def test_stack_orders_members_by_cell_and_then_by_seed():
    net, strengths, seeds = stack(PAIR, [Cell(0.0, 0.5), Cell(90.0)], [3, 7])
    assert (strengths, seeds) == ([0.5, 0.5, 0.0, 0.0], [3, 7, 3, 7])
    assert torch.equal(net.weights["1>2"][0], net.weights["1>2"][2])
    assert not torch.equal(net.weights["1>2"][0], net.weights["1>2"][1])
    torch.testing.assert_close(penalty(net)[:2], torch.zeros(2, dtype=torch.float64))


def jumping() -> Layered:
    """Two neurons that inhibit each other so strongly that synchronous steps never rest."""
    wiring = layered((1, 1, 1), 2)
    net = fresh(wiring, [Cell(0.0)], [0])
    net.weights["0>1"][:], net.weights["1"][:] = 0.0, 1.5  # at rest at a half, where the slope is one
    net.weights["2"][:], net.weights["1>2"][:], net.weights["2>1"][:] = 1.5, -2.0, -2.0
    return net


def test_damping_ends_the_cycle_of_two_neurons_that_inhibit_each_other():
    net, inputs = jumping(), torch.zeros(4, 1, dtype=torch.float64)
    moving, circling = unsettled(net, inputs)
    assert (moving.item(), circling.item()) == (1.0, 1.0)
    moving, circling = unsettled(net, inputs, damping=0.5)
    assert (moving.item(), circling.item()) == (0.0, 0.0)


def test_slow_inputs_move_without_circling():
    net, inputs = jumping(), torch.zeros(4, 1, dtype=torch.float64)
    moving, circling = unsettled(net, inputs, steps=3, damping=0.9)
    assert (moving.item(), circling.item()) == (1.0, 0.0)


def test_a_course_ends_at_the_networks_it_holds():
    recipe, cells = Recipe(epochs=4, batch=5, free_steps=60), [Cell(0.0), Cell(90.0, 0.5)]
    *_, course = follow(PAIR, cells, [0, 1], (X, Y), (X, Y), recipe, Method("derivative"), looks=3)
    assert course.steps == [0, 3, 5, 8]
    wrong, loss = evaluate(course.net, X, Y, steps=60)
    torch.testing.assert_close(course.seen["wrong"][-1].flatten(), wrong, atol=1e-12, rtol=0)
    torch.testing.assert_close(course.last("loss", cells[1]), loss[2:], atol=1e-12, rtol=0)
    torch.testing.assert_close(course.last("angles", cells[1])[:, 1], course.net.angles()["2>3"][2:])
    assert course.of("cosines", cells[0]).shape == (4, 2, 3)
    assert course.of("angles", cells[0])[0].abs().max() < 1e-4 < course.last("angles", cells[0]).min()


def test_pictures_show_every_cell_and_take_an_axes():
    recipe, cells = Recipe(epochs=1, batch=5, free_steps=20), [Cell(0.0), Cell(90.0)]
    *_, course = follow(PAIR, cells, [0, 1], (X, Y), (X, Y), recipe, Method("derivative"), looks=2)
    lines = {"equal": (course, cells[0], "ours"), "apart": (course, cells[1], "third")}
    figure, axes = plt.subplots(1, 5)
    assert draw_over_angle(axes[0], course, [0.0, 90.0], "nudge", "ours") is axes[0]
    draw_course(axes[1], lines, "wrong", dashed=["apart"])
    assert [line.get_linestyle() for line in axes[1].get_lines() if line.get_label() in lines] == ["-", "--"]
    draw_layers(axes[2], lines)
    assert list(axes[2].get_xticks()) == [1, 2, 3]
    draw_told(axes[3], torch.randn(5, 4), torch.randn(5, 4), "ours", shown=12)
    assert len(axes[3].collections[0].get_offsets()) == 12
    shares = tuple(torch.tensor([0.1, 0.3]) for _ in range(3))
    draw_unsettled(axes[4], {"a": shares, "b": shares})
    assert {round(bar.get_height()) for bar in axes[4].patches} == {20}
    plt.close(figure)


def test_gradients_of_no_error_move_the_readout_alone():
    net = fresh(PAIR, [Cell(45.0)], [0])
    x, target, settled = settled_on(net)
    none = [torch.zeros_like(r) for r in settled.r]
    moved = {name for name, g in gradients(net, x, settled, target, none).items() if g.abs().max() > 0}
    assert moved == {"readout", "readout bias"}
