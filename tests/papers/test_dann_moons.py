"""Facts about the two moons, and about the numbers that stand for the pictures of Fig. 2."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from reprobook.papers.dann.moons import (
    END_CLASSES,
    domain_gap_of_neurons,
    ends_apart,
    lonely_share,
    principal_plane,
    rising_share,
    rotated_moons,
)
from reprobook.papers.dann.shallow import Shallow


def turn(degrees):
    a = np.deg2rad(degrees)
    return torch.tensor([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def cloud(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------ the data


def test_the_target_is_turned_anticlockwise_by_the_angle_and_nothing_else():
    turned, straight = rotated_moons([0, 3], 20), rotated_moons([0, 3], 20, degrees=0.0)
    assert_close(turned.xt, straight.xt @ turn(35).T)
    assert_close(turned.ends, straight.ends @ turn(35).T)
    assert_close(turned.xs, straight.xs)
    # a quarter turn takes east to north
    quarter = rotated_moons([0], 20, degrees=90.0).xt
    assert_close(quarter[..., 1], rotated_moons([0], 20, degrees=0.0).xt[..., 0])


def test_without_noise_all_points_lie_on_half_circles_of_radius_two():
    moons = rotated_moons([0], 40, noise=0.0, degrees=0.0)
    centres = (moons.ends[0, ::2].mean(0), moons.ends[0, 1::2].mean(0))
    for x, y in ((moons.xs, moons.ys), (moons.xt, moons.yt)):
        for k in (0, 1):
            distance = (x[y == k] - centres[k]).norm(dim=-1)
            assert_close(distance, torch.full_like(distance, 2.0))
    assert (moons.xs[moons.ys == 0][:, 1] >= centres[0][1] - 1e-9).all()  # class 0 is the upper one
    assert (moons.xs[moons.ys == 1][:, 1] <= centres[1][1] + 1e-9).all()


def test_the_ends_belong_to_the_targets_moons():
    moons = rotated_moons([0, 1], 100, noise=0.0)
    for b in range(2):
        distance = torch.cdist(moons.ends[b], moons.xt[b])
        assert distance.amin(1).max() < 0.05
        assert moons.yt[b, distance.argmin(1)].tolist() == list(END_CLASSES)


def test_the_source_is_centred_and_the_target_is_a_fresh_draw_of_as_many_points():
    moons = rotated_moons([0, 5], 30, degrees=0.0)
    assert moons.xs.mean(1).abs().max() < 1e-12
    assert moons.xs.shape == moons.xt.shape == (2, 60, 2)
    assert (moons.ys.sum(1) == 30).all()
    assert (moons.yt.sum(1) == 30).all()
    assert torch.cdist(moons.xs, moons.xt).min() > 0
    assert moons.xt.mean(1).abs().max() > 1e-4  # centred by the mean of the source, not by its own
    assert_close(rotated_moons([5], 30, degrees=0.0).xt[0], moons.xt[1])


# ------------------------------------------------------------------ the numbers behind the pictures


def test_the_plane_is_that_of_an_independent_pca():
    h = cloud(2, 50, 6) * torch.arange(1, 7)
    mean, directions = principal_plane(h)
    for b in range(2):
        expected = PCA(2).fit_transform(h[b].numpy())
        assert_close(((h - mean) @ directions)[b].abs(), torch.tensor(expected).abs())
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_no_target_is_lonely_beside_its_twin_and_all_are_in_another_place():
    h = cloud(1, 80, 3)
    assert lonely_share(h, h + 1e-6).item() == 0
    assert lonely_share(h, h + 100).item() == 1
    half = torch.cat([h[:, :40] + 1e-6, h[:, 40:] + 100], 1)
    assert lonely_share(h, half).item() == 0.5


@pytest.mark.parametrize("k", [1, 3])
def test_in_a_mixture_a_target_is_lonely_as_often_as_a_coin_falls_on_one_side(k):
    share = lonely_share(cloud(4, 2000, 2), cloud(4, 2000, 2, seed=1), k)
    assert_close(share, torch.full_like(share, 0.5**k), rtol=0.0, atol=0.03)


def test_the_distance_of_ends_is_between_classes_and_in_units_of_the_spread():
    # points on a cross, whose spread is 5 in the plane; the nearest ends of different classes are 2 apart
    h = torch.tensor([[[5.0, 0, 0], [-5, 0, 0], [0, 5, 0], [0, -5, 0]]]).double()
    ends = torch.tensor([[[0.0, 0, 0], [0, 2, 7], [0.1, 0, 0], [0, 3, 7]]]).double()
    assert_close(ends_apart(h, ends), torch.tensor([2 / 5]).double())
    assert_close(ends_apart(3 * h, 3 * ends), ends_apart(h, ends))


def test_a_neuron_shows_the_domain_by_the_gap_of_its_means_whatever_its_sign():
    hs, ht = torch.zeros(1, 4, 2).double(), torch.tensor([[[0.2, -0.4]]]).double().expand(1, 3, 2)
    assert_close(domain_gap_of_neurons(hs, ht), torch.tensor([0.3]).double())


def test_rising_lines_are_counted_within_the_picture_only():
    # lines: y = x; y = -x; y = x + 10, out of the picture; y = 2x + 1; a flat one
    W = torch.tensor([[[1.0, -1], [1, 1], [1, -1], [4, -2], [0, 1]]]).double()
    b = torch.tensor([[0.0, 0, 10, 2, 0]]).double()
    state = Shallow(W, b, torch.zeros(1, 2, 5).double(), torch.zeros(1, 2).double(), 0 * b, 0 * b[:, 0])
    assert rising_share(state, radius=4.0).item() == pytest.approx(2 / 5)
    assert rising_share(state, radius=8.0).item() == pytest.approx(3 / 5)
