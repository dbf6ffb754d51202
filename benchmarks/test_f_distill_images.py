r"""How fast a distillation of images is: run with ``make bench``.

The teacher of the recorded run, 28×28 pixels, in bfloat16 on one thread. Four questions. What does an update
of the student cost, with the updates of fake score and discriminator that go with it, next to a step of the
teacher's training? Which share has each part? How does it grow with the batch, and does it cost more than the
evaluations of networks that it consists of? And are the weights h(r), the only thing that divergences add,
free?
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reprobook.diffusion.images import Pictures
from reprobook.diffusion.teachers import Architecture, Recipe, new_network, train_teacher
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.image_students import evaluations, image_players, image_scene
from reprobook.papers.f_distill.ratios import BinnedMean, mean_one, ratio_from_logit
from reprobook.papers.f_distill.training import Settings, distil

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.benchmark(timer=time.process_time)]

CLOCK = time.process_time  # counts only what this process computes
ARCHITECTURE = Architecture(width=32, multipliers=(1, 2, 2), patch=2)
RECIPE = Recipe(schedule="fm", steps=100_000, batch=32, bf16=True)
UPDATES, MANY = 2, 100_000
SETTINGS = Settings(MANY, updates=UPDATES, r1=0.0, bf16=True)
WEIGHTS_SHARE = 0.01  # of an update that the weights may take
OVERHEAD = 2.0  # times what a step of the teacher's training takes for as many samples


def pictures(num: int = 2_000) -> Pictures:
    """Return noise of the form of Fashion-MNIST: speed does not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num, 1, 28, 28, generator=generator) * 2 - 1
    labels = torch.randint(10, (num,), generator=generator)
    return Pictures(images, labels, images[:10], labels[:10])


def turns(batch: int, name: str = "forward_kl", **changes) -> Callable[[], object]:
    """Return a function that trains a student for one update more."""
    teacher = new_network(ARCHITECTURE, 0).eval()
    players = image_players(teacher, RECIPE, 0)
    scene = image_scene(teacher, RECIPE, pictures(), batch)
    settings = Settings(**{**vars(SETTINGS), **changes})
    training = distil(players, scene, DIVERGENCES[name], settings, 0)
    return lambda: next(training)


def teaching(batch: int) -> Callable[[], object]:
    """Return a function that trains a teacher for one step more."""
    recipe = Recipe(**{**vars(RECIPE), "batch": batch})
    training = train_teacher(new_network(ARCHITECTURE, 0), *pictures()[:2], recipe, 10)
    return lambda: next(training)


def least(function: Callable[[], object], rounds: int = 5) -> float:
    """Return the least processor time of a call, in seconds, after one to warm up."""
    function()
    spent = []
    for _ in range(rounds):
        begin = CLOCK()
        function()
        spent.append(CLOCK() - begin)
    return min(spent)


@pytest.mark.parametrize("batch", [16, 32, 64])
def test_an_update_of_the_student_by_batch(batch, benchmark, capsys):
    """An update with its followers, against teacher steps that send as many samples through a network."""
    benchmark.pedantic(turns(batch), rounds=5, warmup_rounds=1)
    mine, step = benchmark.stats.stats.min, least(teaching(batch))
    passes = evaluations(1, batch, UPDATES, 0) / batch
    benchmark.extra_info |= {"updates a second": 1 / mine, "teacher steps": mine / step}
    with capsys.disabled():
        print(f"\nbatch {batch}: {1 / mine:.2f} updates a second, each {mine / step:.1f} teacher steps")
        print(f"for {passes:g} passes of a network: {mine / step / passes:.2f} teacher steps a pass")
    assert mine / step / passes < OVERHEAD


def test_the_parts_of_an_update(benchmark, capsys):
    """Fake score and discriminator by the growth with their number; the student is the rest."""
    benchmark.pedantic(turns(32), rounds=5, warmup_rounds=1)
    whole, more = benchmark.stats.stats.min, least(turns(32, updates=UPDATES + 2))
    following = (more - whole) / 2
    leading = whole - UPDATES * following
    penalised = least(turns(32, r1=1.0)) - whole
    benchmark.extra_info |= {"followers": following, "student": leading, "penalty": penalised / UPDATES}
    with capsys.disabled():
        print(f"\nfollowers {1e3 * following:.0f} ms an update, student {1e3 * leading:.0f} ms")
        print(f"the gradient penalty would add {1e3 * penalised / UPDATES:.0f} ms to the former")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weights_are_free(name, benchmark, capsys):
    """From logits to normalised weights, against the update that they belong to."""
    logit, t = torch.randn(32), torch.rand(32)
    bins = BinnedMean(0.0, 1.0)

    def weigh() -> Tensor:
        ratio = ratio_from_logit(logit)
        bins.update(t, ratio)
        return mean_one(DIVERGENCES[name].weight(bins.normalise(t, ratio)))

    benchmark.pedantic(weigh, rounds=20, iterations=50, warmup_rounds=1)
    share = benchmark.stats.stats.min / least(turns(32), rounds=2)
    benchmark.extra_info |= {"share of an update": share}
    with capsys.disabled():
        print(f"\n{name}: {share:.2%} of an update")
    assert share < WEIGHTS_SHARE
