"""Facts about training: the loop is Adam with averaged weights, and teachers are kept and found again."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reprobook.diffusion import teachers
from reprobook.diffusion.learning import averaging_at, batch, fit, learning_rate_at
from reprobook.diffusion.networks import Stack, TimeMLP
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.teachers import (
    Architecture,
    Recipe,
    as_model,
    load_or_train,
    stratified_times,
    teacher_loss,
    weights_file,
)


def regression(net, generator):
    x = batch(lambda g: torch.randn(32, 2, generator=g), generator)
    return (net(x) - x.sum(-1, keepdim=True)).square().mean((-2, -1))


def exhausted(training):
    for progress in training:
        last = progress
    return last


def test_training_is_adam_by_hand_with_the_average_of_its_weights():
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    weights = [p.detach().clone() for p in net.parameters()]
    m, v = [0 * w for w in weights], [0 * w for w in weights]
    mean, generator = [0 * w for w in weights], torch.Generator().manual_seed(7)
    last = exhausted(fit(net, regression, 12, seed=7, learning_rate=0.1, warmup=0.25, ema=0.8))
    for k in range(12):
        leaves = [w.clone().requires_grad_() for w in weights]
        x = torch.randn(32, 2, generator=generator)
        loss = (x @ leaves[0].T + leaves[1] - x.sum(1, keepdim=True)).square().mean()
        for i, g in enumerate(torch.autograd.grad(loss, leaves)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            step = m[i] / (1 - 0.9 ** (k + 1)) / ((v[i] / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
            weights[i] = weights[i] - learning_rate_at(k, 12, 0.1, 0.25) * step
            keep = min(0.8, k / (k + 1))
            mean[i] = keep * mean[i] + (1 - keep) * weights[i]
    assert last.step == 12
    assert_close(last.loss, loss.detach())
    for found, expected in zip(net.parameters(), mean, strict=True):
        assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


def test_weights_decay_towards_zero_where_the_loss_is_flat():
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    rates = [learning_rate_at(k, 5, 0.1, 0.2) for k in range(5)]
    exhausted(
        fit(net, lambda n, g: 0 * n.weight.sum(), 5, learning_rate=0.1, warmup=0.2, ema=0.0, weight_decay=0.5)
    )
    assert_close(net.weight.detach(), before * math.prod(1 - 0.5 * r for r in rates))


def test_a_training_that_is_stopped_keeps_its_last_weights():
    nets = [nn.Linear(2, 1) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for progress in fit(nets[0], regression, 100, ema=0.99):
        if progress.step == 6:
            break
    for progress in fit(nets[1], regression, 100, ema=0.0):
        if progress.step == 6:
            break
    assert_close(nets[0].weight, nets[1].weight, rtol=0, atol=0)


def test_the_rate_rises_to_its_highest_and_falls_along_a_cosine_to_almost_nothing():
    rates = [learning_rate_at(k, 100, 2.0, 0.1) for k in range(100)]
    assert max(rates) == rates[9] == 2.0
    assert_close(torch.tensor(rates[:10]), torch.arange(1, 11) * 0.2)
    falls = torch.tensor([2.0, *rates[10:]])  # at 91 even places of half a wave, the last one at its end
    assert_close(falls, 1 + torch.cos(torch.arange(91) * math.pi / 91))
    assert 0 < rates[-1] < 1e-3


def test_at_first_the_average_is_the_plain_mean():
    mean = 100.0
    for k, value in enumerate(values := [3.0, 5.0, 10.0]):
        keep = averaging_at(k, 0.99)
        mean = keep * mean + (1 - keep) * value
    assert mean == pytest.approx(sum(values) / 3)
    assert averaging_at(10**6, 0.99) == 0.99


def test_a_member_of_a_stack_is_trained_as_it_would_be_alone():
    def loss(net, generator):
        x = batch(lambda g: torch.randn(16, 2, generator=g), generator)
        t = batch(lambda g: torch.rand(16, generator=g), generator)
        return (net(x, t) - x.flip(-1) * t[..., None]).square().mean((-2, -1))

    seeds = [3, 8]
    stack = Stack(lambda: TimeMLP(2, width=8), seeds)
    together = exhausted(fit(stack, loss, 30, seed=seeds))
    for i, seed in enumerate(seeds):
        alone = Stack(lambda: TimeMLP(2, width=8), [seed]).member(0, TimeMLP(2, width=8))
        last = exhausted(fit(alone, loss, 30, seed=seed))
        assert_close(together.loss[i], last.loss, rtol=1e-4, atol=1e-6)
        for a, b in zip(stack.member(i, TimeMLP(2, width=8)).parameters(), alone.parameters(), strict=True):
            assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_linear_denoiser_learns_the_regression_of_clean_on_noisy():
    alpha, sigma, std = 0.8, 0.6, 0.5

    def loss(net, generator):
        clean, noise = (
            std * torch.randn(2, 512, 1, generator=generator).unbind()[0],
            torch.randn(512, 1, generator=generator),
        )
        return (net(alpha * clean + sigma * noise) - clean).square().mean()

    net = nn.Linear(1, 1)
    exhausted(fit(net, loss, 400, learning_rate=0.05, ema=0.98))
    slope = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    assert net.weight.item() == pytest.approx(slope, abs=0.01)
    assert net.bias.item() == pytest.approx(0, abs=0.01)


# --------------------------------------------------------------------------- teachers

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
SMALL = Architecture(width=16, multipliers=(1,), num_classes=2, patch=2)
SHORT = Recipe(schedule="fm", steps=3, batch=4)


class Spy(nn.Module):
    """Answers zero and remembers what it was shown."""

    def forward(self, x, t, label):
        self.seen = x, t, label
        return torch.zeros_like(x)


@pytest.mark.parametrize("kind", ["clean", "noise", "velocity"])
def test_a_teachers_loss_is_the_mean_square_of_its_target(kind):
    spy = Spy()
    recipe = Recipe(schedule="fm", kind=kind, batch=4000, label_dropped=0.25)
    value = teacher_loss(IMAGES, LABELS, recipe, 2)(spy, torch.Generator().manual_seed(1))
    x, t, label = spy.seen
    second = IMAGES.square().mean()
    expected = {"clean": second, "noise": torch.tensor(1.0), "velocity": 1 + second}[kind]
    assert_close(value, expected, rtol=0.03, atol=0)
    assert (label == 2).float().mean().item() == pytest.approx(0.25, abs=0.03)
    late = x[t > 0.5].square().mean()  # x = (1 - t) x_0 + t ε; the mean of t² over (1/2, 1) is 7/12
    assert_close(late, 7 / 12 + second / 12, rtol=0.05, atol=0)


def test_the_labels_stay_with_their_images():
    spy = Spy()
    flat = torch.stack([torch.full((1, 8, 8), -1.0), torch.full((1, 8, 8), 1.0)])
    recipe = Recipe(schedule="fm", batch=64, label_dropped=0.0)
    teacher_loss(flat, torch.tensor([0, 1]), recipe, 2)(spy, torch.Generator().manual_seed(1))
    x, t, label = spy.seen
    early = t < 0.5
    assert torch.equal((x.mean((1, 2, 3)) > 0)[early], (label == 1)[early])


def test_times_are_one_in_each_part_of_the_range():
    schedule = SCHEDULES["vp_cosine"]
    t = stratified_times(50, schedule, torch.Generator().manual_seed(3), torch.float64)
    shares = (t - schedule.first) / (schedule.last - schedule.first)
    assert torch.equal((shares * 50).floor(), torch.arange(50).double())
    firsts = [stratified_times(1, schedule, torch.Generator().manual_seed(k)) for k in range(400)]
    assert torch.cat(firsts).mean().item() == pytest.approx(0.498, abs=0.04)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path))
    return tmp_path


def test_a_teacher_is_trained_once_and_found_again(cache):
    trained = []

    def watch(steps):
        for step in steps:
            trained.append(step.step)
            yield step

    first = load_or_train(IMAGES, LABELS, SMALL, SHORT, watch=watch)
    again = load_or_train(IMAGES, LABELS, SMALL, SHORT, watch=watch)
    assert trained == [1, 2, 3]
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)
    assert any(p.abs().max() > 0 for p in again.leave.parameters())
    assert [f.suffix for f in (cache / "teachers").iterdir()] == [".pt"]


def test_weights_are_looked_for_under_all_that_they_depend_on(cache, monkeypatch):
    def name(images=IMAGES, labels=LABELS, architecture=SMALL, **changes):
        return weights_file(images, labels, architecture, replace(SHORT, **changes)).name

    names = [
        name(),
        name(images=-IMAGES),
        name(labels=1 - LABELS),
        name(architecture=replace(SMALL, width=24)),
        *(name(**{k: v}) for k, v in {"seed": 1, "steps": 4, "kind": "noise", "bf16": True}.items()),
    ]
    monkeypatch.setattr(teachers.inspect, "getsource", lambda module: "another code")
    assert len({*names, name()}) == len(names) + 1


def test_an_interrupted_training_leaves_nothing(cache):
    def watch(steps):
        yield next(iter(steps))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_train(IMAGES, LABELS, SMALL, SHORT, watch=watch)
    assert not list(cache.rglob("*.*"))


def test_without_the_cache_the_same_weights_are_trained_and_nothing_is_kept(cache):
    nets = [load_or_train(IMAGES, LABELS, SMALL, SHORT, cached=False) for _ in range(2)]
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert_close(a, b, rtol=0, atol=0)
    assert not list(cache.rglob("*.*"))


def test_a_teacher_of_one_image_draws_that_image():
    from reprobook.diffusion.grids import time_grid
    from reprobook.diffusion.solvers import solve

    recipe = Recipe(schedule="fm", steps=250, batch=32, learning_rate=5e-3)
    net = load_or_train(IMAGES[:1], LABELS[:1], SMALL, recipe, cached=False)
    model = as_model(net, recipe, torch.tensor(0))
    noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    drawn = solve(model, noise, time_grid(SCHEDULES["fm"], 10), "heun")
    assert (drawn - IMAGES[0]).square().mean().sqrt() < 0.15  # where the image is 0.71
