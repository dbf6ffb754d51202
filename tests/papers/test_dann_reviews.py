"""Algorithm 1 through inner products against Algorithm 1 on the features; made-up reviews and their bound."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from reprobook.errors import UserError
from reprobook.papers.dann import dual, reviews
from reprobook.papers.dann.selection import reverse_validation, svm_learner
from reprobook.papers.dann.shallow import Shallow, gradients

G, F, D, S, T = 3, 7, 5, 12, 9
LAMBDA = torch.tensor([0.0, 0.4, 2.0], dtype=torch.float64)


@pytest.fixture
def problem():
    """Features, W_0, labels of each member and inner products for 12 source and 9 target points."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(S + T, F, generator=g, dtype=torch.float64)
    W0 = torch.randn(D, F, generator=g, dtype=torch.float64) / 2
    labels = torch.randint(2, (S, G), generator=g)
    return x, W0, labels, dual.Points(x @ x.T, x @ W0.T)


def started(data, W0):
    """Both forms of the same networks, with u and d away from zero so that λ matters from the first step."""
    g = torch.Generator().manual_seed(1)
    nets = dual.fresh(S + T, G, D, g, data.gram)
    nets.u.copy_(torch.randn(G, D, generator=g))
    nets.d.copy_(torch.randn(G, generator=g))
    return nets, Shallow(W0.expand(G, D, F).clone(), *(p.clone() for p in nets[1:]))


@pytest.mark.parametrize("batch", [1, 4, S])
def test_an_epoch_takes_the_steps_of_algorithm_1_on_the_features(problem, batch):
    x, W0, labels, data = problem
    nets, plain = started(data, W0)
    draws, rate = torch.Generator().manual_seed(5), 0.3
    dual.epoch(
        nets,
        data,
        labels,
        LAMBDA,
        learning_rate=rate,
        batch=batch,
        generator=torch.Generator().manual_seed(5),
    )
    order, beside = torch.randperm(S, generator=draws), torch.randint(S, S + T, (S,), generator=draws)
    for i, j in zip(order.split(batch), beside.split(batch), strict=True):
        xs, xt = (x[k].expand(G, -1, F) for k in (i, j))
        ey = one_hot(labels[i].T, 2).double()
        step = gradients(plain, xs, ey, xt, LAMBDA, LAMBDA)  # means over the batch
        plain = Shallow(*(p - rate * len(i) * s for p, s in zip(plain, step, strict=True)))
    W = W0 + torch.einsum("ngd,nf->gdf", nets.a, x)
    for ours, theirs in zip((W, *nets[1:]), plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_the_errors_are_the_derivatives_of_the_saddle_point(problem):
    _, W0, labels, data = problem
    nets, _ = started(data, W0)
    z = torch.randn(S + T, G, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z.requires_grad_()
    h, u, d = z.sigmoid(), nets.u.clone().requires_grad_(), nets.d.clone().requires_grad_()
    delta, e_y, e_d = dual.errors(nets, h.detach(), labels, LAMBDA)
    scores = torch.einsum("mgd,gkd->mgk", h[:S], nets.V) + nets.c
    label_loss = -scores.log_softmax(-1).gather(-1, labels[..., None]).sum()
    says_target = torch.einsum("mgd,gd->mg", h, u) + d
    domain_loss = torch.cat([-(1 - says_target[:S].sigmoid()).log(), -says_target[S:].sigmoid().log()])
    saddle = label_loss - (LAMBDA * domain_loss).sum()
    torch.testing.assert_close(delta, torch.autograd.grad(saddle, z, retain_graph=True)[0])
    du, dd = torch.autograd.grad((LAMBDA * domain_loss).sum(), (u, d))  # the regressor goes down its own loss
    torch.testing.assert_close(torch.einsum("mg,mgd->gd", e_d, h.detach()), du)
    torch.testing.assert_close(e_d.sum(0), dd)
    torch.testing.assert_close(e_y.sum(-1), torch.zeros(S, G, dtype=torch.float64))


def test_without_lambda_the_target_does_not_matter(problem):
    x, W0, labels, data = problem
    other = x.clone()
    other[S:] = torch.randn(T, F, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = []
    for points in (x, other):
        data = dual.Points(points @ points.T, points @ W0.T)
        where = torch.arange(3, S), labels[3:], torch.arange(S, S + T), torch.arange(3), labels[:3]
        fitted = dual.fit(data, *where, LAMBDA, num_epochs=4, learning_rate=0.2, batch=1)
        rows = data.gram[:S][:, fitted.index]
        found.append(dual.hidden(fitted.nets, rows, data.base[:S]))
    torch.testing.assert_close(found[0][:, 0], found[1][:, 0])
    assert (found[0][:, 2] - found[1][:, 2]).abs().max() > 1e-6


def fit_on(data, labels, lam, **options):
    held = torch.arange(4)
    return dual.fit(
        data, torch.arange(4, S), labels[4:], torch.arange(S, S + T), held, labels[:4], lam, **options
    )


def test_a_member_does_not_depend_on_its_batch(problem):
    *_, labels, data = problem
    options = {"learning_rate": 0.2, "num_epochs": 40, "patience": 3}
    together = fit_on(data, labels, LAMBDA, **options)
    for g in range(G):
        alone = fit_on(data, labels[:, g : g + 1], LAMBDA[g : g + 1], **options)
        assert alone.best_epoch == together.best_epoch[g]
        torch.testing.assert_close(alone.nets.a[:, 0], together.nets.a[:, g])
        torch.testing.assert_close(alone.nets.V[0], together.nets.V[g])


def test_the_networks_kept_are_those_of_the_best_epoch(problem):
    *_, labels, data = problem
    options = {"learning_rate": 0.2, "patience": 30}
    best = fit_on(data, labels, LAMBDA, num_epochs=30, **options)
    for g, k in enumerate(best.best_epoch.tolist()):
        until = fit_on(data, labels, LAMBDA, num_epochs=k, **options)
        torch.testing.assert_close(until.nets.a[:, g], best.nets.a[:, g])
        assert until.error[g] == best.error[g]
        if k > 1:
            assert fit_on(data, labels, LAMBDA, num_epochs=k - 1, **options).error[g] > best.error[g]


@pytest.mark.parametrize(
    ("better_at", "runs"),
    [((1,), 12), ((1, 3, 7), 12), ((1, 11, 16, 20), 30), ((1, 11, 16, 21), 32), ((1, 11, 16, 23, 30), 40)],
)
def test_a_member_runs_for_the_patience_and_half_as_long_again_as_its_best_epoch_took(
    problem, monkeypatch, better_at, runs
):
    labels, data = problem[2][:, :1], problem[3]
    calls = []

    def classes(nets, h):  # one more of the validation points is right at each of the epochs better_at
        calls.append(h)
        right = torch.arange(4)[:, None] < sum(k <= len(calls) for k in better_at) - 1
        return torch.where(right, labels[:4], 1 - labels[:4])

    monkeypatch.setattr(dual, "_classes", classes)
    found = fit_on(data, labels, LAMBDA[:1], num_epochs=40, patience=12)
    assert (len(calls), found.best_epoch.item()) == (runs, better_at[-1])


def test_the_start_is_uniform_in_the_range_of_the_paper():
    nets = dual.fresh(4, 2, 3000, torch.Generator().manual_seed(0), torch.zeros((), dtype=torch.float64))
    r = (6 / (2 + 3000)) ** 0.5
    assert 0.999 * r < nets.V.max() <= r and -r <= nets.V.min() < -0.999 * r
    assert torch.equal(nets.V[0], nets.V[1])
    assert all(not p.any() for p in (nets.a, nets.b, nets.c, nets.u, nets.d))


def test_validation_points_may_not_be_trained_on(problem):
    *_, labels, data = problem
    with pytest.raises(UserError, match="validation"):
        dual.fit(data, torch.arange(S), labels, torch.arange(S, S + T), torch.arange(2), labels[:2], LAMBDA)


def test_features_in_blocks_give_the_inner_products_of_all_features():
    g = torch.Generator().manual_seed(4)
    blocks = [torch.randn(20, f, generator=g, dtype=torch.float64) for f in (3, 6)]
    one, two = dual.points(iter(blocks), 12, 9, 8, [0, 1])
    X = torch.cat(blocks, 1)
    torch.testing.assert_close(one.gram, X @ X[:12].T)
    r = torch.Generator().manual_seed(0)
    W0 = torch.cat([2 * torch.rand(8, f, generator=r, dtype=torch.float64) - 1 for f in (3, 6)], 1)
    torch.testing.assert_close(one.base, X @ W0.T * (6 / (9 + 8)) ** 0.5)
    assert one.gram is two.gram and not torch.equal(one.base, two.base)


def test_coordinates_have_the_inner_products_asked_for():
    X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X = torch.cat([X, X[:2]])  # two points twice
    L = dual.coordinates(X @ X.T)
    torch.testing.assert_close(L @ L.T, X @ X.T, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------------- made-up reviews


def test_a_poisson_review_has_the_rates_of_its_sentiment():
    found = reviews.made_up_reviews("dvd", 12_000, 10, 0)
    v = reviews.VOCABULARY
    rate = v.pivot_rate / v.pivots
    for label, sign in ((1, 1), (0, -1)):
        counts = found.train[found.train_labels == label]
        assert counts[:, 0].mean() == pytest.approx(rate * np.exp(sign * v.strength), rel=0.1)
        assert counts[:, 1].mean() == pytest.approx(rate * np.exp(-sign * v.strength), rel=0.1)
        assert counts[:, v.pivots : v.pivots + v.common].sum(1).mean() == pytest.approx(
            v.common_rate, rel=0.02
        )


def test_the_words_of_a_domain_are_used_in_no_other():
    own = {}
    for name in reviews.DOMAINS:
        used = np.asarray(reviews.made_up_reviews(name, 3000, 10, 1).train.sum(0)).ravel() > 0
        shared = reviews.VOCABULARY.pivots + reviews.VOCABULARY.common
        assert used[:shared].all()
        own[name] = set(np.flatnonzero(used[shared:]))
    assert all(not own[a] & own[b] for a, b in combinations(own, 2))


def test_the_pivot_rule_lands_on_its_closed_form():
    found = reviews.made_up_reviews("books", 10, 15_000, 2)
    vote = reviews.pivot_rule(found.test)
    right = np.where(vote == 0, 0.5, (vote > 0) == found.test_labels).mean()
    assert right == pytest.approx(reviews.pivot_bound(), abs=0.012)


def test_no_rule_learned_from_source_words_beats_the_pivots():
    first, second = (reviews.made_up_reviews(name, 3000, 4000, 3) for name in ("books", "kitchen"))
    rates = first.train[first.train_labels == 1].mean(0), first.train[first.train_labels == 0].mean(0)
    weights = np.log((np.asarray(rates[0]) + 1e-3) / (np.asarray(rates[1]) + 1e-3)).ravel()
    score = second.test @ weights
    bayes = ((score > np.median(score)) == second.test_labels).mean()
    assert 0.75 < bayes < reviews.pivot_bound() + 0.01
    assert ((first.test @ weights > 0) == first.test_labels).mean() > reviews.pivot_bound() + 0.03


def test_another_seed_gives_other_reviews_and_the_same_seed_the_same():
    a, b, c = (reviews.made_up_reviews("dvd", 50, 50, s) for s in (0, 0, 1))
    assert (a.train != b.train).nnz == 0 and (a.train != c.train).nnz > 0
    assert a.train.shape == a.test.shape and (a.train != a.test).nnz > 0


def test_an_unknown_domain_or_feature_is_named():
    with pytest.raises(UserError, match="toys"):
        reviews.made_up_reviews("toys", 5, 5, 0)
    with pytest.raises(UserError, match="tfidf"):
        reviews.as_points(torch.ones(4, 2), 2, "tfidf", 3, [0])


# --------------------------------------------------------------------------- tasks


def two_domains(n=300, m=200):
    return [reviews.made_up_reviews(name, n, m, 5) for name in ("books", "kitchen")]


def test_positions_of_a_task_name_the_rows_of_the_pool():
    first, second = two_domains(30, 20)
    X = reviews.pool(first, second)
    for (task, truth), source, target in zip(
        reviews.both_ways(first, second), (first, second), (second, first), strict=True
    ):
        assert np.array_equal(X[task.source].numpy(), source.train.toarray())
        assert np.array_equal(X[task.target].numpy(), target.train.toarray())
        assert np.array_equal(X[task.test].numpy(), target.test.toarray())
        assert np.array_equal(task.labels.numpy(), source.train_labels)
        assert np.array_equal(truth.numpy(), target.test_labels)
        parts = torch.cat([task.source, task.target, task.test])
        assert len(set(parts.tolist())) == len(parts)  # no review is trained on and tested


def test_a_task_carries_no_label_of_the_target():
    first, second = two_domains(30, 20)
    spoiled = second._replace(train_labels=1 - second.train_labels, test_labels=1 - second.test_labels)
    (task, _), _ = reviews.both_ways(first, second)
    (same, _), _ = reviews.both_ways(first, spoiled)
    assert all(torch.equal(a, b) for a, b in zip(task, same, strict=True))


@pytest.fixture(scope="module")
def learned():
    first, second = two_domains()
    X = reviews.pool(first, second, torch.float64)
    (data,) = reviews.as_points(X, 600, "original", 10, [0])
    task, truth = reviews.both_ways(first, second)[0]
    lam = torch.tensor([0.0, 1.0], dtype=torch.float64)
    learn = dual.learner(data, lam, learning_rate=0.01, num_epochs=40, patience=40)
    return data, task, truth, learn, reverse_validation(learn, *task[:3], 2)


def test_networks_learn_to_read_the_target_below_the_bound(learned):
    _, task, truth, _, found = learned
    right = (found.answer(task.test) == truth[:, None]).double().mean(0)
    assert (right > 0.65).all() and (right < reviews.pivot_bound() + 0.02).all()


def test_lambda_makes_the_domains_harder_to_tell_apart(learned):
    from reprobook.papers.dann.distance import domain_probe

    data, task, _, learn, _ = learned
    fit = learn.fits[0]
    h = [dual.hidden(fit.nets, data.gram[k][:, fit.index], data.base[k]) for k in (task.source, task.target)]
    plain, adapted = (domain_probe(h[0][:, g], h[1][:, g], seed=0) for g in (0, 1))
    assert adapted < plain - 0.03


def test_msda_features_let_an_svm_pass_the_bound():
    first, second = two_domains(600, 1000)
    X = reviews.pool(first, second, torch.float64)
    (data,) = reviews.as_points(X, 1200, "msda", 5, [0], num_layers=3)
    task, truth = reviews.both_ways(first, second)[0]
    found = reverse_validation(svm_learner(data.gram, [1e-3, 1e-2]), *task[:3], 2)
    right = (found.answer(task.test) == truth[:, None]).double().mean(0)
    assert right.max() > reviews.pivot_bound()


def test_the_papers_tables_are_complete_and_in_thousandths():
    assert reviews.PAIRS[0] == ("books", "dvd") and len(reviews.PAIRS) == 12
    for table in reviews.PAPER_TABLE.values():
        assert set(table) == {"DANN", "NN", "SVM"}
        for column in table.values():
            assert len(column) == 12 and min(column) >= 700 and max(column) <= 900
