r"""How fast a step of deep domain-adversarial training is: run with ``make bench``.

The MNIST net of the paper, 64 source and 64 target images a step, on one thread. Ours takes turns with a
rival that does the same arithmetic: a few steps ours, a few steps the rival's, again and again, so that
whatever else the machine does hits both. Medians of the processor time are compared. The rivals are a plain
torch loop that does to the same layers what ours does, and DANN as pytorch-adapt has it, with a net
written down as Fig. 4 prints it. The latter is never installed with the book. To have it::

    python -m pip install --target DIR --no-deps pytorch-adapt==0.0.83 pytorch-metric-learning==1.6.3 \
        torchmetrics==0.9.3 setuptools==75.8.0
    REPROBOOK_PEERS=DIR make bench
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from reprobook.papers.dann.networks import ARCHITECTURES, DomainAdversarialNet
from reprobook.papers.dann.training import Labelled, Recipe, mean_images, prepared, shuffled, train

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe()
HALF = RECIPE.half_batch
STEPS = 100_000  # of the schedules; nobody waits for their end
TURN, TURNS = 5, 25  # steps between two looks at the clock, and how many of them
CLOCK = time.process_time  # counts only what this process computes
WANTED = {"plain torch": 0.95, "pytorch-adapt": 1.4}  # steps of ours while the rival does one


def data(num: int = 10_000) -> tuple[Labelled, Tensor]:
    """Return noise of the form of MNIST and MNIST-M: speed does not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, num, 3, 28, 28), dtype=torch.uint8, generator=generator)
    return Labelled(images[0], torch.randint(10, (num,), generator=generator)), images[1]


def net_of_seed_0() -> DomainAdversarialNet:
    torch.manual_seed(0)
    return DomainAdversarialNet(ARCHITECTURES["mnist"])


def fig_4() -> nn.ModuleDict:
    """Return the MNIST net in three parts, as Fig. 4 prints it, with the weights of :func:`net_of_seed_0`."""
    net = nn.ModuleDict(
        {
            "G": nn.Sequential(
                *(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2, 2)),
                *(nn.Conv2d(32, 48, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten()),
            ),
            "C": nn.Sequential(
                nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
            ),
            "D": nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 1), nn.Flatten(0)),
        }
    )
    for mine, yours in zip(net.parameters(), net_of_seed_0().parameters(), strict=True):
        mine.data.copy_(yours.data)
    return net


def schedules(step: int) -> tuple[float, float]:
    """Return learning rate and weight of the reversal."""
    p = torch.tensor(step / STEPS, dtype=torch.float64)
    return (0.01 / (1 + 10 * p) ** 0.75).item(), (2 / (1 + torch.exp(-10 * p)) - 1).item()


def batches(labelled: Labelled, unlabelled: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield source images, their labels, and target images, prepared in plain torch."""
    order = torch.Generator().manual_seed(0)
    mean = (labelled.images.float().mean(0) + unlabelled.float().mean(0)) / 2 / 255
    of_source, of_target = (torch.randperm(len(x), generator=order) for x in (labelled.images, unlabelled))
    for k in range(0, len(of_source) - HALF, HALF):
        s, t = of_source[k : k + HALF], of_target[k : k + HALF]
        source, target = (x.float().div_(255).sub_(mean) for x in (labelled.images[s], unlabelled[t]))
        yield source, labelled.labels[s], target


# --------------------------------------------------------------------------- ours and the rivals


def ours(labelled: Labelled, unlabelled: Tensor) -> Iterator[nn.Module]:
    for progress in train(labelled, unlabelled, RECIPE, STEPS, seed=0, every=TURN):
        yield progress.net


def plain_torch(labelled: Labelled, unlabelled: Tensor) -> Iterator[nn.Module]:
    """What ours does to the same layers, written down at once; the reversal is a hook on the features."""
    net = net_of_seed_0().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    zeros, ones = torch.zeros(HALF), torch.ones(HALF)
    for step, (source, labels, target) in enumerate(batches(labelled, unlabelled)):
        optimizer.param_groups[0]["lr"], weight = schedules(step)
        images = torch.cat([source, target]).contiguous(memory_format=torch.channels_last)
        features = net.features(images)
        reversed_ = features.view_as(features)
        reversed_.register_hook(lambda gradient, weight=weight: -weight * gradient)
        domain = net.domain_head(reversed_).squeeze(1)
        loss = cross_entropy(net.label_head(features[:HALF]), labels)
        loss = loss + binary_cross_entropy_with_logits(domain[:HALF], zeros)
        loss = loss + binary_cross_entropy_with_logits(domain[HALF:], ones)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % TURN == 0:
            yield net


def pytorch_adapt(labelled: Labelled, unlabelled: Tensor) -> Iterator[nn.Module]:
    """DANN as pytorch-adapt 0.0.83 has it, given the paper's two schedules, which it lacks."""
    adapters = pytest.importorskip(
        "pytorch_adapt.adapters", reason="REPROBOOK_PEERS names no pytorch-adapt", exc_type=ImportError
    )
    from pytorch_adapt.containers import Models, Optimizers
    from pytorch_adapt.hooks import FeaturesForDomainLossHook, GradientReversalHook
    from pytorch_adapt.weighters import SumWeighter

    net = fig_4()
    features = FeaturesForDomainLossHook()
    reversal = GradientReversalHook(apply_to=features.out_keys)
    adapter = adapters.DANN(
        models=Models(dict(net.items())),
        optimizers=Optimizers((torch.optim.SGD, {"lr": 0.01, "momentum": 0.9})),
        hook_kwargs={"f_hook": features, "gradient_reversal": reversal, "weighter": SumWeighter()},
    )
    domains = {"src_domain": torch.zeros(HALF), "target_domain": torch.ones(HALF)}
    for step, (source, labels, target) in enumerate(batches(labelled, unlabelled)):
        rate, weight = schedules(step)
        reversal.fn.update_weight(weight)
        for optimizer in adapter.optimizers.values():
            optimizer.param_groups[0]["lr"] = rate
        adapter.training_step({"src_imgs": source, "src_labels": labels, "target_imgs": target, **domains})
        if (step + 1) % TURN == 0:
            yield net


RIVALS = {"plain torch": plain_torch, "pytorch-adapt": pytorch_adapt}


def begun(rival: str, labelled: Labelled, unlabelled: Tensor) -> tuple[Iterator, Iterator]:
    """Return ours and the rival, after a first turn in which both reached the same weights."""
    if (peers := os.environ.get("REPROBOOK_PEERS")) and peers not in sys.path:
        sys.path.append(peers)
    here, there = ours(labelled, unlabelled), RIVALS[rival](labelled, unlabelled)
    for mine, yours in zip(next(here).parameters(), next(there).parameters(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=1e-4)
    return here, there


# --------------------------------------------------------------------------- the measurements


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.filterwarnings("ignore")  # those of the rival are not ours
@pytest.mark.parametrize("rival", RIVALS)
def test_training_steps_against(rival, benchmark, capsys):
    here, there = begun(rival, *data())
    theirs = []

    def let_the_rival_go() -> None:
        start = CLOCK()
        next(there)
        theirs.append(CLOCK() - start)

    benchmark.pedantic(lambda: next(here), setup=let_the_rival_go, rounds=TURNS)
    mine, other = benchmark.stats.stats.median / TURN, statistics.median(theirs) / TURN
    rates = f"{1 / mine:.0f} steps a second, {rival} {1 / other:.0f}"
    benchmark.extra_info |= {"steps a second": 1 / mine, f"{rival}, steps a second": 1 / other}
    benchmark.extra_info |= {"times as many": other / mine, "times wanted": WANTED[rival]}
    with capsys.disabled():
        print(f"\n{rates}: {other / mine:.2f} times as many, where {WANTED[rival]} is wanted")


@pytest.mark.benchmark(timer=CLOCK)
def test_making_the_batches_of_a_step(benchmark, capsys):
    labelled, unlabelled = data()
    centres, order = mean_images(labelled.images, unlabelled, RECIPE), torch.Generator().manual_seed(0)
    sources, targets = (shuffled(len(x), HALF, order) for x in (labelled.images, unlabelled))
    steps = ours(labelled, unlabelled)
    next(steps)
    whole = []

    def let_a_few_steps_go() -> None:
        start = CLOCK()
        next(steps)
        whole.append((CLOCK() - start) / TURN)

    def load() -> None:
        for _ in range(TURN):
            prepared(labelled.images[next(sources)], centres[0], RECIPE)
            prepared(unlabelled[next(targets)], centres[1], RECIPE)

    benchmark.pedantic(load, setup=let_a_few_steps_go, rounds=TURNS)
    share = benchmark.stats.stats.median / TURN / statistics.median(whole)
    benchmark.extra_info["share of a training step"] = share
    with capsys.disabled():
        print(f"\nmaking the batches takes {share:.1%} of a training step")
    assert share < 0.1
