"""Answers are compared by kind, shape and value, and a wrong one is told what is wrong with it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reprobook.course import Wrong, fresh, probe, same, unchanged
from reprobook.course.checks import drawn_from

A = np.array([[1.0, 2.0, 5.0], [3.0, -4.0, 0.5]])
WAVE = np.exp(1j * np.arange(3.0))


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        (-A, A, "opposite sign"),
        (A[:2, :2].T, A[:2, :2], "transposed"),
        (A.T, A, "looks transposed"),
        (A[None], A, r"shape \(2, 3\), yours has \(1, 2, 3\)"),
        (2 * A, A, "2 times"),
        (A + 1, A, "off by the same 1"),
        (A[:, ::-1], A, "reverse order"),
        (np.roll(A, 1, 1), A, "shifted by one"),
        (WAVE.conj(), WAVE, "conjugate"),
        (A + np.eye(2, 3), A, "is wrong"),
        (np.where(A > 4, np.nan, A), A, "NaN"),
        (np.where(A > 4, np.inf, A), A, "infinity"),
        (A.sum(), A, "a numpy array, yours is a number"),
        (A.tolist(), A, "numpy array, yours is a list"),
        (torch.from_numpy(A), A, "numpy array, yours is a torch tensor"),
        (A, torch.from_numpy(A), "torch tensor, yours is a numpy array"),
        (A > 0, A, "real numbers, yours holds True or False"),
        (A, A.astype(int), "whole numbers"),
        (None, A, "lack a return"),
        ([1.0, 2.0], (1.0, 2.0), "a tuple of 2, yours is a list"),
        ((1.0,), (1.0, 2.0), "2 entries, yours has 1"),
        ((1.0, 3.0), (1.0, 2.0), "entry 1"),
        ({"a": 1.0}, {"b": 1.0}, "the keys 'b', yours has 'a'"),
        ({"a": 2.0}, {"a": 1.0}, "entry 'a'"),
        ("left", "right", "should not be 'left'"),
        (1.0, "right", "a string"),
        (True, 1.0, "real numbers"),
        (0, True, "True or False"),
        (3, 4, "yours: 3, right: 4"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(got, expected, said):
    with pytest.raises(Wrong, match=said):
        same(got, expected, "the answer")


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (A.copy(), A),
        (1, 1.0),
        (np.float64(2), 2.0),
        (torch.tensor(2.0, dtype=torch.float64), 2.0),
        (A.astype(np.float32), A),
        ((A, {"a": "b"}), (A, {"a": "b"})),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0])),
        (None, None),
        (torch.tensor([1.0]).requires_grad_(), torch.tensor([1.0])),
    ],
)
def test_a_right_answer_passes(got, expected):
    same(got, expected, "the answer")


class AlwaysEqual:
    """Says yes to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __array__(self, *args, **kwargs):
        return A


class SlyArray(np.ndarray):
    """An array that says yes to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("sly", [AlwaysEqual(), A.view(SlyArray), (0 * A).view(SlyArray)])
def test_an_object_with_its_own_equality_is_no_answer(sly):
    with pytest.raises(Wrong, match="an object of the class"):
        same(sly, A, "the answer")


def test_a_number_of_a_class_of_its_own_is_no_answer():
    class Number(float):
        __eq__ = AlwaysEqual.__eq__
        __hash__ = None

    with pytest.raises(Wrong, match="class Number"):
        same(Number(3), 1.0, "the answer")


def test_the_hint_follows_the_sentence():
    with pytest.raises(Wrong, match=r"^the answer .*\. Look at the sign\.$"):
        same(1.0, 2.0, "the answer", hint="Look at the sign.")


def test_an_argument_that_was_changed_is_noticed():
    x = torch.ones(3)
    unchanged(x, torch.ones(3), "x")
    x += 1
    with pytest.raises(Wrong, match="argument x in place"):
        unchanged(x, torch.ones(3), "x")


def test_fresh_numbers_differ_every_time_and_repeat_only_on_request():
    assert fresh().random() != fresh().random()
    with drawn_from(3, 4):
        first = [fresh().random(), fresh().random()]
    with drawn_from(3, 4):
        assert [fresh().random(), fresh().random()] == first
    with drawn_from(3, 5):
        assert fresh().random() not in first
    assert first[0] != first[1]
    assert fresh().random() not in first


def test_a_probe_is_the_function_itself_outside_a_grading():
    assert probe(abs) is abs


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3), st.integers(0, 4))
def test_any_number_off_by_more_than_rounding_is_wrong(numbers, off, place):
    right = np.array(numbers)
    wrong = right.copy()
    wrong[place % len(wrong)] += off + 1e-5 * np.abs(right).max()
    same(right.copy(), right, "the numbers")
    with pytest.raises(Wrong):
        same(wrong, right, "the numbers")
