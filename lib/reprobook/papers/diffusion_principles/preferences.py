r"""Preferences over a finite set of answers: the algebra behind DPO, where every sum can be carried out.

After Sec. 8.5 of Lai et al., *The Principles of Diffusion Models* (2025, arXiv 2510.21890), and Rafailov et
al. (2023). A policy is a vector of K probabilities. A human who compares answers i and j prefers i with
probability σ(r_i - r_j), the model of Bradley and Terry; the reward r is known to nobody. Wanted is the
policy that maximises reward, held near a reference by a divergence of weight β.

===========  ==================================================================
symbol       meaning
===========  ==================================================================
π, π_ref     policy and reference, ``(K,)``, positive with sum 1
r            reward, ``(K,)``
β            price of leaving the reference, > 0
Z            partition function, Σ π_ref e^(r/β)
===========  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "optimal_policy",
    "log_partition",
    "controlled_reward",
    "divergence",
    "price_and_reward",
    "implicit_reward",
    "bradley_terry",
    "dpo_loss",
    "Descent",
    "minimise",
    "pairs_within",
]

Vector = Float[Tensor, " K"]
Table = Float[Tensor, "K K"]


def optimal_policy(reference: Vector, reward: Vector, beta: float) -> Vector:
    """Return π* = π_ref e^(r/β) / Z (Eq. 8.5.5).

    Args:
        reference: π_ref, positive.
        reward: r.
        beta: β > 0; infinity leaves the reference, zero would take the best answer alone.
    """
    return torch.softmax(reference.log() + reward / beta, 0)


def log_partition(reference: Vector, reward: Vector, beta: float) -> Float[Tensor, ""]:
    """Return log Z, what Eq. (8.5.5) divides by."""
    return torch.logsumexp(reference.log() + reward / beta, 0)


def divergence(policy: Vector, reference: Vector) -> Float[Tensor, ""]:
    """Return KL(π ‖ π_ref) in nats, the leash of Sec. 8.5."""
    return (policy * (policy / reference).log()).sum()


def controlled_reward(policy: Vector, reward: Vector, reference: Vector, beta: float) -> Float[Tensor, ""]:
    """Return E_π r - β KL(π ‖ π_ref), which Eq. (8.5.5) maximises; it is β log Z - β KL(π ‖ π*)."""
    return policy @ reward - beta * divergence(policy, reference)


def price_and_reward(policy: Vector, reward: Vector, reference: Vector) -> Float[Tensor, "2"]:
    """Return KL(π ‖ π_ref) and E_π r, the two sides of the bargain in Sec. 8.5."""
    return torch.stack([divergence(policy, reference), policy @ reward])


def implicit_reward(policy: Vector, reference: Vector, beta: float) -> Vector:
    """Return β log(π/π_ref), the reward that a policy is optimal for: of π*, r less β log Z (Eq. 8.5.5)."""
    return beta * (policy / reference).log()


def bradley_terry(reward: Vector) -> Table:
    """Return the probability σ(r_i - r_j) that answer i is preferred to answer j (Sec. 8.5)."""
    return torch.sigmoid(reward[:, None] - reward)


def dpo_loss(
    logits: Vector, reference: Vector, beta: float, preferred: Table, compared: Table
) -> Float[Tensor, ""]:
    """Return -E log σ(β [log-ratio of the winner - log-ratio of the loser]), Eq. (8.5.6), exactly.

    Args:
        logits: of the policy π = softmax(logits).
        reference: π_ref.
        beta: β.
        preferred: probability that i wins against j.
        compared: how often i and j are compared, with sum 1 over ordered pairs.
    """
    ratios = beta * (logits.log_softmax(0) - reference.log())
    return -(compared * preferred * logsigmoid(ratios[:, None] - ratios)).sum()


class Descent(NamedTuple):
    """Where a minimisation is: its step, the logits, and the loss there."""

    step: int
    logits: Tensor
    loss: float


def minimise(loss: Callable[[Tensor], Tensor], logits: Vector, steps: int = 40) -> Iterator[Descent]:
    """Yield the steps of Newton's method, halved until the loss does not rise, on a loss such as Eq. (8.5.6).

    The Hessian is singular, since equal shifts of all logits change nothing; its pseudo-inverse leaves such
    directions alone. Ends early when steps no longer move anything but rounding.
    """
    value = loss(logits)
    yield Descent(0, logits, value.item())
    for step in range(1, steps + 1):
        gradient, hessian = torch.func.grad(loss)(logits), torch.func.hessian(loss)(logits)
        move = torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True) @ gradient
        if move.norm() <= 1e-10 * (1 + logits.norm()):
            return
        allowed = value + 4 * torch.finfo(value.dtype).eps * value.abs()  # Newton polishes below rounding
        while loss(logits - move) > allowed:
            move = move / 2
        logits = logits - move
        value = loss(logits)
        yield Descent(step, logits, value.item())


def pairs_within(groups: Bool[Tensor, "G K"]) -> Table:
    """Return comparisons, equally often, of different answers in one group, for Eq. (8.5.6).

    Args:
        groups: which answers belong to each group; one row of ones compares all with all.
    """
    together = (groups[:, :, None] & groups[:, None, :]).any(0)
    pairs = (together & ~torch.eye(groups.shape[1], dtype=torch.bool)).double()
    return pairs / pairs.sum()
