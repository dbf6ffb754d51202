"""Facts about attention as a support vector machine: identities, closed forms, independent references."""

import math
from itertools import pairwise

import cvxpy as cp
import mpmath
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.optimize import nnls
from torch.testing import assert_close

from reprobook.papers.transformers_as_svm.descent import (
    HEADS,
    LOSSES,
    attention,
    correlation,
    descend,
    last,
    loss_and_gradient,
    product,
    smoothness,
    uniform_weights,
)
from reprobook.papers.transformers_as_svm.paths import log_excess_risk, regularisation_path, weights_on_sphere
from reprobook.papers.transformers_as_svm.problems import (
    Problem,
    best_token,
    digit_problems,
    equalise_scores,
    per_position,
    random_problems,
    random_tokens,
    token_scores,
)
from reprobook.papers.transformers_as_svm.svm import (
    att_svm,
    clearly_kept,
    constraint_rows,
    finite_part,
    locally_optimal,
    margins,
    numerical_rank,
    one_hot,
    solve_att_svm,
)

EXACT = {"rtol": 0.0, "atol": 1e-12}


def zeros(problem):
    B, _, _, d = problem.dims
    return torch.zeros(B, d, d, dtype=torch.float64)


# ------------------------------------------------------------------ the model and its gradient


def risk_by_autograd(problem, W, loss):
    """The risk written down once more, plainly, for automatic differentiation."""
    risk = []
    for b in range(problem.dims[0]):
        total = 0.0
        for i in range(problem.dims[1]):
            logits = problem.X[b, i] @ W[b] @ problem.z[b, i]
            if problem.visible is not None:
                logits = logits[problem.visible[b, i]]
            tokens = problem.X[b, i] if problem.visible is None else problem.X[b, i][problem.visible[b, i]]
            weights = torch.exp(logits) / torch.exp(logits).sum()
            hidden = problem.V[b] @ (tokens.T @ weights)
            f = hidden.clamp_min(0).sum() if problem.head == "relu" else hidden.sum()
            u = problem.Y[b, i] * f
            total = (
                total
                + {"logistic": torch.log1p(torch.exp(-u)), "exponential": torch.exp(-u), "linear": -u}[loss]
            )
        risk.append(total / problem.dims[1])
    return torch.stack(risk)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("head", "hidden"), [("linear", 1), ("relu", 4)])
def test_gradient_equals_automatic_differentiation(loss, head, hidden):
    problem = random_problems(range(4), n=3, T=4, d=5, head=head, hidden=hidden)
    (W,) = uniform_weights(problem, range(4))
    value, G, _ = loss_and_gradient(problem, W, loss)
    W.requires_grad_()
    expected = risk_by_autograd(problem, W, loss)
    assert_close(value, expected.detach(), **EXACT)
    assert_close(G, torch.autograd.grad(expected.sum(), W)[0], **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_gradient_over_visible_tokens_equals_automatic_differentiation(causal):
    text = random_problems(range(3), n=2, T=4, d=5, query="self")
    problem = per_position(text, torch.ones(3, 2, 4).double(), causal=causal)
    (W,) = uniform_weights(problem, range(3))
    G = loss_and_gradient(problem, W)[1]
    W.requires_grad_()
    assert_close(G, torch.autograd.grad(risk_by_autograd(problem, W, "logistic").sum(), W)[0], **EXACT)


@pytest.mark.parametrize("gap", [1.0, 50.0, 300.0, 600.0])
def test_gradient_keeps_its_relative_precision_in_far_tails(gap):
    # one input, two tokens: g_1 = l'(Yf) s_1 s_2 (gamma_1 - gamma_2), in 700 digits
    x = torch.eye(2, dtype=torch.float64)[None, None]
    problem = Problem(
        x,
        torch.tensor([[[1.0, 0.0]]]).double(),
        torch.ones(1, 1).double(),
        torch.tensor([[[0.3, -0.4]]], dtype=torch.float64),
    )
    W = torch.tensor([[[gap, 0.0], [0.0, 0.0]]]).double()
    G = loss_and_gradient(problem, W, "linear")[1]
    with mpmath.workdps(700):
        s = 1 / (1 + mpmath.exp(-mpmath.mpf(gap)))
        exact = -s * (1 - s) * mpmath.mpf("0.7")
    assert abs(float(G[0, 0, 0]) / float(exact) - 1) < 1e-13
    assert abs(float(G[0, 1, 0]) / float(exact) + 1) < 1e-13


def test_attention_is_uniform_at_zero_and_linear_in_the_logits():
    problem = random_problems(range(3), n=2, T=5, d=4)
    assert_close(attention(problem, zeros(problem)), torch.full((3, 2, 5), 0.2, dtype=torch.float64), **EXACT)
    (W,) = uniform_weights(problem, range(3))
    for scale in (1.0, 3.0):
        s = attention(problem, scale * W)
        logits = scale * torch.einsum("bntd,bde,bne->bnt", problem.X, W, problem.z)
        assert_close(s.log() - s.log()[..., :1], logits - logits[..., :1], **EXACT)


def test_descent_does_not_depend_on_the_basis():
    problem = random_problems(range(3), n=3, T=4, d=5)
    R, S = (
        torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(k)).double())[0]
        for k in (1, 2)
    )
    turned = Problem(problem.X @ R, problem.z @ S, problem.Y, problem.V @ R)
    end = last(descend(problem, (zeros(problem),), steps=50)).W
    assert_close(last(descend(turned, (zeros(problem),), steps=50)).W, R.T @ end @ S, rtol=0, atol=1e-10)


def test_loss_slopes_are_derivatives_of_the_losses():
    u = torch.linspace(-3, 3, 41).double().requires_grad_()
    for value, slope in LOSSES.values():
        assert_close(slope(u).expand_as(u), torch.autograd.grad(value(u).sum(), u)[0], **EXACT)
        assert (slope(u) < 0).all()


# ------------------------------------------------------------------ gradient descent


def slow_descent(problem, b, weights, steps, learning_rate, decay):
    """One trial in plain loops; the gradient is made of sums over pairs of tokens that do not cancel."""
    X, z, Y, v = (t[b].numpy() for t in (problem.X, problem.z, problem.Y, problem.V[:, 0]))
    weights = [w[b].numpy().copy() for w in weights]
    n, T, _ = X.shape
    for _ in range(steps):
        W = weights[0] if len(weights) == 1 else weights[0] @ weights[1].T
        G = np.zeros_like(W)
        for i in range(n):
            logits = [X[i, t] @ W @ z[i] for t in range(T)]
            e = [math.exp(x - max(logits)) for x in logits]
            s = [x / sum(e) for x in e]
            u = [float(X[i, t] @ v) for t in range(T)]
            slope = -1 / (1 + math.exp(Y[i] * sum(a * c for a, c in zip(s, u, strict=True)))) * Y[i]
            for t in range(T):
                g = slope * sum(s[t] * s[r] * (u[t] - u[r]) for r in range(T))
                G += g * np.outer(X[i, t], z[i]) / n
        grads = [G] if len(weights) == 1 else [G @ weights[1], G.T @ weights[0]]
        grads = [g + 2 * decay * w for g, w in zip(grads, weights, strict=True)]
        weights = [w - learning_rate * g / np.linalg.norm(g) for g, w in zip(grads, weights, strict=True)]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("factored", [False, True])
def test_the_batched_engine_agrees_with_a_loop_over_trials_after_500_steps(factored):
    problem = random_problems(range(2), n=3, T=4, d=5)
    start = uniform_weights(problem, range(2), factored=factored)
    decay = 2.2e-16 if factored else 0.0
    fast = last(descend(problem, start, steps=500, decay=decay, every=500)).weights
    for b in range(2):
        for mine, slow in zip(fast, slow_descent(problem, b, start, 500, 0.1, decay), strict=True):
            assert_close(mine[b], torch.from_numpy(slow), rtol=0, atol=1e-9)


def test_every_normalised_step_has_the_length_of_the_learning_rate():
    problem = random_problems(range(5), n=3, T=4, d=5)
    start = uniform_weights(problem, range(5), factored=True)
    path = list(descend(problem, start, steps=300, learning_rate=0.1))
    for before, after in pairwise(path):
        for w, v in zip(before.weights, after.weights, strict=True):
            assert_close(
                (v - w).norm(dim=(1, 2)), torch.full((5,), 0.1, dtype=torch.float64), rtol=1e-9, atol=0
            )


def test_tiny_gradients_are_normalised_and_a_zero_gradient_stays():
    x = torch.eye(2, dtype=torch.float64)[None, None]
    problem = Problem(
        x,
        torch.tensor([[[1.0, 0.0]]]).double(),
        torch.ones(1, 1).double(),
        torch.tensor([[[-1.0, 0.0]]]).double(),
    )
    far = torch.tensor(
        [[[700.0, 0.0], [0.0, 0.0]]]
    ).double()  # softmax tail 1e-304: its square is not a number
    moved = last(descend(problem, (far,), steps=1, learning_rate=0.1)).W - far
    assert_close(moved.norm(), torch.tensor(0.1, dtype=torch.float64), rtol=1e-9, atol=0)
    flat = Problem(problem.X, problem.z, problem.Y, 0 * problem.V)
    assert torch.equal(last(descend(flat, (far,), steps=3)).W, far)


def test_descent_shows_the_first_every_kth_and_the_last_step_and_leaves_the_start_alone():
    problem = random_problems(range(2), n=2, T=3, d=4)
    start = uniform_weights(problem, range(2))
    copy = start[0].clone()
    assert [s.k for s in descend(problem, start, steps=7, every=3)] == [0, 3, 6, 7]
    assert [s.k for s in descend(problem, start, steps=0)] == [0]
    assert torch.equal(start[0], copy)


def test_one_step_of_the_factors_follows_the_chain_rule():
    problem = random_problems(range(3), n=2, T=3, d=4)
    K, Q = (w.requires_grad_() for w in uniform_weights(problem, range(3), factored=True))
    gK, gQ = torch.autograd.grad(risk_by_autograd(problem, K @ Q.mT, "logistic").sum(), (K, Q))
    step = last(descend(problem, (K.detach(), Q.detach()), steps=1, learning_rate=0.5, normalised=False))
    assert_close(step.weights[0], (K - 0.5 * gK).detach(), **EXACT)
    assert_close(step.weights[1], (Q - 0.5 * gQ).detach(), **EXACT)
    assert_close(step.W, product(step.weights), **EXACT)


def test_smoothness_bounds_the_curvature_of_the_risk_and_is_not_far_from_it():
    problem = random_problems(range(3), n=2, T=3, d=3)
    L, seen = smoothness(problem), torch.zeros(3).double()
    for k in range(20):
        W = uniform_weights(problem, range(100 * k, 100 * k + 3))[0] * k
        for b in range(3):
            H = torch.autograd.functional.hessian(
                lambda w, b=b: risk_by_autograd(problem[b], w.reshape(1, 3, 3), "logistic").sum(),
                W[b].flatten(),
            )
            seen[b] = max(seen[b], torch.linalg.matrix_norm(H, ord=2))
    assert (seen <= L).all()
    assert (seen >= L / 50).all()


def test_plain_descent_with_a_safe_step_never_raises_the_loss():
    problem = random_problems(range(20), n=3, T=4, d=5)
    safe = (1 / smoothness(problem)).reshape(-1, 1, 1)
    losses = torch.stack(
        [s.loss for s in descend(problem, (zeros(problem),), steps=500, learning_rate=safe, normalised=False)]
    )
    assert (losses.diff(dim=0) <= 1e-15).all()
    assert (losses[-1] < losses[0] - 1e-3).all()


# ------------------------------------------------------------------ data


def test_problems_lie_on_the_sphere_and_do_not_depend_on_the_batch():
    many, one = random_problems(range(10), n=3, T=4, d=5), random_problems([7], n=3, T=4, d=5)
    assert_close(many.X.norm(dim=-1), torch.ones(10, 3, 4).double(), **EXACT)
    assert_close(many.V.norm(dim=(1, 2)), torch.ones(10).double(), **EXACT)
    assert set(many.Y.flatten().tolist()) == {-1.0, 1.0}
    for a, b in zip((many.X, many.z, many.Y, many.V), (one.X, one.z, one.Y, one.V), strict=True):
        assert torch.equal(a[7:8], b)
    assert torch.equal(uniform_weights(many, range(10))[0][7:8], uniform_weights(one, [7])[0])


def test_self_attention_asks_with_the_first_token():
    problem = random_problems(range(2), n=3, T=4, d=5, query="self")
    assert torch.equal(problem.z, problem.X[:, :, 0])


def test_a_wrong_kind_of_problem_is_refused():
    with pytest.raises(ValueError, match="cross, self"):
        random_problems([0], 1, 2, 3, query="own")
    with pytest.raises(ValueError, match="linear head"):
        token_scores(random_problems([0], 1, 2, 3, head="relu"))


def test_equal_scores_are_equal_to_the_last_bit_and_keep_the_best_token():
    before = random_problems(range(30), n=4, T=6, d=5)
    axis = torch.zeros_like(before.V)
    axis[..., 0] = 1
    after, same_head = equalise_scores(before), Problem(before.X, before.z, before.Y, axis)
    assert torch.equal(best_token(after), best_token(same_head))
    gamma = token_scores(after)
    rivals = gamma.masked_fill(one_hot(best_token(after), 6), torch.nan)
    assert torch.equal(rivals.nan_to_num(-9).amax(-1), rivals.nan_to_num(9).amin(-1))
    assert (gamma.amax(-1) > rivals.nan_to_num(-9).amax(-1)).all()


def test_causal_positions_attend_to_themselves_and_the_past_only():
    text = random_problems(range(2), n=2, T=4, d=5, query="self")
    Y = torch.arange(16).reshape(2, 2, 4).double()
    causal, full = per_position(text, Y, causal=True), per_position(text, Y)
    assert causal.dims == (2, 6, 4, 5) and full.dims == (2, 8, 4, 5)
    for q in range(1, 4):
        row = q - 1
        assert torch.equal(causal.z[0, row], text.X[0, 0, q])
        assert causal.Y[0, row] == Y[0, 0, q]
        assert causal.visible[0, row].tolist() == [t <= q for t in range(4)]
    s = attention(causal, uniform_weights(causal, range(2))[0])
    assert (s[~causal.visible] == 0).all() and (s[causal.visible] > 0).all()


def test_patches_of_digits_put_together_are_the_images_again():
    from sklearn.datasets import load_digits

    problem, index = digit_problems(range(2), n=3, patch=4)
    images = torch.tensor(load_digits().images)
    rows = torch.tensor([i for i, y in enumerate(load_digits().target) if y in (3, 8)])
    raw = images[rows].reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(len(rows), 4, 16)
    centred = raw - raw.mean((0, 1))
    scale = centred.norm(dim=-1).mean()
    own = images[index].reshape(2, 3, 2, 4, 2, 4).transpose(3, 4).reshape(2, 3, 4, 16) - raw.mean((0, 1))
    assert_close(problem.X, own / scale, **EXACT)
    assert_close(problem.z, problem.X.mean(2), **EXACT)
    expected = torch.tensor(load_digits().target)[index]
    assert torch.equal(problem.Y, torch.where(expected == 8, 1.0, -1.0).double())


# ------------------------------------------------------------------ margin problems


def some_tokens(problem):
    B, n, T, _ = problem.dims
    return random_tokens(range(B), n, T)


def test_two_tokens_have_the_closed_form_in_both_norms():
    problem = random_problems(range(5), n=1, T=2, d=4)
    alpha = best_token(problem)
    kept = problem.X.gather(2, alpha[..., None, None].expand(-1, -1, 1, 4))[:, 0, 0]
    difference = 2 * kept - problem.X[:, 0].sum(1)
    exact = difference[:, :, None] * problem.z[:, 0, None, :] / difference.square().sum(-1)[:, None, None]
    for norm in ("frobenius", "nuclear"):
        assert_close(att_svm(problem, alpha, norm).W, exact, rtol=0, atol=1e-5)


def test_the_frobenius_solution_meets_the_optimality_conditions():
    problem = random_problems(range(10), n=4, T=5, d=6)
    alpha = some_tokens(problem)
    found = att_svm(problem, alpha)
    assert found.solved.all() and set(found.status) == {"optimal"}
    m = margins(problem, found.W, alpha)
    assert_close(
        m.flatten(1).amin(1), torch.ones(10).double(), rtol=0, atol=1e-6
    )  # margin 1, and it is reached
    for b in range(10):
        rows, _ = constraint_rows(problem.X[b], problem.z[b], one_hot(alpha, 5)[b], torch.ones(4, 5).bool())
        multipliers, rest = nnls(
            rows.T, found.W[b].numpy().ravel()
        )  # W is a sum of constraints with weights >= 0,
        assert rest < 1e-5
        slack = rows @ found.W[b].numpy().ravel() - 1
        assert np.abs(multipliers * slack).max() < 1e-5  # and only active ones have a weight


def test_the_nuclear_solution_meets_its_dual():
    problem = random_problems(range(4), n=3, T=4, d=4)
    alpha = some_tokens(problem)
    found = att_svm(problem, alpha, "nuclear")
    for b in range(4):
        rows, _ = constraint_rows(problem.X[b], problem.z[b], one_hot(alpha, 4)[b], torch.ones(3, 4).bool())
        weights = cp.Variable(len(rows), nonneg=True)
        combined = sum(weights[k] * rows[k].reshape(4, 4) for k in range(len(rows)))
        dual = cp.Problem(cp.Maximize(cp.sum(weights)), [cp.sigma_max(combined) <= 1]).solve(
            solver=cp.CLARABEL
        )
        primal = torch.linalg.svdvals(found.W[b]).sum().item()
        assert abs(primal - dual) < 1e-5 * primal
        assert (margins(problem, found.W, alpha)[b] >= 1 - 1e-6).all()


def test_each_norm_is_smallest_at_its_own_solution():
    problem = random_problems(range(10), n=4, T=5, d=6)
    alpha = some_tokens(problem)
    F, N = (att_svm(problem, alpha, norm).W for norm in ("frobenius", "nuclear"))

    def nuclear(W):
        return torch.linalg.svdvals(W).sum(-1)

    assert (F.norm(dim=(1, 2)) < N.norm(dim=(1, 2)) - 1e-3).all()
    assert (nuclear(N) < nuclear(F) - 1e-3).all()


def contradictory_problem():
    """Two inputs with the same tokens and opposite queries: what one gains the other loses."""
    one = random_problems([0], n=1, T=2, d=3)
    return Problem(one.X.repeat(1, 2, 1, 1), torch.cat([one.z, -one.z], 1), one.Y.repeat(1, 2), one.V)


def test_an_infeasible_problem_has_no_solution_and_no_rank():
    both = contradictory_problem()
    for norm in ("frobenius", "nuclear"):
        found = att_svm(both, torch.zeros(1, 2).long(), norm)
        assert found.status == ["infeasible"] and not found.solved.any() and found.W.isnan().all()
        with pytest.raises(ValueError, match="no solution to rank"):
            numerical_rank(found.W)
    assert np.linalg.matrix_rank(None) == 1  # the flaw that this guards against


def test_a_first_order_solver_at_default_accuracy_leaves_noise_that_looks_like_rank():
    problem = random_problems(range(4), n=4, T=5, d=8)
    kept, everything = one_hot(some_tokens(problem), 5), torch.ones(4, 5).bool()
    rows = [constraint_rows(problem.X[b], problem.z[b], kept[b], everything) for b in range(4)]
    rough = [np.linalg.matrix_rank(solve_att_svm(*r, 8, "nuclear", solver="SCS")[0], tol=1e-7) for r in rows]
    exact = numerical_rank(att_svm(problem, kept, "nuclear").W)
    assert (exact <= 4).all()
    assert (torch.tensor(rough) > exact).sum() >= 2


def test_a_rank_counts_singular_values_relative_to_the_largest():
    sigma = torch.tensor([[5e3, 1.0, 1e-3, 0.0]]).double()
    assert numerical_rank(torch.diag_embed(sigma)).tolist() == [2 + 0]
    assert numerical_rank(torch.diag_embed(sigma), relative=1e-8).tolist() == [3]


def test_ranks_and_rows_follow_the_queries():
    problem = random_problems(range(10), n=3, T=4, d=6)
    found = att_svm(problem, some_tokens(problem))
    inside = torch.linalg.pinv(problem.z) @ problem.z
    assert_close(found.W @ inside, found.W, rtol=0, atol=1e-6)
    assert (numerical_rank(found.W) <= 3).all()


def test_tokens_of_norm_one_need_no_more_dimensions_than_inputs():
    problem = random_problems(range(10), n=3, T=20, d=3)
    assert att_svm(problem, some_tokens(problem)).solved.all()


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="frobenius and nuclear"):
        solve_att_svm(np.ones((1, 4)), np.zeros((0, 4)), 2, "spectral")


def test_the_best_tokens_are_locally_optimal_and_the_worst_are_not():
    problem = random_problems(range(10), n=3, T=4, d=5)
    best, worst = best_token(problem), token_scores(problem).argmin(-1)
    assert locally_optimal(problem, best, att_svm(problem, best).W).all()
    assert not locally_optimal(problem, worst, att_svm(problem, worst).W).any()


def test_several_kept_tokens_tie_and_beat_the_rest():
    problem = random_problems(range(5), n=2, T=4, d=6)
    kept = torch.tensor([[True, True, False, False], [False, False, True, False]]).expand(5, 2, 4)
    found = att_svm(problem, kept)
    logits = torch.einsum("bntd,bde,bne->bnt", problem.X, found.W, problem.z)
    assert_close(logits[:, 0, 0], logits[:, 0, 1], rtol=0, atol=1e-6)
    assert (logits[:, 0, :1] - logits[:, 0, 2:] >= 1 - 1e-6).all()
    assert (logits[:, 1, 2:3] - logits[:, 1, [0, 1, 3]] >= 1 - 1e-6).all()


def test_the_finite_part_gives_the_probability_ratios_and_nothing_for_single_tokens():
    problem = random_problems(range(5), n=2, T=4, d=6)
    s = attention(problem, uniform_weights(problem, range(5))[0])
    kept = torch.tensor([[True, True, False, True], [False, False, True, False]]).expand(5, 2, 4)
    W = finite_part(problem, kept, s)
    again = attention(problem, W)
    assert_close(
        (again[:, 0, 0] / again[:, 0, [1, 3]].T).log(),
        (s[:, 0, 0] / s[:, 0, [1, 3]].T).log(),
        rtol=0,
        atol=1e-9,
    )
    assert (finite_part(problem, one_hot(best_token(problem), 4), s) == 0).all()
    general = att_svm(problem, kept).W
    assert (
        (W * general).sum((1, 2)).abs() < 1e-5
    ).all()  # the finite part is orthogonal to the diverging one


def test_clearly_kept_tokens_leave_a_gap():
    s = torch.tensor([[[0.6, 0.4 - 1e-8, 1e-8]], [[0.6, 0.4 - 1e-4, 1e-4]]]).double()
    kept, clear = clearly_kept(s)
    assert kept.tolist() == [[[True, True, False]], [[True, True, False]]]
    assert clear.tolist() == [True, False]


# ------------------------------------------------------------------ regularisation paths


def test_excess_risk_is_the_risk_above_its_infimum():
    problem = random_problems(range(5), n=3, T=4, d=5)
    (W,) = uniform_weights(problem, range(5))
    risk, lowest = loss_and_gradient(problem, W, "linear")[0], -token_scores(problem).amax(-1).mean(-1)
    assert_close(log_excess_risk(problem, W).exp(), risk - lowest, **EXACT)


def test_weights_on_the_sphere_meet_the_constraint():
    theta = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    assert_close(
        weights_on_sphere(theta[:1], 3.0, factored=False).norm(), torch.tensor(3.0).double(), **EXACT
    )
    W = weights_on_sphere(theta, 3.0, factored=True)
    scale = math.sqrt(6.0 / theta.square().sum().item())
    assert_close(W[0], scale * theta[0] @ (scale * theta[1]).T, **EXACT)  # with (|K|^2 + |Q|^2)/2 = 3
    assert torch.linalg.svdvals(W).sum() <= 3.0 + 1e-12


def test_the_path_ends_at_the_margin_solution_and_beats_it_at_every_radius():
    problem = random_problems([1], n=2, T=3, d=4)
    target = att_svm(problem, best_token(problem)).W
    path = list(
        regularisation_path(
            problem, [1.0, 10.0, 100.0, 1000.0], -loss_and_gradient(problem, zeros(problem))[1]
        )
    )
    assert correlation(path[-1].W, target) > 0.9999
    for point in path:
        assert_close(point.W.norm(), torch.tensor(point.R).double(), rtol=1e-12, atol=0)
        rival = point.R * target / target.norm()
        assert log_excess_risk(problem, point.W) <= log_excess_risk(problem, rival) + 1e-9


def test_a_path_needs_one_problem_and_rising_radii():
    problem = random_problems(range(2), n=1, T=2, d=2)
    with pytest.raises(ValueError, match="one problem"):
        next(regularisation_path(problem, [1.0], zeros(problem)[:1]))
    with pytest.raises(ValueError, match="increase"):
        next(regularisation_path(problem[0], [3.0, 1.0], zeros(problem)[:1]))


# ------------------------------------------------------------------ the theory at work


def test_a_run_follows_the_svm_of_its_own_tokens_and_not_that_of_the_best_ones():
    problem = random_problems(range(30), n=6, T=8, d=10)
    end = last(descend(problem, uniform_weights(problem, range(30)), steps=2000, every=2000))
    chosen, best = end.s.argmax(-1), best_token(problem)
    elsewhere = (chosen != best).any(-1)
    assert elsewhere.sum() >= 3
    own = correlation(end.W, att_svm(problem, chosen).W)
    assert own.mean() > 0.99
    assert (own[elsewhere] > correlation(end.W, att_svm(problem, best).W)[elsewhere] + 0.02).all()


@pytest.mark.parametrize("learning_rate", [0.1, 0.02])
def test_a_good_first_step_is_not_enough_when_steps_are_short(learning_rate):
    problem = random_problems([361], n=4, T=5, d=4)
    first = -loss_and_gradient(problem, zeros(problem))[1]
    lead = margins(problem, first, best_token(problem)).min()
    assert lead > 0  # the first step favours every best token
    end = last(
        descend(problem, (zeros(problem),), steps=int(100 / learning_rate), learning_rate=learning_rate)
    )
    assert (end.s.amax(-1) > 0.99).all()
    assert (end.s.argmax(-1) != best_token(problem)).sum() == 1  # and yet one input ends elsewhere
    long = last(descend(problem, (30 / lead * first,), steps=1000))
    assert torch.equal(long.s.argmax(-1), best_token(problem))


def test_an_input_with_equal_scores_can_be_carried_to_a_wrong_token_by_the_others():
    problem = equalise_scores(random_problems([3], n=6, T=8, d=10))
    end = last(descend(problem, uniform_weights(problem, [3]), steps=4000, every=4000))
    wrong = end.s.argmax(-1) != best_token(problem)
    assert wrong.sum() == 1
    rest = Problem(problem.X[:, ~wrong[0]], problem.z[:, ~wrong[0]], problem.Y[:, ~wrong[0]], problem.V)
    others = att_svm(rest, best_token(rest)).W
    assert correlation(end.W, others) > 0.999
    assert margins(problem, others, end.s.argmax(-1)).gather(-1, best_token(problem)[..., None])[wrong] > 1


def test_heads_agree_where_the_relu_is_open():
    problem = random_problems(range(3), n=2, T=3, d=4)
    s = attention(problem, uniform_weights(problem, range(3))[0])
    f, slopes = HEADS["linear"](problem, s)
    g, bent = HEADS["relu"](problem, s)
    assert_close(g, f.clamp_min(0), **EXACT)
    assert_close(bent, slopes * (f > 0).double()[..., None], **EXACT)


def test_an_arbitrary_choice_of_tokens_does_not_depend_on_the_batch_and_uses_every_token():
    many = random_tokens(range(200), n=3, T=4)
    assert torch.equal(many[7:8], random_tokens([7], n=3, T=4))
    assert many.unique().tolist() == [0, 1, 2, 3]


def test_the_shapes_in_the_signatures_are_enforced_here():
    with pytest.raises(TypeCheckError):
        correlation(torch.zeros(2, 3, 3).double(), torch.zeros(2, 3, 4).double())


@pytest.mark.slow
def test_a_saturated_run_can_still_leave_tokens_that_are_not_locally_optimal():
    problem = random_problems([197], n=6, T=8, d=10)
    start = uniform_weights(problem, [197])
    early, late = (last(descend(problem, start, steps=k, every=k)) for k in (2000, 20_000))
    chosen = early.s.argmax(-1)
    assert (early.s.amax(-1) > 0.99).all()
    assert not locally_optimal(problem, chosen, att_svm(problem, chosen).W)
    settled = late.s.argmax(-1)
    assert (settled != chosen).any()
    assert locally_optimal(problem, settled, att_svm(problem, settled).W)
