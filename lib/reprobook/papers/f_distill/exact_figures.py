"""Drawings of the exact notebook: forces on a student, pieces of the theorem, paths, and the paper's tables.

Functions take an Axes and return it. The facts drawn are those of Xu, Nie and Vahdat (arXiv 2502.15681):
Theorem 1, Fig. 4a and the tables of results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.papers.f_distill.figures import LOOKS
from reprobook.plotting import COLOURS

__all__ = ["draw_bells", "draw_dots", "draw_pieces", "draw_landscape", "draw_walks", "draw_results"]

Line = Float[Tensor, " N"]


def draw_bells(ax: Axes, x: Line, teacher: Line, student: Line) -> Axes:
    """Draw two densities as filled hills, teacher and student of Theorem 1.

    Args:
        ax: to draw on.
        x: places, ``(N,)``.
        teacher, student: densities there.
    """
    for density, colour, name in ((teacher, "fifth", "teacher"), (student, "ours", "student")):
        ax.fill_between(x, density, color=COLOURS[colour], alpha=0.25, linewidth=0)
        ax.plot(x, density, color=COLOURS[colour], label=name)
    return ax


def draw_dots(ax: Axes, x: Sequence[float], values: Mapping[str, Sequence[Sequence[float]]]) -> Axes:
    """Draw estimates as dots over the curves they estimate (Fig. 4a), a colour a divergence.

    Args:
        ax: to draw on.
        x: positions.
        values: for each divergence one list of estimates a position.
    """
    for name, columns in values.items():
        for place, column in zip(x, columns, strict=True):
            ax.plot([place] * len(column), column, "o", ms=2.6, color=LOOKS[name]["color"], alpha=0.35, mew=0)
    return ax


def draw_pieces(ax: Axes, errors: Mapping[str, Mapping[str, Sequence[float]]]) -> Axes:
    """Draw how wrong the formula of Theorem 1 gets without one of its pieces: a row a piece, log scale.

    Args:
        ax: to draw on.
        errors: by piece, then by divergence, relative errors.
    """
    for row, by_name in enumerate(errors.values()):
        for k, (name, values) in enumerate(by_name.items()):
            height = np.full(len(values), row + 0.11 * (k - 2.5))
            ax.plot(
                np.maximum(values, 1e-17), height, "o", ms=3, color=LOOKS[name]["color"], alpha=0.5, mew=0
            )
    ax.set_xscale("log")
    ax.set_yticks(range(len(errors)), list(errors))
    ax.set_ylim(len(errors) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax


def draw_landscape(ax: Axes, means: Line, widths: Line, values: Float[Tensor, "S M"]) -> Axes:
    """Draw contours of a divergence over mean and width of the student, even in its logarithm (Theorem 1).

    Args:
        ax: to draw on.
        means, widths: the student's m and s, ``(M,)`` and ``(S,)``.
        values: of the divergence, a row a width.
    """
    levels = np.geomspace(values.min() * 1.05, values.max(), 14)
    ax.contour(means, widths, values, levels, colors=COLOURS["muted"], linewidths=0.6)
    ax.set_aspect("equal")  # so that paths downhill cross the contours at right angles
    return ax


def draw_walks(ax: Axes, paths: Sequence[Float[Tensor, "T 2"]], colour: str, name: str) -> Axes:
    """Draw paths of the student's parameters, with a dot where each starts and a ring where it ends.

    Args:
        ax: to draw on.
        paths: of (m, s), against a step such as Theorem 1's.
        colour: a key of :data:`~reprobook.plotting.COLOURS`.
        name: for the legend.
    """
    for k, path in enumerate(paths):
        ax.plot(*path.T, color=COLOURS[colour], linewidth=1.6, label=None if k else name)
        ax.plot(*path[0], "o", ms=4, color=COLOURS["paper"])
        ax.plot(*path[-1], "o", ms=7, mfc="none", mew=1.5, color=COLOURS[colour])
    return ax


def draw_results(
    ax: Axes, reported: Mapping[str, float], later: Mapping[str, float], teacher: float | None
) -> Axes:
    """Draw the paper's distances of one data set, and those of the authors' later library.

    Args:
        ax: to draw on.
        reported: by divergence, in the paper.
        later: by divergence, hollow.
        teacher: in many steps, a dashed line; None where it is not reported.
    """
    for row, (name, value) in enumerate(reported.items()):
        ax.plot(value, row, "o", ms=8, color=LOOKS[name]["color"])
        if name in later:
            ax.plot(later[name], row, "D", ms=6.5, mfc="none", mew=1.6, color=LOOKS[name]["color"])
    if teacher is not None:
        ax.axvline(teacher, color=COLOURS["paper"], linestyle="--", linewidth=1.1)
    ax.set_yticks(range(len(reported)), [LOOKS[name]["label"] for name in reported])
    ax.set_ylim(len(reported) - 0.5, -0.5)
    ax.margins(x=0.15)
    return ax
