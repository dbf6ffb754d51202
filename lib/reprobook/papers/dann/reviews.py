"""Reviews of products: the Amazon experiments of Sec. 5.1.2 to 5.1.5 as data, and made-up reviews.

Made-up reviews are counts of words. A review of sentiment y = ±1 uses word w at the rate r_w exp(y s_w), as
often as a Poisson variable says. Some words carry sentiment everywhere (*pivots*), some in one domain only
("leaks" of a kettle, never of a novel), most carry none. Everything that can be known about them is known:
see :func:`pivot_bound`.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from scipy.stats import skellam
from torch import Tensor

from reprobook.errors import UserError
from reprobook.papers.dann.dual import Points, points
from reprobook.papers.dann.msda import layers

__all__ = [
    "DOMAINS",
    "PAIRS",
    "PAPER_TABLE",
    "PAPER_WINS",
    "Vocabulary",
    "VOCABULARY",
    "Reviews",
    "made_up_reviews",
    "pivot_bound",
    "pivot_rule",
    "Task",
    "both_ways",
    "pool",
    "as_points",
]

#: the four kinds of products, in the order of the paper
DOMAINS = ("books", "dvd", "electronics", "kitchen")
#: source and target, the twelve rows of Table 1a in its order
PAIRS = tuple(permutations(DOMAINS, 2))

#: Table 1a, target accuracy in thousandths: a row for each of PAIRS, columns DANN, NN, SVM
PAPER_TABLE = {
    "original": {
        "DANN": (784, 733, 779, 723, 754, 783, 713, 738, 854, 709, 740, 843),
        "NN": (790, 747, 778, 720, 732, 778, 709, 733, 854, 708, 739, 841),
        "SVM": (799, 748, 769, 743, 748, 746, 705, 726, 847, 707, 736, 842),
    },
    "msda": {
        "DANN": (829, 804, 843, 825, 809, 849, 774, 781, 881, 718, 789, 856),
        "NN": (824, 770, 842, 823, 768, 853, 770, 759, 863, 721, 789, 850),
        "SVM": (830, 766, 821, 826, 739, 842, 762, 770, 847, 769, 788, 861),
    },
}
#: Table 1b, the chance that the first is better than the second on most pairs
PAPER_WINS = {
    "original": {("DANN", "NN"): 0.87, ("DANN", "SVM"): 0.83, ("NN", "SVM"): 0.63},
    "msda": {("DANN", "NN"): 0.92, ("DANN", "SVM"): 0.88, ("NN", "SVM"): 0.62},
}


class Vocabulary(NamedTuple):
    """How many words of each kind there are, and how often a review uses any word of that kind.

    Half of the words with sentiment are positive and half negative; all have the same strength s.

    Attributes:
        pivots, own, topics, common: words with sentiment shared by all domains; with sentiment in one domain
            only; without sentiment in one domain only; without sentiment and shared. ``own`` and ``topics``
            are numbers a domain.
        pivot_rate, own_rate, topic_rate, common_rate: words of that kind in a review, before sentiment.
        strength: s.
    """

    pivots: int = 40
    own: int = 60
    topics: int = 50
    common: int = 100
    pivot_rate: float = 4.5
    own_rate: float = 6.0
    topic_rate: float = 5.0
    common_rate: float = 20.0
    strength: float = 0.5

    @property
    def size(self) -> int:
        """All words, of all domains."""
        return self.pivots + self.common + len(DOMAINS) * (self.own + self.topics)


#: the vocabulary of the chapter
VOCABULARY = Vocabulary()


class Reviews(NamedTuple):
    """Reviews of one domain as the experiments use them.

    Attributes:
        train, test: word counts, a row a review.
        train_labels, test_labels: 1 for praise, 0 for the opposite. Of a target domain only ``test_labels``
            may be looked at, and only to judge.
    """

    train: sp.csr_matrix
    train_labels: np.ndarray
    test: sp.csr_matrix
    test_labels: np.ndarray


def _rates(domain: str, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return r_w and s_w of every word in a domain; words of other domains have the rate 0.

    The order: pivots, common words, then for every domain its own words with and without sentiment.
    """
    v = vocabulary
    blocks = [(v.pivots, v.pivot_rate, v.strength), (v.common, v.common_rate, 0.0)]
    for name in DOMAINS:
        here = float(name == domain)
        blocks += [(v.own, here * v.own_rate, v.strength), (v.topics, here * v.topic_rate, 0.0)]
    rates = np.concatenate([np.full(count, rate / count) for count, rate, _ in blocks])
    signs = np.concatenate([s * np.where(np.arange(count) % 2, -1.0, 1.0) for count, _, s in blocks])
    return rates, signs


def made_up_reviews(
    domain: str, num_train: int, num_test: int, seed: int, vocabulary: Vocabulary = VOCABULARY
) -> Reviews:
    """Draw reviews of one domain.

    Args:
        domain: one of :data:`DOMAINS`.
        num_train, num_test: how many.
        seed: at least 0; domains of one seed are drawn independently of each other.
        vocabulary: what there is to say.

    Raises:
        UserError: if there is no such domain.
    """
    if domain not in DOMAINS:
        raise UserError(f"there is no domain '{domain}': it is one of {', '.join(DOMAINS)}")
    rng = np.random.default_rng([seed, DOMAINS.index(domain)])
    rates, signs = _rates(domain, vocabulary)

    def draw(count: int) -> tuple[sp.csr_matrix, np.ndarray]:
        labels = rng.integers(0, 2, count)
        counts = rng.poisson(rates * np.exp(np.outer(2 * labels - 1, signs)))
        return sp.csr_matrix(counts.astype(np.float32)), labels

    return Reviews(*draw(num_train), *draw(num_test))


def pivot_bound(vocabulary: Vocabulary = VOCABULARY) -> float:
    """Return the accuracy of the best rule that looks at pivots only, in closed form.

    All strengths are equal, so the best rule counts: more positive pivots than negative ones is praise, and a
    draw is a coin toss. With rate R of pivots, a review of praise has N₊ ~ Poisson(R eˢ/2) of one kind and
    N₋ ~ Poisson(R e⁻ˢ/2) of the other; their difference has Skellam's distribution, and the rule is right
    with probability P(N₊ > N₋) + P(N₊ = N₋)/2. Who has seen no target review cannot do better: no other word
    with sentiment occurs in both domains.
    """
    R, s = vocabulary.pivot_rate, vocabulary.strength
    more, fewer = R / 2 * np.exp(s), R / 2 * np.exp(-s)
    return float(skellam.sf(0, more, fewer) + skellam.pmf(0, more, fewer) / 2)


def pivot_rule(counts: sp.csr_matrix, vocabulary: Vocabulary = VOCABULARY) -> Float[np.ndarray, " n"]:
    """Return the vote of the pivots, positive minus negative ones, a review."""
    pivots = counts[:, : vocabulary.pivots].toarray()
    return (pivots[:, ::2].sum(1) - pivots[:, 1::2].sum(1)).astype(float)


class Task(NamedTuple):
    """What may be known when learning from one domain for another: positions in the pool, source labels only.

    Attributes:
        source, target: positions of the training reviews.
        labels: of the source reviews.
        test: positions of the target's test reviews, to be asked about when all is learned and chosen.
    """

    source: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    target: Int[Tensor, " k"]
    test: Int[Tensor, " m"]


def both_ways(first: Reviews, second: Reviews) -> list[tuple[Task, Int[Tensor, " m"]]]:
    """Return the task from the first domain to the second and the one back, each with its test's truth.

    The truth stands apart, so that nothing that learns or chooses is handed the target's labels.
    """
    sizes = [first.train.shape[0], second.train.shape[0], first.test.shape[0], second.test.shape[0]]
    train1, train2, test1, test2 = torch.arange(sum(sizes)).split(sizes)
    truths = [torch.as_tensor(r.test_labels) for r in (second, first)]
    known = [torch.as_tensor(r.train_labels) for r in (first, second)]
    return [
        (Task(train1, known[0], train2, test2), truths[0]),
        (Task(train2, known[1], train1, test1), truths[1]),
    ]


def pool(first: Reviews, second: Reviews, dtype: torch.dtype = torch.float32) -> Float[Tensor, "M words"]:
    """Stack the reviews of two domains, dense: both training sets, then both test sets."""
    X = sp.vstack([first.train, second.train, first.test, second.test])
    return torch.from_numpy(X.toarray()).to(dtype)


def as_points(
    X: Float[Tensor, "M f"],
    num_training: int,
    features: str,
    num_hidden: int,
    seeds: list[int],
    num_layers: int = 5,
    corruption: float = 0.5,
) -> list[Points]:
    """Prepare pooled reviews for training, with a W_0 a seed.

    Args:
        X: from :func:`pool`.
        num_training: rows of both training sets.
        features: ``original`` word counts, or ``msda``: these and the layers learned from all training
            reviews, without labels (Sec. 5.1.4).
        num_hidden: hidden units of the networks.
        seeds: one a repetition.
        num_layers, corruption: of mSDA.

    Raises:
        UserError: if there are no such features.
    """
    if features not in ("original", "msda"):
        raise UserError(f"there are no features '{features}': they are original or msda")
    depth = num_layers if features == "msda" else 0
    blocks = layers(X, num_training, depth, corruption)
    return points(blocks, num_training, (depth + 1) * X.shape[1], num_hidden, seeds)
