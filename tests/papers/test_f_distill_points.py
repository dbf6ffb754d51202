"""Learned distillation in the plane: judges and exact references against closed forms and slow sums."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.testing import assert_close

from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.networks import Stack
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.point_figures import draw_changes, draw_density, draw_points, draw_ratios
from reprobook.papers.f_distill.point_ratios import (
    denoiser_error,
    law_of_points,
    level_means,
    log_ratio,
    logits_of,
    rank_correlation,
    step_noise,
    train_discriminator,
)
from reprobook.papers.f_distill.points import (
    TIMES,
    chosen,
    ends_of,
    floor_of,
    judge,
    mode_shares,
    new_players,
    pretrain,
    samples_of,
    scene_of,
    some_modes,
    times_of,
)
from reprobook.papers.f_distill.ratios import BinnedMean
from reprobook.papers.f_distill.training import Players

matplotlib.use("Agg")
FM, VP = SCHEDULES["fm"], SCHEDULES["vp_cosine"]
RING, LEAVES = ring(8, 2.0, 0.12).to(torch.float32), leaves().to(torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Like(nn.Module):
    """A function that looks like a stack of S networks."""

    def __init__(self, function, num: int = 2) -> None:
        super().__init__()
        self.function, self.seeds = function, tuple(range(num))
        self.shift = nn.Parameter(torch.zeros(num, 2))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


# --------------------------------------------------------------------------- judges


@pytest.mark.parametrize("reach", [1.0, 2.0, 3.0])
def test_each_mode_of_the_data_has_its_weight_within_a_radius(reach):
    # a ring far enough apart, with unequal weights: 1 - exp(-reach²/2) of each
    data = ring(5, 4.0, 0.2, weights=[1.0, 2.0, 3.0, 4.0, 5.0]).to(torch.float32)
    shares = mode_shares(data.sample(40_000, seeded()), data, reach)
    assert_close(shares, data.weights * (1 - math.exp(-(reach**2) / 2)), rtol=0, atol=0.012)


def test_narrow_modes_are_measured_along_their_own_axes():
    one = Mixture(LEAVES.weights[:1] / LEAVES.weights[0], LEAVES.means[:1], LEAVES.covariances[:1])
    long, short = (0.6, 0.08)
    along = torch.tensor([math.cos(0.6), math.sin(0.6)])
    across = torch.tensor([-along[1], along[0]])
    inside = [one.means[0] + 2.9 * long * along, one.means[0] - 2.9 * short * across]
    outside = [one.means[0] + 3.1 * long * along, one.means[0] + 3.1 * short * across]
    assert mode_shares(torch.stack(inside), one).item() == 1
    assert mode_shares(torch.stack(outside), one).item() == 0


def test_recall_counts_modes_with_a_tenth_of_their_fair_share():
    means = RING.means
    # of 800 points: 79 on mode 1 of 8 would be nearly fair; 10 is the least that counts
    for on_second, recall in ((10, 2 / 8), (9, 1 / 8)):
        x = torch.cat([means[:1].expand(800 - on_second, 2), means[1:2].expand(on_second, 2)])
        found = judge(x[None], RING, 0)
        assert_close(found.recall, torch.tensor([recall]))
        assert_close(found.precision, torch.ones(1))
        wrong = (800 - on_second) / 800 - 1 / 8 + max(on_second / 800 - 1 / 8, 0)
        assert_close(found.variation, torch.tensor([wrong]), rtol=0, atol=1e-5)
    far = judge(torch.full((1, 50, 2), 9.0), RING, 0)
    assert far.recall.item() == 0 and far.precision.item() == 0


def test_the_data_are_judged_good_and_a_moved_cloud_by_how_far_it_moved():
    x = torch.stack([RING.sample(2000, seeded(1)), RING.sample(2000, seeded(1)) + torch.tensor([30.0, 40.0])])
    found = judge(x, RING, 3)
    assert found.recall[0] == 1 and found.variation[0] < 0.05 and found.precision[0] > 0.97
    assert abs(found.distance[0] - floor_of(RING, 2000)) < 0.08
    assert_close(found.distance[1].item(), 50 / math.sqrt(2), rtol=0.15, atol=0)


def test_ends_are_those_of_samples_from_the_same_noise():
    players = new_players(8, FM, [0, 1, 0])
    x = samples_of(players.student, 60, 5)
    assert torch.equal(x[0], x[2]) and not torch.equal(x[0], x[1])
    for a, b in zip(ends_of(players.student, RING, 60, 5), judge(x, RING, 6), strict=True):
        assert torch.equal(a, b)


# --------------------------------------------------------------------------- start


def test_some_modes_are_a_mixture_of_their_own():
    part = some_modes(LEAVES, 3)
    assert_close(part.weights.sum(), torch.ones(()))
    assert_close(part.weights[0] / part.weights[2], LEAVES.weights[0] / LEAVES.weights[2])
    assert torch.equal(part.means, LEAVES.means[:3]) and torch.equal(part.covariances, LEAVES.covariances[:3])


def test_pretrained_students_know_the_modes_they_were_shown_and_no_others():
    players = new_players(32, FM, [0, 1])
    *_, progress = pretrain(players.student, some_modes(RING, 4), FM, 150, [0, 1])
    shares = torch.stack([mode_shares(x, RING) for x in samples_of(players.student, 1000, 0)])
    assert (shares[:, :4] > 0.1 / 8).all() and (shares[:, 4:] < 0.1 / 8).all()
    assert (progress.loss < 0.15).all()


def test_chosen_members_are_copies_in_order():
    players = new_players(8, FM, [3, 5])
    picked = chosen(players, [1, 0, 1])
    for old, new in zip(
        (players.student, players.fake, players.discriminator),
        (picked.student, picked.fake, picked.discriminator),
        strict=True,
    ):
        assert new.seeds == (5, 3, 5)
        for a, b in zip(old.parameters(), new.parameters(), strict=True):
            assert torch.equal(a[[1, 0, 1]], b)
            b.data += 1
            assert not torch.equal(a[1], b[0]) and torch.equal(b[0], b[2])
    x, t = torch.randn(3, 4, 2, generator=seeded()), torch.rand(3, 4, generator=seeded())
    again = chosen(players, [1, 0, 1])
    assert_close(again.fake(x, t)[:2], players.fake(x[:2].flip(0), t[:2].flip(0)).flip(0))


def test_a_scene_draws_what_it_says():
    scene = scene_of(RING, LEAVES, VP, 4000, (0.2, 0.4))
    t = scene.times(seeded())
    assert 0.2 <= t.min() < 0.201 and 0.399 < t.max() <= 0.4 and abs(t.mean() - 0.3) < 0.01
    z, label = scene.latent(seeded())
    assert label is None and abs(z.std() - 1) < 0.05
    assert_close(mode_shares(scene.data(seeded())[0], RING).sum(), torch.tensor(1.0), rtol=0, atol=0.03)
    x = torch.randn(5, 2, generator=seeded())
    assert_close(scene.teacher(None)(x, t[:5]), LEAVES.denoise(x, t[:5], VP), rtol=1e-4, atol=1e-4)
    assert TIMES[0] <= times_of(100, seeded()).min() and times_of(100, seeded()).max() <= TIMES[1]


# --------------------------------------------------------------------------- exact references


@pytest.mark.parametrize("schedule", [FM, VP], ids=["fm", "vp"])
def test_the_law_of_points_is_their_average_kernel(schedule):
    points = torch.randn(7, 2, generator=seeded(), dtype=torch.float64)
    x, t = torch.randn(2, generator=seeded(1), dtype=torch.float64), torch.tensor(0.6).double()
    a, s = schedule.alpha(t).item(), schedule.sigma(t).item()
    kernels = [math.exp(-((x - a * p) ** 2).sum().item() / (2 * s * s)) for p in points]
    density = sum(kernels) / 7 / (2 * math.pi * s * s)
    clean = sum(k * p for k, p in zip(kernels, points, strict=True)) / sum(kernels)
    law = law_of_points(points)
    assert_close(law.log_density(x, t, schedule).item(), math.log(density))
    assert_close(law.denoise(x, t, schedule), clean)


def test_many_samples_without_width_have_the_noised_law_of_where_they_come_from():
    law, t = law_of_points(RING.sample(20_000, seeded())), torch.tensor(0.5)
    x = RING.diffused(t, FM).sample(200, seeded(1))
    assert log_ratio(RING, law, x, t, FM).abs().max() < 0.2
    other = ring(8, 2.0, 0.12, weights=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).to(torch.float32)
    wanted = other.diffused(t, FM).log_density(x) - RING.diffused(t, FM).log_density(x)
    assert_close(log_ratio(other, RING, x, t, FM), wanted, rtol=1e-4, atol=1e-4)


def test_rank_correlation_is_spearmans():
    a = torch.randn(3, 50, generator=seeded())
    b = a + torch.randn(3, 50, generator=seeded(1))
    wanted = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert_close(
        rank_correlation(a, b).double(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert_close(rank_correlation(a, a.exp()), torch.ones(3))
    assert_close(rank_correlation(a, -a), -torch.ones(3))


def test_a_discriminator_learns_the_ratio_of_two_gaussians():
    law = Mixture.isotropic(torch.tensor([[0.5, 0.0]]), 1.0)
    data = Mixture.isotropic(torch.tensor([[-0.5, 0.0]]), 1.0)
    net = new_players(16, FM, [0, 1]).discriminator
    for _ in train_discriminator(net, law, data, FM, 150, [0, 1]):
        pass
    t = torch.tensor(0.3)
    x = law.diffused(t, FM).sample(500, seeded())
    a, s = 0.7, 0.3
    true = -2 * 0.5 * a * x[:, 0] / (a * a + s * s)  # the exact log ratio: data over student
    assert_close(log_ratio(data, law, x, t, FM), true, rtol=1e-3, atol=1e-4)
    logits = logits_of(net, x, t)
    assert (rank_correlation(logits, true.expand(2, -1)) > 0.97).all()
    assert ((logits - true).square().mean(-1).sqrt() < 0.4).all()


def test_stage_one_takes_out_a_constant_factor_and_leaves_exact_ratios_alone():
    law = ring(4, 1.0, 0.5, weights=[1.0, 2.0, 3.0, 4.0]).to(torch.float32)
    data = ring(4, 1.0, 0.5).to(torch.float32)

    def twice_too_large_for_the_second(self, x, t):
        logit = log_ratio(data, law, x, t, FM)
        return logit + torch.tensor([0.0, math.log(2)])[:, None]

    net, bins = Like(twice_too_large_for_the_second), BinnedMean(*TIMES, 5, num_members=2)
    before = level_means(net, law, FM, bins, 20_000, 0)
    assert_close(before, torch.tensor([[1.0], [2.0]]).expand(2, 5), rtol=0.04, atol=0)
    after = level_means(net, law, FM, bins, 20_000, 1)
    assert_close(after, torch.ones(2, 5), rtol=0, atol=0.04)


@pytest.mark.parametrize("schedule", [FM, VP], ids=["fm", "vp"])
def test_the_fake_scores_error_is_zero_for_the_exact_one_and_known_for_a_wrong_one(schedule):
    mean, std = torch.tensor([0.4, -0.3]), 0.8
    law = Mixture.isotropic(mean[None], std)

    def velocity(self, x, t):  # the second member's denoiser is off by a tenth in each coordinate
        exact = law.model(schedule, "velocity").function(x, t)
        a, s, da, ds = (
            f(t)[..., None] for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma)
        )
        return exact + torch.tensor([0.0, 0.1])[:, None, None] * (da * s - ds * a) / s

    players = Players(Like(lambda self, z: mean + std * z), Like(velocity), Like(None), "velocity")
    found = denoiser_error(players, scene_of(RING, RING, schedule, 4), 3000, 0)
    assert found[0] < 4e-3
    assert_close(found[1].item(), 0.01, rtol=0.3, atol=0)


# --------------------------------------------------------------------------- noise of a step


def one_shift(logit):
    """Students G(z) = z + θ with θ = (1, 1), their exact fake score, and data that are standard normal."""
    data = Mixture.isotropic(torch.zeros(1, 2), 1.0)
    student = Like(lambda self, z: z + self.shift[:, None])
    student.shift.data += 1.0
    there = Mixture.isotropic(torch.ones(1, 2), 1.0)
    fake = Like(lambda self, x, t: there.model(FM, "velocity").function(x, t))
    return Players(student, fake, Like(logit), "velocity"), data


def test_the_noise_of_the_gradient_is_that_of_the_times_where_the_score_difference_is_constant():
    # x̂_fake - x̂_teacher = θ σ²/(α²+σ²), over the scale σ/√(α²+σ²): per sample σ/√(α²+σ²), for reverse KL
    players, data = one_shift(lambda self, x, t: 0 * x[..., 0])
    scene = scene_of(data, data, FM, 8)
    weights, gradients = step_noise(
        players, scene, [DIVERGENCES["reverse_kl"], DIVERGENCES["forward_kl"]], [0, 1], 400, False
    )
    t = torch.linspace(*TIMES, 20_001, dtype=torch.float64)
    w = t / ((1 - t) ** 2 + t**2).sqrt()
    wanted = (w.var() / w.mean() ** 2 / 8).item()
    assert_close(weights, torch.zeros(2, 2))  # a logit of zero: all weights are equal
    assert_close(gradients, torch.full((2, 2), wanted), rtol=0.2, atol=0)


def test_the_noise_of_the_weights_is_their_normalised_variance():
    # with the ratio r = t, uniform, mean and variance are known
    players, data = one_shift(lambda self, x, t: t.log())
    scene = scene_of(data, data, FM, 64)
    names = ["reverse_kl", "forward_kl", "jeffreys"]
    found, _ = step_noise(players, scene, [DIVERGENCES[n] for n in names], [0, 1], 60)
    a, b = TIMES
    variance, mean = (b - a) ** 2 / 12, (a + b) / 2
    wanted = torch.tensor([0.0, variance / mean**2, variance / (1 + mean) ** 2])
    assert_close(found, wanted[:, None].expand(3, 2), rtol=0.05, atol=1e-6)


def test_near_the_goal_four_divergences_are_equally_noisy_and_forward_kl_four_times_as_much():
    players, data = one_shift(lambda self, x, t: 0.01 * x[..., 0])
    found, _ = step_noise(players, scene_of(data, data, FM, 64), list(DIVERGENCES.values()), [0, 1], 20)
    by_name = dict(zip(DIVERGENCES, found.mean(1).tolist(), strict=True))
    for name in ("softened_reverse_kl", "jensen_shannon", "squared_hellinger", "jeffreys"):
        assert_close(by_name["forward_kl"] / by_name[name], 4.0, rtol=0.05, atol=0)
    assert by_name["reverse_kl"] == 0


# --------------------------------------------------------------------------- drawings


def test_drawings_show_what_they_are_given():
    ax = Figure().subplots()
    draw_density(ax, LEAVES, 3.0)
    assert ax.get_xlim() == (-3, 3) and len(ax.collections) == 1
    draw_points(ax, RING.sample(17, seeded()))
    assert len(ax.collections[-1].get_offsets()) == 17
    exact = torch.linspace(-1, 1, 101)
    ax = draw_ratios(Figure().subplots(), exact, 2 * exact)
    assert_close(torch.tensor(np.asarray(ax.collections[0].get_offsets())[:, 1]).float(), 2 * exact)
    ax = draw_changes(Figure().subplots(), {"a": [1.0, 2.0], "b": [0.0, 0.5]})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert list(ax.lines[0].get_xdata()) == [1.0, 2.0]


def test_players_of_a_seed_are_the_same_alone_and_in_a_stack():
    both, alone = new_players(8, FM, [4, 9]), new_players(8, FM, [9])
    assert isinstance(both.student, Stack)
    for a, b in zip(both.fake.parameters(), alone.fake.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
