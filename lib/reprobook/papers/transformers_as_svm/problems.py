"""Data for one attention layer: tokens, queries, labels and a fixed head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reprobook.device import stack_over_seeds

__all__ = [
    "Problem",
    "random_problems",
    "per_position",
    "token_scores",
    "best_token",
    "equalise_scores",
    "random_tokens",
    "digit_problems",
]


@dataclass(frozen=True)
class Problem:
    """A batch of B independent problems of n inputs each, as the paper sets it up.

    Attributes:
        X: tokens, ``(B, n, T, d)``.
        z: queries, ``(B, n, d)``.
        Y: labels -1 or +1, ``(B, n)``.
        V: rows of the head, ``(B, r, d)``; one row for a linear head.
        head: ``linear`` for h(x) = vᵀx, ``relu`` for h(x) = 1ᵀReLU(Vx).
        visible: mask of the tokens that an input may attend to, ``(B, n, T)``; all of them if None.
    """

    X: Float[Tensor, "B n T d"]
    z: Float[Tensor, "B n d"]
    Y: Float[Tensor, "B n"]
    V: Float[Tensor, "B r d"]
    head: str = "linear"
    visible: Bool[Tensor, "B n T"] | None = None

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Return B, n, T, d."""
        return tuple(self.X.shape)

    def __getitem__(self, trials) -> Problem:
        """Return the problems of some trials (an index, a slice, a mask or a list of indices) as a batch."""
        pick = [trials] if isinstance(trials, int) else trials
        visible = None if self.visible is None else self.visible[pick]
        return replace(self, X=self.X[pick], z=self.z[pick], Y=self.Y[pick], V=self.V[pick], visible=visible)


def random_problems(
    seeds: Iterable[int],
    n: int,
    T: int,
    d: int,
    *,
    query: str = "cross",
    head: str = "linear",
    hidden: int = 1,
    unit_norm: bool = True,
    device: torch.device | str = "cpu",
) -> Problem:
    """Draw one problem a seed: Gaussian tokens and queries on the unit sphere, random labels and head.

    Follows the paper's synthetic experiments. Seed k gives the same problem in every batch.

    Args:
        seeds: seeds, one a trial.
        n, T, d: inputs, tokens an input, dimension; all at least 1, T at least 2.
        query: ``cross`` draws z on its own, ``self`` takes the first token of each input.
        head: ``linear`` (one row of norm 1) or ``relu`` (``hidden`` rows, Frobenius norm 1).
        hidden: rows of the head.
        unit_norm: whether tokens and queries are scaled to norm 1; without it they are N(0, I/d).
        device: where the problem lives.

    Returns:
        A :class:`Problem` in float64 with one trial a seed.

    Raises:
        ValueError: if ``query`` or ``head`` is none of the above.
    """
    if query not in ("cross", "self") or head not in ("linear", "relu"):
        raise ValueError(f"query={query!r}, head={head!r}: allowed are cross, self and linear, relu")
    scale = (lambda x: x / x.norm(dim=-1, keepdim=True)) if unit_norm else (lambda x: x / d**0.5)

    def draw(g: torch.Generator):
        def normal(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        X, z, V = scale(normal(n, T, d)), scale(normal(n, d)), normal(hidden, d)
        Y = torch.randint(0, 2, (n,), generator=g).double() * 2 - 1
        return X, (z if query == "cross" else X[:, 0]), Y, V / V.norm()

    return Problem(*stack_over_seeds(draw, seeds, device), head=head)


def per_position(problem: Problem, Y: Float[Tensor, "B n T"], *, causal: bool = False) -> Problem:
    """Turn self-attention with an answer at every position into a problem with one query an input.

    Position q of input i asks with its own token, z = x_iq, and has its own label; it becomes an input of
    its own over the same tokens. With ``causal`` it sees positions 0..q only. (In the paper,
    sequence-to-sequence and causal attention likewise add the constraints of every position.)

    Args:
        problem: tokens and head; its queries and labels are not used. ``(B, n, T, d)``.
        Y: a label -1 or +1 a position.
        causal: whether later positions are hidden. Position 0 then sees only itself, has nothing to
            choose, and is left out.

    Returns:
        A problem with n·T inputs, or n·(T - 1) if causal.
    """
    B, n, T, d = problem.dims
    first = 1 if causal else 0
    X = problem.X.unsqueeze(2).expand(B, n, T, T, d)[:, :, first:]
    visible = torch.ones(T, T, dtype=torch.bool, device=X.device)
    visible = (visible.tril() if causal else visible)[first:].expand(B, n, T - first, T)
    N = n * (T - first)
    return replace(
        problem,
        X=X.reshape(B, N, T, d),
        z=problem.X[:, :, first:].reshape(B, N, d),
        Y=Y[:, :, first:].reshape(B, N),
        visible=visible.reshape(B, N, T),
    )


def token_scores(problem: Problem) -> Float[Tensor, "B n T"]:
    """Return the scores γ_it = Y_i·vᵀx_it of the paper, for a linear head; -inf for tokens not visible.

    Raises:
        ValueError: if the head is not linear, for which a token has no score of its own.
    """
    if problem.head != "linear":
        raise ValueError("token scores are defined for a linear head only")
    gamma = problem.Y.unsqueeze(-1) * torch.einsum("bntd,bd->bnt", problem.X, problem.V[:, 0])
    return gamma if problem.visible is None else gamma.masked_fill(~problem.visible, -torch.inf)


def best_token(problem: Problem) -> Int[Tensor, "B n"]:
    """Return opt_i = argmax_t γ_it, the token that the loss would like an input to keep (the paper's opt)."""
    return token_scores(problem).argmax(-1)


def random_tokens(seeds: Iterable[int], n: int, T: int) -> Int[Tensor, "B n"]:
    """Draw a token for each input, uniformly, one choice a seed: an arbitrary alpha of the paper."""
    return stack_over_seeds(lambda g: (torch.randint(T, (n,), generator=g),), seeds)[0]


def equalise_scores(problem: Problem) -> Problem:
    """Give all tokens but the best of each input exactly the same score, with the head v = e_1.

    The condition of the paper's global convergence result from any start. Scores that are equal
    only up to rounding are not equal once softmax tails are smaller than rounding, so v is turned to the
    first axis, where a token's score is one of its coordinates and can be copied. The rivals get the mean
    of their scores, so the best token stays the best; norms change a little.
    """
    V = torch.zeros_like(problem.V)
    V[..., 0] = 1
    problem = replace(problem, V=V)
    gamma, best = token_scores(problem), best_token(problem).unsqueeze(-1)
    mean = (gamma.sum(-1, keepdim=True) - gamma.gather(-1, best)) / (problem.dims[2] - 1)
    level = mean.expand_as(gamma).scatter(-1, best, gamma.gather(-1, best))
    X = problem.X.clone()
    X[..., 0] = problem.Y.unsqueeze(-1) * level
    return replace(problem, X=X)


def digit_problems(
    seeds: Iterable[int],
    n: int,
    digits: tuple[int, int] = (3, 8),
    patch: int = 4,
    device: torch.device | str = "cpu",
) -> tuple[Problem, Int[Tensor, "B n"]]:
    """Turn scikit-learn's 8x8 handwritten digits into attention problems (ours, not the paper's).

    An image is cut into square patches; a patch, minus the mean of its patches over all images of both
    digits, is a token, and all tokens are divided by one number so that their mean norm is 1. The query is
    the mean of an image's tokens. The head is the direction between the mean tokens of both digits,
    with norm 1, and the label says which digit it is.

    Args:
        seeds: each draws n images without repetition.
        n: images a problem, at least 1 and at most the number there is.
        digits: the two digits told apart, each in 0..9.
        patch: side of a patch, a divisor of 8; T = (8/patch)², d = patch².
        device: where the problem lives.

    Returns:
        The problem, and the indices of its images among all of scikit-learn's.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = torch.tensor([i for i, y in enumerate(data.target) if y in digits])
    images = torch.tensor(data.images)[rows]
    label = torch.where(torch.tensor(data.target)[rows] == digits[1], 1.0, -1.0).double()
    tokens = images.unfold(1, patch, patch).unfold(2, patch, patch).reshape(len(rows), -1, patch * patch)
    tokens = tokens - tokens.mean((0, 1))
    tokens = tokens / tokens.norm(dim=-1).mean()
    v = tokens[label > 0].mean((0, 1)) - tokens[label < 0].mean((0, 1))
    v = (v / v.norm()).unsqueeze(0)

    (chosen,) = stack_over_seeds(lambda g: (torch.randperm(len(rows), generator=g)[:n],), seeds)
    X = tokens[chosen]
    problem = Problem(X, X.mean(2), label[chosen], v.expand(len(chosen), 1, -1))
    moved = (problem.X.to(device), problem.z.to(device), problem.Y.to(device), problem.V.to(device))
    return Problem(*moved), rows[chosen]
