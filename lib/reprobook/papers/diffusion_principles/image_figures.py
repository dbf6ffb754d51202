"""Drawings of the images notebook: film strips, and curves over evaluations and weights.

They show learned models of Lai et al., *The Principles of Diffusion Models* (arXiv 2510.21890).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.plotting import COLOURS, estimates

__all__ = ["draw_strip", "draw_sweep", "draw_dots"]


def draw_strip(
    ax: Axes, rows: Mapping[str, Float[Tensor, "N C H W"]], columns: Sequence[str], signed: bool = False
) -> Axes:
    """Draw rows of images with a name each, and what each column is above it (a film, as in Sec. 1).

    Args:
        ax: to draw on.
        rows: by name, as many images each as there are columns, of one channel.
        columns: what stands above each.
        signed: stretch every image by its own largest value, with zero in grey.
    """
    strips = []
    for images in rows.values():
        shown = images[:, 0].float().cpu()
        largest = shown.abs().amax((1, 2), keepdim=True) if signed else torch.ones(1, 1, 1)
        padded = torch.nn.functional.pad((shown / largest).clamp(-1, 1), (0, 1, 0, 1), value=1.0)
        strips.append(torch.cat(list(padded), 1))
    side = strips[0].shape[0]
    ax.imshow(torch.cat(strips).numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    middle = np.arange(max(len(columns), len(rows))) * side + (side - 1) / 2
    ax.set_xticks(middle[: len(columns)], columns)
    ax.set_yticks(middle[: len(rows)], list(rows))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def draw_sweep(
    ax: Axes,
    results: Mapping[str, Mapping[int, Sequence[float]] | Mapping[float, Sequence[float]]],
    colours: Mapping[str, str],
    logarithmic: bool = True,
) -> Axes:
    """Draw means over seeds with intervals, a line a method, over numbers of evaluations (Ch. 9) or weights.

    Args:
        ax: to draw on.
        results: method to (position to values over seeds).
        colours: a key of :data:`reprobook.plotting.COLOURS` for each method.
        logarithmic: whether positions double from tick to tick.
    """
    for name, by_position in results.items():
        positions = sorted(by_position)
        estimates(ax, positions, [by_position[p] for p in positions], "mean", name, colours[name])
    ticks = sorted({p for by_position in results.values() for p in by_position})
    if logarithmic:
        ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{p:g}" for p in ticks])
    ax.minorticks_off()
    return ax


def draw_dots(ax: Axes, values: Mapping[str, Sequence[float]], colours: Sequence[str]) -> Axes:
    """Draw, a row a name, each seed's value as a dot and their mean as a stroke (Sec. 6.3 compares so)."""
    for row, (runs, colour) in enumerate(zip(values.values(), colours, strict=True)):
        ax.plot([np.mean(runs)] * 2, [row - 0.3, row + 0.3], color=COLOURS[colour], lw=2.4)
        ax.plot(runs, np.full(len(runs), row), "o", ms=6, color=COLOURS[colour], alpha=0.7)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax
