"""Pictures of flow maps: trajectories and jumps along them, errors by step, and straightened paths.

For Chapters 5, 10 and 11 of the monograph. Functions take an Axes and return it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from torch import Tensor

from reprobook.diffusion.flow_maps import Map
from reprobook.plotting import COLOURS, estimates, reference_line

__all__ = [
    "draw_trajectories",
    "draw_jumps",
    "draw_orders",
    "draw_scales",
    "draw_qualities",
    "draw_paths",
]


def draw_trajectories(
    ax: Axes, flow_map: Map, starts: Float[Tensor, "n 1"], times: Float[Tensor, " m"]
) -> Axes:
    """Draw trajectories of points on the line, from noise on the left to data on the right (Sec. 11.1).

    Args:
        flow_map: of x, s and t.
        starts: points at the first time.
        times: falling.
    """
    heights = torch.stack([flow_map(starts, times[0], t)[:, 0] for t in times])
    ax.plot(times, heights, color=COLOURS["muted"], linewidth=0.8, zorder=1)
    ax.invert_xaxis()
    ax.grid(False)
    return ax


def draw_jumps(
    ax: Axes,
    flow_map: Map,
    x: Float[Tensor, "1 1"],
    jumps: Sequence[tuple[float, float]],
    colour: str,
    bend: float = 0.25,
) -> Axes:
    """Draw arrows between points of one trajectory, each from a time s to a time t (Eq. 11.2.1).

    Args:
        flow_map: of x, s and t.
        x: the point of the trajectory at the time where the first jump starts.
        jumps: pairs (s, t).
        colour: a key of :data:`COLOURS`.
        bend: how far an arrow bows out, as a share of its length.
    """
    start = torch.tensor(jumps[0][0]).to(x)
    for s, t in jumps:
        ends = [(time, flow_map(x, start, torch.tensor(time).to(x)).item()) for time in (s, t)]
        style = {"arrowstyle": "-|>", "color": COLOURS[colour], "linewidth": 1.6, "shrinkA": 3, "shrinkB": 2}
        ax.annotate(
            "", ends[1], ends[0], arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"}, zorder=3
        )
        ax.plot(*ends[0], "o", color=COLOURS[colour], markersize=5, zorder=4)
    return ax


def draw_orders(
    ax: Axes, steps: Float[Tensor, " n"], curves: dict[str, tuple[Float[Tensor, " n"], str]], order: float
) -> Axes:
    """Draw errors against the step on logarithmic axes, with the predicted slope (Theorem 11.2.1).

    Args:
        steps: Δs.
        curves: for each name errors and a colour, a key of :data:`COLOURS`.
        order: of the dashed line, which starts at the first curve's coarsest point.
    """
    for name, (errors, colour) in curves.items():
        ax.plot(steps, errors, "o-", color=COLOURS[colour], markersize=4, label=name)
    first = next(iter(curves.values()))[0][0]
    predicted = 0.6 * first * (steps / steps[0]) ** order
    ax.plot(steps, predicted, "--", color=COLOURS["paper"], linewidth=1.1, label=f"slope {order:g}")
    ax.set(xscale="log", yscale="log", xticks=steps.tolist(), xticklabels=[f"{s:g}" for s in steps.tolist()])
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def draw_scales(
    ax: Axes, times: Float[Tensor, " n"], scales: dict[str, Float[Tensor, " n"]], names: dict[str, str]
) -> Axes:
    """Draw the scale κ(s) of linear consistency functions over time (Eq. 11.2.6 solved on a Gaussian).

    Args:
        times: s.
        scales: as :func:`~.exact_flow_maps.trained_scales` returns them.
        names: of the curves in the legend.
    """
    looks = {"exact": ("paper", "--"), "held": ("ours", "-"), "free": ("baseline", "-")}
    for kind, values in scales.items():
        colour, line = looks[kind]
        ax.plot(
            times, values, line, color=COLOURS[colour], label=names[kind], zorder=3 if kind == "exact" else 2
        )
    return ax


def draw_qualities(
    ax: Axes,
    counts: Sequence[int],
    reached: dict[str, list[list[float]]],
    many: Sequence[float],
    floor: Sequence[float],
) -> Axes:
    """Draw distances to the data by number of evaluations, with the limits of teacher and sample (Sec. 11.1).

    Args:
        counts: evaluations.
        reached: for each method and count one distance a seed.
        many: distances of the teacher with many evaluations.
        floor: distances between two samples of the data.
    """
    colours = ("ours", "fourth", "third", "fifth", "baseline")
    for (name, rows), colour in zip(reached.items(), colours, strict=True):
        estimates(ax, counts, rows, "mean", name, colour)
    reference_line(ax, sum(many) / len(many), "teacher, many steps")
    ax.axhline(
        sum(floor) / len(floor), color=COLOURS["muted"], linestyle=":", label="two samples of the data"
    )
    ax.set(xscale="log", yscale="log", xticks=counts, xticklabels=counts)
    ax.minorticks_off()
    return ax


def draw_paths(ax: Axes, paths: Float[Tensor, "m n 2"], colour: str = "ours", reach: float = 2.6) -> Axes:
    """Draw n paths in the plane, from noise (small grey dots) to data (coloured dots) (Sec. 5.4).

    Args:
        paths: m points along each, noise first.
        colour: a key of :data:`COLOURS`.
        reach: of the axes.
    """
    paths = paths.detach().cpu()
    ax.plot(paths[..., 0], paths[..., 1], color=COLOURS[colour], linewidth=0.7, alpha=0.6, zorder=2)
    ax.scatter(*paths[0].T, s=6, color=COLOURS["muted"], linewidths=0, zorder=1)
    ax.scatter(*paths[-1].T, s=9, color=COLOURS[colour], linewidths=0, zorder=3)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    return ax
