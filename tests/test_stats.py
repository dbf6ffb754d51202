"""Intervals against scipy's own implementations, coverage by simulation, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from reprobook.stats import LEVEL, STATISTICS, Estimate, estimate, every, fraction, largest, mean, smallest
from reprobook.stats import _short as short

numbers = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_the_mean_has_students_t_interval(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    found = mean(list(values))
    expected = ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


@pytest.mark.parametrize(("true", "n"), [(0, 5), (1, 5), (5, 5), (37, 100), (999, 1000), (0, 1), (1, 1)])
def test_the_fraction_has_wilsons_interval(true, n):
    found = fraction([True] * true + [False] * (n - true))
    expected = binomtest(true, n).proportion_ci(LEVEL, method="wilson")
    assert found.value == true / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_95_of_100_intervals_of_the_mean_cover_the_truth():
    draws = np.random.default_rng(0).normal(1.0, 5.0, (2000, 6))
    covered = [e.low <= 1.0 <= e.high for e in map(mean, draws.tolist())]
    interval = fraction(covered)
    assert interval.low <= LEVEL <= interval.high


def test_95_of_100_intervals_of_a_fraction_cover_the_truth():
    draws = np.random.default_rng(1).random((2000, 60)) < 0.3
    covered = [e.low <= 0.3 <= e.high for e in map(fraction, draws.tolist())]
    assert sum(covered) / len(covered) == pytest.approx(LEVEL, abs=0.02)


def test_one_value_alone_has_no_finite_interval_of_the_mean():
    assert mean([2.5]) == Estimate("mean", 2.5, -math.inf, math.inf, 1)


def test_huge_values_have_an_interval_too():
    assert mean([1e200, 3e200]).high == pytest.approx(mean([1.0, 3.0]).high * 1e200)


def test_equal_values_have_a_point_as_interval():
    assert mean([4.0, 4.0, 4.0]) == Estimate("mean", 4.0, 4.0, 4.0, 3)


@given(st.lists(numbers, min_size=2, max_size=30))
def test_the_interval_holds_the_mean_and_the_mean_lies_between_the_extremes(values):
    found = mean(values)
    assert found.low <= found.value <= found.high
    assert smallest(values).value - 1e-9 <= found.value <= largest(values).value + 1e-9


@given(st.lists(numbers, min_size=2, max_size=30), st.randoms())
def test_the_order_of_the_trials_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert mean(values).value == mean(shuffled).value
    assert mean(values).low == pytest.approx(mean(shuffled).low, rel=1e-12, abs=1e-9)
    assert fraction([v > 0 for v in values]) == fraction([v > 0 for v in shuffled])


def test_largest_smallest_and_every_are_points():
    assert largest([1.0, 3.0, 2.0]) == Estimate("largest", 3.0, 3.0, 3.0, 3)
    assert smallest([1.0, 3.0, 2.0]) == Estimate("smallest", 1.0, 1.0, 1.0, 3)
    assert every([True, False, True, True]) == Estimate("every", 0.75, 0.75, 0.75, 4)


def test_every_statistic_goes_by_the_name_it_is_listed_under():
    assert {name: s([1.0, 1.0]).statistic for name, s in STATISTICS.items()} == {n: n for n in STATISTICS}


@pytest.mark.parametrize("values", [torch.tensor([1.0, 2.0, 6.0]), np.array([1, 2, 6]), (1, 2, 6)])
def test_tensors_arrays_and_tuples_are_read_element_by_element(values):
    assert estimate("mean", values) == mean([1.0, 2.0, 6.0])


@pytest.mark.parametrize(
    ("statistic", "values", "message"),
    [
        ("mean", [], "no values"),
        ("mean", [1.0, math.nan], "1 of 2 values are not finite"),
        ("largest", [math.inf, 1.0, -math.inf], "2 of 3 values are not finite"),
        ("fraction", [1, 0, 2], "takes true or false values, got 2.0"),
        ("every", [0.5], "takes true or false values, got 0.5"),
    ],
)
def test_values_that_are_unfit_are_refused_and_never_dropped(statistic, values, message):
    with pytest.raises(ValueError, match=message):
        estimate(statistic, values)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (12.345, "12.3"),
        (999.7, "1000"),
        (12345.6, "12346"),
        (0.99951, "0.99951"),
        (0.99999987, "0.99999987"),
        (-0.99999987, "−0.99999987"),
        (1 - 1e-15, "1"),
        (1.0, "1"),
        (3.2e-5, "3.2e-5"),
        (-3.2e-12, "−3.2e-12"),
        (7e5, "7.0e5"),
        (7e15, "7.0e15"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_are_short_but_hide_no_distance_from_one_above_1e_12(x, text):
    assert short(x) == text


@given(st.floats(1e-12, 1e12))
def test_a_short_number_is_within_half_a_unit_of_its_last_digit(x):
    assert float(short(x)) == pytest.approx(x, rel=0.051 if x < 1e-3 or x >= 1e5 else 0.0051)


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate("mean", 0.5, 0.25, 0.75, 9)) == "0.5 [0.25, 0.75]"
    assert str(mean([0.5])) == "0.5 [−∞, ∞]"
    assert str(largest([1e-9])) == "1.0e-9"
    assert str(every([True, True, False])) == "2 of 3"
