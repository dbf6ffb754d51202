"""Distillation with f-divergences: whole trainings against plain torch, stacks against single runs, parts."""

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from reprobook.diffusion.mixtures import Mixture, ring
from reprobook.diffusion.networks import Stack, TimeMLP
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.losses import student_loss
from reprobook.papers.f_distill.networks import OneStep, PointDiscriminator
from reprobook.papers.f_distill.ratios import BinnedMean, effective_share, mean_one, ratio_from_logit
from reprobook.papers.f_distill.training import Players, Scene, Settings, distil, weights_of

FM, VP = SCHEDULES["fm"], SCHEDULES["vp_cosine"]
B, WIDTH = 6, 8
MEAN, STD = (0.7, -0.4), 0.5
BASE = Settings(
    steps=3,
    updates=2,
    head_start=1,
    learning_rate=3e-3,
    fake_rate=2e-3,
    discriminator_rate=1e-3,
    gan_weight=0.3,
    r1=0.5,
    num_bins=3,
    decay=0.6,
    weight_decay=0.1,
)


def gaussian(dtype=torch.float64) -> Mixture:
    return Mixture.isotropic(torch.tensor([MEAN], dtype=dtype), STD)


def scene_in(schedule, dtype=torch.float64, batch_size=B) -> Scene:
    data = gaussian(dtype)
    return Scene(
        lambda label: data.model(schedule, "velocity"),
        schedule,
        lambda g: (torch.randn(batch_size, 2, generator=g, dtype=dtype), None),
        lambda g: (data.sample(batch_size, g), None),
        lambda g: 0.1 + 0.8 * torch.rand(batch_size, generator=g, dtype=dtype),
    )


def makers(schedule):
    return (
        lambda: OneStep(TimeMLP(2, WIDTH, 1), schedule, "velocity"),
        lambda: TimeMLP(2, WIDTH, 1),
        lambda: PointDiscriminator(2, WIDTH, 1),
    )


def single_players(schedule, seed=0, dtype=torch.float64) -> Players:
    nets = []
    for make in makers(schedule):
        torch.manual_seed(seed)
        nets.append(make().to(dtype))
    return Players(*nets, "velocity")


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def run(players, scene, divergence, settings, seed=0):
    progress = list(distil(players, scene, divergence, settings, seed))
    return progress, [weights(n) for n in (players.student, players.fake, players.discriminator)]


# --------------------------------------------------------------------------- a training, by hand


class Adam:
    """AdamW as its authors print it."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay, self.step = net, decay, 0
        self.first = [torch.zeros_like(p) for p in net.parameters()]
        self.second = [torch.zeros_like(p) for p in net.parameters()]

    def follow(self, loss: Tensor, rate: float) -> None:
        self.step += 1
        slopes = torch.autograd.grad(loss, list(self.net.parameters()))
        with torch.no_grad():
            for p, g, m, v in zip(self.net.parameters(), slopes, self.first, self.second, strict=True):
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                by = (m / (1 - 0.9**self.step)) / ((v / (1 - 0.999**self.step)).sqrt() + 1e-8)
                p.copy_(p * (1 - rate * self.decay) - rate * by)


class ByHand:
    """The whole training in plain torch: no loss, ratio, schedule's conversion or loop of the library."""

    def __init__(self, schedule, h, settings: Settings, seed: int) -> None:
        self.s, self.schedule, self.h = settings, schedule, h
        players = single_players(schedule, seed)
        self.nets = (players.student, players.fake, players.discriminator)
        self.adams = [Adam(net, settings.weight_decay) for net in self.nets]
        self.g = torch.Generator().manual_seed(seed)
        self.sums, self.counts = defaultdict(float), defaultdict(float)

    def student(self, z: Tensor) -> Tensor:
        t = torch.tensor(self.schedule.last, dtype=torch.float64)
        x = self.schedule.sigma(t) * z
        return self.clean(x, self.nets[0].net(x, t), t)

    def clean(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Solve x = α x_0 + σ ε and v = α' x_0 + σ' ε for x_0."""
        a, s, da, ds = self.numbers(t)
        return (ds * x - s * v) / (a * ds - s * da)

    def numbers(self, t: Tensor) -> list[Tensor]:
        c = self.schedule
        values = (f(t) for f in (c.alpha, c.sigma, c.d_alpha, c.d_sigma))
        return [v[:, None] if v.ndim else v for v in values]

    def drawn(self, clean: bool) -> tuple[Tensor, Tensor, Tensor]:
        if clean:
            torch.multinomial(torch.ones(1).double(), B, replacement=True, generator=self.g)
        x = torch.randn(B, 2, generator=self.g, dtype=torch.float64)
        x = torch.tensor(MEAN).double() + STD * x if clean else x
        t = 0.1 + 0.8 * torch.rand(B, generator=self.g, dtype=torch.float64)
        return x, t, torch.randn(B, 2, generator=self.g, dtype=torch.float64)

    def noised(self, x: Tensor, t: Tensor, e: Tensor) -> Tensor:
        a, s, _, _ = self.numbers(t)
        return a * x + s * e

    def follow(self) -> tuple[Tensor, Tensor]:
        z, t, e = self.drawn(False)
        y, u, n = self.drawn(True)
        x, (_, _, da, ds) = self.student(z).detach(), self.numbers(t)
        denoising = (self.nets[1](self.noised(x, t, e), t) - (da * x + ds * e)).square().mean()
        noisy = self.noised(y, u, n).requires_grad_()
        real = self.nets[2](noisy, u)
        telling = (1 + self.nets[2](self.noised(x, t, e), t).exp()).log().mean()
        telling = telling + (1 + (-real).exp()).log().mean()
        (slope,) = torch.autograd.grad(real.sum(), noisy, create_graph=True)
        self.adams[1].follow(denoising, self.s.fake_rate)
        self.adams[2].follow(telling + self.s.r1 / 2 * slope.pow(2).sum(1).mean(), self.s.discriminator_rate)
        return denoising.detach(), telling.detach()

    def in_bins(self, t: Tensor, r: Tensor) -> Tensor:
        """Divide by running means, kept in dictionaries; bins are even in t or in log σ/α."""
        a, s = self.schedule.alpha, self.schedule.sigma
        level = (lambda u: u) if self.s.bins_in == "t" else (lambda u: (s(u) / a(u)).log())
        low, high = (level(torch.tensor(u).double()) for u in (self.schedule.first, self.schedule.last))
        place = [int((level(u) - low) / (high - low) * self.s.num_bins) for u in t]
        for k in set(place):
            here = [r[i].item() for i in range(B) if place[i] == k]
            self.sums[k] = self.s.decay * self.sums[k] + sum(here)
            self.counts[k] = self.s.decay * self.counts[k] + len(here)
        return torch.stack([r[i] / (self.sums[k] / self.counts[k]) for i, k in enumerate(place)])

    def lead(self, step: int) -> tuple[Tensor, ...]:
        z, t, e = self.drawn(False)
        x, (a, s, _, _) = self.student(z), self.numbers(t)
        x_t = self.noised(x, t, e)
        logit = self.nets[2](x_t, t)
        r = logit.detach().exp()
        h = self.h(self.in_bins(t, r) if self.s.by_bins else r)
        h = h / h.mean() if self.s.by_batch else h
        with torch.no_grad():
            mean = torch.tensor(MEAN).double()
            teacher = mean + a * STD**2 / (a**2 * STD**2 + s**2) * (x_t - a * mean)
            gap = self.clean(x_t, self.nets[1](x_t, t), t) - teacher
            level = (s / (a**2 + s**2).sqrt())[:, 0]
            far = (x - teacher).abs().mean(1).maximum(0.1 * level)
            target = x - (h / (far if self.s.by_sample else level))[:, None] * gap
        moved = 0.5 * (x - target).square().mean()
        loss = moved + self.s.gan_weight * (1 + (-logit).exp()).log().mean()
        rates = (1.0, (1 + math.cos(math.pi / 3)) / 2, (1 + math.cos(2 * math.pi / 3)) / 2)
        self.adams[0].follow(loss, self.s.learning_rate * rates[step])
        return moved.detach(), r.mean(), h.sum() ** 2 / (B * (h**2).sum())

    def train(self):
        [self.follow() for _ in range(self.s.head_start)]
        progress = []
        for step in range(self.s.steps):
            followed = [self.follow() for _ in range(self.s.updates)][-1]
            moved, *rest = self.lead(step)
            progress.append((moved, *followed, *rest))
        return progress, [weights(net) for net in self.nets]


# with three steps the warm-up is one step at the full rate, and the cosine has three parts
CASES = {
    "forward KL": (FM, "forward_kl", lambda r: r, {}),
    "Jensen-Shannon, VP": (
        VP,
        "jensen_shannon",
        lambda r: r / (1 + r),
        {"bins_in": "lambda", "num_bins": 12},
    ),
    "Jeffreys, VP, by level": (VP, "jeffreys", lambda r: 1 + r, {"by_sample": False, "by_batch": False}),
    "Hellinger, no bins": (FM, "squared_hellinger", lambda r: r**0.5 / 4, {"by_bins": False}),
    "softened": (VP, "softened_reverse_kl", lambda r: 1 / (1 + r), {"r1": 0.0, "by_batch": False}),
    "reverse KL": (FM, "reverse_kl", torch.ones_like, {"gan_weight": 0.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_weight_of_all_three_networks_is_as_computed_by_hand(case):
    schedule, name, h, changes = CASES[case]
    settings = replace(BASE, **changes)
    found = run(single_players(schedule, 4), scene_in(schedule), DIVERGENCES[name], settings, 4)
    progress, nets = ByHand(schedule, h, settings, 4).train()
    for ours, theirs in zip(found[1], nets, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, rtol=0, atol=1e-6)
    for ours, theirs in zip(found[0], progress, strict=True):
        assert_close(torch.stack(ours[1:]), torch.stack(theirs), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "change",
    [
        {"gan_weight": 0.0},
        {"r1": 0.0},
        {"by_bins": False},
        {"by_batch": False},
        {"bins_in": "lambda"},
        {"num_bins": 4},
        {"decay": 0.0},
        {"weight_decay": 0.0},
        {"by_sample": False},
        {"updates": 1},
        {"head_start": 0},
    ],
    ids=str,
)
def test_every_setting_changes_the_student(change):
    ends = []
    for settings in (replace(BASE, steps=4), replace(BASE, steps=4, **change)):
        _, nets = run(single_players(VP, 1), scene_in(VP), DIVERGENCES["forward_kl"], settings, 1)
        ends.append(torch.cat([w.flatten() for w in nets[0]]))
    assert (ends[0] - ends[1]).abs().max() > 1e-6


# --------------------------------------------------------------------------- stacks


@pytest.mark.parametrize("seeds", [[3, 5], [4, 4]])
def test_a_stack_trains_each_member_exactly_as_alone(seeds):
    names = ["forward_kl", "jensen_shannon"]
    divergences, scene = [DIVERGENCES[n] for n in names], scene_in(FM)
    torch.set_default_dtype(torch.float64)
    try:
        stacks = Players(*(Stack(make, seeds) for make in makers(FM)), "velocity")
        alone = [
            Players(*(Stack(make, [s]).member(0, make()) for make in makers(FM)), "velocity") for s in seeds
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    together, _ = run(stacks, scene, divergences, BASE, seeds)
    for i, (players, seed, divergence) in enumerate(zip(alone, seeds, divergences, strict=True)):
        single, nets = run(players, scene, divergence, BASE, seed)
        for stack, own in zip((stacks.student, stacks.fake, stacks.discriminator), nets, strict=True):
            for all_of_them, one in zip(stack.parameters(), own, strict=True):
                assert_close(all_of_them[i], one, rtol=0, atol=1e-7)
        for a, b in zip(together, single, strict=True):
            assert_close(torch.stack([v[i] for v in a[1:]]), torch.stack(b[1:]), rtol=1e-6, atol=1e-9)


def test_a_stack_needs_a_divergence_and_a_seed_for_each_member():
    one, players, scene = DIVERGENCES["forward_kl"], single_players(FM), scene_in(FM)
    for divergence, seed in (([one], 0), (one, [0]), ([one, one], [0])):
        with pytest.raises(ValueError, match="one divergence and one seed for every member"):
            next(distil(players, scene, divergence, BASE, seed))


def test_each_member_has_the_weights_of_its_own_divergence():
    ratio = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) * 3
    found = weights_of(list(DIVERGENCES.values()), ratio)
    for row, one, r in zip(found, DIVERGENCES.values(), ratio, strict=True):
        assert_close(row, one.weight(r), rtol=0, atol=0)
        assert_close(weights_of(one, r), row, rtol=0, atol=0)


# --------------------------------------------------------------------------- what may not matter


def test_reverse_kl_does_not_look_at_the_discriminator_and_others_do():
    settings, ends = replace(BASE, gan_weight=0.0), {}
    for name in ("reverse_kl", "jensen_shannon"):
        for other in (0, 1):
            players = replace(
                single_players(FM, 2), discriminator=single_players(FM, 20 + other).discriminator
            )
            ends[name, other] = run(players, scene_in(FM), DIVERGENCES[name], settings, 2)[1][0]
    for a, b in zip(ends["reverse_kl", 0], ends["reverse_kl", 1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(ends["jensen_shannon", 0][0], ends["jensen_shannon", 1][0])


def test_the_students_loss_has_a_gradient_for_the_student_alone():
    g = torch.Generator().manual_seed(0)
    x, noise, t = torch.randn(B, 2, generator=g), torch.randn(B, 2, generator=g), torch.rand(B, generator=g)
    x, h = x.requires_grad_(), torch.rand(B, generator=g).requires_grad_()
    fake, teacher = TimeMLP(2, WIDTH, 1), TimeMLP(2, WIDTH, 1)
    models = [Model(net, "velocity", FM) for net in (fake, teacher)]
    loss = student_loss(x, noise, t, *models, h)
    others = [h, *fake.parameters(), *teacher.parameters()]
    slope, *rest = torch.autograd.grad(loss, [x, *others], allow_unused=True)
    assert all(s is None for s in rest)
    with torch.no_grad():
        x_t = (1 - t)[:, None] * x + t[:, None] * noise
        gap = t[:, None] * (teacher(x_t, t) - fake(x_t, t))  # clean predictions are x_t - t v
        far = (x - (x_t - t[:, None] * teacher(x_t, t))).abs().mean(1)
        far = far.maximum(0.1 * t / ((1 - t) ** 2 + t**2).sqrt())
    assert_close(slope, (h / far)[:, None] * gap / (2 * B), rtol=1e-4, atol=1e-6)


class Spy(nn.Module):
    """A discriminator that notes what it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.asked = nn.Parameter(torch.zeros((), dtype=torch.float64)), []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x.detach().clone(), t.clone()))
        return self.offset + 0 * x.sum(-1)


def test_the_discriminator_sees_student_and_data_at_the_noise_at_which_the_ratio_is_asked():
    scene, spy, num = scene_in(VP, batch_size=4000), Spy(), 4000
    players = replace(single_players(VP), discriminator=spy)
    one = replace(BASE, steps=1, updates=1, head_start=0, r1=0.0, learning_rate=0.0, gan_weight=0.0)
    next(distil(players, scene, DIVERGENCES["forward_kl"], one, 0))
    (x_student, t_student), (x_data, t_data), (x_asked, t_asked) = spy.asked
    mean = torch.tensor(MEAN).double()
    for t in (t_student, t_data, t_asked):
        assert 0.1 <= t.min() < 0.12 and 0.88 < t.max() <= 0.9
    # whitened with the law of the data under noise: zero mean and unit variance
    a, s = VP.alpha(t_data)[:, None], VP.sigma(t_data)[:, None]
    white = (x_data - a * mean) / (a**2 * STD**2 + s**2).sqrt()
    assert_close(white.mean(0), torch.zeros(2).double(), rtol=0, atol=5 / math.sqrt(num))
    assert_close(white.var(0), torch.ones(2).double(), rtol=0, atol=0.12)
    # the student's samples under training and under question: one law, by the moments that depend on t
    for power in (1, 2):
        for weight in (torch.ones_like, VP.alpha, VP.sigma):
            trained = (weight(t_student)[:, None] * x_student**power).mean(0)
            asked = (weight(t_asked)[:, None] * x_asked**power).mean(0)
            assert_close(trained, asked, rtol=0, atol=0.12)


# --------------------------------------------------------------------------- normalisations


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-4.0, 3.0)], ids=["t", "lambda"])
def test_binned_means_are_those_of_a_slow_reference(ends):
    g = torch.Generator().manual_seed(1)
    bins, sums, counts = BinnedMean(*ends, 4, 0.8, 2), defaultdict(float), defaultdict(float)
    for _ in range(6):
        level = ends[0] + (ends[1] - ends[0]) * 0.7 * torch.rand(2, 5, generator=g, dtype=torch.float64)
        ratio = torch.rand(2, 5, generator=g, dtype=torch.float64) + 0.1
        bins.update(level, ratio)
        fresh = defaultdict(list)
        for member in range(2):
            for u, r in zip(level[member].tolist(), ratio[member].tolist(), strict=True):
                fresh[member, int((u - ends[0]) / (ends[1] - ends[0]) * 4)].append(r)
        for key, values in fresh.items():
            sums[key] = 0.8 * sums[key] + sum(values)
            counts[key] = 0.8 * counts[key] + len(values)
    slow = [[sums[m, k] / counts[m, k] if counts[m, k] else 1.0 for k in range(4)] for m in range(2)]
    assert_close(bins.means(), torch.tensor(slow, dtype=torch.float64))
    assert slow[0][3] == 1.0  # levels stop at 0.7 of the range, so the last bin is empty
    edge = torch.tensor([ends, (ends[1] + 9, ends[0] - 9)], dtype=torch.float64)
    assert bins.bins(edge).tolist() == [[0, 3], [3, 0]]
    one = torch.ones(2, 2, dtype=torch.float64)
    assert_close(bins.normalise(edge, one)[0, 0], 1 / bins.means()[0, 0])


def test_a_bin_without_fresh_samples_keeps_its_mean():
    bins = BinnedMean(0.0, 1.0, 2, 0.5)
    bins.update(torch.tensor([0.2, 0.3, 0.7]), torch.tensor([2.0, 4.0, 8.0]))
    for _ in range(3):
        bins.update(torch.tensor([0.9]), torch.tensor([8.0]))
    assert_close(bins.means(), torch.tensor([3.0, 8.0]))


def test_weights_of_mean_one_keep_their_proportions():
    h = torch.rand(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    found = mean_one(h)
    assert_close(found.mean(1), torch.ones(3, dtype=torch.float64))
    assert_close(found[:, 1:] / found[:, :1], h[:, 1:] / h[:, :1])


def test_equal_weights_on_k_of_n_samples_are_worth_k():
    for n, k in ((10, 3), (8, 8), (5, 1)):
        h = torch.zeros(2, n)
        h[:, :k] = torch.tensor([[0.2], [7.0]])
        assert_close(effective_share(h), torch.full((2,), k / n))
    h = torch.tensor([1.0, 3.0])
    assert_close(effective_share(h), torch.tensor(16 / 20))
    assert_close(1 / effective_share(h) - 1, h.var(correction=0) / h.mean() ** 2)


def test_ratios_are_exponentials_in_single_precision_cut_at_the_ends():
    logit = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0])
    wanted = torch.tensor([-20.0, -1.0, 0.0, 2.0, 20.0]).exp()
    assert_close(ratio_from_logit(logit), wanted)
    assert ratio_from_logit(logit.bfloat16()).dtype == torch.float32
    assert ratio_from_logit(logit.double()).dtype == torch.float64


# --------------------------------------------------------------------------- precision, and that it works


def test_bfloat16_computes_products_only_and_changes_little():
    ends = []
    for bf16 in (False, True):
        players = single_players(FM, 0, torch.float32)
        settings = replace(BASE, bf16=bf16, steps=4)
        progress, nets = run(players, scene_in(FM, torch.float32), DIVERGENCES["forward_kl"], settings)
        assert all(w.dtype == torch.float32 for net in nets for w in net)
        assert all(v.dtype == torch.float32 for p in progress for v in p[1:])
        ends.append(torch.cat([w.flatten() for w in nets[0]]))
    assert 0 < (ends[0] - ends[1]).abs().max() < 0.05


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_a_student_moves_to_a_gaussian_that_it_does_not_know(name):
    scene, players = scene_in(FM, torch.float32, 128), Players(*(m() for m in makers(FM)), "velocity")
    torch.manual_seed(0)
    players = single_players(FM, 0, torch.float32)
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    before = (players.student(z).detach().mean(0) - torch.tensor(MEAN)).norm()
    rates = {"learning_rate": 1e-2, "fake_rate": 5e-3, "discriminator_rate": 5e-3}
    settings = replace(BASE, steps=120, updates=2, head_start=50, gan_weight=1e-3, r1=0.0, **rates)
    for _ in distil(players, scene, DIVERGENCES[name], settings, 0):
        pass
    x = players.student(z).detach()
    assert (x.mean(0) - torch.tensor(MEAN)).norm() < 0.15 < before
    assert (x.std(0) - STD).abs().max() < 0.2


def test_the_teacher_may_be_any_mixture_of_a_stack():
    data, seeds = ring(4, 1.0, 0.2).to(torch.float32), [0, 1]
    scene = replace(
        scene_in(FM, torch.float32),
        teacher=lambda label: data.model(FM, "velocity"),
        data=lambda g: (data.sample(B, g), None),
    )
    players = Players(*(Stack(make, seeds) for make in makers(FM)), "velocity")
    progress, _ = run(players, scene, [DIVERGENCES["reverse_kl"]] * 2, BASE, seeds)
    assert all(v.shape == (2,) and v.isfinite().all() for p in progress for v in p[1:])
    assert_close(progress[-1].share, torch.ones(2))
