"""Figures of a sweep's report: how a claim's values spread over seeds, and how they change with a setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reprobook.claims import Criterion, Result
from reprobook.plotting import COLOURS
from reprobook.records import Record
from reprobook.stats import Estimate

__all__ = ["spread", "draw_spread", "curves", "draw_curves", "MOST"]

#: The most rows or panels of a figure.
MOST = 24
_ROW = 0.5  # inches


def spread(records: Sequence[Record], pooled: Mapping[str, Result]) -> list[tuple[str, str, list[float]]]:
    """Return the claims that vary: id, part, and the value of every job in the order of the seeds."""
    runs = [{r.claim.id: r for r in record.results()} for record in records]
    found = []
    for claim, result in pooled.items():
        for part in result.parts:
            values = [run[claim].parts[part].value for run in runs if part in run[claim].parts]
            if len(set(values)) > 1:
                found.append((claim, part, values))
    return found


def draw_spread(records: Sequence[Record], pooled: Mapping[str, Result]) -> Figure | None:
    """Draw a row for each claim that varies: every job's value, the estimate over all, and what is asked for.

    Args:
        records: the jobs at one setting.
        pooled: the results over all of them.

    Returns:
        The figure; None if nothing varies. Beyond :data:`MOST` rows only the first are shown.
    """
    from matplotlib import pyplot as plt

    rows = spread(records, pooled)[:MOST]
    if not rows:
        return None
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, _ROW * len(rows) + 0.3), squeeze=False)
    for ax, (claim, part, values) in zip(axes[:, 0], rows, strict=True):
        result = pooled[claim]
        _draw_row(ax, values, result.parts[part], result.claim.criterion)
        name = f"{claim} · {part}" if part else claim
        sign = result.part_verdicts[part].sign
        ax.set_title(f"{sign} {name}", fontsize=8.5, fontweight="normal", loc="left", pad=2)
    return figure


def _draw_row(ax: Axes, values: Sequence[float], together: Estimate, criterion: Criterion) -> None:
    """Draw one claim: dots for jobs, a bar for the interval, a shade for where the claim holds."""
    ends = [
        v for v in (*values, together.low, together.high, criterion.low, criterion.high) if math.isfinite(v)
    ]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    low, high = low - margin, high + margin
    ax.axvspan(
        max(criterion.low, low), min(criterion.high, high), color=COLOURS["third"], alpha=0.13, linewidth=0
    )
    ax.plot(values, np.zeros(len(values)), "o", color=COLOURS["ours"], alpha=0.45, markersize=4.5)
    if math.isfinite(together.low) and together.high > together.low:
        ax.plot([together.low, together.high], [0, 0], color=COLOURS["paper"], linewidth=3.2, alpha=0.75)
    ax.plot([together.value], [0], "|", color=COLOURS["paper"], markersize=11, markeredgewidth=2)
    ax.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
    ax.locator_params(axis="x", nbins=5)
    ax.tick_params(axis="x", labelsize=7.5, pad=1)
    ax.grid(False)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)


def curves(
    points: Sequence[tuple[Any, Mapping[str, Result]]],
) -> dict[str, dict[str, list[tuple[Any, Estimate]]]]:
    """Return the claims that change with a setting: by id and part, the estimate at each value.

    Args:
        points: a value of the setting, and the results over seeds there.
    """
    found: dict[str, dict[str, list[tuple[Any, Estimate]]]] = {}
    for value, results in points:
        for claim, result in results.items():
            for part, estimate in result.parts.items():
                found.setdefault(claim, {}).setdefault(part, []).append((value, estimate))
    changing = {
        c: {p: e for p, e in parts.items() if len({x.value for _, x in e}) > 1} for c, parts in found.items()
    }
    return {claim: parts for claim, parts in changing.items() if parts}


def draw_curves(
    name: str, points: Sequence[tuple[Any, Mapping[str, Result]]], log: bool | None = None
) -> Figure | None:
    """Draw a panel for each claim that changes with a parameter: estimates with their intervals.

    Args:
        name: the parameter.
        points: see :func:`curves`; in the order of the values.
        log: a logarithmic axis; by default if the values are positive and span more than a factor of 20.

    Returns:
        The figure; None if nothing changes. Beyond :data:`MOST` panels only the first are shown.
    """
    from matplotlib import pyplot as plt

    found = list(curves(points).items())[:MOST]
    if not found:
        return None
    values = [value for value, _ in points]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    log = numbers and min(values) > 0 and max(values) / min(values) > 20 if log is None else log
    rows = math.ceil(len(found) / 3)
    figure, axes = plt.subplots(rows, 3, figsize=(8, 2.3 * rows), squeeze=False)
    criteria = {r.claim.id: r.claim.criterion for _, results in points for r in results.values()}
    for ax, (claim, parts) in zip(axes.ravel(), found, strict=False):
        for part, estimates in parts.items():
            x = [v if numbers else values.index(v) for v, _ in estimates]
            middle = np.array([e.value for _, e in estimates])
            reach = np.array([[e.value - e.low, e.high - e.value] for _, e in estimates]).T
            reach = np.where(np.isfinite(reach), reach, 0.0)
            ax.errorbar(
                x, middle, reach, marker="o", markersize=3.5, capsize=2, linewidth=1.2, label=part or None
            )
        for bound in (criteria[claim].low, criteria[claim].high):
            if math.isfinite(bound):
                ax.axhline(bound, color=COLOURS["third"], linestyle=":", linewidth=1.2)
        ax.set_title(claim, fontsize=8, fontweight="normal")
        ax.set_xlabel(name, fontsize=8.5)
        ax.tick_params(labelsize=7.5)
        if log:
            ax.set_xscale("log")
        if not numbers:
            ax.set_xticks(range(len(values)), [str(v) for v in values], rotation=20, ha="right")
        if 1 < len(parts) <= 5:
            ax.legend(fontsize=6.5)
    for ax in axes.ravel()[len(found) :]:
        ax.set_visible(False)
    return figure
