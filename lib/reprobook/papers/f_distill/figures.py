"""Looks that all notebooks of the chapter share: a colour and a line for each of the six divergences.

Of two divergences of one kind (mode seeking, medium, mode covering, by Xu, Nie and Vahdat's Table 6) one has
a solid line, the other a dashed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.plotting import COLOURS
from reprobook.stats import estimate

__all__ = ["LOOKS", "draw_curves", "draw_by_divergence"]

#: For each divergence arguments of ``Axes.plot``.
LOOKS: dict[str, dict[str, str]] = {
    name: {"color": COLOURS[colour], "linestyle": line, "label": DIVERGENCES[name].title}
    for name, colour, line in (
        ("reverse_kl", "paper", "-"),
        ("softened_reverse_kl", "muted", "--"),
        ("jensen_shannon", "ours", "-"),
        ("squared_hellinger", "third", "--"),
        ("forward_kl", "baseline", "-"),
        ("jeffreys", "fourth", "--"),
    )
}


def draw_curves(ax: Axes, x: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Axes:
    """Draw a curve for each divergence, in its own look (as in Fig. 4 of the paper).

    Args:
        ax: to draw on.
        x: positions, shared.
        curves: values by a key of :data:`LOOKS`.
    """
    for name, values in curves.items():
        ax.plot(x, values, **LOOKS[name])
    return ax


def draw_by_divergence(ax: Axes, values: Mapping[str, Sequence[float]]) -> Axes:
    """Draw, a row a divergence, each run as a dot and the mean with its 95 % interval (compare Table 1).

    Args:
        ax: to draw on.
        values: one value a run, by a key of :data:`LOOKS`.
    """
    for row, (name, runs) in enumerate(values.items()):
        found, colour = estimate("mean", runs), LOOKS[name]["color"]
        ax.plot(runs, np.full(len(runs), row), "o", ms=4.5, color=colour, alpha=0.45, linewidth=0)
        reach = [[found.value - found.low], [found.high - found.value]]
        ax.errorbar(found.value, row, xerr=reach, fmt="|", ms=13, color=colour, capsize=3, elinewidth=1.8)
    ax.set_yticks(range(len(values)), [LOOKS[name]["label"] for name in values])
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax
