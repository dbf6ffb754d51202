"""From values over seeds to one estimate with an interval.

Every number the book reports about a random experiment is an :class:`Estimate`. Intervals are
two-sided at 95 %: Student's t for a mean, Wilson's score interval for a fraction. ``largest`` and
``smallest`` are for identities that must hold in every trial; they have no sampling error to speak of,
so their interval is a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Estimate", "STATISTICS", "estimate", "mean", "fraction", "largest", "smallest", "every", "LEVEL"]

#: Every interval's level.
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic of ``n`` values with its interval ``[low, high]``.

    Attributes:
        statistic: the name of the statistic, a key of :data:`STATISTICS`.
        value: the point estimate.
        low: lower end of the 95 % interval; infinite where ``n`` is too small to have one.
        high: its upper end.
        n: how many values (trials, seeds) it rests on.
    """

    statistic: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.statistic == "every":
            return f"{round(self.value * self.n)} of {self.n}"
        digits = f"{_short(self.value)}"
        if self.low == self.high:
            return digits
        return f"{digits} [{_short(self.low)}, {_short(self.high)}]"


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with Student's t interval; one value alone has an infinite interval."""
    n = len(values)
    centre = math.fsum(values) / n
    if n < 2:
        return Estimate("mean", centre, -math.inf, math.inf, n)
    from scipy.stats import t  # imported late: notebooks check their parameters before anything heavy

    deviation = math.hypot(*(v - centre for v in values)) / math.sqrt(n - 1)  # hypot: squares may overflow
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate("mean", centre, centre - half, centre + half, n)


def fraction(values: Sequence[bool]) -> Estimate:
    """Return the fraction of true values with Wilson's score interval (E. B. Wilson, 1927)."""
    from scipy.stats import norm

    n, p = len(values), math.fsum(values) / len(values)
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate("fraction", p, max(0.0, centre - half), min(1.0, centre + half), n)


def every(values: Sequence[bool]) -> Estimate:
    """Return the fraction of true values as a point: one counterexample refutes a theorem."""
    p = math.fsum(values) / len(values)
    return Estimate("every", p, p, p, len(values))


def largest(values: Sequence[float]) -> Estimate:
    """Return the largest value, as a point."""
    top = max(values)
    return Estimate("largest", top, top, top, len(values))


def smallest(values: Sequence[float]) -> Estimate:
    """Return the smallest value, as a point."""
    bottom = min(values)
    return Estimate("smallest", bottom, bottom, bottom, len(values))


#: The statistics that a criterion can name.
STATISTICS: dict[str, Callable[[Sequence[float]], Estimate]] = {
    "mean": mean,
    "fraction": fraction,
    "every": every,
    "largest": largest,
    "smallest": smallest,
}


def estimate(statistic: str, values: Sequence[float]) -> Estimate:
    """Apply a statistic by name to finite values.

    Args:
        statistic: a key of :data:`STATISTICS`.
        values: one number (or truth value) a trial; arrays and tensors are read element by element.

    Raises:
        ValueError: if there are no values, a value is not finite, or ``fraction``/``every`` gets
            anything but true and false. Nothing is dropped silently: leave out a failed trial
            yourself, and say how many you left out.
    """
    numbers = [float(v) for v in values]
    if not numbers:
        raise ValueError("no values: at least one is needed")
    bad = [v for v in numbers if not math.isfinite(v)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(numbers)} values are not finite")
    odd = [v for v in numbers if v not in (0.0, 1.0)]
    if statistic in ("fraction", "every") and odd:
        raise ValueError(f"'{statistic}' takes true or false values, got {odd[0]}")
    return STATISTICS[statistic](numbers)


def _short(x: float) -> str:
    """Format with three significant digits; a number just below one gets more, up to twelve."""
    if not math.isfinite(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    if 0.99 <= abs(x) < 1:
        text = f"{x:.{min(12, 1 - math.floor(math.log10(1 - abs(x))))}f}"
        text = f"{x:.0f}" if abs(float(text)) == 1 else text
    elif 1e-3 <= abs(x) < 1e5:
        text = f"{x:.3g}" if abs(x) < 999.5 else f"{x:.0f}"
    else:
        text = f"{x:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return text.replace("-", "−", 1) if text.startswith("-") else text
