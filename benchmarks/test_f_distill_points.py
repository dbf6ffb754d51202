r"""How fast points are distilled: run with ``make bench``.

The setting is that of the notebook: networks of width 48, 96 points a batch, two updates of fake score and
discriminator for one of the student, on one thread. Four questions. How long does a step take, by students in
a stack and by points in a batch? What is gained by a stack over one student after another? How does a step
divide among fake score, discriminator and student? And do the weights of the divergences, with both
normalisations, cost anything?
"""

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from reprobook.diffusion.mixtures import ring
from reprobook.diffusion.networks import TimeMLP
from reprobook.diffusion.predictions import Model, diffuse
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.losses import discriminator_loss, fake_score_loss, student_loss
from reprobook.papers.f_distill.networks import OneStep, PointDiscriminator
from reprobook.papers.f_distill.points import new_players, scene_of
from reprobook.papers.f_distill.ratios import BinnedMean, mean_one, ratio_from_logit
from reprobook.papers.f_distill.training import Players, Progress, Settings, distil, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

CLOCK = time.process_time  # counts only what this process computes
FM = SCHEDULES["fm"]
DATA = ring(8, 2.0, 0.12).to(torch.float32)
WIDTH, BATCH, MANY = 48, 96, 1000
SETTINGS = Settings(steps=MANY, updates=2, learning_rate=1e-3, r1=0.0)
ALL = list(DIVERGENCES.values())


def stacked_run(divergences: list, num_seeds: int, batch_size: int = BATCH) -> Iterator[Progress]:
    """Return a distillation of every divergence with every seed, as one stack."""
    seeds = list(range(num_seeds)) * len(divergences)
    each = [d for d in divergences for _ in range(num_seeds)]
    return distil(new_players(WIDTH, FM, seeds), scene_of(DATA, DATA, FM, batch_size), each, SETTINGS, seeds)


def single_run(seed: int) -> Iterator[Progress]:
    torch.manual_seed(seed)
    nets = OneStep(TimeMLP(2, WIDTH, 2), FM, "velocity"), TimeMLP(2, WIDTH, 2), PointDiscriminator(2, WIDTH)
    scene = scene_of(DATA, DATA, FM, BATCH)
    return distil(Players(*nets, "velocity"), scene, DIVERGENCES["forward_kl"], SETTINGS, seed)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("num_divergences", [1, 2, 3, 6])
def test_a_step_by_divergences_with_five_seeds_each(num_divergences, benchmark):
    run = stacked_run(ALL[:num_divergences], 5)
    benchmark.pedantic(next, (run,), rounds=10, warmup_rounds=2)
    benchmark.extra_info["student updates a second"] = 5 * num_divergences / benchmark.stats.stats.median


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("batch_size", [48, 96, 192, 384])
def test_a_step_by_points_of_a_batch(batch_size, benchmark):
    run = stacked_run(ALL, 1, batch_size)
    benchmark.pedantic(next, (run,), rounds=10, warmup_rounds=2)
    benchmark.extra_info["points a second"] = 6 * batch_size / benchmark.stats.stats.median


@pytest.mark.benchmark(timer=CLOCK)
def test_a_stack_of_thirty_against_one_student_after_another(benchmark, capsys):
    stack, alone = stacked_run(ALL, 5), single_run(0)
    next(alone)
    spent = []

    def let_one_student_go() -> None:
        begin = CLOCK()
        next(alone)
        spent.append(CLOCK() - begin)

    benchmark.pedantic(next, (stack,), setup=let_one_student_go, rounds=10, warmup_rounds=2)
    together, one = benchmark.stats.stats.median, sorted(spent)[len(spent) // 2]
    with capsys.disabled():
        print(f"\n30 students: {1e3 * together:.0f} ms a step as a stack, {30e3 * one:.0f} ms one by one")
    assert together < 0.8 * 30 * one


class Step:
    """The parts of one update of thirty students, each a function without arguments."""

    def __init__(self) -> None:
        seeds = list(range(5)) * 6
        self.players, self.each = new_players(WIDTH, FM, seeds), [d for d in ALL for _ in range(5)]
        g, shape = torch.Generator().manual_seed(0), (30, BATCH, 2)
        self.z, self.noise, self.real = (torch.randn(shape, generator=g) for _ in range(3))
        self.t = 0.05 + 0.9 * torch.rand(30, BATCH, generator=g)
        self.fake = Model(self.players.fake, "velocity", FM)
        self.teacher, self.bins = DATA.model(FM, "velocity"), BinnedMean(0.0, 1.0, 10, 0.95, 30)
        with torch.no_grad():
            self.x = self.players.student(self.z)
            self.noisy = diffuse(self.x, self.noise, self.t, FM)
            self.logit = self.players.discriminator(self.noisy, self.t)

    def weights(self) -> Tensor:
        ratio = ratio_from_logit(self.logit)
        self.bins.update(self.t, ratio)
        return mean_one(weights_of(self.each, self.bins.normalise(self.t, ratio)))

    def _back(self, loss: Tensor, net: nn.Module) -> None:
        loss.sum().backward(inputs=list(net.parameters()))

    def fake_score(self) -> None:
        self._back(fake_score_loss(self.x, self.noise, self.t, self.fake), self.players.fake)

    def discriminator(self) -> None:
        net = self.players.discriminator
        real = diffuse(self.real, self.noise, self.t, FM)
        self._back(discriminator_loss(net(self.noisy, self.t), net(real, self.t)), net)

    def student(self) -> None:
        x = self.players.student(self.z)
        h = torch.ones_like(self.t)
        loss = student_loss(x, self.noise, self.t, self.fake, self.teacher, h)
        self._back(loss, self.players.student)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("part", ["fake_score", "discriminator", "student", "weights"])
def test_the_parts_of_a_step(part, benchmark):
    benchmark.pedantic(getattr(Step(), part), rounds=15, warmup_rounds=2)


def median_of(function: Callable[[], object], rounds: int = 11) -> float:
    spent = []
    for _ in range(rounds):
        begin = CLOCK()
        function()
        spent.append(CLOCK() - begin)
    return sorted(spent)[rounds // 2]


@pytest.mark.benchmark(timer=CLOCK)
def test_the_weights_are_a_small_share_of_a_step(benchmark, capsys):
    step = Step()
    parts = {name: median_of(getattr(step, name)) for name in ("fake_score", "discriminator", "student")}
    benchmark.pedantic(step.weights, rounds=15, warmup_rounds=2)
    parts["weights"] = benchmark.stats.stats.median
    whole = SETTINGS.updates * (parts["fake_score"] + parts["discriminator"]) + parts["student"]
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {1e3 * v:.1f} ms" for name, v in parts.items()))
    assert parts["weights"] < 0.15 * whole
