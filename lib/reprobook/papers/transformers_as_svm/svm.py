"""The paper's hard-margin problems: Att-SVM, Att-SVM★ with the nuclear norm, and several kept tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reprobook.papers.transformers_as_svm.problems import Problem, token_scores

__all__ = [
    "Solutions",
    "one_hot",
    "margins",
    "constraint_rows",
    "solve_att_svm",
    "att_svm",
    "numerical_rank",
    "locally_optimal",
    "clearly_kept",
    "finite_part",
    "general_predictions",
]

SOLVED = (cp.OPTIMAL,)  # "optimal_inaccurate" is reported, and does not count as a solution


class Solutions(NamedTuple):
    """One solution a trial, or the reason why there is none.

    Attributes:
        W: ``(B, d, d)``; NaN where the problem has no solution.
        status: the solver's word a trial: ``optimal``, ``infeasible``, ...
        solved: mask of the trials with a solution, ``(B,)``.
    """

    W: Float[Tensor, "B d d"]
    status: list[str]
    solved: Bool[Tensor, " B"]


def one_hot(alpha: Int[Tensor, "B n"], T: int) -> Bool[Tensor, "B n T"]:
    """Return the mask that keeps token alpha_i of input i alone."""
    return torch.nn.functional.one_hot(alpha, T).bool()


def margins(problem: Problem, W: Float[Tensor, "B d d"], alpha: Int[Tensor, "B n"]) -> Float[Tensor, "B n T"]:
    """Return (x_iα - x_it)ᵀ W z_i, the left-hand side of the constraints; inf where there is none."""
    logits = torch.einsum("bntd,bde,bne->bnt", problem.X, W, problem.z)
    gap = logits.gather(-1, alpha.unsqueeze(-1)) - logits
    forgotten = ~one_hot(alpha, problem.dims[2])
    if problem.visible is not None:
        forgotten &= problem.visible
    return gap.masked_fill(~forgotten, torch.inf)


def constraint_rows(
    X: Float[Tensor, "n T d"],
    z: Float[Tensor, "n d"],
    kept: Bool[Tensor, "n T"],
    visible: Bool[Tensor, "n T"],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the constraints of one trial as rows that act on vec(W), row by row.

    With t a kept token of input i, and W flattened by rows, ⟨(x_t - x_τ) z_iᵀ, W⟩ must be at least 1 for
    every visible τ that is not kept, and 0 for every other kept τ (the paper's general SVM; with one kept
    token this is Att-SVM).

    Args:
        X, z: tokens and queries of one trial.
        kept: the tokens an input keeps, at least one an input.
        visible: the tokens it may attend to.

    Returns:
        Rows of the inequalities ``(p, d²)`` and of the equalities ``(q, d²)``; q is 0 with single tokens.
    """
    first = kept.int().argmax(-1)
    difference = X.gather(1, first[:, None, None].expand(-1, 1, X.shape[-1])) - X
    rows = (difference.unsqueeze(-1) * z[:, None, None, :]).flatten(2)
    equal = kept.clone().scatter_(1, first[:, None], False)
    return rows[~kept & visible].cpu().numpy(), rows[equal].cpu().numpy()


def solve_att_svm(
    margin: np.ndarray, equal: np.ndarray, d: int, norm: str, solver: str = cp.CLARABEL
) -> tuple[np.ndarray | None, str]:
    """Solve min ‖W‖ subject to ``margin @ vec(W) >= 1`` and ``equal @ vec(W) == 0``.

    Args:
        margin, equal: rows as made by :func:`constraint_rows`.
        d: W is d by d.
        norm: ``frobenius`` (Att-SVM) or ``nuclear`` (Att-SVM★, the sum of singular values).
        solver: a solver of cvxpy; Clarabel, an interior-point method, unless you study another.

    Returns:
        W and ``optimal``, or None and the solver's status.

    Raises:
        ValueError: if ``norm`` is neither.
    """
    if norm not in ("frobenius", "nuclear"):
        raise ValueError(f"norm={norm!r}: allowed are frobenius and nuclear")
    W = cp.Variable((d, d))
    w = cp.vec(W, order="C")
    objective = cp.sum_squares(W) / 2 if norm == "frobenius" else cp.normNuc(W)
    constraints = [margin @ w >= 1] + ([equal @ w == 0] if len(equal) else [])
    problem = cp.Problem(cp.Minimize(objective), constraints)
    # DEPARTURE: the authors solve the nuclear problem with SCS at its default accuracy
    try:
        problem.solve(solver=solver)
    except cp.SolverError:
        return None, "solver_error"
    return (W.value if problem.status in SOLVED else None), problem.status


def _solve_each(problem: Problem, kept: Tensor, norm: str) -> Iterator[tuple[np.ndarray | None, str]]:
    B, n, T, d = problem.dims
    visible = torch.ones(B, n, T, dtype=torch.bool) if problem.visible is None else problem.visible.cpu()
    X, z, kept = problem.X.cpu(), problem.z.cpu(), kept.cpu()
    for b in range(B):
        yield solve_att_svm(*constraint_rows(X[b], z[b], kept[b], visible[b]), d, norm)


def att_svm(
    problem: Problem, kept: Int[Tensor, "B n"] | Bool[Tensor, "B n T"], norm: str = "frobenius"
) -> Solutions:
    """Solve Att-SVM(α) of the paper for every trial, or Att-SVM★ with ``norm="nuclear"``.

    Where inputs keep several tokens, the kept ones are held level (the paper's general SVM equivalence).

    Args:
        problem: B problems.
        kept: token indices, or a mask where inputs may keep several tokens.
        norm: ``frobenius`` or ``nuclear``.

    Returns:
        :class:`Solutions`; trials without a solution are marked, never filled in.
    """
    mask = kept if kept.dtype == torch.bool else one_hot(kept, problem.dims[2])
    B, _, _, d = problem.dims
    W, status = torch.full((B, d, d), torch.nan, dtype=torch.float64), []
    for b, (found, word) in enumerate(_solve_each(problem, mask, norm)):
        status.append(word)
        if found is not None:
            W[b] = torch.from_numpy(found)
    W = W.to(problem.X)
    return Solutions(W, status, torch.isfinite(W).all(-1).all(-1))


def numerical_rank(W: Float[Tensor, "B d d"], relative: float = 1e-6) -> Int[Tensor, " B"]:
    """Return the number of singular values above ``relative`` times the largest.

    With Clarabel, singular values that should be zero come out below 1e-7 of the largest, and those of
    random problems that should not be zero rarely fall below 1e-4; the default lies between.

    Raises:
        ValueError: if a matrix is not there (NaN): an absent solution has no rank.
    """
    if not torch.isfinite(W).all():
        raise ValueError("there is no solution to rank: leave out trials that are not solved")
    sigma = torch.linalg.svdvals(W)
    # DEPARTURE: the authors count singular values above 1e-7, whatever the largest is
    return (sigma > relative * sigma[..., :1]).sum(-1)


def locally_optimal(
    problem: Problem, alpha: Int[Tensor, "B n"], W: Float[Tensor, "B d d"], tolerance: float = 1e-4
) -> Bool[Tensor, " B"]:
    """Say whether alpha beats the score of every SVM-neighbour, the paper's local optimality.

    Neighbours are the tokens whose constraint is active at the solution W of Att-SVM(α): margin 1 within
    ``tolerance``.
    """
    gamma = token_scores(problem)
    neighbour = margins(problem, W, alpha) < 1 + tolerance
    beaten = gamma.gather(-1, alpha.unsqueeze(-1)) > gamma
    return (beaten | ~neighbour).flatten(1).all(-1)


def clearly_kept(
    s: Float[Tensor, "B n T"], low: float = 1e-6, high: float = 1e-3
) -> tuple[Bool[Tensor, "B n T"], Bool[Tensor, " B"]]:
    """Split tokens into kept (attention at least ``high``) and forgotten (at most ``low``).

    Returns:
        The mask of kept tokens, and the mask of the trials in which no token falls between.
    """
    return s >= high, ((s >= high) | (s <= low)).flatten(1).all(-1)


def finite_part(
    problem: Problem, kept: Bool[Tensor, "B n T"], s: Float[Tensor, "B n T"]
) -> Float[Tensor, "B d d"]:
    """Return W_fin: the smallest matrix that gives the kept tokens of each input their probability ratios.

    Solves (x_t - x_τ)ᵀ W z_i = log(s_t / s_τ) for kept t, τ in the least-squares sense; the solution of
    least norm lies in the cyclic subspace spanned by (x_t - x_τ) z_iᵀ, as in the paper's general equivalence.

    Args:
        problem: B problems.
        kept: mask of the kept tokens, at least one an input.
        s: attention of the trained model, positive on the kept tokens.

    Returns:
        ``(B, d, d)``; zero where every input keeps one token.
    """
    B, _, _, d = problem.dims
    first = kept.int().argmax(-1, keepdim=True)
    difference = problem.X.gather(2, first.unsqueeze(-1).expand(-1, -1, 1, d)) - problem.X
    rows = (difference.unsqueeze(-1) * problem.z[:, :, None, None, :]).flatten(3)
    other = kept.scatter(-1, first, False)
    ratio = torch.where(other, torch.log(s.gather(-1, first)) - torch.log(torch.where(other, s, 1.0)), 0.0)
    rows = (rows * other.unsqueeze(-1)).flatten(1, 2)
    return (torch.linalg.pinv(rows, rtol=1e-10) @ ratio.flatten(1).unsqueeze(-1)).reshape(B, d, d)


def general_predictions(
    problem: Problem, W: Float[Tensor, "B d d"], s: Float[Tensor, "B n T"], kept: Bool[Tensor, "B n T"]
) -> tuple[dict[str, Float[Tensor, "B d d"]], Bool[Tensor, " B"]]:
    """Return what a run that keeps several tokens is compared with (the paper's general SVM equivalence).

    ``W_mm`` solves the margin problem of the kept tokens, ``one token`` that of the single most attended
    token, and ``W_fin + R W_mm`` adds the finite part. The last is partly a fit: R is the least-squares
    multiple of W_mm in W - W_fin, and W_fin comes from the run's own probabilities.

    Returns:
        The three matrices by name, and the mask of the trials in which both margin problems are solved.
    """
    general, single = att_svm(problem, kept), att_svm(problem, s.argmax(-1))
    finite = finite_part(problem, kept, s)
    R = ((W - finite) * general.W).sum((1, 2), keepdim=True) / general.W.square().sum((1, 2), keepdim=True)
    found = {"W_fin + R W_mm": finite + R * general.W, "W_mm": general.W, "one token": single.W}
    return found, general.solved & single.solved
