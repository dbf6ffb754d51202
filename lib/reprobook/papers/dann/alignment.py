"""What Table 2 compares DANN with, and measures it by: subspace alignment, a refitted last layer, the gap.

Subspace alignment is Fernando, Habrard, Sebban and Tuytelaars, *Unsupervised Visual Domain Adaptation
Using Subspace Alignment*, ICCV 2013; DANN's paper runs it on the features of the source-only network.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["aligned_subspaces", "LinearRule", "linear_svm", "gap_covered"]


def aligned_subspaces(
    source: Float[Tensor, "num_source width"], target: Float[Tensor, "num_target width"], dimension: int
) -> tuple[Float[Tensor, "num_source dimension"], Float[Tensor, "num_target dimension"]]:
    """Return both domains in coordinates in which their principal subspaces lie on each other (Sec. 5.2.4).

    With P_S and P_T the leading principal directions of each domain, the source becomes X_S P_S (P_S' P_T)
    and the target X_T P_T: of all linear maps M, P_S' P_T brings P_S M nearest to P_T.

    Args:
        source, target: features. Each domain is centred by its own mean first.
        dimension: how many principal directions to keep, from 1 to the smaller side of either matrix.

    Returns:
        The aligned source and the target, equal in meaning column by column. If the domains are equal, the
        two are the ordinary principal components.

    Raises:
        ValueError: if there are fewer directions than asked for.
    """
    most = min(*source.shape, *target.shape)
    if not 1 <= dimension <= most:
        raise ValueError(f"dimension {dimension} is outside 1 .. {most}")
    source, target = source - source.mean(0), target - target.mean(0)
    p_s, p_t = _principal(source, dimension), _principal(target, dimension)
    return source @ p_s @ (p_s.T @ p_t), target @ p_t


def _principal(x: Float[Tensor, "num width"], dimension: int) -> Float[Tensor, "width dimension"]:
    """Return the leading eigenvectors of the covariance, as columns, the largest first."""
    _, vectors = torch.linalg.eigh(x.T @ x)
    return vectors.flip(1)[:, :dimension]


class LinearRule:
    """A linear classifier of features; call it to get the labels of more of them."""

    def __init__(self, model) -> None:
        self._model = model

    def __call__(self, features: Float[Tensor, "num width"]) -> Int[Tensor, " num"]:
        return torch.from_numpy(self._model.predict(features.double().cpu().numpy()).astype(np.int64))

    def accuracy(self, features: Float[Tensor, "num width"], labels: Int[Tensor, " num"]) -> float:
        """Return the share of features, in [0, 1], that get their label."""
        return (self(features) == labels.cpu()).double().mean().item()


def linear_svm(
    features: Float[Tensor, "num width"], labels: Int[Tensor, " num"], penalty: float = 1.0
) -> LinearRule:
    """Fit a linear SVM, as the paper does for the rows that it reports (Sec. 5.2).

    Args:
        features: standardised here, column by column, so ``penalty`` means the same for every layer.
        labels: class numbers.
        penalty: C > 0, the weight of the summed hinge loss.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    svm = LinearSVC(C=penalty, dual=False, tol=1e-3)
    return LinearRule(
        make_pipeline(StandardScaler(), svm).fit(features.double().cpu().numpy(), labels.cpu().numpy())
    )


def gap_covered(accuracy: float, source_only: float, train_on_target: float) -> float:
    """Return (x - s) / (t - s), the share of the way from "source only" to "train on target" (Table 2).

    Args:
        accuracy: x, of the method.
        source_only: s.
        train_on_target: t, not equal to s.

    Returns:
        0 for source only, 1 for train on target; below 0 if the method does harm.

    Raises:
        ValueError: if there is no gap.
    """
    if train_on_target == source_only:
        raise ValueError("source only and train on target are equally good: there is no gap to cover")
    return (accuracy - source_only) / (train_on_target - source_only)
