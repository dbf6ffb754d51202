"""Facts about the proxy A-distance: known distributions, closed forms, invariances."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import norm
from sklearn.svm import LinearSVC

from reprobook.errors import UserError
from reprobook.papers.dann.distance import (
    COSTS,
    domain_errors,
    domain_probe,
    proxy_a_distance,
    split_in_halves,
)


def gaussians(shift, n=2000, dims=3, seed=0):
    """Two standard normal samples whose means are ``shift`` apart along the diagonal."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, n, dims))
    return source, target + shift / np.sqrt(dims)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_gaussians_are_as_far_apart_as_their_bayes_error_says(shift):
    # no rule does better than the hyperplane halfway, whose error is the normal tail beyond shift / 2
    expected = 2 * (1 - 2 * norm.sf(shift / 2))
    assert proxy_a_distance(*gaussians(shift), seed=0) == pytest.approx(expected, abs=0.11)
    assert domain_probe(*gaussians(shift), seed=0) == pytest.approx(norm.cdf(shift / 2), abs=0.025)


def test_samples_of_one_distribution_come_out_near_zero_on_average():
    distances = [proxy_a_distance(*gaussians(0.0, n=400, seed=s), seed=s) for s in range(20)]
    assert abs(np.mean(distances)) < 0.1
    assert np.std(distances) < 0.2


def test_separable_domains_are_at_distance_two_exactly():
    source, target = gaussians(40.0, n=100)
    assert proxy_a_distance(source, target, seed=0) == 2
    assert domain_probe(source, target, seed=0) == 1


def test_points_without_information_are_at_distance_zero_exactly():
    same = np.ones((50, 4))
    assert proxy_a_distance(same, same, seed=0) == 0
    assert domain_probe(same, same, seed=0) == 0.5


def test_a_linear_rule_does_not_see_a_ring_around_a_disc():
    # domains that a circle separates, and no line: the linear proxy has to miss most of it
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 4000)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    disc, ring = circle[:2000], 2 * circle[2000:]
    assert proxy_a_distance(disc, ring, seed=0) < 0.8
    lifted = [np.concatenate([x, (x**2).sum(1, keepdims=True)], 1) for x in (disc, ring)]
    assert proxy_a_distance(*lifted, seed=0) == 2


def test_the_distance_is_the_definition_with_the_best_cost():
    source, target = gaussians(1.0, n=300)
    x, d, test_x, test_d = split_in_halves(source, target, 5)
    errors = [np.mean(LinearSVC(C=C, dual=False).fit(x, d).predict(test_x) != test_d) for C in COSTS]
    assert proxy_a_distance(source, target, seed=5) == pytest.approx(2 * (1 - 2 * min(errors)))
    assert max(errors) > min(errors)


def test_the_error_is_of_points_that_the_svm_has_not_seen():
    # far more dimensions than points: any labels can be learnt by heart, and none of it carries over
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 100, 500))
    errors = domain_errors(source, target, seed=0, costs=[1e-2, 1.0, 1e2])
    assert min(errors) > 0.35
    x, d, _, _ = split_in_halves(source, target, 0)
    assert LinearSVC(C=1.0, dual=False).fit(x, d).score(x, d) == 1


def test_the_halves_share_no_point_and_have_as_much_of_either_domain():
    source, target = np.arange(40.0)[:, None], 100 + np.arange(60.0)[:, None]  # every point is its own name
    x, d, test_x, test_d = split_in_halves(source, target, 0)
    assert not set(x.ravel()) & set(test_x.ravel())
    assert len(x) == len(test_x) == 40
    for points, domains in ((x, d), (test_x, test_d)):
        np.testing.assert_array_equal(domains, points.ravel() >= 100)
        assert domains.mean() == 0.5
    assert len({float(v) for v in [*x.ravel(), *test_x.ravel()] if v < 100}) == 40


def test_the_seed_decides_the_split_and_nothing_else_does():
    source, target = gaussians(1.0, n=200)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, again, other = (proxy_a_distance(source, target, seed=s) for s in (0, 0, 1))
    assert one == again != other
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_sparse_dense_and_torch_agree():
    rng = np.random.default_rng(0)
    source, target = ((rng.random((300, 40)) < p) * rng.random((300, 40)) for p in (0.1, 0.14))
    dense = domain_errors(source, target, seed=0)
    assert dense == domain_errors(torch.tensor(source), torch.tensor(target), seed=0)
    sparse = domain_errors(sp.csr_matrix(source), sp.csr_matrix(target), seed=0)
    np.testing.assert_allclose(sparse, dense, atol=0.011)  # the solver's last digits, at most three points
    assert min(dense) < 0.45


def test_the_larger_sample_does_not_win_by_its_size():
    rng = np.random.default_rng(0)
    assert abs(proxy_a_distance(rng.normal(size=(3000, 3)), rng.normal(size=(600, 3)), seed=0)) < 0.2


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.zeros((9, 3)), np.zeros((9, 2)), "3 features and target 2"),
        (np.zeros((1, 3)), np.zeros((9, 3)), "at least 2"),
        (np.full((9, 3), np.nan), np.zeros((9, 3)), "source has values that are not finite"),
        (np.zeros((9, 3)), np.full((9, 3), np.inf), "target has values that are not finite"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(source, target, message):
    with pytest.raises(UserError, match=message) as caught:
        proxy_a_distance(source, target, seed=0)
    assert "\n" not in str(caught.value)
