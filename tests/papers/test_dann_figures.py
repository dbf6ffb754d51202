"""Facts about the pictures: what is drawn stands where the numbers say."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.testing import assert_close

from reprobook.papers.dann.figures import (
    draw_neurons,
    draw_points,
    draw_pulls,
    draw_row_of_fig_2,
    draw_zones,
)
from reprobook.papers.dann.moons import rotated_moons
from reprobook.papers.dann.shallow import initial, members

matplotlib.use("Agg")


@pytest.fixture
def ax():
    return Figure().subplots()


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_neurons_line_is_where_its_activation_is_one_half(ax):
    W, b = random(6, 2), random(6)
    draw_neurons(ax, W, b, reach=4.0)
    assert len(ax.lines) == 6
    for line, w, bias in zip(ax.lines, W, b, strict=True):
        for point in (line.get_xy1(), line.get_xy2()):
            assert float(torch.tensor(point, dtype=torch.float64) @ w + bias) == pytest.approx(0, abs=1e-12)
        assert line.get_xy1() != line.get_xy2()


def test_the_boundary_of_the_zones_is_where_the_score_changes_sign(ax):
    draw_zones(ax, lambda x: x[:, 0] - 0.5 * x[:, 1] - 1, reach=4.0)
    (path,) = ax.collections[-1].get_paths()
    vertices = torch.tensor(path.vertices)
    assert len(vertices) > 10
    assert_close(vertices[:, 0], 1 + 0.5 * vertices[:, 1], rtol=0.0, atol=0.02)


def test_arrows_keep_their_directions_and_proportions(ax):
    points, pulls = random(5, 2), 100 * random(5, 2)
    draw_pulls(ax, points, pulls, "pull", "ours")
    arrows = ax.collections[0]
    drawn = torch.stack([torch.tensor(arrows.U), torch.tensor(arrows.V)], 1)
    assert_close(drawn, pulls / pulls.norm(dim=1).max() / 5)
    assert_close(torch.tensor(np.asarray(arrows.get_offsets())), points)


def test_classes_and_ends_have_their_own_colours_and_letters(ax):
    source, ends = torch.tensor([[0.0, 0], [1, 1], [2, 2]]).double(), random(4, 2)
    draw_points(ax, source, torch.tensor([0, 1, 1]), random(7, 2), ends)
    target, zero, one = ax.collections
    assert [len(c.get_offsets()) for c in (target, zero, one)] == [7, 1, 2]
    assert [t.get_text() for t in ax.texts] == ["A", "B", "C", "D"]
    for text, end in zip(ax.texts, ends, strict=True):
        assert_close(torch.tensor(text.xy, dtype=torch.float64), end)
    colours = [t.get_color() for t in ax.texts]
    assert colours[0] == colours[2] != colours[1] == colours[3]


def test_a_row_of_fig_2_has_four_panels_with_all_points_and_a_line_a_neuron():
    axes = Figure().subplots(1, 4)
    moons = rotated_moons([0, 1], 20)
    net = members(initial([0, 1], 2, 15), [1])
    draw_row_of_fig_2(axes, net, *(t[1:] for t in (moons.xs, moons.ys, moons.xt, moons.ends)))
    for panel in axes:
        scatters = [c for c in panel.collections if len(c.get_offsets()) > 1]
        assert sum(len(c.get_offsets()) for c in scatters) == 80
    assert [len(panel.texts) for panel in axes] == [4, 4, 0, 0]
    assert len(axes[3].lines) == 15
