"""Drawings of distilled images: named rows, learning curves, and students beside their teacher.

They show one-step students in the sense of Xu, Nie and Vahdat (arXiv 2502.15681), a colour a divergence as in
the whole chapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from torch import Tensor

from reprobook.diffusion.figures import draw_sheet
from reprobook.papers.f_distill.figures import LOOKS
from reprobook.plotting import COLOURS, estimates

__all__ = ["draw_rows", "draw_learning", "draw_against_teacher", "draw_shares"]

Curves = Mapping[str, Mapping[int, Sequence[float]]]


def draw_rows(ax: Axes, rows: Mapping[str, Float[Tensor, "N C H W"]]) -> Axes:
    """Draw a row of images for each name, equally many in each (compare the samples shown in the paper).

    Args:
        ax: to draw on.
        rows: images by what stands on their left.
    """
    num, side = len(next(iter(rows.values()))), next(iter(rows.values())).shape[-1] + 1
    draw_sheet(ax, torch.cat(list(rows.values())), num)
    for row, name in enumerate(rows):
        ax.text(-0.3 * side, (row + 0.5) * side, name, ha="right", va="center", fontsize=9.5)
    return ax


def draw_learning(ax: Axes, curves: Curves) -> Axes:
    """Draw the mean over seeds of a positive measure during training, single seeds as hairlines behind it.

    Args:
        ax: to draw on.
        curves: divergence (a key of Table 1) to update of the student to values over seeds.
    """
    for name, by_step in curves.items():
        steps, runs = list(by_step), np.array(list(by_step.values()))
        ax.plot(steps, runs, color=LOOKS[name]["color"], alpha=0.2, linewidth=0.8)
        ax.plot(steps, runs.mean(1), **LOOKS[name])
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    return ax


def draw_against_teacher(
    ax: Axes, teacher: Mapping[int, Sequence[float]], students: Mapping[str, Sequence[float]]
) -> Axes:
    """Draw a measure of the teacher over evaluations, and of each student at its one (tables of results).

    Args:
        ax: to draw on.
        teacher: values over seeds, by number of evaluations.
        students: values over seeds, by divergence; they stand side by side about 1.
    """
    counts = sorted(teacher)
    estimates(ax, counts, [teacher[n] for n in counts], "mean", "teacher", "muted")
    for name, place in zip(students, np.geomspace(0.8, 1.25, len(students)), strict=True):
        estimates(ax, [place], [students[name]], "mean", LOOKS[name]["label"], LOOKS[name]["color"])
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [f"{n:g}" for n in counts])
    ax.minorticks_off()
    return ax


def draw_shares(ax: Axes, shares: Mapping[str, Sequence[Sequence[float]]], window: int) -> Axes:
    """Draw the share of a batch that the weights leave in effect over training (Table 6, column variance).

    Args:
        ax: to draw on.
        shares: by divergence a list for every seed with a share for every update.
        window: updates that are averaged, at least 1.
    """
    for name, runs in shares.items():
        smooth = np.convolve(np.mean(runs, 0), np.full(window, 1 / window), "valid")
        ax.plot(np.arange(len(smooth)) + (window + 1) / 2, smooth, **LOOKS[name])
    ax.axhline(1, color=COLOURS["muted"], linewidth=0.6, zorder=0)
    return ax
