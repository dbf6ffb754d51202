"""Marginalised stacked denoising autoencoders (mSDA, Chen et al. 2012), the features of Sec. 5.1.4.

A layer learns to undo noise: words are erased at random, and a linear map guesses the full review from what
is left. Erase infinitely many times and the best map has a closed form: no noise is ever drawn. A word that
stands in for another is learned that way from reviews without labels, of both domains alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.errors import UserError

__all__ = ["scatter", "denoiser", "denoised", "layers"]


def scatter(X: Float[Tensor, "n f"]) -> Float[Tensor, "f1 f1"]:
    """Return S = Σ x̄ x̄ᵀ, where x̄ is x with a 1 after it, in float64."""
    n, f = X.shape
    S = X.new_full((f + 1, f + 1), n, dtype=torch.float64)
    S[:f, :f] = X.mT @ X
    S[:f, f] = S[f, :f] = X.sum(0)
    return S


def denoiser(S: Float[Tensor, "f1 f1"], corruption: float, ridge: float = 1e-5) -> Float[Tensor, "f f1"]:
    """Return the linear map that undoes erasure best on average, Chen et al. 2012 (mDA).

    Every feature is erased with probability p, independently; the constant 1 never is. With q = 1 - p for a
    feature and 1 for the constant, the expected scatter of corrupted points is E[Q]_ij = S_ij q_i q_j off the
    diagonal and S_ii q_i on it, that of clean against corrupted points E[P]_ij = S_ij q_j, and the least
    squares solution is W = E[P] (E[Q] + ridge I)⁻¹.

    Args:
        S: scatter of the clean points, the constant last.
        corruption: p, from 0 up to but not 1.
        ridge: what is added to the diagonal, positive.

    Returns:
        W, ``(f, f + 1)``. With p = 0 and a ridge going to 0, W x̄ = x on the points behind S.

    Raises:
        UserError: if p is out of range.
    """
    if not 0 <= corruption < 1:
        raise UserError(f"corruption {corruption} is not a probability below 1")
    q = torch.full_like(S[0], 1 - corruption)
    q[-1] = 1
    Q = S * q * q.unsqueeze(1)
    Q.diagonal().copy_(S.diagonal() * q + ridge)
    P = S[:-1] * q
    return torch.cholesky_solve(P.mT, torch.linalg.cholesky(Q)).mT


def denoised(X: Float[Tensor, "n f"], W: Float[Tensor, "f f1"]) -> Float[Tensor, "n f"]:
    """Return tanh(W x̄), the next layer's input, in the precision of X."""
    W = W.to(X.dtype)
    return torch.tanh_(X @ W[:, :-1].mT + W[:, -1])


def layers(
    X: Float[Tensor, "M f"], num_training: int, num_layers: int, corruption: float = 0.5, ridge: float = 1e-5
) -> Iterator[Float[Tensor, "M f"]]:
    """Yield the input and then each layer; side by side they are the features of mSDA.

    Args:
        X: points. Layers are learned from the first ``num_training`` rows, without labels, and
            applied to all.
        num_training: at least 1.
        num_layers: the paper's 5.
        corruption, ridge: as for :func:`denoiser`.
    """
    yield X
    for _ in range(num_layers):
        X = denoised(X, denoiser(scatter(X[:num_training]), corruption, ridge))
        yield X
