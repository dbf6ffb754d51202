"""Drawings of the notebook on coverage (compare Figs. 2, 3, 5 and 8 of Xu, Nie and Vahdat, arXiv 2502.15681).

Functions take an Axes, draw on it and return it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.diffusion.mixtures import Mixture
from reprobook.papers.f_distill.figures import LOOKS
from reprobook.papers.f_distill.fits import Fit
from reprobook.plotting import COLOURS

__all__ = [
    "draw_best",
    "draw_landscape",
    "draw_last_gaps",
    "draw_map",
    "draw_cloud_of_weights",
    "draw_return",
]


def draw_best(ax: Axes, gap: float, fits: Mapping[str, Fit]) -> Axes:
    """Draw two modes as a shaded density and over them the best Gaussian of each divergence (Table 1)."""
    x = np.linspace(-gap - 4.5, gap + 4.5, 500)

    def normal(mean: float, std: float) -> np.ndarray:
        return np.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))

    ax.fill_between(
        x, (normal(-gap, 1.0) + normal(gap, 1.0)) / 2, color="#dcdcdc", linewidth=0, label="teacher"
    )
    for name, fit in fits.items():
        ax.plot(x, normal(fit.mean.item(), fit.std.item()), **LOOKS[name])
    ax.set_yticks([])
    return ax


def draw_landscape(
    ax: Axes, profiles: Mapping[float, tuple[Sequence[float], Sequence[float]]], colour: str
) -> Axes:
    """Draw the least divergence (Table 1) over the student's mean, a line a gap; wider gaps are darker."""
    for row, (gap, (place, values)) in enumerate(profiles.items()):
        strength = 0.3 + 0.7 * row / max(len(profiles) - 1, 1)
        ax.plot(place, values, color=colour, alpha=strength, label=f"a = {gap:.3g}")
        lowest = int(np.argmin(values))
        ax.plot([place[lowest]], [values[lowest]], "o", color=colour, alpha=strength, ms=5)
    return ax


def draw_last_gaps(
    ax: Axes, levels: Sequence[float], found: Mapping[str, Sequence[float]], end: float
) -> Axes:
    """Draw the gap at which each divergence (Table 6) stops covering; beyond the search an arrow upwards."""
    for name, gaps in found.items():
        look = LOOKS[name]
        shown = np.minimum(gaps, end)
        ax.plot(levels, shown, marker="o", ms=4, **look)
        beyond = [level for level, gap in zip(levels, gaps, strict=True) if not gap < end]
        ax.plot(beyond, [end] * len(beyond), "^", ms=9, color=look["color"], linewidth=0, clip_on=False)
    return ax


def draw_map(
    ax: Axes,
    teacher: Mixture,
    values: Float[Tensor, "n n"],
    reach: float,
    ends: tuple[float, float],
    colours: str = "viridis",
) -> Axes:
    """Draw a function of the plane in steps of colour, and contours of the teacher's density (Fig. 2)."""
    line = torch.linspace(-reach, reach, len(values), dtype=torch.float64)
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    density = teacher.log_density(points).exp().numpy()
    steps = np.linspace(*ends, 9)
    picture = ax.contourf(line, line, values.numpy(), levels=steps, cmap=colours, extend="both")
    ax.contour(
        line, line, density, levels=density.max() * np.array([0.1, 0.5]), colors="white", linewidths=0.9
    )
    ax.figure.colorbar(picture, ax=ax, shrink=0.8, ticks=[ends[0], sum(ends) / 2, ends[1]])
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.grid(visible=False)
    return ax


def draw_cloud_of_weights(
    ax: Axes, gap: Float[Tensor, " N"], ratio: Float[Tensor, " N"], colour: str, shown: int = 2000
) -> Axes:
    """Draw a dot a sample: its normalised forward-KL weight over its score difference (as in Fig. 5)."""
    weight = (ratio / ratio.mean())[:shown]
    ax.plot(gap[:shown], weight, "o", ms=2.2, color=COLOURS[colour], alpha=0.3, linewidth=0, rasterized=True)
    ax.set(yscale="log")
    return ax


def draw_return(
    ax: Axes, times: Sequence[float], shares: Mapping[str, Sequence[float]], within: float = 0.1
) -> Axes:
    """Draw the share of a student in the mode that it had lost, over time (compare Fig. 8)."""
    ax.axhspan(0.5 * (1 - within), 0.5 * (1 + within), color="#ececec", linewidth=0)
    for name, share in shares.items():
        ax.step(times, share, where="post", **LOOKS[name])
    return ax
