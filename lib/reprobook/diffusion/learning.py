"""One training loop for every learned model of diffusion: Adam, warm-up and cosine, averaged weights.

The weights that a diffusion model is used with are a moving average of those that the optimiser went
through (Ho, Jain and Abbeel, 2020, take 0.9999 over very long training). The loop is a generator: whoever
runs it decides what to print and when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Progress", "fit", "batch", "learning_rate_at", "averaging_at"]

#: A loss: the network and a generator (or one a member of a stack) to a scalar, or to one value a member.
Loss = Callable[[nn.Module, torch.Generator | list[torch.Generator]], Tensor]


class Progress(NamedTuple):
    """Where a training stands after a step.

    Attributes:
        step: how many steps have been taken, from 1.
        loss: of this step, () or ``(S,)`` for a stack of networks; detached.
    """

    step: int
    loss: Tensor


def fit(
    net: nn.Module,
    loss: Loss,
    steps: int,
    *,
    seed: int | Sequence[int] = 0,
    learning_rate: float = 2e-3,
    warmup: float = 0.05,
    ema: float = 0.999,
    weight_decay: float = 0.0,
    precision: torch.dtype | None = None,
) -> Iterator[Progress]:
    """Train a network in place; yield after every step.

    After the last step the network holds the moving average of its weights. A generator that is not run to
    its end leaves the last weights themselves.

    Args:
        net: a network, or a :class:`~reprobook.diffusion.networks.Stack` of several.
        loss: of a batch that it draws itself: called as ``loss(net, generator)``. For a sequence of seeds
            it gets a list of generators instead and returns one loss a seed; their sum is minimised.
        steps: of the optimiser, >= 1.
        seed: of the generator on the CPU that the loss draws from; a sequence of seeds for a stack.
        learning_rate: the highest one; it rises to that linearly and falls to zero along a cosine.
        warmup: share of the steps in which it rises.
        ema: how much of the average is kept at each step, in [0, 1); less in the first steps.
        weight_decay: of AdamW.
        precision: of matrix products and convolutions under autocast, such as ``torch.bfloat16``; as the
            weights are, if None.

    Yields:
        One :class:`Progress` a step.
    """
    weights = [p for p in net.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]
    device = weights[0].device.type
    fused = device in ("cpu", "cuda", "mps")
    optimiser = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay, fused=fused)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    source = generators[0] if isinstance(seed, int) else generators
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate, warmup)
        with torch.autocast(device, precision) if precision else nullcontext():
            value = loss(net, source)
        optimiser.zero_grad(set_to_none=True)
        value.sum().backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - averaging_at(step, ema))
        if step + 1 == steps:
            for weight, mean in zip(weights, average, strict=True):
                weight.data.copy_(mean)
        yield Progress(step + 1, value.detach())


def learning_rate_at(step: int, steps: int, highest: float, warmup: float) -> float:
    """Return the rate of a step, counted from 0: linear up, then half a cosine down to zero.

    Args:
        step: in [0, steps).
        steps: of the whole training.
        highest: the rate at the end of the warm-up.
        warmup: share of the steps, in [0, 1).
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return highest * (step + 1) / rise
    return highest * (1 + math.cos(math.pi * (step - rise + 1) / (steps - rise + 1))) / 2


def averaging_at(step: int, ema: float) -> float:
    """Return how much of the average is kept at a step, counted from 0: at first the plain mean's share.

    With k / (k + 1) kept, the average is the mean of all weights so far; once that exceeds ``ema``, the
    average forgets exponentially. So the initial weights never count.
    """
    return min(ema, step / (step + 1))


def batch(
    draw: Callable[[torch.Generator], Float[Tensor, "..."]],
    generators: torch.Generator | Sequence[torch.Generator],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "..."]:
    """Draw from one generator, or from each of several and stack, so that a seed's data never change.

    Args:
        draw: a function of a generator on the CPU.
        generators: what :func:`fit` hands to a loss.
        device: where the result goes.

    Returns:
        What ``draw`` returns; with several generators with one leading axis more, ``(S, ...)``.
    """
    if isinstance(generators, torch.Generator):
        return draw(generators).to(device)
    return torch.stack([draw(generator) for generator in generators]).to(device)
