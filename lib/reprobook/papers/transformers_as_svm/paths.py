"""Regularisation paths of the paper: the best attention weights inside a ball, as the ball grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from reprobook.papers.transformers_as_svm.descent import attention
from reprobook.papers.transformers_as_svm.problems import Problem, token_scores

__all__ = ["PathPoint", "log_excess_risk", "weights_on_sphere", "regularisation_path"]


class PathPoint(NamedTuple):
    """The minimiser at one radius: radius R, weights W ``(1, d, d)``, and attention s ``(1, n, T)``."""

    R: float
    W: Float[Tensor, "1 d d"]
    s: Float[Tensor, "1 n T"]


def log_excess_risk(problem: Problem, W: Float[Tensor, "B d d"]) -> Float[Tensor, " B"]:
    """Return log(L(W) - L*) for the linear loss, where L* is the risk of attending to the best tokens only.

    L(W) - L* = (1/n) Σ_i Σ_t s_it (γ_i,opt - γ_it) is a sum of terms none of which is negative, so it is
    exact however small it gets; L itself would hide it behind L* long before the path has turned.
    """
    # DEPARTURE: the linear loss in place of the logistic one; the direction of the path is the same
    gamma = token_scores(problem)
    s = attention(problem, W)
    gap = torch.where(s > 0, gamma.amax(-1, keepdim=True) - gamma, 0.0)
    return (s * gap).sum(-1).mean(-1).log()


def weights_on_sphere(theta: Float[Tensor, "... d d"], R: float, factored: bool) -> Float[Tensor, "1 d d"]:
    """Scale parameters of any size onto the constraint ‖W‖_F = R, or (‖K‖² + ‖Q‖²)/2 = R, and return W.

    Args:
        theta: ``(1, d, d)`` for W, ``(2, d, d)`` for K and Q.
        R: radius, positive.
        factored: whether theta is (K, Q); W = K Qᵀ then has nuclear norm at most R.
    """
    if factored:
        return (R * 2 / theta.square().sum()) * (theta[0] @ theta[1].mT).unsqueeze(0)
    return (R / theta.norm()) * theta


def regularisation_path(
    problem: Problem, radii: Sequence[float], theta: Float[Tensor, "... d d"], *, iterations: int = 500
) -> Iterator[PathPoint]:
    """Follow W_R = argmin L(W) over a ball as R grows (the paper's W-RP and KQ-RP), by continuation.

    The loss falls along every ray that separates, so the minimiser sits on the sphere, and only its
    direction is sought: L-BFGS on :func:`log_excess_risk`, started at the direction found for the radius
    before. Continuation follows one branch of minimisers; it may be a local one.

    Args:
        problem: one problem (B = 1).
        radii: increasing radii, positive.
        theta: the start, ``(1, d, d)`` for W or ``(2, d, d)`` for K and Q; only its direction matters.
        iterations: limit of L-BFGS at each radius.

    Yields:
        One :class:`PathPoint` a radius.

    Raises:
        ValueError: if the problem is not a single one or the radii do not increase.
    """
    if problem.dims[0] != 1:
        raise ValueError(f"a path is followed for one problem at a time, got {problem.dims[0]}")
    if any(b <= a for a, b in zip([0.0, *radii], radii, strict=False)):
        raise ValueError(f"radii must be positive and increase, got {list(radii)}")
    shape, factored = theta.shape, len(theta) == 2
    x = theta.detach().cpu().numpy().ravel()

    def objective(x: np.ndarray, R: float) -> tuple[float, np.ndarray]:
        t = torch.from_numpy(x).reshape(shape).to(problem.X).requires_grad_()
        value = log_excess_risk(problem, weights_on_sphere(t, R, factored)).sum()
        (gradient,) = torch.autograd.grad(value, t)
        return value.item(), gradient.cpu().numpy().ravel()

    for R in radii:
        x = minimize(objective, x, args=(R,), jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
        x = x / np.linalg.norm(x)
        W = weights_on_sphere(torch.from_numpy(x).reshape(shape).to(problem.X), R, factored)
        yield PathPoint(float(R), W, attention(problem, W))
