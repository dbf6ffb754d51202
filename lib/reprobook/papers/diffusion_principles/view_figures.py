"""Pictures of the three views: guesses, hills and currents; moving densities; paths that bend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.schedules import Schedule
from reprobook.plotting import COLOURS

__all__ = [
    "draw_guesses",
    "draw_film",
    "draw_order",
    "draw_histogram",
    "draw_lines",
    "draw_transport",
    "draw_points",
    "draw_dots",
]

Scalar = Float[Tensor, ""]


def draw_guesses(
    ax: Axes,
    mixture: Mixture,
    x: Float[Tensor, "num 2"],
    time: Scalar,
    schedule: Schedule,
    generator: torch.Generator,
    many: int = 14,
) -> Axes:
    """Draw what noisy points may have been, and the mean of that (the variational view, Sec. 2.2).

    Hairlines go from each point to clean samples drawn from p(x_0 | x_t); the arrow goes to their mean.
    """
    clean = mixture.sample(4000, generator)
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    chances = (-(x[:, None] - alpha * clean).square().sum(-1) / (2 * sigma.square())).softmax(1)
    chosen = clean[torch.multinomial(chances, many, replacement=True, generator=generator)]
    for point, ends in zip(x, chosen, strict=True):
        ways = torch.stack([point.expand(many, 2), ends])
        ax.plot(*ways.unbind(2), color=COLOURS["paper"], linewidth=0.4, alpha=0.5)
        ax.scatter(*ends.mT, s=3, color=COLOURS["paper"], alpha=0.6, zorder=2)
    means = mixture.denoise(x, time, schedule) - x
    arrows = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1,
        "width": 0.012,
        "headwidth": 3.5,
        "headlength": 4,
    }
    ax.quiver(*x.mT, *means.mT, color=COLOURS["baseline"], zorder=5, **arrows)
    ax.scatter(*x.mT, s=16, color=COLOURS["paper"], zorder=6)
    return ax


def draw_film(
    ax: Axes,
    mixture: Mixture,
    schedule: Schedule,
    grid: Float[Tensor, " num_times"],
    paths: Float[Tensor, "num_times num 1"],
    reach: float = 3.6,
) -> Axes:
    """Draw the density of a mixture on a line over time, and paths on it (Eq. 5.2.8, Prop. 6.4.1).

    Time runs from noise on the left to data on the right.
    """
    x = torch.linspace(-reach, reach, 161, dtype=grid.dtype)
    density = torch.stack([mixture.log_density(x[:, None], t, schedule).exp() for t in grid], 1)
    shades = (density / density.max(0).values).numpy()  # each moment has its own scale
    ax.contourf(grid.numpy(), x.numpy(), shades, cmap="Blues", levels=10, vmin=0, vmax=1.5)
    ax.plot(grid.numpy(), paths[..., 0].numpy(), color=COLOURS["baseline"], linewidth=0.8)
    ax.set(xlim=(grid[0].item(), grid[-1].item()), ylim=(-reach, reach))
    ax.grid(False)
    return ax


def draw_order(
    ax: Axes, steps: Sequence[int], errors: Sequence[float], name: str, colour: str, order: int | None = None
) -> Axes:
    """Draw errors over numbers of steps, both on logarithmic scales, with a dashed line of a given order."""
    ax.loglog(steps, errors, marker="o", markersize=4, color=COLOURS[colour], label=name)
    if order is not None:
        ideal = errors[-1] * (np.array(steps) / steps[-1]) ** -float(order)
        ax.loglog(steps, ideal, "--", color=COLOURS["paper"], linewidth=1.0, label=f"order {order}")
    ax.set_xticks(list(steps), [str(s) for s in steps])
    ax.minorticks_off()
    return ax


def draw_histogram(ax: Axes, values: Float[Tensor, " num"], variance: float, name: str, colour: str) -> Axes:
    """Draw a histogram of values on a line, and the normal density of a variance (Sec. 4.1.3)."""
    ax.hist(values.numpy(), bins=60, density=True, color=COLOURS[colour], alpha=0.35)
    x = np.linspace(-3.5, 3.5, 200)
    curve = np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    ax.plot(x, curve, color=COLOURS[colour], label=name)
    return ax


def draw_lines(ax: Axes, t: Float[Tensor, " times"], paths: Float[Tensor, "times num"], colour: str) -> Axes:
    """Draw positions on a line over time (Sec. 5.3.5)."""
    ax.plot(t.numpy(), paths.numpy(), color=COLOURS[colour], linewidth=0.9, alpha=0.8)
    return ax


def draw_transport(
    ax: Axes, start: Float[Tensor, "num 2"], end: Float[Tensor, "num 2"], shade: Float[Tensor, " num"]
) -> Axes:
    """Draw where noise goes: a dot at each end point, hairlines from the start, darker where ``shade`` is.

    The shade is the asymmetry of the map's Jacobian (Sec. 7.5.1).
    """
    ax.plot(*torch.stack([start, end]).unbind(2), color=COLOURS["muted"], linewidth=0.4, alpha=0.6, zorder=1)
    edges = {"edgecolors": COLOURS["muted"], "linewidths": 0.3}
    dots = ax.scatter(*end.mT, c=shade, s=14, cmap="YlOrRd", vmin=0, vmax=0.3, zorder=3, **edges)
    ax.figure.colorbar(dots, ax=ax, label="asymmetry of the Jacobian", shrink=0.8)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    return ax


def draw_points(ax: Axes, points: Float[Tensor, "num 2"], colour: str) -> Axes:
    """Draw samples as dots, on the square of the two moons (Sec. 6.3 as an experiment)."""
    ax.scatter(*points.mT, s=2, color=COLOURS[colour], linewidths=0, alpha=0.6)
    ax.set(xlim=(-1.5, 2.5), ylim=(-1.2, 1.7), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    return ax


def draw_dots(ax: Axes, rows: dict[str, Sequence[float]], colours: Sequence[str]) -> Axes:
    """Draw values by name, one row a name and a dot a seed, with the mean as a bar (Sec. 6.3)."""
    for place, ((_, values), colour) in enumerate(zip(rows.items(), colours, strict=True)):
        ax.scatter(values, [place] * len(values), s=22, color=COLOURS[colour], alpha=0.75, zorder=3)
        ax.vlines(np.mean(values), place - 0.28, place + 0.28, color=COLOURS[colour], linewidth=2)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    return ax
