"""From the estimates of many jobs to what one run over all their seeds would have said.

A record holds a statistic, its interval and its n. For a mean these give back the sum and the sum of squares
of its values, for a fraction the number of hits; so the pooled estimate is exactly that of all the values
together, and a claim's verdict over twenty seeds does not depend on how they were divided into jobs.

A mean that comes out alike in every job to the last digit, with its interval, does not depend on the seed (a
deterministic flow from several starts, say). Pooling would count the same values again and again and shrink
the interval for nothing, so one job's estimate is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reprobook.claims import Claim, ClaimSheet, Result
from reprobook.records import Record
from reprobook.stats import LEVEL, Estimate, every, fraction

__all__ = ["pool", "pooled_results"]


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate that all the values behind several estimates give together.

    Args:
        estimates: of one statistic, at least one, from values that are independent of one another.

    Returns:
        The estimate of :mod:`reprobook.stats` for these values; one of them, if they are equal means of
        values that differ.

    Raises:
        ValueError: if there are none, or they are of different statistics.
    """
    names = {e.statistic for e in estimates}
    if len(names) != 1:
        raise ValueError(f"cannot pool the statistics {sorted(names)}: exactly one is needed")
    first = estimates[0]
    if first.statistic == "mean" and (len(estimates) == 1 or _same_values(estimates)):
        return first
    return _POOLERS[names.pop()](estimates)


def _same_values(estimates: Sequence[Estimate]) -> bool:
    """Return whether the same values, which differ among themselves, stand behind every estimate."""
    first = estimates[0]
    return all(e == first for e in estimates) and first.n > 1 and first.high > first.low


def _pool_means(estimates: Sequence[Estimate]) -> Estimate:
    n = sum(e.n for e in estimates)
    centre = math.fsum(e.n * e.value for e in estimates) / n
    squares = math.fsum(
        (e.n - 1) * _deviation(e) ** 2 + e.n * (e.value - centre) ** 2 for e in estimates
    )  # about the common mean: within the jobs, and between them
    half = _t(n) * math.sqrt(squares / (n - 1) / n)
    return Estimate("mean", centre, centre - half, centre + half, n)


def _deviation(e: Estimate) -> float:
    """Return the standard deviation of the values behind a mean, from the width of its interval."""
    return (e.high - e.low) / 2 * math.sqrt(e.n) / _t(e.n) if e.n > 1 else 0.0


def _t(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, n - 1))


def _pool_hits(estimates: Sequence[Estimate]) -> Estimate:
    hits, n = sum(round(e.value * e.n) for e in estimates), sum(e.n for e in estimates)
    whole = every if estimates[0].statistic == "every" else fraction
    return whole([True] * hits + [False] * (n - hits))


def _pool_largest(estimates: Sequence[Estimate]) -> Estimate:
    top = max(estimates, key=lambda e: e.value)
    return replace(top, n=sum(e.n for e in estimates))


def _pool_smallest(estimates: Sequence[Estimate]) -> Estimate:
    bottom = min(estimates, key=lambda e: e.value)
    return replace(bottom, n=sum(e.n for e in estimates))


_POOLERS = {
    "mean": _pool_means,
    "fraction": _pool_hits,
    "every": _pool_hits,
    "largest": _pool_largest,
    "smallest": _pool_smallest,
}


def pooled_results(records: Iterable[Record], sheet: ClaimSheet) -> dict[str, Result]:
    """Return what several runs of one chapter at one setting say together about its claims.

    Args:
        records: finished runs, which differ in nothing but their seeds.
        sheet: the chapter's claims.

    Returns:
        A result for every claim that one of them measured, by id, in the order of the claims file.
    """
    found: dict[str, list[Result]] = {}
    for record in records:
        for result in record.results(sheet):
            if result.parts or result.why_excluded:
                found.setdefault(result.claim.id, []).append(result)
    return {i: _together(claim, found[i]) for i, claim in sheet.claims.items() if i in found}


def _together(claim: Claim, results: Sequence[Result]) -> Result:
    parts: Mapping[str, list[Estimate]] = {}
    for result in results:
        for name, estimate in result.parts.items():
            parts.setdefault(name, []).append(estimate)
    reasons = [r.why_excluded for r in results if r.why_excluded]
    return Result(
        claim,
        {name: pool(estimates) for name, estimates in parts.items()},
        sum(r.excluded for r in results),
        reasons[0] if reasons else "",
    )
