"""The six divergences: against SciPy on finite sets, automatic differentiation, and the rules they obey."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch.testing import assert_close

from reprobook.papers.f_distill.divergences import DIVERGENCES, from_generator
from reprobook.papers.f_distill.exact import alpha_generator, dual_generator
from reprobook.papers.f_distill.figures import LOOKS

R = torch.logspace(-3, 3, 601, dtype=torch.float64)
each = pytest.mark.parametrize("name", DIVERGENCES)
P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
BETWEEN = (P + Q) / 2

#: values of D_f(P‖Q) that know nothing of generators
KNOWN = {
    "reverse_kl": rel_entr(Q.numpy(), P.numpy()).sum(),
    "softened_reverse_kl": 2 * rel_entr(BETWEEN.numpy(), P.numpy()).sum(),
    "jensen_shannon": 2 * jensenshannon(P, Q) ** 2,
    "squared_hellinger": (P.sqrt() - Q.sqrt()).square().sum() / 2,
    "forward_kl": rel_entr(P.numpy(), Q.numpy()).sum(),
    "jeffreys": ((P - Q) * (P / Q).log()).sum(),
}


@each
def test_generator_gives_the_divergence_that_its_name_says(name):
    found = (Q * DIVERGENCES[name].f(P / Q)).sum()
    assert_close(found, torch.as_tensor(KNOWN[name], dtype=torch.float64), rtol=1e-12, atol=0)


@each
def test_generator_is_zero_at_one(name):
    assert abs(DIVERGENCES[name].f(torch.ones((), dtype=torch.float64))) < 1e-15


@each
def test_slope_integrates_to_the_generator(name):
    d = DIVERGENCES[name]

    def number(function):
        return lambda r: function(torch.tensor(r, dtype=torch.float64)).item()

    area, _ = quad(number(d.slope), 0.2, 7.0, epsabs=1e-12)
    assert math.isclose(area, number(d.f)(7.0) - number(d.f)(0.2), rel_tol=1e-10)


@each
def test_weight_is_ratio_squared_times_curvature(name):
    d = DIVERGENCES[name]
    assert_close(from_generator(name, d.f).weight(R), d.weight(R), rtol=1e-9, atol=0)


@each
def test_slope_by_differentiation_is_the_slope_of_the_table(name):
    d = DIVERGENCES[name]
    assert_close(from_generator(name, d.f).slope(R), d.slope(R), rtol=1e-10, atol=1e-10)


@each
def test_weight_is_positive_and_finite_over_twelve_decades(name):
    weight = DIVERGENCES[name].weight(torch.logspace(-6, 6, 200))
    assert (weight > 0).all() and weight.isfinite().all()


@each
def test_straight_part_of_the_generator_changes_no_weight(name):
    d = DIVERGENCES[name]
    tilted = from_generator(name, lambda r: d.f(r) - 5 * (r - 1))
    assert_close(tilted.weight(R), d.weight(R), rtol=1e-9, atol=0)


@each
def test_exchange_of_teacher_and_student_turns_the_weight_into_r_times_that_of_the_inverse(name):
    d = DIVERGENCES[name]
    dual = from_generator(name, dual_generator(d.f))
    assert_close(dual.weight(R), R * d.weight(1 / R), rtol=1e-9, atol=0)
    assert_close((P * d.f(Q / P)).sum(), (Q * dual.f(P / Q)).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name, partner",
    [
        ("reverse_kl", "forward_kl"),
        ("jensen_shannon", "jensen_shannon"),
        ("squared_hellinger", "squared_hellinger"),
        ("jeffreys", "jeffreys"),
    ],
)
def test_exchange_swaps_the_two_kl_and_keeps_the_symmetric_ones(name, partner):
    one, other = DIVERGENCES[name], DIVERGENCES[partner]
    assert_close(R * one.weight(1 / R), other.weight(R), rtol=1e-12, atol=0)
    assert_close((P * one.f(Q / P)).sum(), (Q * other.f(P / Q)).sum(), rtol=1e-12, atol=0)


def test_softened_reverse_kl_is_not_symmetric():
    weight = DIVERGENCES["softened_reverse_kl"].weight
    assert_close(R * weight(1 / R), R.square() / (R + 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "whole, parts",
    [
        ("reverse_kl", ("softened_reverse_kl", "jensen_shannon")),
        ("jeffreys", ("reverse_kl", "forward_kl")),
    ],
)
def test_divergence_is_the_sum_of_two_others(whole, parts):
    for part in ("f", "slope", "weight"):
        total = sum(getattr(DIVERGENCES[name], part)(R) for name in parts)
        assert_close(total, getattr(DIVERGENCES[whole], part)(R), rtol=1e-12, atol=1e-12)


@given(st.floats(-2, 3).filter(lambda a: min(abs(a), abs(a - 1)) > 0.05))
def test_alpha_family_has_the_power_of_the_ratio_as_weight(alpha):
    r = torch.logspace(-1, 1, 21, dtype=torch.float64)
    own = from_generator("alpha", alpha_generator(alpha))
    assert_close(own.weight(r), r.pow(alpha), rtol=1e-9, atol=0)
    assert abs(own.f(torch.ones((), dtype=torch.float64))) < 1e-15


@pytest.mark.parametrize("alpha, name", [(0.0, "reverse_kl"), (1.0, "forward_kl")])
def test_alpha_family_contains_both_kl_up_to_a_straight_line(alpha, name):
    r = R[(R - 1).abs() > 1e-3]
    between = (alpha_generator(alpha)(r) - DIVERGENCES[name].f(r)) / (r - 1)
    assert_close(between, between[0].expand_as(between), rtol=1e-9, atol=1e-9)
    nearly = alpha_generator(alpha + 1e-6)(r)
    assert_close(alpha_generator(alpha)(r), nearly, rtol=1e-4, atol=1e-5)


def test_pearsons_divergence_has_twice_the_squared_ratio_as_weight():
    pearson = from_generator("pearson", lambda r: (r - 1).square())
    assert_close(pearson.weight(R), 2 * R.square(), rtol=1e-10, atol=0)
    assert_close((Q * pearson.f(P / Q)).sum(), ((P - Q).square() / Q).sum(), rtol=1e-12, atol=0)


def test_every_divergence_has_its_own_look():
    assert list(LOOKS) == list(DIVERGENCES)
    assert len({(look["color"], look["linestyle"]) for look in LOOKS.values()}) == len(LOOKS)
