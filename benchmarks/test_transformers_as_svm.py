"""How fast the attention engine is: run with ``make bench``.

The paper's protocol (n=6, T=8, d=10, both parameterisations) is the yardstick; around it, growth with
trials, tokens and dimension, and a plain loop over trials to compare with.
"""

import math
import resource
import sys

import pytest
import torch

from reprobook.papers.transformers_as_svm.descent import attention, descend, last, uniform_weights
from reprobook.papers.transformers_as_svm.problems import random_problems
from reprobook.papers.transformers_as_svm.svm import att_svm

STEPS = 200


def one_by_one(problem, start, steps, learning_rate=0.1):
    """The obvious way: a loop over trials, each with automatic differentiation."""
    ends = []
    for b in range(problem.dims[0]):
        one, weights = problem[b], [w[b : b + 1].clone().requires_grad_() for w in start]
        v = one.V[:, 0]
        for _ in range(steps):
            W = weights[0] if len(weights) == 1 else weights[0] @ weights[1].mT
            f = torch.einsum("bnt,bntd,bd->bn", attention(one, W), one.X, v)
            gradients = torch.autograd.grad(torch.nn.functional.softplus(-one.Y * f).mean(), weights)
            weights = [
                (w - learning_rate * g / g.norm()).detach().requires_grad_()
                for w, g in zip(weights, gradients, strict=True)
            ]
        ends.append(weights[0].detach())
    return torch.cat(ends)


def problem_and_start(trials, n=6, T=8, d=10, factored=False):
    problem = random_problems(range(trials), n, T, d)
    return problem, uniform_weights(problem, range(trials), factored=factored)


@pytest.mark.parametrize("factored", [False, True], ids=["W", "KQ"])
def test_paper_protocol_100_trials_2000_steps(benchmark, factored):
    problem, start = problem_and_start(100, factored=factored)
    end = benchmark.pedantic(
        lambda: last(descend(problem, start, steps=2000, every=2000)), rounds=3, warmup_rounds=1
    )
    assert end.k == 2000


@pytest.mark.parametrize("factored", [False, True], ids=["W", "KQ"])
def test_batched_100_trials(benchmark, factored):
    problem, start = problem_and_start(100, factored=factored)
    benchmark.pedantic(
        lambda: last(descend(problem, start, steps=STEPS, every=STEPS)), rounds=5, warmup_rounds=1
    )


@pytest.mark.parametrize("factored", [False, True], ids=["W", "KQ"])
def test_one_by_one_100_trials(benchmark, factored):
    problem, start = problem_and_start(100, factored=factored)
    benchmark.pedantic(lambda: one_by_one(problem, start, STEPS), rounds=1)
    slow = one_by_one(problem, start, 20)  # later, automatic differentiation of (K, Q) drowns in rounding
    fast = last(descend(problem, start, steps=20)).weights[0]
    torch.testing.assert_close(slow, fast, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trials", [1, 10, 100, 1000, 10_000])
def test_growth_with_trials(benchmark, trials):
    problem, start = problem_and_start(trials)
    benchmark.pedantic(lambda: last(descend(problem, start, steps=50, every=50)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["microseconds a trial and step"] = benchmark.stats.stats.min / 50 / trials * 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    benchmark.extra_info["peak memory of the process in MiB"] = math.ceil(peak / 2**20)


@pytest.mark.parametrize("T", [4, 16, 64])
def test_growth_with_tokens(benchmark, T):
    problem, start = problem_and_start(100, T=T)
    benchmark.pedantic(
        lambda: last(descend(problem, start, steps=STEPS, every=STEPS)), rounds=3, warmup_rounds=1
    )


@pytest.mark.parametrize("d", [8, 32, 128])
def test_growth_with_dimension(benchmark, d):
    problem, start = problem_and_start(100, d=d)
    benchmark.pedantic(lambda: last(descend(problem, start, steps=50, every=50)), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
def test_margin_problem(benchmark, norm):
    problem, _ = problem_and_start(5)
    alpha = torch.zeros(5, 6, dtype=torch.long)
    found = benchmark.pedantic(lambda: att_svm(problem, alpha, norm), rounds=3, warmup_rounds=1)
    assert found.solved.all()
