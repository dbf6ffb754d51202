"""Facts about Algorithm 1: against autograd, against its listing line by line, in closed form."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from reprobook.errors import UserError
from reprobook.papers.dann import shallow
from reprobook.papers.dann.reversal import reverse_gradient
from reprobook.papers.dann.shallow import (
    Shallow,
    accuracy,
    descended,
    domain_accuracy,
    domain_logits,
    features,
    gradients,
    initial,
    label_logits,
    last,
    losses,
    members,
    train,
)

EXACT = {"rtol": 0.0, "atol": 1e-10}
SEEDS = [3, 4, 5]


def networks(num_inputs=4, num_hidden=6, num_classes=3, seed=0):
    """Networks in general position: every parameter random, none zero."""
    g = torch.Generator().manual_seed(seed)
    start = initial(SEEDS, num_inputs, num_hidden, num_classes)
    return Shallow(*(p + torch.randn(p.shape, generator=g, dtype=torch.float64) for p in start))


def samples(n=7, k=5, num_inputs=4, num_classes=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    xs = torch.randn(len(SEEDS), n, num_inputs, generator=g, dtype=torch.float64)
    xt = torch.randn(len(SEEDS), k, num_inputs, generator=g, dtype=torch.float64) + 0.5
    return xs, torch.randint(num_classes, (len(SEEDS), n), generator=g), xt


def weights(*values):
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------ the derivatives


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 5)])
@pytest.mark.parametrize(("reach", "own"), [(6.0, 6.0), (0.0, 6.0), (0.3, 1.0)])
def test_the_updates_descend_and_ascend_the_losses_that_eq_9_and_10_ask_for(n, k, reach, own):
    state, (xs, ys, xt) = networks(), samples(n, k)
    got = gradients(state, xs, one_hot(ys, 3).double(), xt, weights(*[reach] * 3), weights(*[own] * 3))
    state = Shallow(*(p.requires_grad_() for p in state))
    label, domain = (part.sum() for part in losses(state, xs, ys, xt))
    expected = [
        *torch.autograd.grad(label - reach * domain, (state.W, state.b), retain_graph=True),
        *torch.autograd.grad(label, (state.V, state.c), retain_graph=True),
        *torch.autograd.grad(own * domain, (state.u, state.d)),
    ]
    assert_close(got, Shallow(*expected), **EXACT)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 5)])
def test_algorithm_1_is_reversal_by_one_and_a_domain_loss_times_lambda(n, k):
    state, (xs, ys, xt), lam = networks(), samples(n, k), weights(0.5, 2.0, 6.0)
    got = gradients(state, xs, one_hot(ys, 3).double(), xt, lam, lam)
    state = Shallow(*(p.requires_grad_() for p in state))
    total = 0.0
    for b in range(len(SEEDS)):  # written down once more, a network at a time
        hs, ht = (torch.sigmoid(x[b] @ state.W[b].T + state.b[b]) for x in (xs, xt))
        log_p = torch.log_softmax(hs @ state.V[b].T + state.c[b], -1)
        rs, rt = (torch.sigmoid(reverse_gradient(h) @ state.u[b] + state.d[b]) for h in (hs, ht))
        domain_loss = -torch.log(1 - rs).mean() - torch.log(rt).mean()
        total = total - log_p[torch.arange(n), ys[b]].mean() + lam[b] * domain_loss
    assert_close(got, Shallow(*torch.autograd.grad(total, state)), **EXACT)


def test_every_class_and_every_domain_pulls_at_the_features():
    state, (xs, ys, xt), lam = networks(), samples(), weights(1.0, 1.0, 1.0)
    targets = one_hot(ys, 3).double()
    here = gradients(state, xs, targets, xt, lam, lam).W
    for changed in (
        (xs + 1, targets, xt),
        (xs, targets.roll(1, -1), xt),
        (xs, targets, xt + 1),
    ):
        assert (gradients(state, *changed, lam, lam).W - here).norm() > 1e-3


def test_the_regressors_own_step_is_scaled_by_lambda_as_in_eq_15():
    state, (xs, ys, xt) = networks(), samples()
    one, six = (
        gradients(state, xs, one_hot(ys, 3).double(), xt, weights(1, 1, 1), weights(r, r, r)) for r in (1, 6)
    )
    assert_close(six.u, 6 * one.u)
    assert_close(six.d, 6 * one.d)
    assert one.u.norm() > 0.1


def test_a_fresh_network_guesses_and_its_losses_are_logarithms_of_two():
    state, (xs, ys, xt) = initial(SEEDS, 4, 6, 2), samples(num_classes=2)
    label, domain = losses(state._replace(V=torch.zeros_like(state.V)), xs, ys, xt)
    assert_close(label, torch.full_like(label, math.log(2)))
    assert_close(domain, torch.full_like(domain, 2 * math.log(2)))


def test_the_start_is_uniform_in_the_range_of_algorithm_1_and_zero_elsewhere():
    state = initial(range(200), 10, 15)
    for weight, total in ((state.W, 25), (state.V, 17)):
        bound = math.sqrt(6 / total)
        assert weight.abs().max() <= bound
        assert_close(weight.var(), torch.tensor(bound**2 / 3).double(), rtol=0.05, atol=0.0)
        assert abs(float(weight.mean())) < 0.02
    assert all(bool((p == 0).all()) for p in (state.b, state.c, state.u, state.d))
    assert_close(initial([7], 10, 15).W[0], state.W[7], rtol=0.0, atol=0.0)


# ------------------------------------------------------------------ the whole algorithm


def sigm(z):
    return 1 / (1 + np.exp(-z))


def algorithm_1(state, xs, ys, xt, orders, lam, adversarial, mu):
    """The listing as it is printed, line by line, for one network; there the source is domain 1."""
    W, b, V, c, u, d = (p.numpy().copy() for p in state)
    for order, partner in orders:
        for i, j in zip(order, partner, strict=True):
            x, h = xs[i], sigm(b + W @ xs[i])
            exps = np.exp(c + V @ h)
            dc = -(np.eye(len(c))[ys[i]] - exps / exps.sum())
            dV, db = np.outer(dc, h), (V.T @ dc) * h * (1 - h)
            dW = np.outer(db, x)
            gd = sigm(d + u @ h)
            dd, du = lam * (1 - gd), lam * (1 - gd) * h
            pull = adversarial * lam * (1 - gd) * u * h * (1 - h)
            db, dW = db + pull, dW + np.outer(pull, x)
            x, h = xt[j], sigm(b + W @ xt[j])
            gd = sigm(d + u @ h)
            dd, du = dd - lam * gd, du - lam * gd * h
            pull = -adversarial * lam * gd * u * h * (1 - h)
            db, dW = db + pull, dW + np.outer(pull, x)
            W, V, b, c = W - mu * dW, V - mu * dV, b - mu * db, c - mu * dc
            u, d = u + mu * du, d + mu * dd
    return W, b, V, c, u, d


@pytest.mark.parametrize("adversarial", [True, False])
def test_training_is_the_printed_listing_with_the_domains_named_the_other_way_round(adversarial):
    (xs, ys, xt), lam, epochs = samples(), weights(0.5, 2.0, 6.0), 4
    start = networks()
    end = last(
        train(
            start, xs, ys, xt, SEEDS, domain_weight=lam, adversarial=[adversarial] * 3,
            learning_rate=0.1, epochs=epochs,
        )
    )  # fmt: skip
    for b, seed in enumerate(SEEDS):
        g = torch.Generator().manual_seed(seed + 2**31)
        orders = [[t.tolist() for t in shallow._order(g, 7, 5)] for _ in range(epochs)]
        flipped = [p[b] for p in start[:4]] + [-p[b] for p in start[4:]]
        *expected, u, d = algorithm_1(
            flipped, xs[b].numpy(), ys[b], xt[b].numpy(), orders, float(lam[b]), adversarial, 0.1
        )
        for got, value in zip(end, [*expected, -u, -d], strict=True):
            np.testing.assert_allclose(got[b].numpy(), value, rtol=0, atol=1e-10)


def test_the_fast_steps_follow_the_gradients_in_lock_step():
    (xs, ys, xt), lam, felt = samples(), weights(0.5, 2.0, 6.0), weights(1, 0, 1)
    state = networks()
    epochs = train(
        state, xs, ys, xt, SEEDS, domain_weight=lam, adversarial=[True, False, True],
        learning_rate=0.1, epochs=3,
    )  # fmt: skip
    streams = [torch.Generator().manual_seed(s + 2**31) for s in SEEDS]
    for epoch in epochs:
        assert_close(epoch.state, state, **EXACT)
        draws = [shallow._order(g, 7, 5) for g in streams]
        for i in range(7):
            x, y, z = (
                torch.stack([t[b, draws[b][which][i]] for b in range(3)]).unsqueeze(1)
                for t, which in ((xs, 0), (ys, 0), (xt, 1))
            )
            step = gradients(state, x, one_hot(y, 3).double(), z, lam * felt, lam)
            state = descended(state, step, 0.1)


def test_an_epoch_meets_every_source_point_once_in_a_new_order_and_any_target_point():
    g = torch.Generator().manual_seed(0)
    draws = [shallow._order(g, 50, 8) for _ in range(20)]
    assert all(sorted(order.tolist()) == list(range(50)) for order, _ in draws)
    assert len({tuple(order.tolist()) for order, _ in draws}) == 20
    counts = torch.stack([partner for _, partner in draws]).flatten().bincount(minlength=8)
    assert len(counts) == 8
    assert ((counts - 125).abs() < 4 * 125**0.5).all()  # 1000 draws from 8 points


def test_with_lambda_zero_dann_is_the_plain_network():
    (xs, ys, xt), start = samples(), networks()
    common = {"learning_rate": 0.1, "epochs": 5}
    deaf = last(train(start, xs, ys, xt, SEEDS, domain_weight=weights(0, 0, 0), **common))
    plain = last(
        train(start, xs, ys, xt, SEEDS, domain_weight=weights(6, 6, 6), adversarial=[False] * 3, **common)
    )
    for name in ("W", "b", "V", "c"):
        assert_close(getattr(deaf, name), getattr(plain, name), rtol=0.0, atol=1e-14)
    assert_close(deaf.u, start.u, rtol=0.0, atol=0.0)
    assert (plain.u - start.u).norm() > 0.1  # its domain regressor learns, and nobody listens


def test_a_network_does_not_depend_on_its_neighbours_in_the_batch():
    (xs, ys, xt), start, lam = samples(), networks(), weights(0.5, 2.0, 6.0)
    together = last(train(start, xs, ys, xt, SEEDS, domain_weight=lam, learning_rate=0.1, epochs=3))
    alone = last(
        train(
            members(start, slice(1, 2)), xs[1:2], ys[1:2], xt[1:2], SEEDS[1:2],
            domain_weight=lam[1:2], learning_rate=0.1, epochs=3,
        )
    )  # fmt: skip
    assert_close(alone, members(together, [1]), rtol=0.0, atol=1e-13)


def test_training_shows_first_and_last_and_leaves_its_start_alone():
    (xs, ys, xt), start = samples(), networks()
    before = [p.clone() for p in start]
    run = train(
        start, xs, ys, xt, SEEDS, domain_weight=weights(1, 1, 1), learning_rate=0.1, epochs=5, every=3
    )
    seen = list(run)
    assert [e.k for e in seen] == [0, 3, 5]
    assert_close(list(start), before, rtol=0.0, atol=0.0)
    assert_close(list(seen[0].state), before, rtol=0.0, atol=0.0)
    assert all((a - b).norm() > 0 for a, b in zip(seen[1].state, seen[2].state, strict=True))


def test_training_is_not_given_the_classes_of_the_target():
    given = list(inspect.signature(train).parameters)
    assert given[:5] == ["state", "xs", "ys", "xt", "seeds"]
    assert not {"yt", "target_labels"} & set(given)


def shifted(n=60):
    """Two classes along one axis and two domains along the other."""
    g = torch.Generator().manual_seed(0)
    xs, xt = (torch.randn(3, n, 2, generator=g, dtype=torch.float64) / 2 for _ in range(2))
    ys = (torch.arange(n) % 2).expand(3, n)
    xs[..., 0] += 2 * (2 * ys - 1)
    xt[..., 0] += 2 * (2 * ys - 1)
    xt[..., 1] += 3
    return xs, ys, xt


def test_plain_features_show_the_domain_and_adversarial_ones_hide_it():
    xs, ys, xt = shifted()
    seen, gap = {}, {}
    for felt in (False, True):
        run = train(
            initial(SEEDS, 2, 8), xs, ys, xt, SEEDS, domain_weight=weights(1, 1, 1),
            adversarial=[felt] * 3, learning_rate=0.1, epochs=80, every=5,
        )  # fmt: skip
        late = [e.state for e in run if e.k >= 40]  # the game goes in circles: look at its average
        seen[felt] = torch.stack([domain_accuracy(s, xs, xt) for s in late]).mean()
        means = [features(s, xs).mean(1) - features(s, xt).mean(1) for s in late]
        gap[felt] = torch.stack(means).norm(dim=-1).mean()
        assert (accuracy(late[-1], xt, ys) > 0.97).all()
    assert seen[False] > 0.95
    assert abs(seen[True] - 0.5) < 0.1
    assert gap[True] < 0.75 * gap[False]


def test_the_domain_head_is_alive():
    xs, ys, xt = shifted()
    lam = weights(1, 1, 1)
    run = train(initial(SEEDS, 2, 8), xs, ys, xt, SEEDS, domain_weight=lam, learning_rate=0.1, epochs=5)
    state = last(run)
    both = features(state, torch.cat([xs, xt], 1))
    assert (domain_logits(state, both).sigmoid().std(1) > 1e-3).all()
    with_domain, without = (
        gradients(state, xs, one_hot(ys, 2).double(), xt, w * lam, lam) for w in (1.0, 0.0)
    )
    assert ((with_domain.W - without.W).norm(dim=(1, 2)) > 1e-4).all()
    assert (with_domain.u.norm(dim=1) > 1e-4).all()


# ------------------------------------------------------------------ how good is it?


def test_accuracies_count_what_a_network_made_by_hand_says():
    # one hidden unit, on where x > 0; class 1 and domain "target" where it is on
    column, zero = torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double()
    label = {"V": torch.tensor([[[-1.0], [1.0]]]).double(), "c": weights(0.5, -0.5)[None]}
    state = Shallow(W=50 * column, b=zero, **label, u=10 * column[0], d=weights(-5))
    x = torch.tensor([[[-1.0], [-2.0], [1.0], [2.0]]]).double()
    assert accuracy(state, x, torch.tensor([[0, 0, 1, 1]])).item() == 1
    assert accuracy(state, x, torch.tensor([[0, 1, 1, 1]])).item() == 0.75
    assert domain_accuracy(state, x[:, :2], x[:, 2:]).item() == 1
    assert domain_accuracy(state, x[:, 2:], x[:, :2]).item() == 0
    assert domain_accuracy(state, x[:, :3], x[:, 2:]).item() == pytest.approx((2 / 3 + 1) / 2)
    undecided = state._replace(u=0 * state.u, d=0 * state.d)
    assert domain_accuracy(undecided, x[:, :1], x).item() == 0.5
    assert label_logits(state, features(state, x)).shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 2]}, "as many"),
        ({"domain_weight": weights(1, 1, -1)}, "at least 0"),
        ({"ys": torch.full((3, 7), 3)}, "classes go from 0 to 2"),
        ({"xs": torch.zeros(3, 7, 2).double(), "xt": torch.zeros(3, 5, 2).double()}, "take 4 inputs"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, message):
    xs, ys, xt = samples()
    given = {"xs": xs, "ys": ys, "xt": xt, "seeds": SEEDS, "domain_weight": weights(1, 1, 1)} | change
    with pytest.raises(UserError, match=message) as caught:
        last(train(networks(), **given, learning_rate=0.1, epochs=1))
    assert "\n" not in str(caught.value)
