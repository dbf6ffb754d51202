"""Figures of finite nudges. Functions take an Axes, draw and return it (compare the paper's Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from reprobook.plotting import COLOURS

__all__ = ["ROLES", "draw_chords", "draw_images_of_circles", "draw_errors", "draw_cells"]

#: Colours of the numbers of points, as in the whole chapter.
ROLES = {1: "baseline", 2: "fifth", 4: "muted", 6: "third"}


def draw_chords(
    ax: Axes, beta: Float[Tensor, " n"], r: Float[Tensor, " n"], slope: float, radius: float
) -> Axes:
    """Draw the activity against a real nudge, its tangent at zero, and the chords of one and of two nudges.

    What the paper's Table 1 calls N = 1 is the slope of the first chord, N = 2 that of the second.

    Args:
        beta, r: nudges in rising order, and the activities they lead to.
        slope: of the tangent.
        radius: |β| of the chords.
    """
    at = np.interp([-radius, 0.0, radius], beta.numpy(), r.numpy())
    ends = np.array([beta.min().item(), beta.max().item()])
    ax.plot(beta, r, color=COLOURS["paper"], label="settled activity")
    ax.plot(ends, at[1] + slope * ends, color=COLOURS["ours"], linestyle=":", label="derivative")
    ax.plot([0, radius], at[1:], color=COLOURS[ROLES[1]], marker="o", markersize=5, label="away, N = 1")
    ax.plot([-radius, 0], at[:2], color=COLOURS["fourth"], marker="o", markersize=5, label="towards, N = 1")
    ax.plot([-radius, radius], at[[0, 2]], color=COLOURS[ROLES[2]], marker="s", markersize=4, label="N = 2")
    return ax


def draw_images_of_circles(
    ax: Axes, images: Mapping[float, Complex[Tensor, " n"]], free: float, points: int
) -> Axes:
    """Draw where the activity goes while the nudge circles zero (the idea of the paper's complex nudges).

    Args:
        images: activities at equally spaced nudges, by |β|.
        free: activity without a nudge.
        points: how many of the nudges to mark; their number must divide that of the activities.
    """
    shades = np.linspace(0.35, 1.0, len(images))
    for shade, (radius, values) in zip(shades, images.items(), strict=True):
        closed = torch.cat([values, values[:1]])
        ax.plot(closed.real, closed.imag, color=COLOURS["ours"], alpha=shade, label=f"|β| = {radius:g}")
        marked = values[:: len(values) // points]
        ax.plot(marked.real, marked.imag, "o", color=COLOURS[ROLES[points]], markersize=4)
    ax.plot([free], [0.0], "+", color=COLOURS["paper"], markersize=11, label="free state")
    ax.set_aspect("equal", "datalim")
    return ax


def draw_errors(
    ax: Axes,
    x: Sequence[float],
    errors: Mapping[int, ArrayLike],
    *,
    dashed: bool = False,
    named: bool = True,
    suffix: str = "",
) -> Axes:
    """Draw the error of N points over something, one colour for each N, members as hairlines (see Table 1).

    Args:
        x: positions.
        errors: ``(len(x), M)`` for each N.
        dashed: for the second of two families.
        named: whether to put it into the legend.
        suffix: of the name.
    """
    for points, values in errors.items():
        values, colour = np.asarray(values), COLOURS[ROLES[points]]
        name = f"N = {points}{suffix}" if named else None
        ax.plot(x, values, color=colour, alpha=0.2, linewidth=0.7)
        middle = np.exp(np.log(values).mean(1))
        ax.plot(x, middle, color=colour, linestyle="--" if dashed else "-", label=name)
    ax.set_yscale("log")
    return ax


def draw_cells(
    ax: Axes, wrong: Mapping[str, ArrayLike], roles: Mapping[str, str], paper: Mapping[str, float]
) -> Axes:
    """Draw held-out errors of the cells of a table, a dot a seed, a bar at the mean (the paper's Table 1).

    Args:
        wrong: shares of wrong answers over seeds, by cell.
        roles: colour of each cell.
        paper: values of the paper for the cells where they are known; may be empty.
    """
    for place, (name, shares) in enumerate(wrong.items()):
        colour, values = COLOURS[roles[name]], 100 * np.asarray(shares)
        ax.plot(values, [place] * len(values), "o", color=colour, alpha=0.55, markersize=5)
        ax.plot([values.mean()], [place], "|", color=colour, markersize=17, markeredgewidth=2.5)
        if name in paper:
            ax.plot([100 * paper[name]], [place], "D", color=COLOURS["paper"], markersize=5, mfc="none")
    ax.set_yticks(range(len(wrong)), list(wrong))
    ax.invert_yaxis()
    return ax
