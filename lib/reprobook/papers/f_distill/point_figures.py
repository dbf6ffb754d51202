"""Drawings of distillation in the plane: densities, clouds, ratios and what a change of settings does.

For the notebook on points of the chapter on Xu, Nie and Vahdat (arXiv 2502.15681); see their Fig. 2 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.diffusion.mixtures import Mixture
from reprobook.plotting import COLOURS
from reprobook.stats import estimate

__all__ = ["draw_changes", "draw_density", "draw_points", "draw_ratios"]


def draw_density(ax: Axes, law: Mixture, reach: float = 2.8, colour: str = "baseline") -> Axes:
    """Draw contours that hold about 40 %, 86 % and 99 % of each mode, on square axes (compare Fig. 2)."""
    line = torch.linspace(-reach, reach, 141, dtype=law.means.dtype)
    x, y = torch.meshgrid(line, line, indexing="xy")
    gaps = torch.stack([x, y], -1)[..., None, :] - law.means
    squares = torch.einsum("...kd,kde,...ke->...k", gaps, torch.linalg.inv(law.covariances), gaps)
    ax.contour(line, line, squares.min(-1).values.sqrt(), [1, 2, 3], colors=COLOURS[colour], linewidths=0.7)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    return ax


def draw_points(ax: Axes, points: Float[Tensor, "n 2"], colour: str = COLOURS["ours"]) -> Axes:
    """Draw samples as small dots, under the contours (as in Fig. 2)."""
    ax.scatter(*points.T, s=3, color=colour, alpha=0.55, linewidths=0, rasterized=True, zorder=1)
    return ax


def draw_ratios(ax: Axes, exact: Float[Tensor, " n"], learned: Float[Tensor, " n"]) -> Axes:
    """Draw learned against exact log ratios, with the line on which they agree (the theorem's log r)."""
    ax.scatter(exact, learned, s=4, color=COLOURS["ours"], alpha=0.35, linewidths=0, rasterized=True)
    ends = np.quantile(exact, [0.005, 0.995])
    ax.plot(ends, ends, color=COLOURS["paper"], linestyle="--", linewidth=1.1)
    ax.set(xlim=(ends[0] - 0.3, ends[1] + 0.3), ylim=(ends[0] - 0.9, ends[1] + 0.9))
    return ax


def draw_changes(ax: Axes, values: Mapping[str, Sequence[float]], colour: str = "baseline") -> Axes:
    """Draw differences from a reference, a row a change of settings: dots, mean and 95 % interval (Fig. 4b).

    Args:
        ax: to draw on.
        values: one difference a seed, by the name of the change.
        colour: a key of ``COLOURS``.
    """
    for row, runs in enumerate(values.values()):
        found = estimate("mean", runs)
        ax.plot(runs, np.full(len(runs), row), "o", ms=4, color=COLOURS[colour], alpha=0.4, linewidth=0)
        reach = [[found.value - found.low], [found.high - found.value]]
        ax.errorbar(found.value, row, xerr=reach, fmt="|", ms=12, color=COLOURS[colour], capsize=3)
    ax.axvline(0, color=COLOURS["paper"], linestyle="--", linewidth=1.1)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax
