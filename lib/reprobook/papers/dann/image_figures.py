"""Drawings of the images notebook: images in rows, accuracies by method, features of two domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.plotting import COLOURS

__all__ = ["draw_images", "draw_accuracies", "draw_domains"]


def draw_images(ax: Axes, images: UInt8[Tensor, "num 3 height width"], title: str) -> Axes:
    """Draw images side by side in one row, a pixel apart, as in the paper's Table 2."""
    row = np.concatenate(
        [np.pad(x.permute(1, 2, 0).cpu(), ((0, 0), (0, 1), (0, 0)), constant_values=255) for x in images],
        axis=1,
    )
    ax.imshow(row, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")
    return ax


def draw_accuracies(
    ax: Axes, values: Mapping[str, Sequence[float]], colours: Sequence[str], paper: Mapping[str, float]
) -> Axes:
    """Draw, a row a method, the accuracy of each seed as a dot, their mean as a bar, and the paper's number.

    Args:
        values: accuracies over seeds, by method, as in Table 2.
        colours: a key of :data:`reprobook.plotting.COLOURS` for each method.
        paper: the paper's number for those methods that it has.
    """
    for row, ((name, runs), colour) in enumerate(zip(values.items(), colours, strict=True)):
        ax.barh(row, np.mean(runs), height=0.62, color=COLOURS[colour], alpha=0.35)
        ax.plot(runs, np.full(len(runs), row), "o", ms=5, color=COLOURS[colour])
        if name in paper:
            ax.plot([paper[name]] * 2, [row - 0.4, row + 0.4], "--", color=COLOURS["paper"], lw=1.6)
    ax.set_yticks(range(len(values)), list(values))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="accuracy on the target's test images")
    ax.grid(visible=False, axis="y")
    return ax


def draw_domains(
    ax: Axes, source: np.ndarray, target: np.ndarray, labels: tuple[Int[Tensor, " n"], Int[Tensor, " k"]]
) -> Axes:
    """Draw two domains' points in the plane, each as its digit; blue is source, red target (Fig. 5).

    Args:
        source, target: ``(n, 2)`` and ``(k, 2)``.
        labels: of both.
    """
    for points, digits, colour in zip((source, target), labels, ("ours", "baseline"), strict=True):
        for (x, y), digit in zip(points, digits, strict=True):
            ax.text(x, y, str(int(digit)), color=COLOURS[colour], fontsize=6.5, ha="center", va="center")
    both = np.concatenate([source, target])
    ax.set(
        xlim=(both[:, 0].min() - 2, both[:, 0].max() + 2), ylim=(both[:, 1].min() - 2, both[:, 1].max() + 2)
    )
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
