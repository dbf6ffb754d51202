"""What the test cells of an assignment call: compare an answer with the right one, and say what is wrong.

An answer is right if it is of the same kind as the expected value (a number, an array, a tensor, a tuple,
...), of the same shape and the same kind of number, and equal up to rounding. Where it is not, the message is
one sentence that names the usual suspects: a flipped sign, a transposed matrix, a sum where a mean was meant.

The comparison never asks the answer whether it is equal: it takes an answer only if it is exactly of one of
the plain types, so that an object with an ``__eq__`` of its own cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch

from reprobook.errors import UserError

__all__ = ["Wrong", "fresh", "drawn_from", "note_change", "same", "unchanged", "probe"]

_SOURCE: ContextVar[np.random.SeedSequence | None] = ContextVar("source", default=None)
_CHANGED: ContextVar[list[Any]] = ContextVar("changed", default=[])  # noqa: B039 - used inside drawn_from only
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NUMBERS = (bool, int, float, complex)
_KINDS = {"b": "True or False", "f": "real numbers", "c": "complex numbers"}
_KINDS |= dict.fromkeys("iu", "whole numbers")


class Wrong(UserError):
    """An answer is wrong; the message is a sentence for the student."""


def fresh() -> np.random.Generator:
    """Return a random generator that nobody has seen before; inside :func:`drawn_from`, one that repeats."""
    source = _SOURCE.get()
    return np.random.default_rng(source.spawn(1)[0] if source else None)


@contextmanager
def drawn_from(*seed: int) -> Iterator[None]:
    """Let :func:`fresh` repeat itself: the same generators in the same order for the same numbers.

    Within it, what :func:`note_change` has noted is remembered.

    Args:
        seed: whole numbers, not negative.
    """
    tokens = _SOURCE.set(np.random.SeedSequence(seed)), _CHANGED.set([])
    try:
        yield
    finally:
        _SOURCE.reset(tokens[0])
        _CHANGED.reset(tokens[1])


def note_change(value: Any) -> None:
    """Remember that a function has changed its copy of this very value, for :func:`unchanged` to say."""
    _CHANGED.get().append(value)


def probe(function: _Function) -> _Function:
    """Mark a helper of a test cell that has to run beside the student's code; return it as it is.

    A grader keeps tests and answers in two processes, between which only numbers and arrays travel. A helper
    that takes a gradient through a student's function, or hands it another function, belongs on the
    student's side: its source is sent there. It may use its arguments, ``np``, ``torch``, ``math`` and the
    student's names, and returns numbers or arrays.
    """
    return function


def same(
    got: Any, expected: Any, what: str, *, rtol: float = 1e-6, atol: float = 1e-9, hint: str = ""
) -> None:
    """Compare an answer with the right one.

    Args:
        got: the answer.
        expected: the right value: a number, a string, an array, a tensor, or a tuple, list or dict of these.
        what: the subject of the sentence that an error begins with, such as "the slope at x = 2".
        rtol, atol: how far numbers may be apart, relative to the expected one and at least. Answers in
            single precision are given the room of single precision.
        hint: a sentence that follows the message.

    Raises:
        Wrong: saying what is wrong, if anything is.
    """
    complaint = _complaint(got, expected, what, rtol, atol)
    if complaint:
        raise Wrong(f"{complaint}. {hint}".strip() if hint else f"{complaint}.")


def unchanged(now: Any, before: Any, what: str) -> None:
    """Check that a function left its argument alone.

    Args:
        now: the argument after the call, a tensor or an array.
        before: a copy that was made before the call.
        what: the name of the argument.

    Raises:
        Wrong: if the two differ.
    """
    noted = any(now is changed for changed in _CHANGED.get())
    if noted or not np.array_equal(_array(now), _array(before), equal_nan=True):
        raise Wrong(f"your function changes its argument {what} in place: work on a copy.")


def _complaint(got: Any, expected: Any, what: str, rtol: float, atol: float) -> str | None:
    """Say what is wrong with an answer, without the full stop; None if it is right."""
    if isinstance(expected, tuple | list):
        return _complaint_of_row(got, expected, what, rtol, atol)
    if isinstance(expected, dict):
        if type(got) is not dict:
            return f"{what} should be a dict, yours is {_named(got)}"
        if got.keys() != expected.keys():
            return f"{what} should have the keys {_listed(expected)}, yours has {_listed(got)}"
        pairs = ((got[k], expected[k], f"{what}, entry {k!r}") for k in expected)
        return next((c for g, e, w in pairs if (c := _complaint(g, e, w, rtol, atol))), None)
    if isinstance(expected, str) or expected is None:
        if type(got) is not type(expected):
            return f"{what} should be {_named(expected)}, yours is {_named(got)}"
        return None if got == expected else f"{what} should not be {got!r}"
    return _complaint_of_type(got, expected, what) or _complaint_of_values(got, expected, what, rtol, atol)


def _complaint_of_row(got: Any, expected: tuple | list, what: str, rtol: float, atol: float) -> str | None:
    if type(got) is not type(expected):
        return f"{what} should be {_named(expected)} of {len(expected)}, yours is {_named(got)}"
    if len(got) != len(expected):
        return f"{what} should have {len(expected)} entries, yours has {len(got)}"
    pairs = ((g, e, f"{what}, entry {i}") for i, (g, e) in enumerate(zip(got, expected, strict=True)))
    return next((c for g, e, w in pairs if (c := _complaint(g, e, w, rtol, atol))), None)


def _complaint_of_type(got: Any, expected: Any, what: str) -> str | None:
    """Compare the kinds of two answers. A number may be a tensor or an array without axes."""
    if got is None:
        return f"{what} is None: your function may lack a return"
    plain = type(got) in (*_NUMBERS, np.ndarray, torch.Tensor) or type(got).__module__ == "numpy"
    if not plain:
        return f"{what} should be {_named(expected)}, yours is {_named(got)}"
    number = np.ndim(_array(expected)) == 0
    if not number and type(got) is not type(expected):
        return f"{what} should be {_named(expected)}, yours is {_named(got)}"
    mine, theirs = _array(got), _array(expected)
    if mine.shape != theirs.shape:
        if mine.T.shape == theirs.shape and mine.ndim > 1:
            return f"{what} should have the shape {theirs.shape}, yours has {mine.shape}: it looks transposed"
        return f"{what} should {_shaped(theirs)}, yours {_has(mine)}"
    if mine.dtype.kind not in _KINDS or theirs.dtype.kind not in _KINDS:
        return f"{what} does not hold numbers"
    same_kind = _KINDS[mine.dtype.kind] == _KINDS[theirs.dtype.kind]
    if not same_kind and not (number and mine.dtype.kind in "iuf" and theirs.dtype.kind in "iuf"):
        return f"{what} should hold {_KINDS[theirs.dtype.kind]}, yours holds {_KINDS[mine.dtype.kind]}"
    return None


def _complaint_of_values(got: Any, expected: Any, what: str, rtol: float, atol: float) -> str | None:
    """Compare numbers of equal shape, and look for the usual reasons if they differ."""
    mine, theirs = (np.atleast_1d(_array(x)) for x in (got, expected))
    if theirs.dtype.kind in "biu" and mine.dtype.kind in "biu":
        right = np.array_equal(mine, theirs)
        return None if right else f"{what} is wrong{_example(mine, theirs)}"
    if mine.dtype.itemsize <= np.dtype(np.float32).itemsize * (2 if mine.dtype.kind == "c" else 1):
        rtol, atol = max(rtol, 2e-4), max(atol, 1e-6)

    def close(x: np.ndarray, y: np.ndarray = theirs) -> bool:
        return x.shape == y.shape and bool(np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True))

    if close(mine):
        return None
    bad = ~np.isfinite(mine) & np.isfinite(theirs)
    if bad.any():
        return f"{what} holds {'NaN' if np.isnan(mine[bad]).any() else 'infinity'}, where it should be finite"
    return f"{what} {_suspect(mine, theirs, close) or 'is wrong'}{_example(mine, theirs)}"


def _suspect(mine: np.ndarray, theirs: np.ndarray, close: Callable[..., bool]) -> str | None:
    """Name the usual mistake that turns one array into the other, if there is one."""
    if close(-mine):
        return "has the opposite sign"
    if mine.ndim > 1 and close(np.swapaxes(mine, -1, -2)):
        return "is transposed"
    if mine.dtype.kind == "c" and close(mine.conj()):
        return "is the complex conjugate of the right value"
    if mine.size > 2:
        for axis in range(mine.ndim):
            if close(np.flip(mine, axis)):
                return "is in the reverse order"
            for step in (1, -1):
                if mine.shape[axis] > 2 and close(np.roll(mine, step, axis)):
                    return "is shifted by one place"
    some = np.abs(theirs) > 0
    if some.any() and np.allclose(mine[~some], 0, atol=1e-12):
        with np.errstate(over="ignore"):
            ratio = (mine[some] / theirs[some]).ravel()
        if (
            np.isfinite(ratio).all()
            and np.allclose(ratio, ratio[0], rtol=1e-5, atol=0)
            and abs(ratio[0] - 1) > 1e-3
            and ratio[0] != 0
        ):
            factor = ratio[0] if ratio.dtype.kind != "c" or abs(ratio[0].imag) > 1e-12 else ratio[0].real
            return f"is {factor:.4g} times the right value"
    shift = (mine - theirs).ravel()
    if mine.size > 2 and np.allclose(shift, shift[0], rtol=1e-5, atol=0):
        return f"is off by the same {shift[0]:.4g} everywhere"
    return None


def _example(mine: np.ndarray, theirs: np.ndarray) -> str:
    """Show the entry that is farthest from the right one."""
    apart = np.abs(mine.astype(complex) - theirs.astype(complex))
    where = np.unravel_index(int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart))), apart.shape)
    at = f" at [{', '.join(str(int(i)) for i in where)}]" if mine.size > 1 else ""
    return f" (yours{at}: {_written(mine[where])}, right: {_written(theirs[where])})"


def _written(number: Any) -> str:
    return f"{number:.6g}" if number.dtype.kind in "fc" else str(number)


def _array(value: Any) -> np.ndarray:
    """Return the numbers of a plain value as an array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    return np.asarray(value)


def _shaped(theirs: np.ndarray) -> str:
    return f"have the shape {theirs.shape}" if theirs.ndim else "be a single number"


def _has(mine: np.ndarray) -> str:
    return f"has {mine.shape}" if mine.ndim else "is a single number"


def _listed(keys: Any) -> str:
    return ", ".join(sorted(map(repr, keys)))


def _named(value: Any) -> str:
    """Name a value's kind for a reader."""
    if isinstance(value, np.generic):
        return "a number"
    names = {
        torch.Tensor: "a torch tensor",
        np.ndarray: "a numpy array",
        tuple: "a tuple",
        list: "a list",
        dict: "a dict",
        str: "a string",
        type(None): "None",
        bool: "True or False",
        int: "a number",
        float: "a number",
        complex: "a complex number",
    }
    return names.get(type(value), f"an object of the class {type(value).__name__}")
