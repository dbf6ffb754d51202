"""Pictures of the review experiments (Sec. 5.1.2 to 5.1.5); each takes an Axes and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from reprobook.plotting import COLOURS

__all__ = [
    "draw_words",
    "draw_reverse_validation",
    "draw_accuracies",
    "draw_wins",
    "draw_chances",
    "draw_pads",
]

_MARKS = {"DANN": ("ours", "o"), "NN": ("baseline", "s"), "SVM": ("third", "D")}


def draw_words(
    ax: Axes, words: Sequence[str], praise: Float[np.ndarray, " w"], blame: Float[np.ndarray, " w"]
) -> Axes:
    """Draw how often words stand in good and in bad reviews; a word that never occurs is said to be missing.

    Args:
        words: w names, from top to bottom.
        praise, blame: how often a review of each kind has them.
    """
    y = np.arange(len(words))
    for values, colour, name in ((praise, "ours", "in praise"), (-blame, "baseline", "in blame")):
        ax.barh(y, values, color=COLOURS[colour], height=0.65, label=name)
    for k in np.flatnonzero(praise + blame == 0):
        ax.text(0, k, "never used here", ha="center", va="center", fontsize=8.5, color=COLOURS["paper"])
    reach = 1.15 * max(praise.max(), blame.max())
    ax.set(yticks=y, yticklabels=words, xlabel="times a review")
    ax.set(xlim=(-reach, reach), ylim=(len(words) - 0.4, -1.6))  # from top to bottom, with room for a legend
    ax.xaxis.set_major_formatter(lambda v, _: f"{abs(v):.1f}")
    return ax


def draw_reverse_validation(ax: Axes) -> Axes:
    """Draw the round trip of reverse validation: from the source to the target and back."""
    boxes = {
        "S′\nsource reviews, labelled": (0.17, 0.78, "ours"),
        "T′\ntarget reviews, no labels": (0.83, 0.78, "baseline"),
        "T′\nwith the labels that η gave": (0.83, 0.22, "baseline"),
        "S$_V$\nsource reviews kept aside": (0.17, 0.22, "ours"),
    }
    for text, (x, y, colour) in boxes.items():
        shape = FancyBboxPatch((x - 0.155, y - 0.13), 0.31, 0.26, boxstyle="round,pad=0.012")
        shape.set(facecolor="white", edgecolor=COLOURS[colour], linewidth=1.8)
        ax.add_patch(shape)
        ax.text(x, y, text, ha="center", va="center", fontsize=9)
    arrow = {"arrowstyle": "-|>", "color": COLOURS["paper"], "linewidth": 1.6}
    steps = [
        ((0.345, 0.78), (0.655, 0.78), (0.5, 0.85), "1  η learns here, answers there"),
        ((0.83, 0.63), (0.83, 0.37), (0.815, 0.5), "2  answers become labels "),
        ((0.655, 0.22), (0.345, 0.22), (0.5, 0.29), "3  η$_r$ learns, goes back"),
        ((0.17, 0.37), (0.17, 0.63), (0.185, 0.5), " 4  compare with the truth"),
    ]
    for start, end, at, text in steps:
        ax.annotate("", end, start, arrowprops=arrow)
        ha = {0.815: "right", 0.185: "left"}.get(at[0], "center")
        ax.text(*at, text, ha=ha, va="center", fontsize=8.5, color=COLOURS["paper"])
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    return ax


def draw_accuracies(
    ax: Axes,
    pairs: Sequence[str],
    ours: Mapping[str, Sequence[float]],
    paper: Mapping[str, Sequence[float]] | None = None,
) -> Axes:
    """Draw target accuracy, a row a pair and a mark an algorithm; the paper's values as hollow marks.

    Args:
        pairs: names of the rows, from top to bottom.
        ours: by algorithm, one accuracy a pair.
        paper: the same, as printed; left out for data that the paper does not have.
    """
    y = np.arange(len(pairs))
    for k, (name, values) in enumerate(ours.items()):
        colour, mark = _MARKS[name]
        at = y + 0.24 * (k - 1)
        ax.plot(values, at, mark, color=COLOURS[colour], markersize=5, label=name)
        if paper is not None:
            ax.plot(paper[name], at, mark, markerfacecolor="none", color=COLOURS[colour], markersize=8)
    ax.set(yticks=y, yticklabels=pairs, ylim=(len(pairs) - 0.45, -0.55))
    return ax


def draw_wins(ax: Axes, names: Sequence[str], wins: Float[np.ndarray, "A A"]) -> Axes:
    """Draw the matrix of the Poisson binomial test: how likely the row beats the column on most pairs."""
    ax.imshow(wins, cmap="RdBu", vmin=0, vmax=1, alpha=0.75)
    for (i, j), value in np.ndenumerate(wins):
        ax.text(j, i, "–" if i == j else f"{value:.2f}", ha="center", va="center", fontsize=11)
    ax.set(xticks=range(len(names)), xticklabels=names, yticks=range(len(names)), yticklabels=names)
    ax.grid(False)
    return ax


def draw_chances(ax: Axes, chances: Mapping[tuple[str, str], Sequence[float]]) -> Axes:
    """Draw chances of the Poisson binomial test as dots, a row a comparison and a dot a seed."""
    for k, values in enumerate(chances.values()):
        ax.plot(values, np.full(len(values), k), "o", color=COLOURS["ours"], alpha=0.6)
    ax.axvline(0.5, color=COLOURS["paper"], linestyle="--", linewidth=1.1)
    names = [" over ".join(pair) for pair in chances]
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(-0.03, 1.03), ylim=(len(names) - 0.5, -0.5))
    return ax


def draw_pads(
    ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], x_label: str, y_label: str
) -> Axes:
    """Draw proxy A-distances of pairs against one another, with the diagonal where nothing has changed.

    Args:
        x, y: two distances for each pair, at most 2.
        names: one a pair, written beside its point.
    """
    low, high = min([*x, *y, 0]), 2.05
    ax.plot([low, high], [low, high], color=COLOURS["paper"], linestyle="--", linewidth=1.1, zorder=1)
    ax.plot(x, y, "o", color=COLOURS["ours"], markersize=5, zorder=3)
    for a, b, name in zip(x, y, names, strict=True):
        left = a > 0.8 * high
        place = {"xytext": (-5 if left else 4, 3), "ha": "right" if left else "left"}
        ax.annotate(name, (a, b), textcoords="offset points", fontsize=7, **place)
    ax.set(xlabel=x_label, ylabel=y_label, xlim=(low, high), ylim=(low, high), aspect="equal")
    return ax
