"""Finite nudges: one neuron solved, radii known in closed form, what cancels and what does not."""

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
import torch

from reprobook.papers.equilibrium_propagation.errors import (
    flatten,
    linear_error,
    nudged_error,
    orbit_error,
)
from reprobook.papers.equilibrium_propagation.finite_nudges import (
    best_nudge,
    compare,
    estimate_at,
    in_precision,
    nudge_that_holds,
    one_neuron,
    radius_by_points,
    response_of_one,
    settled_on_circle,
    table_of_methods,
)
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered
from reprobook.papers.equilibrium_propagation.nudge_figures import (
    draw_cells,
    draw_chords,
    draw_errors,
    draw_images_of_circles,
)
from reprobook.papers.equilibrium_propagation.relaxation import loss_slope, readout, relax

CLASSES = torch.eye(2, dtype=torch.float64)[None]  # one input of each class
NOTHING = torch.zeros(1, 2, 1, dtype=torch.float64)
neurons = pytest.mark.parametrize(("drive", "weight", "bias"), [(0.3, 1.5, 0.2), (0.7, -2.0, 0.5)])


def small(angle: float = 0.0, members: int = 2, gain: float = 0.8):
    """Members of a small network in double precision, with inputs and answers."""
    net = Layered(
        layered((6, 8, 5), 3), initial_weights(layered((6, 8, 5), 3), [angle] * members, range(members), gain)
    )
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(members, 9, 6, generator=generator, dtype=torch.float64)
    y = torch.nn.functional.one_hot(torch.arange(9) % 3, 3).double().expand(members, 9, 3)
    return net, x, y


def rounded(values: torch.Tensor) -> list[float]:
    return [round(v, 10) for v in values.flatten().tolist()]


# ------------------------------------------------------------------------------- one neuron


@neurons
@pytest.mark.parametrize("beta", [0.4, -0.4, 0.2 + 0.3j])
def test_settled_neuron_needs_the_nudge_it_was_given(drive, weight, bias, beta):
    net = one_neuron(drive, weight, bias)
    start = [torch.zeros(1, 2, 1, dtype=torch.complex128)]
    held = relax(net, NOTHING, start, steps=400, beta=beta, target=CLASSES).r[0]
    torch.testing.assert_close(
        nudge_that_holds(net, held, CLASSES), torch.full_like(held, beta), rtol=0, atol=1e-11
    )


@neurons
def test_response_of_one_neuron_is_the_derivative_of_the_inverse(drive, weight, bias):
    net = one_neuron(drive, weight, bias)
    r0 = net.phi.value(net.weights["1"][:, None].expand(1, 2, 1)).clone().requires_grad_()
    first = torch.autograd.grad(nudge_that_holds(net, r0, CLASSES).sum(), r0, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), r0)[0]
    once, twice = response_of_one(net, CLASSES)  # derivatives of an inverse: 1/β′ and -β″/β′³
    torch.testing.assert_close(once, (1 / first).detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(twice, (-second / first**3).detach(), rtol=1e-9, atol=1e-12)


@neurons
def test_one_sided_bias_is_half_the_second_derivative(drive, weight, bias):
    net, beta = one_neuron(drive, weight, bias), 1e-4
    settled = relax(net, NOTHING, steps=50)
    once, twice = response_of_one(net, CLASSES)
    for side in (beta, -beta):
        one = nudged_error(net, NOTHING, settled, CLASSES, radius=side, num_points=1, steps=100)[0]
        torch.testing.assert_close((one - once) / side, twice / 2, rtol=2e-3, atol=1e-7)


def test_curvature_of_the_loss_lengthens_the_response_to_a_positive_nudge():
    net = one_neuron(0.5, 2.0)  # φ does not bend at one half
    settled = relax(net, NOTHING, steps=50)
    away, towards = (
        estimate_at(net, NOTHING, CLASSES, settled, side, 1, steps=200).length for side in (0.05, -0.05)
    )
    assert (away > 1.02).all() and (towards < 0.98).all()


def test_mean_over_many_points_is_the_derivative_of_one_neuron():
    net = one_neuron(0.3, 1.5, 0.2)
    around = settled_on_circle(net, CLASSES, 0.3, 24)
    turns = torch.exp(-2j * torch.pi * torch.arange(24, dtype=torch.float64) / 24)
    found = (around[0] * turns).mean() / 0.3
    assert abs(found - response_of_one(net, CLASSES)[0][0, 0, 0]) < 1e-10


# ------------------------------------------------------------------------------- the radius


def test_radius_of_a_bare_activation_is_the_distance_of_its_pole():
    net = one_neuron(0.45, 1e-4, 0.3)  # the loss is straight: u = c + βg, and φ has poles at (2 ± iπ)/4
    settled = relax(net, NOTHING, steps=5)
    g = loss_slope(net, settled.r, CLASSES).abs()[0, :, 0]
    exact = math.hypot(math.pi / 4, 0.05) / g
    found = torch.stack(
        [
            radius_by_points(net, NOTHING, CLASSES, settled, radius=0.4 * exact[k].item(), power=0.0)[0, k]
            for k in (0, 1)
        ]
    )
    torch.testing.assert_close(found, exact, rtol=0.15, atol=0)


@pytest.mark.parametrize(("drive", "weight", "bias"), [(0.4, 6.0, -1.0), (0.45, 3.0, -0.5)])
def test_radius_of_one_neuron_is_roughly_where_its_inverse_turns(drive, weight, bias):
    net = one_neuron(drive, weight, bias)
    settled = relax(net, NOTHING, steps=100)
    nearest = min(abs(fold) for fold in turning_points(net))
    found = radius_by_points(net, NOTHING, CLASSES, settled, radius=nearest / 4, steps=100)[0, 0].item()
    assert 2 / 3 < found / nearest < 3 / 2


def turning_points(net: Layered) -> list[complex]:
    """Nudges at which β′(r) = 0 for the first class, by Newton's method from many activities at once."""
    starts = torch.complex(
        *torch.meshgrid(torch.linspace(-0.3, 1.3, 9), torch.linspace(0, 0.5, 4), indexing="ij")
    )
    r = starts.flatten().to(torch.complex128)[None, :, None] + 0.01
    first = CLASSES[:, :1].expand(1, r.shape[1], 2)
    for _ in range(40):
        r = r.detach().requires_grad_()
        slope = torch.autograd.grad(nudge_that_holds(net, r, first).sum().real, r, create_graph=True)[
            0
        ].conj()
        bend = torch.autograd.grad(slope.sum().real, r)[0].conj()
        r = r - slope / bend
    return nudge_that_holds(net, r, first)[slope.abs() < 1e-8].tolist()


# ------------------------------------------------------------------------------- estimates


def test_comparison_tells_length_from_direction():
    a = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    b = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    found = compare(a, b)
    torch.testing.assert_close(found.distance, torch.tensor([[2.0, math.sqrt(2)]]))
    assert rounded(found.cosine) == [1.0, 0.0]
    assert rounded(found.length) == [3.0, 1.0]


def test_error_of_n_points_falls_with_the_nth_power():
    net, x, y = small(40.0)
    settled = relax(net, x, steps=300)
    for n in (1, 2, 4):
        large, less = (estimate_at(net, x, y, settled, b, n, steps=200).distance.median() for b in (0.2, 0.1))
        assert math.log2(large / less) == pytest.approx(n, abs=0.15)


def test_drift_is_divided_by_the_nudge_with_one_point_and_cancels_with_two():
    net, x, y = small(gain=0.5)
    cut = relax(net, x, steps=2)
    one, two = (estimate_at(net, x, y, cut, 0.01, n, steps=30).distance.median() for n in (1, 2))
    rested = estimate_at(net, x, y, relax(net, x, steps=300), 0.01, 1, steps=30).distance.median()
    assert one > 20 * two and one > 20 * rested


def test_rounding_grows_as_nudges_shrink():
    net, x, y = small()
    single = in_precision(net, torch.float32)
    settled = relax(single, x.float(), steps=300)
    errors = [
        estimate_at(single, x.float(), y.float(), settled, b, 2, steps=60).distance.median().item()
        for b in (1e-5, 1e-4, 1e-3)
    ]
    orders = [math.log10(b / a) for a, b in pairwise(errors)]
    assert orders == pytest.approx([-1, -1], abs=0.35)


def test_double_precision_does_not_round_there():
    net, x, y = small(gain=0.5)
    settled = relax(net, x, steps=300)
    assert estimate_at(net, x, y, settled, 1e-5, 2, steps=60).distance.max() < 1e-8


def test_copies_in_another_precision_share_no_memory():
    net, _, _ = small()
    copy = in_precision(net, torch.float64)
    copy.weights["readout"].zero_()
    assert net.weights["readout"].abs().sum() > 0


def test_orbit_with_a_long_period_agrees_with_many_points():
    net, x, y = small(30.0, gain=0.5)
    settled = relax(net, x, steps=200)
    exact = flatten(linear_error(net, settled, y, steps=200, transposed=False))
    slow, mean = orbit_error(net, x, settled, y, radius=0.3, period=400, periods=2)
    fast, _ = orbit_error(net, x, settled, y, radius=0.3, period=100, periods=2)
    near, far = (compare(flatten(e), exact).distance.max().item() for e in (slow, fast))
    assert near < 2e-3 and far / near == pytest.approx(16, rel=0.2)
    torch.testing.assert_close(flatten(mean), flatten(settled.r), rtol=0, atol=1e-8)


def test_positive_nudge_of_a_free_network_raises_its_loss():
    net, x, y = small()
    settled = relax(net, x, steps=300)
    losses = [
        -(y * readout(net, relax(net, x, settled.u, steps=100, beta=b, target=y).r).log()).sum(-1)
        for b in (-0.3, 0.0, 0.3)
    ]
    assert (losses[0] < losses[1]).all() and (losses[1] < losses[2]).all()


def test_best_nudge_is_on_the_grid_and_by_member():
    errors = torch.tensor([[3.0, 1.0], [2.0, 2.0], [4.0, 3.0]])
    assert best_nudge([0.1, 0.2, 0.4], errors).tolist() == pytest.approx([0.2, 0.1])


def test_table_holds_every_cell_once():
    table = table_of_methods([0.05, 0.5], [[1, 2], [1, 2, 4, 6]], steps=7)
    assert [(m.radius, m.num_points) for m in table.values()] == list(table)
    assert len(table) == 6 and {(m.name, m.steps) for m in table.values()} == {("nudged", 7)}


# ------------------------------------------------------------------------------- figures


def test_figures_show_what_they_are_given():
    _, axes = plt.subplots(1, 4)
    beta = torch.linspace(-1, 1, 21)
    draw_chords(axes[0], beta, beta**2, 0.0, 0.5)
    away = next(line for line in axes[0].lines if line.get_label() == "away, N = 1")
    assert away.get_ydata()[1] == pytest.approx(0.25)
    draw_images_of_circles(axes[1], {0.5: torch.exp(2j * torch.pi * torch.arange(12) / 12)}, 0.0, 4)
    assert [len(line.get_xdata()) for line in axes[1].lines] == [13, 4, 1]
    draw_errors(axes[2], [1.0, 2.0], {2: [[1e-2, 1e-4], [1.0, 1.0]]})
    assert axes[2].get_yscale() == "log"
    assert axes[2].lines[-1].get_ydata()[0] == pytest.approx(1e-3)  # the geometric mean
    draw_cells(axes[3], {"a": [0.1, 0.3]}, {"a": "ours"}, {"a": 0.15})
    assert [line.get_xdata()[0] for line in axes[3].lines] == pytest.approx([10, 20, 15])
    plt.close("all")
