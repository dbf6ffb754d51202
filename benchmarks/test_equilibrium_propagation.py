r"""How fast equilibrium propagation learns: run with ``make bench``.

A training step of the paper's layered network, 784-256-256-10 at 50 images with 150 settling steps and 20 for
the error, on one thread, by every error signal; the authors' code in JAX takes 0.25 to 0.3 s a step on two
cores, after minutes of compilation. Then what the stack of members buys, what stopping early costs, and what
an image and settling step of the convolutional network costs, from which the cost of CIFAR-10 follows.
Processor time is measured.
"""

import resource
import time
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from reprobook.papers.equilibrium_propagation.convolutional import Convolutional, initial_kernels
from reprobook.papers.equilibrium_propagation.convolutional_training import (
    ImageRecipe,
    train_convolutional,
)
from reprobook.papers.equilibrium_propagation.errors import gradients, linear_error
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered
from reprobook.papers.equilibrium_propagation.relaxation import readout, relax
from reprobook.papers.equilibrium_propagation.training import Method, Progress, Recipe, train

pytestmark = pytest.mark.usefixtures("one_thread")

CLOCK = time.process_time  # counts only what this process computes
ROUNDS = 5
PUBLISHED = 0.25  # seconds a step of the authors' code, at its best
WIRING = layered((784, 256, 256, 10), 10)
METHODS = {
    "derivative": Method("derivative"),
    "recurrent": Method("recurrent"),
    "N = 2": Method("nudged", 0.5, 2),
    "N = 4": Method("nudged", 0.5, 4),
}


def data(num: int = 2_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of the form of Fashion-MNIST: speed does not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num, 784, generator=generator), torch.randint(10, (num,), generator=generator)


def network(members: int) -> Layered:
    weights = initial_weights(WIRING, [90.0] * members, list(range(members)))
    return Layered(WIRING, {name: w.float() for name, w in weights.items()})


def steps(method: Method, homeostasis: float, members: int = 1, tolerance: float = 0.0) -> Iterator[Progress]:
    recipe = Recipe(epochs=100, tolerance=tolerance)
    lambdas, seeds = [homeostasis] * members, list(range(members))
    return train(network(members), *data(), recipe, method, homeostasis=lambdas, seeds=seeds)


def seconds(work: Iterator[Progress], rounds: int = ROUNDS) -> float:
    """Return the shortest of some steps, the first not counted."""
    next(work)
    found = []
    for _ in range(rounds):
        start = CLOCK()
        next(work)
        found.append(CLOCK() - start)
    return min(found)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("homeostasis", [0.0, 1.0])
@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_of_the_layered_network(name, homeostasis, benchmark, capsys):
    work = steps(METHODS[name], homeostasis)
    next(work)
    benchmark.pedantic(lambda: next(work), rounds=ROUNDS)
    mine = benchmark.stats.stats.median
    benchmark.extra_info |= {"seconds a step": mine, "published code": PUBLISHED}
    with capsys.disabled():
        print(f"\n{name}, lambda {homeostasis:g}: {mine:.3f} s a step, {PUBLISHED / mine:.1f} times as fast")


@pytest.mark.benchmark(timer=CLOCK)
def test_backpropagation_through_settling_for_comparison(benchmark, capsys):
    net, (images, labels) = network(1), data(50)
    weights = {name: w.requires_grad_() for name, w in net.weights.items()}
    x, target = images[None], F.one_hot(labels, 10).float()[None]

    def one_step() -> None:
        settled = relax(Layered(WIRING, weights), x, steps=150)
        loss = -(target * readout(net, settled.r).log()).sum(-1).mean()
        torch.autograd.grad(loss, list(weights.values()))

    one_step()
    benchmark.pedantic(one_step, rounds=ROUNDS)
    with capsys.disabled():
        print(f"\nthrough time: {benchmark.stats.stats.median:.3f} s a step")


@pytest.mark.benchmark(timer=CLOCK)
def test_five_seeds_as_one_stack_against_one_after_another(benchmark, capsys):
    one, five = steps(METHODS["derivative"], 0.0), steps(METHODS["derivative"], 0.0, 5)
    alone = seconds(one)
    next(five)
    benchmark.pedantic(lambda: next(five), rounds=ROUNDS)
    gain = 5 * alone / benchmark.stats.stats.median
    benchmark.extra_info["times as fast"] = gain
    with capsys.disabled():
        print(f"\nfive seeds as one: {gain:.2f} times as fast as one after another, on one thread")


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_stopping_when_settled(tolerance, benchmark, capsys):
    full = seconds(steps(METHODS["derivative"], 0.0))
    work = steps(METHODS["derivative"], 0.0, tolerance=tolerance)
    next(work)
    benchmark.pedantic(lambda: next(work), rounds=ROUNDS)
    net, (images, labels) = network(1), data(50)
    x, target = images[None], F.one_hot(labels, 10).float()[None]
    slopes = []
    for stop in (0.0, tolerance):
        settled = relax(net, x, tolerance=stop)
        error = linear_error(net, settled, target, transposed=False)
        slopes.append(gradients(net, x, settled, target, error)["0>1"])
    off = ((slopes[1] - slopes[0]).norm() / slopes[0].norm()).item()
    benchmark.extra_info |= {"settling steps": settled.steps, "relative error of the gradient": off}
    with capsys.disabled():
        gain = full / benchmark.stats.stats.median
        print(f"\ntolerance {tolerance:g}: {settled.steps} steps, {gain:.1f} times as fast,", end=" ")
        print(f"gradient off by {off:.0e}")


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("estimator", ["none", "products", "differences"])
def test_a_training_step_of_the_convolutional_network(estimator, benchmark, capsys):
    """The paper's network with an eighth of its channels, a few images of 32×32."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(80, 3, 32, 32, generator=generator), torch.arange(80) % 10
    channels, batch, free, error = (3, 16, 32, 64, 64), 8, 25, 4
    weights = initial_kernels(channels, 64, 10, [90.0], [0])
    net = Convolutional({k: w.float() for k, w in weights.items()}, (1, 1, 1, 0))
    lam, used = (0.0, "products") if estimator == "none" else (15.0, estimator)
    recipe = ImageRecipe(1, batch=batch, free_steps=free, estimator=used, augment=4)
    method = Method("derivative", steps=error)
    work = train_convolutional(net, images, labels, recipe, method, homeostasis=[lam], seeds=[0])
    next(work)
    benchmark.pedantic(lambda: next(work), rounds=ROUNDS)
    median = benchmark.stats.stats.median
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        each = 1e3 * median / batch / (free + error)
        print(f"\nhomeostasis {estimator}: {median:.2f} s a step, {each:.2f} ms an image and step,", end=" ")
        print(f"{memory:.0f} MiB")
