"""Choosing settings without target labels (Sec. 5.1.2), and who wins over many sets (Poisson binomial test).

Reverse validation: what a network η learned on the labelled source, it tells the target; a second network η_r
learns from these answers, as if they were the truth, and goes back to source points that nobody has trained
on. There the truth is known. A setting under which η misreads the target does not find its way home.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import betainc
from torch import Tensor

from reprobook.errors import UserError

__all__ = [
    "Chosen",
    "split",
    "reverse_validation",
    "svm_learner",
    "disagreements",
    "chance_better",
    "poisson_binomial",
    "chance_of_winning_most",
    "win_matrix",
]

#: A learner takes (source, labels, target, held_out, held_labels), trains G members on the source and target
#: points at these positions, and returns a function from positions to the G members' classes there.
Learner = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Callable[[Tensor], Tensor]]


class Chosen(NamedTuple):
    """What reverse validation found.

    Attributes:
        risk: ``(G,)``, the share of source validation points on which η_r is wrong, a member.
        best: the member with the least risk; of several, the first.
        answer: η of all members: from positions ``(m,)`` to classes ``(m, G)``.
    """

    risk: Float[Tensor, " G"]
    best: int
    answer: Callable[[Tensor], Tensor]


def split(
    index: Int[Tensor, " n"], share: float, generator: torch.Generator
) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Part positions at random: those to train on, and a share to validate with (at least one).

    Args:
        index: positions.
        share: of the validation part, between 0 and 1; the paper's is 0.1.
        generator: of the order.
    """
    order = index[torch.randperm(len(index), generator=generator).to(index.device)]
    held_out = max(1, round(share * len(index)))
    return order[held_out:], order[:held_out]


def reverse_validation(
    learn: Learner,
    source: Int[Tensor, " n"],
    labels: Int[Tensor, " n"],
    target: Int[Tensor, " k"],
    num_members: int,
    *,
    share: float = 0.1,
    seed: int = 0,
) -> Chosen:
    """Rate G settings by reverse validation (Sec. 5.1.2).

    Split S into S', S_V and T into T', T_V. Train η on S' and T'; it labels T' and T_V. Train η_r on T' with
    these labels as its source and S' without labels as its target. Its risk is its error on S_V. Early
    stopping of η looks at S_V, that of η_r at T_V as labelled by η. There is no place here for the target's
    labels.

    Args:
        learn: see :data:`Learner`.
        source: positions of the source points.
        labels: their classes, 0 or 1.
        target: positions of the target points.
        num_members: G.
        share: of the validation parts.
        seed: of the split.

    Raises:
        UserError: if a point is in both domains.
    """
    if torch.isin(source, target).any():
        raise UserError("source and target share points: reverse validation needs them apart")
    generator = torch.Generator().manual_seed(seed)
    at, held = split(torch.arange(len(source), device=source.device), share, generator)
    t, t_held = split(target, share, generator)
    y, y_held = (labels[i].unsqueeze(1).expand(-1, num_members) for i in (at, held))
    answer = learn(source[at], y, t, source[held], y_held)
    back = learn(t, answer(t), source[at], t_held, answer(t_held))
    risk = (back(source[held]) != y_held).double().mean(0)
    return Chosen(risk, int(risk.argmin()), answer)


def svm_learner(gram: Float[Tensor, "M N"], costs: Sequence[float]) -> Learner:
    """Return a learner of linear SVMs, one member a cost C; it looks at no target point.

    Args:
        gram: inner products of all points with the N that may be trained on.
        costs: C, positive.
    """
    from sklearn.svm import SVC

    def learn(source, labels, target, held_out, held_labels):
        at, y = source.cpu().numpy(), labels.cpu().numpy()
        own = gram[source][:, source].cpu().double().numpy()
        machines = []
        for g, cost in enumerate(costs):
            one_class = len(np.unique(y[:, g])) == 1  # then there is nothing to separate
            machine = SVC(C=cost, kernel="precomputed", cache_size=500, max_iter=500_000)
            machines.append(y[0, g] if one_class else machine.fit(own, y[:, g]))

        def answer(where: Int[Tensor, " m"]) -> Int[Tensor, "m G"]:
            rows = gram[where][:, at].cpu().double().numpy()
            columns = [m.predict(rows) if hasattr(m, "predict") else np.full(len(rows), m) for m in machines]
            return torch.tensor(np.stack(columns, 1), device=gram.device)

        return answer

    return learn


# --------------------------------------------------------------------------- who wins


def disagreements(a: Bool[np.ndarray, " m"], b: Bool[np.ndarray, " m"]) -> tuple[int, int]:
    """Count the points that only A gets right, and those that only B does.

    Args:
        a, b: whether A and B are right on the same m points.
    """
    return int((a & ~b).sum()), int((b & ~a).sum())


def chance_better(only_a: int, only_b: int) -> float:
    """Return the chance that A is the better one on a set, given the points on which the two disagree.

    Let q be the probability that A is the one who is right when just one of the two is. From a uniform prior,
    the counts make it Beta(1 + only_a, 1 + only_b), and A is better if q > 1/2. No disagreement gives 1/2.
    (Lacoste et al. 2012, from memory: a uniform Dirichlet prior over who is right, of which this is the
    marginal up to the size of the prior.)
    """
    return float(1 - betainc(1 + only_a, 1 + only_b, 0.5))


def poisson_binomial(p: Sequence[float] | Float[np.ndarray, " N"]) -> Float[np.ndarray, " k"]:
    """Return the distribution of the number of successes in independent trials with chances p_1, …, p_N.

    Exact, by the recursion P_i(k) = p_i P_{i-1}(k - 1) + (1 - p_i) P_{i-1}(k); equal chances give the
    binomial distribution.

    Returns:
        N + 1 probabilities, of 0 to N successes.
    """
    found = np.ones(1)
    for chance in p:
        found = np.convolve(found, [1 - chance, chance])
    return found


def chance_of_winning_most(p: Sequence[float] | Float[np.ndarray, " N"]) -> float:
    """Return the chance that more than half of the trials succeed; a tie counts half (Table 1b)."""
    distribution, half = poisson_binomial(p), len(p) / 2
    wins = np.arange(len(p) + 1)
    return float(distribution[wins > half].sum() + distribution[wins == half].sum() / 2)


def win_matrix(right: Mapping[str, Sequence[Bool[np.ndarray, " m"]]]) -> Float[np.ndarray, "A A"]:
    """Return, for every two algorithms, the chance that the row is better than the column on most sets.

    The Poisson binomial test of Table 1b: a trial a set, its chance from :func:`chance_better`.

    Args:
        right: by algorithm, for each set, which of its test points the algorithm gets right. All algorithms
            have the same sets, in the same order.
    """
    names = list(right)
    chances = {
        (a, b): [chance_better(*disagreements(x, y)) for x, y in zip(right[a], right[b], strict=True)]
        for a in names
        for b in names
    }
    return np.array([[chance_of_winning_most(chances[a, b]) for b in names] for a in names])
