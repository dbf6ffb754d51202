"""Reverse validation and the Poisson binomial test: identities, and what must not leak."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom

from reprobook.errors import UserError
from reprobook.papers.dann.selection import (
    chance_better,
    chance_of_winning_most,
    disagreements,
    poisson_binomial,
    reverse_validation,
    split,
    svm_learner,
    win_matrix,
)

# --------------------------------------------------------------------------- Poisson binomial


def test_the_recursion_agrees_with_adding_up_all_outcomes():
    p = np.random.default_rng(0).random(9)
    counted = np.zeros(10)
    for outcome in product([0, 1], repeat=9):
        counted[sum(outcome)] += np.prod(np.where(outcome, p, 1 - p))
    np.testing.assert_allclose(poisson_binomial(p), counted, atol=1e-15)


def test_equal_chances_give_the_binomial_distribution():
    np.testing.assert_allclose(poisson_binomial([0.3] * 12), binom.pmf(range(13), 12, 0.3), atol=1e-15)


@pytest.mark.parametrize("num", [11, 12])
def test_fair_coins_win_most_with_chance_one_half_ties_halved(num):
    assert chance_of_winning_most([0.5] * num) == pytest.approx(0.5, abs=1e-14)


def test_who_certainly_wins_exactly_half_has_a_tie():
    assert chance_of_winning_most([1.0] * 6 + [0.0] * 6) == 0.5
    assert chance_of_winning_most([1.0] * 7 + [0.0] * 5) == 1
    assert chance_of_winning_most([1.0] * 5 + [0.0] * 7) == 0


# --------------------------------------------------------------------------- one set


def test_disagreements_count_for_the_one_who_is_right():
    a, b = np.array([1, 1, 1, 0, 0], bool), np.array([0, 0, 1, 1, 0], bool)
    assert disagreements(a, b) == (2, 1)
    assert disagreements(b, a) == (1, 2)


def test_the_chance_of_being_better_is_the_posterior_mass_above_one_half():
    q = (np.arange(200_000) + 0.5) / 200_000
    posterior = q**7 * (1 - q) ** 3  # uniform prior, 7 against 3
    assert chance_better(7, 3) == pytest.approx(posterior[q > 0.5].sum() / posterior.sum(), abs=1e-5)


def test_more_wins_make_better_and_no_disagreement_says_nothing():
    assert chance_better(0, 0) == pytest.approx(0.5)
    assert chance_better(30, 10) > 0.99 > 0.7 > chance_better(12, 10) > 0.5
    assert chance_better(3, 9) == pytest.approx(1 - chance_better(9, 3))


def test_the_row_of_the_win_matrix_is_the_better_one():
    rng = np.random.default_rng(1)
    good = [rng.random(400) < 0.9 for _ in range(5)]
    bad = [rng.random(400) < 0.6 for _ in range(5)]
    wins = win_matrix({"good": good, "bad": bad})
    assert wins[0, 1] > 0.99 and wins[1, 0] < 0.01
    np.testing.assert_allclose(wins + wins.T, 1, atol=1e-12)


# --------------------------------------------------------------------------- reverse validation


def test_a_split_loses_no_point_and_doubles_none():
    index = torch.arange(100, 150)
    train, held_out = split(index, 0.1, torch.Generator().manual_seed(0))
    assert len(held_out) == 5
    assert torch.equal(torch.cat([train, held_out]).sort().values, index)
    assert not torch.equal(torch.cat([held_out, train]), index)  # random, not the first ones


def scripted(log, answers):
    """A learner that notes what it is given, and answers from a table by position: (points, members)."""

    def learn(source, labels, target, held_out, held_labels):
        table = answers[len(log)]
        log.append((source, labels, target, held_out, held_labels))
        return lambda where: table[where]

    return learn


SOURCE, TARGET = torch.arange(40), torch.arange(40, 80)
LABELS = torch.arange(40) % 2


def random_answers(seed, members=3):
    return torch.randint(2, (80, members), generator=torch.Generator().manual_seed(seed))


def test_the_reverse_classifier_learns_the_target_as_the_first_one_labels_it():
    log, answers = [], [random_answers(0), random_answers(1)]
    reverse_validation(scripted(log, answers), SOURCE, LABELS, TARGET, 3)
    (s, y, t, s_held, y_held), (back_source, back_y, back_target, back_held, back_held_y) = log
    assert torch.equal(back_source, t) and torch.equal(back_target, s)
    assert torch.equal(back_y, answers[0][t])
    assert torch.equal(back_held_y, answers[0][back_held])
    assert torch.equal(y, LABELS[s][:, None].expand(-1, 3))
    assert torch.equal(y_held, LABELS[s_held][:, None].expand(-1, 3))
    assert set(t.tolist()) | set(back_held.tolist()) == set(TARGET.tolist())


def test_the_four_parts_do_not_overlap():
    log = []
    reverse_validation(scripted(log, [random_answers(0), random_answers(1)]), SOURCE, LABELS, TARGET, 3)
    parts = [log[0][0], log[0][2], log[0][3], log[1][3]]  # S', T', S_V, T_V
    assert sum(map(len, parts)) == len(set(torch.cat(parts).tolist())) == 80
    assert len(log[0][3]) == len(log[1][3]) == 4


def test_the_risk_is_the_reverse_classifiers_error_on_the_held_out_source():
    log, answers = [], [random_answers(0), random_answers(1)]
    answers[1][SOURCE, 1] = LABELS  # the way back of member 1 is right on every source point
    found = reverse_validation(scripted(log, answers), SOURCE, LABELS, TARGET, 3)
    held = log[0][3]
    expected = (answers[1][held] != LABELS[held][:, None]).double().mean(0)
    torch.testing.assert_close(found.risk, expected)
    assert found.best == 1 and found.risk[1] == 0 and found.risk.max() > 0
    assert torch.equal(found.answer(TARGET), answers[0][TARGET])  # the forward classifier answers


def test_points_in_both_domains_are_refused():
    with pytest.raises(UserError, match="share points"):
        reverse_validation(scripted([], []), SOURCE, LABELS, torch.arange(39, 80), 3)


def test_the_svm_of_inner_products_is_the_svm_of_the_features():
    from sklearn.svm import SVC

    g = torch.Generator().manual_seed(2)
    X = torch.randn(60, 5, generator=g, dtype=torch.float64)
    y = (X[:, 0] + 0.5 * torch.randn(60, generator=g, dtype=torch.float64) > 0).long()
    train, rest = torch.arange(0, 40), torch.arange(40, 60)
    costs = [0.01, 1.0]
    labels = torch.stack([y[train], 1 - y[train]], 1)  # every member its own labels
    answer = svm_learner(X @ X[:40].T, costs)(train, labels, rest, rest, y[rest][:, None])
    for k, cost in enumerate(costs):
        same = SVC(C=cost, kernel="linear").fit(X[:40].numpy(), labels[:, k].numpy()).predict(X[40:].numpy())
        assert np.array_equal(answer(rest)[:, k].numpy(), same)


def test_an_svm_taught_a_single_class_answers_it():
    X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.arange(20)
    answer = svm_learner(X @ X.T, [1.0])(index, torch.ones(20, 1, dtype=torch.long), index, index, None)
    assert (answer(index) == 1).all()
