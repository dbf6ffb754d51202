r"""How fast a training step of the U-Net is: run with ``make bench``.

The teacher of the images notebook's recorded runs, 64 images of 28×28 a step, on one thread. Ours takes
turns with a rival, a few steps each, so whatever else the machine does hits both; medians of the processor
time are compared. The rivals are the same network in a plain torch loop, written as one would at first (AdamW
as it comes, the average of weights in a Python loop), in the same precision; and the ``UNet2DModel`` of
diffusers with as many levels, one block a level, and about as many weights, in that loop. The latter is never
installed with the book. To have it::

    python -m pip install --target DIR --no-deps diffusers==0.35.2 huggingface_hub==0.36.0
    REPROBOOK_PEERS=DIR make bench
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reprobook.diffusion.networks import num_weights
from reprobook.diffusion.teachers import Architecture, Recipe, new_network, train_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURE = Architecture(width=32, multipliers=(1, 2, 2), patch=2)
TURN, TURNS = 2, 9  # steps between two looks at the clock, and how many of them
CLOCK = time.process_time  # counts only what this process computes
WANTED = {"plain torch": 0.95, "diffusers": 1.0}  # steps of ours while the rival does one


def data(num: int = 2_000) -> tuple[Tensor, Tensor]:
    """Return noise of the form of Fashion-MNIST: speed does not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num, 1, 28, 28, generator=generator) * 2 - 1
    return images, torch.randint(10, (num,), generator=generator)


def recipe(bf16: bool) -> Recipe:
    return Recipe(schedule="fm", steps=100_000, bf16=bf16)


def ours(bf16: bool) -> Iterator[None]:
    net = new_network(ARCHITECTURE, 0)
    for progress in train_teacher(net, *data(), recipe(bf16), 10):
        if progress.step % TURN == 0:
            yield


def plain_loop(
    net: nn.Module, answer: Callable[[Tensor, Tensor, Tensor], Tensor], bf16: bool
) -> Iterator[None]:
    """Train by flow matching, as one writes it down at first."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.0)
    average = [p.detach().clone() for p in net.parameters()]
    images, labels = data()
    for step in range(100_000):
        chosen = torch.randint(len(images), (64,))
        clean, noise, t = images[chosen], torch.randn(64, 1, 28, 28), torch.rand(64)
        label = torch.where(torch.rand(64) < 0.1, 10, labels[chosen])
        x = (1 - t)[:, None, None, None] * clean + t[:, None, None, None] * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.mse_loss(answer(x, t, label), noise - clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average, net.parameters(), strict=True):
                mean.mul_(0.999).add_(weight, alpha=0.001)
        if (step + 1) % TURN == 0:
            yield


def plain_torch(bf16: bool) -> Iterator[None]:
    net = new_network(ARCHITECTURE, 0)
    return plain_loop(net, net, bf16)


def diffusers(bf16: bool) -> Iterator[None]:
    """The U-Net of diffusers at the same resolution, told time and class."""
    if (peers := os.environ.get("REPROBOOK_PEERS")) and peers not in sys.path:
        sys.path.append(peers)
    module = pytest.importorskip(
        "diffusers", reason="REPROBOOK_PEERS names no diffusers", exc_type=ImportError
    )
    net = module.UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=8,
        attention_head_dim=16,
        num_class_embeds=11,
    )
    size = num_weights(net) / num_weights(new_network(ARCHITECTURE, 0))
    assert 0.8 < size < 1.25, f"the rival has {size:.2f} times as many weights"

    def answer(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        padded = F.pad(F.pixel_unshuffle(x, 2), (1, 1, 1, 1))  # its levels need 16 places, not 14
        return F.pixel_shuffle(net(padded, 1000 * t, label).sample[..., 1:-1, 1:-1], 2)

    return plain_loop(net, answer, bf16)


RIVALS = {"plain torch": plain_torch, "diffusers": diffusers}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.filterwarnings("ignore")  # those of the rival are not ours
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rival", RIVALS)
def test_training_steps_of_the_u_net_against(rival, bf16, benchmark, capsys):
    here, there = ours(bf16), RIVALS[rival](bf16)
    next(here), next(there)
    theirs = []

    def let_the_rival_go() -> None:
        start = CLOCK()
        next(there)
        theirs.append(CLOCK() - start)

    benchmark.pedantic(lambda: next(here), setup=let_the_rival_go, rounds=TURNS)
    mine, other = benchmark.stats.stats.median / TURN, statistics.median(theirs) / TURN
    benchmark.extra_info |= {"steps a second": 1 / mine, f"{rival}, steps a second": 1 / other}
    benchmark.extra_info |= {"times as many": other / mine, "times wanted": WANTED[rival]}
    with capsys.disabled():
        print(f"\n{1 / mine:.1f} steps a second, {rival} {1 / other:.1f}: {other / mine:.2f} times as many")
