"""Pictures of solvers: paths, misses, races, orders and sweeps (Lai et al., arXiv 2510.21890 v2, chapter 9).

Every function takes an Axes, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from reprobook.plotting import COLOURS, label

__all__ = ["LOOKS", "draw_paths", "draw_misses", "draw_race", "draw_slopes", "draw_sweeps", "draw_variances"]

#: Colour, marker and line of a solver: a colour a family, a marker an order.
LOOKS: dict[str, tuple[str, str, str]] = {
    "euler": ("baseline", "o", "-"),
    "heun": ("baseline", "s", "-"),
    "rk4": ("baseline", "D", ":"),
    "ddim": ("paper", "o", "--"),
    "exp_heun": ("fourth", "s", "-"),
    "dpm2": ("ours", "s", "-"),
    "dpm3": ("ours", "^", "-"),
    "dpmpp_2s": ("third", "s", "--"),
    "dpmpp_2m": ("third", "s", "-"),
    "deis1": ("fifth", "s", "-"),
    "deis2": ("fifth", "^", "-"),
    "deis3": ("fifth", "D", "-"),
}


def _style(name: str) -> dict:
    colour, marker, line = LOOKS.get(name, ("muted", "o", "-"))
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line, "markersize": 4}


def draw_paths(
    ax: Axes, clock: Float[Tensor, " num_times"], path: Float[Tensor, "num_times num_points 1"]
) -> Axes:
    """Draw samples on the line against a clock, coloured by where they end (paths of Sec. 9.1)."""
    import matplotlib as mpl

    x, ends = clock.cpu().numpy(), path[..., 0].cpu().numpy()
    shades = mpl.colormaps["viridis"](np.argsort(np.argsort(ends[-1])) / max(1, ends.shape[1] - 1) * 0.9)
    lines = LineCollection(
        [np.column_stack([x, line]) for line in ends.T], colors=shades, linewidths=0.9, alpha=0.8
    )
    ax.add_collection(lines)
    ax.autoscale()
    return ax


def draw_misses(ax: Axes, found: Float[Tensor, "B 2"], truth: Float[Tensor, "B 2"], title: str) -> Axes:
    """Draw where each point should have ended, where it has, and the line between them (Sec. 9.4)."""
    a, b = found.cpu().numpy(), truth.cpu().numpy()
    ax.add_collection(
        LineCollection(np.stack([b, a], 1), colors=COLOURS["baseline"], linewidths=0.8, alpha=0.7)
    )
    ax.scatter(*b.T, s=5, color=COLOURS["muted"], label="truth")
    ax.scatter(*a.T, s=5, color=COLOURS["ours"], label="solver")
    ax.set_aspect("equal")
    ax.grid(False)
    return label(ax, title, xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3))


def draw_race(ax: Axes, races: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Axes:
    """Draw error against evaluations for each solver, on logarithmic axes (Sec. 9.4)."""
    for name, (evaluations, errors) in races.items():
        ax.loglog(evaluations, errors, label=name, **_style(name))
    return ax


def draw_slopes(
    ax: Axes,
    sizes: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    orders: Sequence[int] = (),
    colours: Sequence[str] = ("ours", "baseline", "third", "fourth", "fifth"),
) -> Axes:
    """Draw errors against step size; a dashed guide of each whole order passes below its curve (Sec. 9.1)."""
    for (name, errors), colour in zip(curves.items(), colours, strict=False):
        ax.loglog(sizes, errors, marker="o", markersize=4, color=COLOURS[colour], label=name)
    h = np.array([min(sizes), max(sizes)])
    for order, errors in zip(orders, curves.values(), strict=False):
        anchor = errors[int(np.argmin(sizes))]
        guide = 0.6 * anchor * (h / h[0]) ** order
        ax.loglog(h, guide, "--", color=COLOURS["paper"], linewidth=1, label=f"order {order}")
    ax.set_xticks(sizes, [f"{size:.2g}" for size in sizes])
    ax.set_xticks([], minor=True)
    return ax


def draw_sweeps(ax: Axes, errors: Float[Tensor, "num_sweeps num_nodes"]) -> Axes:
    """Draw the logarithm of the error at every node after every sweep of Picard's iteration (Sec. 9.7)."""
    shown = np.log10(np.maximum(errors.cpu().numpy(), 1e-12))
    extent = (0, shown.shape[1], 0, shown.shape[0])
    image = ax.imshow(shown, origin="lower", aspect="auto", cmap="cividis", extent=extent)
    ax.figure.colorbar(image, ax=ax, label="log10 of the error")
    ax.grid(False)
    return ax


def draw_variances(
    ax: Axes, levels: Float[Tensor, " num_times"], ratios: Mapping[str, Float[Tensor, " num_times"]]
) -> Axes:
    """Draw the ratio of a sampler's variance to the true one along λ, a line a sampler (about Eq. 9.2.10)."""
    for (name, ratio), colour in zip(ratios.items(), ("ours", "third", "fifth", "baseline"), strict=False):
        ax.plot(levels.cpu(), ratio.cpu(), marker="o", markersize=3, color=COLOURS[colour], label=name)
    return ax
