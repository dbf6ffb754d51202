"""Gradient descent on the attention weights (the paper's W-GD and KQ-GD), all trials side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reprobook.device import stack_over_seeds
from reprobook.papers.transformers_as_svm.problems import Problem

__all__ = [
    "LOSSES",
    "HEADS",
    "Step",
    "attention",
    "product",
    "loss_and_gradient",
    "gradient_of_factors",
    "descend",
    "last",
    "uniform_weights",
    "smoothness",
    "correlation",
]

#: ℓ(u) and ℓ'(u) at u = Y·f, strictly decreasing, as Assumption A of the paper asks
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "logistic": (lambda u: F.softplus(-u), lambda u: -torch.sigmoid(-u)),
    "exponential": (lambda u: torch.exp(-u), lambda u: -torch.exp(-u)),
    "linear": (lambda u: -u, lambda u: -torch.ones_like(u)),
}


def _linear(problem: Problem, s: Float[Tensor, "B n T"]) -> tuple[Tensor, Tensor]:
    slopes = (problem.X @ problem.V[:, None, 0, :, None]).squeeze(-1)
    return (s * slopes).sum(-1), slopes


def _relu(problem: Problem, s: Float[Tensor, "B n T"]) -> tuple[Tensor, Tensor]:
    hidden = (s.unsqueeze(-2) @ problem.X).squeeze(-2) @ problem.V.mT
    slopes = problem.X @ ((hidden > 0).to(s.dtype) @ problem.V).unsqueeze(-1)
    return hidden.relu().sum(-1), slopes.squeeze(-1)


#: f = h(Xᵀs) and its slopes ∂f/∂s_t = x_tᵀh'(Xᵀs), both for all inputs
HEADS: dict[str, Callable[[Problem, Tensor], tuple[Tensor, Tensor]]] = {"linear": _linear, "relu": _relu}


class Step(NamedTuple):
    """What gradient descent shows of itself.

    Attributes:
        k: iterations done so far.
        weights: ``(W,)`` or ``(K, Q)``.
        W: the product, ``(B, d, d)``.
        loss: ``(B,)``.
        s: attention, ``(B, n, T)``.
    """

    k: int
    weights: tuple[Tensor, ...]
    W: Float[Tensor, "B d d"]
    loss: Float[Tensor, " B"]
    s: Float[Tensor, "B n T"]


def attention(problem: Problem, W: Float[Tensor, "B d d"]) -> Float[Tensor, "B n T"]:
    """Return s = softmax(X W z), the attention map of the paper; tokens not visible get 0."""
    logits = (problem.X @ (problem.z @ W.mT).unsqueeze(-1)).squeeze(-1)
    if problem.visible is not None:
        logits = logits.masked_fill(~problem.visible, -torch.inf)
    return logits.softmax(-1)


def loss_and_gradient(
    problem: Problem, W: Float[Tensor, "B d d"], loss: str = "logistic"
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B d d"], Float[Tensor, "B n T"]]:
    """Return the empirical risk, its gradient in W, and the attention.

    Implements L(W) = (1/n) Σ ℓ(Y_i f_i) (problem W-ERM of the paper) and its gradient (1/n) Σ X_iᵀ g_i z_iᵀ,
    where g_i = ℓ'(Y_i f_i)·Y_i·S'(X_i W z_i)·u_i, u_i are the slopes of the head, and S' = diag(s) - ssᵀ.

    S'u does not change when a constant is added to u. We count u from the token with the most attention:
    then that token's own tiny entry is a sum of tiny terms, not a difference of large ones, and the
    gradient keeps full relative precision down to tails of 1e-300. Automatic differentiation loses it at
    1e-16, which is where the direction of W is decided.

    Args:
        problem: B problems.
        W: attention weights.
        loss: a key of :data:`LOSSES`.

    Returns:
        Loss ``(B,)``, gradient ``(B, d, d)``, attention ``(B, n, T)``.
    """
    value, slope = LOSSES[loss]
    s = attention(problem, W)
    f, u = HEADS[problem.head](problem, s)
    # DEPARTURE: the authors differentiate automatically, with u as it is
    u = u - u.gather(-1, s.argmax(-1, keepdim=True))
    g = s * (u - (s * u).sum(-1, keepdim=True))
    g = (slope(problem.Y * f) * problem.Y).unsqueeze(-1) * g
    pulled = (g.unsqueeze(-2) @ problem.X).squeeze(-2)
    return value(problem.Y * f).mean(-1), pulled.mT @ problem.z / problem.dims[1], s


def product(weights: tuple[Tensor, ...]) -> Float[Tensor, "B d d"]:
    """Return the attention weights of the paper's two models: W itself for ``(W,)``, K Qᵀ for ``(K, Q)``."""
    return weights[0] if len(weights) == 1 else weights[0] @ weights[1].mT


def gradient_of_factors(G: Float[Tensor, "B d d"], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Carry the gradient in W over to the weights: G Q for K and Gᵀ K for Q (chain rule on W = K Qᵀ)."""
    if len(weights) == 1:
        return (G,)
    K, Q = weights
    return G @ Q, G.mT @ K


def descend(
    problem: Problem,
    weights: tuple[Tensor, ...],
    *,
    steps: int,
    learning_rate: float | Float[Tensor, "B 1 1"] = 0.1,
    loss: str = "logistic",
    normalised: bool = True,
    decay: float = 0.0,
    every: int = 1,
    gradient: Callable[[Problem, Tensor, str], tuple[Tensor, Tensor, Tensor]] = loss_and_gradient,
) -> Iterator[Step]:
    """Run gradient descent and yield it as it goes.

    With ``normalised`` every step has length ``learning_rate``, for K and Q separately (the protocol of
    the paper's experiments); otherwise it is plain gradient descent.

    Args:
        problem: B problems, trained independently.
        weights: the start, ``(W,)`` or ``(K, Q)``; not changed.
        steps: number of iterations, at least 0.
        learning_rate: length of a normalised step, or the factor of the gradient; positive. A tensor
            ``(B, 1, 1)`` gives each trial its own.
        loss: a key of :data:`LOSSES`.
        normalised: whether to divide each gradient by its Frobenius norm.
        decay: λ of the penalty λ(‖K‖² + ‖Q‖²), or λ‖W‖².
        every: yield every so many iterations; the first and the last are always shown.
        gradient: what computes loss, gradient and attention; another one than ours only to compare.

    Yields:
        A :class:`Step` before the first iteration, then every ``every``, then after the last.
    """
    for k in range(steps + 1):
        W = product(weights)
        value, G, s = gradient(problem, W, loss)
        if k % every == 0 or k == steps:
            yield Step(k, weights, W, value, s)
        gradients = gradient_of_factors(G, weights)
        if decay:
            gradients = [g + 2 * decay * w for g, w in zip(gradients, weights, strict=True)]
        steps_taken = [_step(g, learning_rate, normalised) for g in gradients]
        weights = tuple(w - step for w, step in zip(weights, steps_taken, strict=True))


def _step(
    G: Float[Tensor, "B d m"], learning_rate: float | Float[Tensor, "B 1 1"], normalised: bool
) -> Float[Tensor, "B d m"]:
    """Scale a gradient to its step; a gradient of zero stays zero.

    Normalising goes in two stages, so that squares of tiny entries do not vanish.
    """
    if not normalised:
        return learning_rate * G
    tiny = torch.finfo(G.dtype).tiny
    G = G / torch.linalg.vector_norm(G, torch.inf, dim=(-2, -1), keepdim=True).clamp_min(tiny)
    return G.mul_(learning_rate / torch.linalg.vector_norm(G, dim=(-2, -1), keepdim=True).clamp_min(tiny))


def last(steps: Iterator[Step]) -> Step:
    """Run to the end and return the last step."""
    (end,) = deque(steps, maxlen=1)
    return end


def uniform_weights(
    problem: Problem, seeds, *, factored: bool = False, m: int | None = None
) -> tuple[Tensor, ...]:
    """Draw starting weights from U(-1/√d, 1/√d), one set a seed: ``(W,)``, or ``(K, Q)`` with m columns.

    The authors' initialisation (m = d unless given). A seed's weights do not depend on the batch.
    """
    d = problem.dims[-1]
    shapes = [(d, m or d)] * 2 if factored else [(d, d)]

    def draw(g: torch.Generator):
        g.manual_seed(g.initial_seed() + 2**31)  # another stream than the problem of the same seed
        return tuple((2 * torch.rand(s, generator=g, dtype=torch.float64) - 1) / d**0.5 for s in shapes)

    return stack_over_seeds(draw, seeds, problem.X.device)


def smoothness(problem: Problem) -> Float[Tensor, " B"]:
    """Return a bound L on the curvature of the risk (linear head, logistic loss), so that 1/L is a safe step.

    With Δ_i the spread of the slopes of input i, a unit step in its logits moves f by at most
    Δ_i/(2√2) and bends it by at most Δ_i/2 (variance of a bounded variable), and a step in W moves the
    logits by at most ‖X_i‖₂‖z_i‖. With ℓ'' <= 1/4 and -1 <= ℓ' <= 0 this gives
    L = (1/n) Σ (Δ_i²/32 + Δ_i/2) ‖X_i‖₂²‖z_i‖². It has the role of the constant in the descent lemma of the
    paper, and is derived anew.
    """
    _, u = HEADS["linear"](problem, torch.zeros_like(problem.X[..., 0]))
    spread = u.amax(-1) - u.amin(-1)
    size = torch.linalg.matrix_norm(problem.X, ord=2).square() * problem.z.square().sum(-1)
    return ((spread.square() / 32 + spread / 2) * size).mean(-1)


def correlation(A: Float[Tensor, "B d d"], B: Float[Tensor, "B d d"]) -> Float[Tensor, " B"]:
    """Return ⟨A, B⟩ / (‖A‖_F ‖B‖_F) a trial: 1 for the same direction, 0 for orthogonal ones."""
    inner = (A * B).sum((-2, -1))
    return inner / (A.norm(dim=(-2, -1)) * B.norm(dim=(-2, -1)))
