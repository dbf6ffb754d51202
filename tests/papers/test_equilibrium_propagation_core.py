"""Facts about networks that settle, their error signals and homeostasis (core of equilibrium propagation)."""

import math

import pytest
import torch

from reprobook.papers.equilibrium_propagation.activations import ACTIVATIONS, softmax
from reprobook.papers.equilibrium_propagation.errors import (
    flatten,
    gradients,
    jacobian,
    linear_error,
    nudged_error,
    orbit_error,
)
from reprobook.papers.equilibrium_propagation.homeostasis import (
    penalty,
    penalty_estimate,
    penalty_slope,
    pushed,
)
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered, loop
from reprobook.papers.equilibrium_propagation.relaxation import (
    loss_slope,
    product,
    readout,
    relax,
    settling,
)

SIZES, ANGLES = (6, 5, 4, 3), (0.0, 30.0, 90.0)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def case():
    """Networks at three angles, inputs, answers, the free state, and both errors from the dense Jacobian."""
    net = Layered(layered(SIZES, 3), initial_weights(layered(SIZES, 3), ANGLES, [0, 0, 0], 0.6))
    x = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.eye(3).double()[torch.arange(4) % 3].expand(3, 4, 3)
    settled = relax(net, x, steps=200)
    J = jacobian(net, settled)
    g = torch.cat([torch.zeros(3, 4, 9).double(), loss_slope(net, settled.r, target)], -1)[..., None]
    errors = [-torch.linalg.solve(matrix, g)[..., 0] for matrix in (J, J.mT)]
    return net, x, target, settled, J, errors


# --------------------------------------------------------------------------- activations


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_slopes_are_the_derivatives_of_the_activations(name):
    phi, u = ACTIVATIONS[name], torch.linspace(-3, 4, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(phi.value(u).sum(), u)
    close(phi.slope(u.detach()), slope)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_are_analytic_and_agree_on_the_real_axis(name):
    phi, u = ACTIVATIONS[name], torch.linspace(-1, 2, 20, dtype=torch.float64)
    close(phi.value(u + 0j).real, phi.value(u))
    z, h = u + 0.2j, 1e-6
    along = (phi.value(z + h) - phi.value(z - h)) / (2 * h)
    across = (phi.value(z + 1j * h) - phi.value(z - 1j * h)) / (2j * h)
    close(along, across, 1e-8)
    close(phi.slope(z), along, 1e-8)


def test_the_logistic_is_the_one_of_the_paper():
    u = torch.linspace(-1, 2, 7, dtype=torch.float64)
    close(ACTIVATIONS["logistic"].value(u), 1 / (1 + torch.exp(-4 * u + 2)))


def test_softmax_is_stable_and_the_same_function_for_complex_numbers():
    z = normal(4, 5)
    close(softmax(z), z.softmax(-1))
    close(softmax(z + 800.0), z.softmax(-1), 1e-10)
    w = z + 0.3j
    close(softmax(w), w.exp() / w.exp().sum(-1, keepdim=True))


# --------------------------------------------------------------------------- weights and settling


def test_ways_back_begin_at_their_angle():
    wiring, angles = layered((20, 300, 200), 4), (0.0, 25.0, 90.0)
    net = Layered(wiring, initial_weights(wiring, angles, [3, 3, 3]))
    found = net.angles()["1>2"]
    assert found[0].item() == pytest.approx(0, abs=1e-5)
    assert found.tolist()[1:] == pytest.approx(angles[1:], abs=1.0)
    sizes = net.weights["2>1"].square().mean((1, 2)) * 300
    assert sizes.tolist() == pytest.approx([1, 1, 1], rel=0.03)


def test_members_of_one_seed_share_their_ways_forth_and_others_do_not():
    weights = initial_weights(layered(SIZES, 3), [0.0, 90.0, 0.0], [5, 5, 6])
    assert torch.equal(weights["1>2"][0], weights["1>2"][1])
    assert not torch.allclose(weights["1>2"][0], weights["1>2"][2])


def test_what_layers_receive_is_written_out_by_hand(case):
    net, x, _, settled, _, _ = case
    w, r = {k: v[1] for k, v in net.weights.items()}, [part[1] for part in settled.r]
    expected = [
        x[1] @ w["0>1"].T + r[1] @ w["2>1"].T,
        r[0] @ w["1>2"].T + r[2] @ w["3>2"].T,
        r[1] @ w["2>3"].T,
    ]
    for found, by_hand in zip(net.received(net.drive(x), settled.r), expected, strict=True):
        close(found[1], by_hand)
    for u, by_hand in zip(settled.u, expected, strict=True):
        close(u[1], by_hand)  # it is at rest


def test_in_the_loop_only_the_last_layer_speaks_back():
    wiring = loop(SIZES, 3)
    net = Layered(wiring, initial_weights(wiring, [90.0], [0]))
    r = [normal(1, 2, n) for n in SIZES[1:]]
    sums = net.push(r, r)
    close(sums[0], r[2] @ net.weights["3>1"].mT)
    close(sums[1], r[0] @ net.weights["1>2"].mT)


@pytest.mark.parametrize("make", [layered, loop])
def test_pull_is_the_transpose_of_push(make):
    wiring = make(SIZES, 3)
    net = Layered(wiring, initial_weights(wiring, [70.0], [0]))
    a, b = ([normal(1, 3, n, seed=s + n) for n in SIZES[1:]] for s in (0, 50))
    close((flatten(net.push(a, a)) * flatten(b)).sum(-1), (flatten(a) * flatten(net.pull(b, b))).sum(-1))


def test_complex_products_are_products():
    x, w = normal(2, 3, 4) + 1j * normal(2, 3, 4, seed=1), normal(2, 5, 4)
    close(product(x, w), x @ w.mT.to(x.dtype))


def test_the_slope_of_the_loss_is_that_of_the_cross_entropy(case):
    net, _, target, settled, _, _ = case
    last = settled.r[-1].clone().requires_grad_()
    loss = -(target * readout(net, [*settled.r[:-1], last]).log()).sum()
    close(loss_slope(net, settled.r, target), torch.autograd.grad(loss, last)[0])


def test_damping_does_not_move_what_is_at_rest_and_tolerance_saves_steps(case):
    net, x, _, settled, _, _ = case
    damped = relax(net, x, steps=400, damping=0.5)
    close(flatten(damped.r), flatten(settled.r))
    early = relax(net, x, steps=200, tolerance=1e-6)
    assert early.steps < 100
    assert early.moved.max() <= 1e-6
    close(flatten(early.r), flatten(settled.r), 1e-5)


def test_a_flip_between_two_states_is_recognised_as_a_cycle():
    wiring = layered((1, 1, 1), 2)
    weights = initial_weights(wiring, [0.0], [0])
    weights["0>1"], weights["1>2"], weights["2>1"] = (
        torch.full((1, 1, 1), v).double() for v in (0.0, 6.0, 6.0)
    )
    weights["1"], weights["2"] = (torch.full((1, 1), -2.5).double() for _ in range(2))
    net, x = Layered(wiring, weights), torch.ones(1, 1, 1).double()
    torn = relax(net, x, [torch.full((1, 1, 1), v).double() for v in (4.0, -2.0)], steps=50)
    restless, circling = settling(net, x, torn)
    assert restless.item() and circling.item()
    restless, _ = settling(net, x, relax(net, x, torn.u, steps=300, damping=0.5))
    assert not restless.item()


# --------------------------------------------------------------------------- errors


def test_the_jacobian_is_that_of_automatic_differentiation(case):
    net, x, _, settled, J, _ = case

    def balance(r):
        parts = [p[None, None] for p in r.split(list(SIZES[1:]))]
        one = Layered(net.wiring, {k: v[[2]] for k, v in net.weights.items()})
        inverse = [(2 - torch.log(1 / p - 1)) / 4 for p in parts]  # of the logistic
        received = one.received(one.drive(x[2:, 1:2]), parts)
        return flatten([h - u for h, u in zip(received, inverse, strict=True)])[0, 0]

    r = flatten(settled.r)[2, 1]
    assert balance(r).abs().max() < 1e-12
    close(torch.autograd.functional.jacobian(balance, r), J[2, 1], 1e-10)


def test_linear_dynamics_end_in_both_errors(case):
    net, _, target, settled, _, (ep, rbp) = case
    close(flatten(linear_error(net, settled, target, steps=200, transposed=False)), ep)
    close(flatten(linear_error(net, settled, target, steps=200, transposed=True)), rbp)
    assert (ep - rbp)[2].norm() > 0.1 * rbp[2].norm()


def test_errors_are_equal_for_symmetric_weights_only(case):
    *_, (ep, rbp) = case
    close(ep[0], rbp[0])
    assert ((ep - rbp).norm(dim=-1) / rbp.norm(dim=-1))[1:].min() > 0.01


def test_recurrent_backpropagation_is_the_gradient_through_settling(case):
    net, x, target, settled, _, _ = case
    leaves = {name: w.clone().requires_grad_() for name, w in net.weights.items()}
    through = Layered(net.wiring, leaves)
    r = relax(through, x, steps=200).r
    loss = -(target * readout(through, r).log()).sum(-1).mean(1).sum()
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    error = linear_error(net, settled, target, steps=200, transposed=True)
    found = gradients(net, x, settled, target, error)
    assert set(found) == set(expected)
    for name, slope in expected.items():
        close(found[name], slope)


@pytest.mark.parametrize("num_points", [1, 2, 3, 4])
def test_n_points_have_order_n(case, num_points):
    net, x, target, settled, _, (ep, _) = case
    radii = [0.1 * (1e-3 / f) ** (1 / num_points) * 3 for f in (1, 4)]
    errors = [
        (
            flatten(nudged_error(net, x, settled, target, radius=b, num_points=num_points, steps=120)) - ep
        ).norm()
        for b in radii
    ]
    order = (errors[0] / errors[1]).log() / math.log(radii[0] / radii[1])
    assert order.item() == pytest.approx(num_points, rel=0.03)


def test_half_of_the_circle_stands_for_all_of_it(case):
    net, x, target, settled, _, _ = case
    for n in (3, 4):
        total = torch.zeros_like(flatten(settled.r))
        for k in range(n):
            beta = 0.2 * complex(math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n))
            start = [u.to(torch.complex128) for u in settled.u]
            total = total + flatten(relax(net, x, start, steps=15, beta=beta, target=target).r) / (beta * n)
        half = nudged_error(net, x, settled, target, radius=0.2, num_points=n, steps=15)
        close(flatten(half) + 0j, total)


def test_the_orbit_gives_the_derivative_and_the_free_state_in_the_long_run(case):
    net, x, target, settled, _, (ep, _) = case
    found, mean = orbit_error(net, x, settled, target, radius=0.1, period=120, periods=2)
    assert (flatten(found) - ep).norm() / ep.norm() < 0.02
    close(flatten(mean), flatten(settled.r), 1e-8)
    coarse, _ = orbit_error(net, x, settled, target, radius=0.1, period=60, periods=2)
    assert ((flatten(coarse) - ep).norm() / (flatten(found) - ep).norm()).item() == pytest.approx(4, rel=0.1)


# --------------------------------------------------------------------------- homeostasis


@pytest.mark.parametrize("make", [layered, loop])
def test_the_penalty_is_twice_the_antisymmetric_part_of_the_jacobian(make):
    wiring = make(SIZES, 3)
    net = Layered(wiring, initial_weights(wiring, [20.0, 90.0], [0, 1], 0.5))
    settled = relax(net, normal(2, 3, 6) / 4, steps=100)
    J = jacobian(net, settled)
    twice = (J - J.mT).square().sum((2, 3)) / 2
    close(twice, penalty(net)[:, None].expand(2, 3))
    expectation = torch.zeros(2, 3).double()
    for basis in torch.eye(12).double():
        e = [part.expand(2, 3, -1) for part in basis.split(list(SIZES[1:]))]
        once = pushed(net, settled, e)
        again = pushed(net, settled, once)
        expectation = expectation + (flatten(once).square() - flatten(e) * flatten(again)).sum(-1)
    close(expectation, twice)


@pytest.mark.parametrize("make", [layered, loop])
def test_the_slope_of_the_penalty_is_its_gradient(make):
    wiring = make(SIZES, 3)
    weights = initial_weights(wiring, [50.0], [0])
    leaves = {k: w.clone().requires_grad_() for k, w in weights.items()}
    slopes = penalty_slope(Layered(wiring, weights))
    found = torch.autograd.grad(penalty(Layered(wiring, leaves)).sum(), [leaves[k] for k in slopes])
    for name, expected in zip(slopes, found, strict=True):
        close(slopes[name], expected)


def test_the_random_estimate_is_unbiased():
    wiring = layered(SIZES, 3)
    net = Layered(wiring, initial_weights(wiring, [90.0], [0]))
    settled = relax(net, torch.full((1, 4000, 6), 0.2).double(), steps=30)
    found = penalty_estimate(
        lambda e: pushed(net, settled, e), settled.r, torch.Generator().manual_seed(0), draws=5
    )
    spread = found.std() / math.sqrt(found.numel())
    assert abs(found.mean() - penalty(net)[0]) < 4 * spread
    assert spread < 0.05 * penalty(net)[0]
