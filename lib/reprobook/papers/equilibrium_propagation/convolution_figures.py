"""Figures of the convolutional network: its Jacobian, its penalty's noise, and the errors of its layers.

They show what the paper's Fig. 4i-l is about (Laborieux and Zenke, arXiv 2309.02214). Every function takes an
Axes, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.plotting import COLOURS

__all__ = ["draw_matrix", "draw_orders", "draw_points", "draw_bars_by_layer"]


def draw_matrix(
    ax: Axes, matrix: Shaped[Tensor, "N N"], sizes: Sequence[int], title: str, limit: float | None = None
) -> Axes:
    """Draw a matrix over all neurons, red for positive and blue for negative, layers divided by lines.

    Args:
        matrix: for one image.
        sizes: neurons of each layer; they are numbered from 1 along both sides.
        title: of the panel.
        limit: at which colours saturate; the largest entry if None.
    """
    values = matrix.numpy()
    limit = float(np.abs(values).max()) if limit is None else limit
    ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color=COLOURS["muted"], linewidth=0.8)
        ax.axvline(end - 0.5, color=COLOURS["muted"], linewidth=0.8)
    middles, names = ends - np.array(sizes) / 2 - 0.5, [str(k + 1) for k in range(len(sizes))]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names)
    ax.set(title=title, xlabel="from layer", ylabel="to layer")
    ax.grid(False)
    return ax


def draw_orders(
    ax: Axes,
    radii: Sequence[float],
    errors: Mapping[int, Shaped[Tensor, " n"]],
    colours: Mapping[int, str],
) -> Axes:
    """Draw the error of N nudges over the radius of their circle, a line for each N (for Table 1)."""
    for n, values in errors.items():
        ax.loglog(radii, values.numpy(), "o-", color=COLOURS[colours[n]], label=f"N = {n}")
    ax.minorticks_off()
    ax.set_xticks(radii, [f"{radius:g}" for radius in radii])
    ax.set(
        title="error of N nudges", xlabel="radius of the circle, |β|", ylabel="distance from the derivative"
    )
    ax.legend()
    return ax


def draw_points(ax: Axes, x: Shaped[Tensor, " n"], y: Shaped[Tensor, " n"], label: str, colour: str) -> Axes:
    """Draw measured over predicted values as points."""
    ax.scatter(x.numpy(), y.numpy(), s=22, color=COLOURS[colour], label=label, zorder=3, alpha=0.8)
    return ax


def draw_bars_by_layer(
    ax: Axes, groups: Mapping[str, tuple[Shaped[Tensor, "n L"], str]], names: Sequence[str] | None = None
) -> Axes:
    """Draw a group of bars for each layer, one bar a method, with the single runs as dots.

    Args:
        groups: values ``(runs, layers)`` and a key of :data:`~reprobook.plotting.COLOURS`, by method.
        names: of the places along the axis; layer 1, 2, and so on if None.
    """
    count = next(iter(groups.values()))[0].shape[1]
    places, width = np.arange(count), 0.8 / len(groups)
    for k, (name, (values, colour)) in enumerate(groups.items()):
        at = places + (k - (len(groups) - 1) / 2) * width
        ax.bar(at, values.mean(0).numpy(), 0.9 * width, color=COLOURS[colour], label=name, zorder=2)
        ax.plot(at, values.numpy().T, ".", color="black", markersize=4, zorder=3)
    ax.set_xticks(places, names or [f"layer {k + 1}" for k in range(count)])
    ax.axhline(0, color=COLOURS["muted"], linewidth=0.8)
    return ax
