"""One style for all figures. Functions take an Axes, draw on it and return it; none shows, none seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = [
    "COLOURS",
    "use_style",
    "panels",
    "label",
    "mean_with_runs",
    "estimates",
    "reference_line",
    "shares",
]

#: Okabe and Ito's palette, distinct for every common kind of colour blindness, and in grey
COLOURS = {
    "ours": "#0072B2",
    "baseline": "#D55E00",
    "third": "#009E73",
    "fourth": "#CC79A7",
    "fifth": "#E69F00",
    "paper": "#3d3d3d",
    "muted": "#9a9a9a",
}


def use_style() -> None:
    """Set matplotlib's defaults for this book: white plate, thin grid, Okabe-Ito colours, sharp PNG."""
    import matplotlib as mpl
    import seaborn as sns

    cycle = [c for role, c in COLOURS.items() if role not in ("paper", "muted")]
    sns.set_theme(context="notebook", style="whitegrid", palette=cycle)
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.labelsize": 10.5,
            "axes.edgecolor": "#b8b8b8",
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.7,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
        }
    )


def panels(columns: int, rows: int = 1, *, height: float = 3.1, **kwargs) -> tuple[Figure, np.ndarray]:
    """Return a figure as wide as the page's text with a row (or grid) of Axes.

    Args:
        columns, rows: how many panels.
        height: inches a row; the width is fixed at 8 inches.
        **kwargs: passed to ``matplotlib.pyplot.subplots`` (``sharey=True``, ...).

    Returns:
        The figure and a flat array of its Axes.
    """
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(8, height * rows), squeeze=False, **kwargs)
    return figure, axes.ravel()


def label(ax: Axes, title: str, x: str = "", y: str = "", legend: str | None = None, **settings) -> Axes:
    """Name an Axes and its axes, with units, and show the legend if a place for it is given.

    Args:
        title, x, y: what is shown, and what runs along each axis.
        legend: a place such as ``lower right`` or ``best``; no legend if None.
        **settings: passed to ``Axes.set`` (``ylim=(0, 1)``, ``xscale="log"``, ...).
    """
    ax.set(title=title, xlabel=x, ylabel=y, **settings)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(loc=legend)
    return ax


def mean_with_runs(
    ax: Axes, x: ArrayLike, runs: ArrayLike, label: str, colour: str, *, dashed: bool = False, shown: int = 15
) -> Axes:
    """Draw the mean over runs as a line, with some single runs as hairlines behind it.

    Args:
        x: ``(steps,)``.
        runs: one row a run, ``(n, steps)``.
        colour: a key of :data:`COLOURS` or any colour.
        dashed: for the second of two lines in one colour.
        shown: how many single runs to draw.
    """
    runs, colour = np.asarray(runs), COLOURS.get(colour, colour)
    ax.plot(x, runs[:shown].T, color=colour, alpha=0.16, linewidth=0.7, zorder=1)
    ax.plot(x, runs.mean(0), color=colour, linestyle="--" if dashed else "-", label=label, zorder=3)
    return ax


def estimates(
    ax: Axes, x: ArrayLike, values: Sequence[Sequence[float]], statistic: str, label: str, colour: str
) -> Axes:
    """Draw a statistic of each list of values with its 95 % interval, joined by a line.

    Args:
        x: positions, one a list.
        values: one list of values over trials for each x.
        statistic: ``mean`` or ``fraction`` (see :mod:`reprobook.stats`).
    """
    from reprobook.stats import estimate

    found = [estimate(statistic, v) for v in values]
    middle = np.array([e.value for e in found])
    reach = np.abs(np.array([[e.value - e.low, e.high - e.value] for e in found]).T)
    reach = np.where(np.isfinite(reach), reach, 0.0)
    ax.errorbar(
        x, middle, reach, color=COLOURS.get(colour, colour), marker="o", markersize=4, capsize=2, label=label
    )
    return ax


def reference_line(ax: Axes, y: float, label: str) -> Axes:
    """Draw a value known beforehand, the paper's or a theorem's, as a dashed horizontal line."""
    ax.axhline(y, color=COLOURS["paper"], linestyle="--", linewidth=1.1, label=label, zorder=2)
    return ax


def shares(
    ax: Axes, labels: Sequence[str], parts: dict[str, Sequence[float]], colours: Sequence[str]
) -> Axes:
    """Draw stacked bars of shares that add up to 1, one bar a label, with the number in each large part."""
    bottom = np.zeros(len(labels))
    for (name, values), colour in zip(parts.items(), colours, strict=True):
        bars = ax.bar(labels, values, bottom=bottom, color=COLOURS.get(colour, colour), width=0.7, label=name)
        texts = [f"{v:.0%}" if v >= 0.08 else "" for v in values]
        ax.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        bottom += np.asarray(values)
    ax.set(ylim=(0, 1))
    ax.grid(False)
    return ax
