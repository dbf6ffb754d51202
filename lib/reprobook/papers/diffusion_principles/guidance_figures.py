"""Pictures for chapter 8 of the paper (Lai et al., 2025), on guidance; functions take and return an Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.papers.diffusion_principles.guided_gaussians import (
    density_of_quantiles,
    tilted_density_on_line,
    tilted_log_density,
)
from reprobook.plotting import COLOURS

__all__ = [
    "draw_cloud_on_tilted",
    "draw_pull",
    "draw_film",
    "draw_moments",
    "draw_policies",
    "draw_frontier",
    "shades",
]


#: What pictures of the plane show, along x and along y: the triangle of classes, and room above it.
WINDOW = ((-3.0, 3.0), (-2.0, 4.0))


def shades(num: int) -> np.ndarray:
    """Return colours from pale to dark blue, for weights of guidance that grow (Sec. 8.3)."""
    import seaborn as sns

    return np.asarray(sns.color_palette("crest", num))


def _lattice(num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return both coordinates of a lattice in the window, ``(num, num)``, and its points ``(num², 2)``."""
    lines = (torch.linspace(*ends, num, dtype=torch.float64) for ends in WINDOW)
    x, y = torch.meshgrid(*lines, indexing="xy")
    return x, y, torch.stack([x.reshape(-1), y.reshape(-1)], 1)


def draw_cloud_on_tilted(ax: Axes, data: Mixture, label: int, weight: float, cloud: Tensor) -> Axes:
    """Draw samples on the contours of the tilted density (Eq. 8.2.2) that one would expect them to follow.

    Args:
        data: whose components are the classes; their means are shown as crosses.
        label: of the class.
        weight: ω.
        cloud: samples, ``(N, 2)``.
    """
    x, y, points = _lattice(160)
    logs = tilted_log_density(data, label, weight, points).reshape(x.shape)
    levels = np.array(
        [-4.5, -2.0, -0.5]
    )  # of the log density below its peak: at 3, 2 and 1 standard deviations
    ax.scatter(
        *cloud.T.tolist(), s=3, color=COLOURS["ours"], alpha=0.35, linewidths=0, label="guided samples"
    )
    ax.contour(
        x, y, logs - logs.max(), levels, colors=COLOURS["baseline"], linewidths=1.2, linestyles="solid"
    )
    ax.plot([], [], color=COLOURS["baseline"], linewidth=1.2, label="tilted density")
    ax.scatter(
        *data.means.T.tolist(), marker="+", color=COLOURS["paper"], s=40, label="class means", zorder=4
    )
    ax.set(aspect="equal", xlim=WINDOW[0], ylim=WINDOW[1])
    return ax


def draw_pull(ax: Axes, conditional: Model, guided: Model, t: Tensor) -> Axes:
    """Draw arrows from the clean points that the conditional model sees to the guided one's (Eq. 8.3.2).

    They are shown at a sixth of their length, in every picture alike.
    """
    *_, points = _lattice(13)
    start, end = conditional(points, t, "clean"), guided(points, t, "clean")
    x, y, u, v = (*points.T.tolist(), *(end - start).T.tolist())
    ax.quiver(x, y, u, v, color=COLOURS["third"], angles="xy", scale_units="xy", scale=6, width=0.006)
    ax.set(aspect="equal", xlim=WINDOW[0], ylim=WINDOW[1])
    return ax


def draw_film(
    ax: Axes, data: Mixture, label: int, quantiles: Mapping[float, Tensor], gap: float = 0.8
) -> Axes:
    """Draw a density for each weight: guided samples filled, the tilted law as a line (Sec. 8.3).

    Args:
        data: on the line, whose components are the classes.
        label: of the class.
        quantiles: ω to equally likely quantiles of what was sampled, ``(N, 1)``.
        gap: between the feet of two densities, in units of the data's inverse.
    """
    x = torch.linspace(-1.5, 4.5, 600, dtype=torch.float64)
    rows = list(zip(quantiles.items(), shades(len(quantiles)), strict=True))
    for row, ((weight, points), colour) in reversed(list(enumerate(rows))):
        places, density = (values.numpy() for values in density_of_quantiles(points))
        tilted = tilted_density_on_line(data, label, weight, x).numpy()
        foot = gap * row
        ax.fill_between(places, foot, foot + density, color=colour, alpha=0.75, linewidth=0)
        ax.plot(x, foot + tilted, color=COLOURS["baseline"], linewidth=1.2)
        ax.text(-1.45, foot + 0.06, f"ω = {weight:g}", fontsize=9)
    ax.axvline(data.means[label].item(), color=COLOURS["paper"], linestyle="--", linewidth=1.0)
    ax.set(xlim=(-1.5, 4.0), yticks=[])
    ax.grid(False, axis="y")
    return ax


def draw_moments(ax: Axes, x: Tensor, curves: Mapping[str, Tensor], colours: Sequence[str]) -> Axes:
    """Draw closed forms as lines over a weight or a precision (Secs. 8.3 and 8.4)."""
    for (name, values), colour in zip(curves.items(), colours, strict=True):
        ax.plot(x, values, color=COLOURS[colour], label=name)
    return ax


def draw_policies(ax: Axes, policies: Mapping[str, Tensor], colours: Sequence[str]) -> Axes:
    """Draw policies over the same answers as bars side by side (Sec. 8.5)."""
    width = 0.8 / len(policies)
    for k, ((name, policy), colour) in enumerate(zip(policies.items(), colours, strict=True)):
        places = np.arange(len(policy)) + (k - (len(policies) - 1) / 2) * width
        ax.bar(places, policy.tolist(), width, color=COLOURS[colour], label=name)
    ax.set_xticks(range(len(policy)))
    return ax


def draw_frontier(ax: Axes, others: Tensor, best: Tensor, found: Tensor) -> Axes:
    """Draw policies by divergence from the reference and reward: some, the best ones, those found (Sec. 8.5).

    Args:
        others, best, found: rows of divergence and reward, ``(N, 2)``.
    """
    ax.scatter(
        *others.T.tolist(), s=5, color=COLOURS["muted"], alpha=0.5, linewidths=0, label="random policies"
    )
    ax.plot(*best.T.tolist(), color=COLOURS["baseline"], label="optimal policies, one a β")
    ax.scatter(*found.T.tolist(), s=32, color=COLOURS["ours"], zorder=3, label="found by the DPO loss")
    return ax
