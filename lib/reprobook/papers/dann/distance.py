"""How far apart are two domains? The proxy A-distance (Sec. 3.2, 5.1.5), and a fresh domain probe."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from reprobook.errors import UserError

__all__ = ["COSTS", "Points", "split_in_halves", "domain_errors", "proxy_a_distance", "domain_probe"]

#: the grid of the authors' released code, 1e-5 to 1e4
COSTS = tuple(10.0**k for k in range(-5, 5))
#: what can be compared: a row a point, a column a feature
Points = Float[torch.Tensor, "_ _"] | Float[np.ndarray, "_ _"] | sp.csr_matrix | sp.csr_array


def split_in_halves(
    source: Points, target: Points, seed: int
) -> tuple[np.ndarray | sp.csr_matrix, np.ndarray, np.ndarray | sp.csr_matrix, np.ndarray]:
    """Pool two samples and split the pool at random into halves, each with half of either domain.

    Args:
        source: ``(n, D)``, a tensor, an array or a sparse matrix.
        target: ``(k, D)``, of the same kind. The larger sample is cut at random to the size of the other.
        seed: of the split.

    Returns:
        Points and domains (0 source, 1 target) of the first half, then of the second.

    Raises:
        UserError: if a sample has fewer than two points, the dimensions differ, or a value is not finite.
    """
    source, target = _as_matrix(source, "source"), _as_matrix(target, "target")
    if source.shape[1] != target.shape[1]:
        raise UserError(f"source has {source.shape[1]} features and target {target.shape[1]}: need the same")
    size = min(source.shape[0], target.shape[0])
    if size < 2:
        raise UserError(f"a domain of {size} points cannot be halved: at least 2 are needed")
    # DEPARTURE: we halve each domain, the paper the pool; then no half has more of one domain by chance
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(x.shape[0]) for x in (source, target)]
    halves = []
    for part in (slice(size // 2), slice(size // 2, size)):
        rows = [x[order[part]] for x, order in zip((source, target), orders, strict=True)]
        pool = sp.vstack(rows, format="csr") if sp.issparse(source) else np.concatenate(rows)
        halves += [pool, np.repeat([0, 1], rows[0].shape[0])]
    return tuple(halves)


def _as_matrix(points: Points, name: str) -> np.ndarray | sp.csr_matrix:
    if isinstance(points, torch.Tensor):
        points = points.detach().cpu().numpy()
    if not np.isfinite(points.data if sp.issparse(points) else points).all():
        raise UserError(f"the {name} has values that are not finite: no distance can be measured")
    return points


def domain_errors(
    source: Points, target: Points, *, seed: int, costs: Sequence[float] = COSTS
) -> list[float]:
    """Return the held-out error of a linear SVM that tells the domains apart, for each value of C.

    The SVM has the squared hinge loss. It learns on one half of the pool and is judged on the other, as in
    Sec. 5.1.5.

    Args:
        source, target: as in :func:`split_in_halves`, ``(n, D)`` and ``(k, D)``.
        seed: of the split.
        costs: values of C, positive.

    Returns:
        The share of wrong answers for each C, between 0 and 1; near 1/2 if the domains cannot be told apart.
    """
    train_x, train_d, test_x, test_d = split_in_halves(source, target, seed)
    errors = []
    for C in costs:
        svm = LinearSVC(C=C, dual=False, tol=1e-4, max_iter=200)
        with warnings.catch_warnings():  # at a large C a last digit of the margin may be open: no matter here
            warnings.simplefilter("ignore", ConvergenceWarning)
            errors.append(float((svm.fit(train_x, train_d).predict(test_x) != test_d).mean()))
    return errors


def proxy_a_distance(source: Points, target: Points, *, seed: int, costs: Sequence[float] = COSTS) -> float:
    """Return the proxy A-distance 2 (1 - 2ε) of two samples (Sec. 3.2), ε the lowest error over the costs.

    It is 2 if a linear rule tells the domains apart without error, and about 0 if none does better than
    guessing. Because ε is the lowest of several, samples of one distribution come out slightly above 0.

    Args:
        source, target: representations of the two domains, ``(n, D)`` and ``(k, D)``.
        seed: of the split in halves.
        costs: values of C to try.
    """
    return 2 * (1 - 2 * min(domain_errors(source, target, seed=seed, costs=costs)))


def domain_probe(source: Points, target: Points, *, seed: int, cost: float = 1.0) -> float:
    """Return the held-out accuracy of a fresh linear domain classifier: 1/2 is guessing, 1 is certainty.

    Fresh means that it has no part in the training of the representation: the network's own domain regressor
    may fail because it lost its race, although the domains are still easy to tell apart. A control for
    Sec. 5.1.1.
    """
    return 1 - domain_errors(source, target, seed=seed, costs=[cost])[0]
