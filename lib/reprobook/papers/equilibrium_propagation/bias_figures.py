"""Pictures of settling, of the two errors, and of finite nudges (Laborieux and Zenke, arXiv 2309.02214).

Functions take an Axes, draw on it and return it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from reprobook.plotting import COLOURS

__all__ = [
    "draw_phases",
    "draw_errors",
    "draw_turns",
    "draw_by_angle",
    "draw_orders",
    "draw_plane",
    "draw_decay",
    "draw_runs_over",
    "draw_cycle",
    "draw_restless",
    "shades",
]


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Return colours from dark to light for an ordered series, such as the paper's numbers of points."""
    from matplotlib import colormaps

    return [colormaps["viridis"](v) for v in np.linspace(0.05, 0.85, count)]


def draw_phases(ax: Axes, free: ArrayLike, away: ArrayLike, towards: ArrayLike) -> Axes:
    """Draw activities while a network settles, and after a nudge away from or towards the answer.

    Args:
        free: ``(steps, neurons)``.
        away, towards: the same with the paper's nudge, positive and negative, ``(later steps, neurons)``.
    """
    free, away, towards = (np.asarray(part) for part in (free, away, towards))
    later = np.arange(len(free) - 1, len(free) - 1 + len(away))
    ax.axvspan(later[0], later[-1], color=COLOURS["muted"], alpha=0.12, linewidth=0)
    ax.plot(free, color=COLOURS["paper"], linewidth=1.3)
    ax.plot(later, away, color=COLOURS["baseline"], linewidth=1.3)
    ax.plot(later, towards, color=COLOURS["ours"], linewidth=1.3)
    for text, colour in (("β > 0", "baseline"), ("β = 0", "paper"), ("β < 0", "ours")):
        ax.plot([], [], color=COLOURS[colour], label=text)
    return ax


def draw_errors(ax: Axes, delta: Sequence[ArrayLike], moved: Sequence[ArrayLike]) -> Axes:
    """Scatter what the nudge moves over the paper's δ, neuron by neuron, with the diagonal."""
    reach = 1.08 * max(np.abs(np.asarray(v)).max() for v in (*delta, *moved))
    ax.plot([-reach, reach], [-reach, reach], color=COLOURS["muted"], linestyle="--", linewidth=1)
    for layer, (a, b) in enumerate(zip(delta, moved, strict=True), 1):
        role = ("third", "fifth", "ours")[(layer - 1) % 3]
        ax.scatter(np.ravel(a), np.ravel(b), s=13, color=COLOURS[role], alpha=0.8, label=f"layer {layer}")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return ax


def draw_orders(
    ax: Axes, errors: Mapping[int, tuple[ArrayLike, ArrayLike]], colours: Sequence | None = None
) -> Axes:
    """Draw the derivative's error over the nudge's size, a line for each number of points (Table 1).

    Args:
        errors: by number of points, radii and errors.
        colours: one for each line.
    """
    for colour, (n, (radii, error)) in zip(colours or shades(len(errors)), errors.items(), strict=True):
        ax.plot(
            radii, error, color=COLOURS.get(str(colour), colour), marker="o", markersize=3.5, label=f"N = {n}"
        )
    ax.set(xscale="log", yscale="log")
    return ax


def draw_plane(ax: Axes, reach: float, wrong: ArrayLike, folds: ArrayLike, radius: float) -> Axes:
    """Show over the plane of complex nudges how far off the derivative is, the paper's circle, and the folds.

    Args:
        reach: half the side of the square.
        wrong: relative error on a grid, imaginary parts along the rows, ``(n, n)``.
        folds: nudges at which the Jacobian is singular; conjugates are drawn too.
        radius: of analyticity.
    """
    extent = (-reach, reach, -reach, reach)
    shown = ax.imshow(np.asarray(wrong), origin="lower", extent=extent, cmap="Greys", vmin=0, vmax=1)
    ax.figure.colorbar(shown, ax=ax, label="relative error of the quotient", shrink=0.85)
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 200)) * radius
    ax.plot(turn.real, turn.imag, color=COLOURS["ours"], label="radius")
    folds = np.concatenate([np.ravel(folds), np.conj(np.ravel(folds))])
    ax.plot(
        folds.real,
        folds.imag,
        "X",
        color=COLOURS["baseline"],
        markersize=8,
        markeredgecolor="w",
        label="fold",
    )
    ax.plot([0], [0], ".", color=COLOURS["paper"])
    ax.grid(False)
    return ax


def draw_cycle(ax: Axes, plain: ArrayLike, damped: ArrayLike) -> Axes:
    """Draw activities of some neurons under the paper's synchronous steps, and damped.

    Args:
        plain, damped: ``(steps, neurons)``.
    """
    ax.plot(np.asarray(plain), color=COLOURS["baseline"], linewidth=0.9, alpha=0.8)
    ax.plot(np.asarray(damped), color=COLOURS["third"], linewidth=1.6)
    for text, colour in (("all at once", "baseline"), ("damped", "third")):
        ax.plot([], [], color=COLOURS[colour], label=text)
    return ax


def draw_by_angle(ax: Axes, angles: Sequence[float], values: ArrayLike) -> Axes:
    """Draw the paper's cosines by layer over the angle, and, dashed, the powers of cos α.

    Args:
        values: ``(seeds, angles, layers)``.
    """
    values = np.asarray(values)
    fine = np.linspace(min(angles), max(angles), 100)
    for k in range(values.shape[-1]):
        colour = COLOURS[("third", "fifth", "ours")[k % 3]]
        ax.plot(angles, values[:, :, k].T, color=colour, alpha=0.2, linewidth=0.7)
        ax.plot(
            angles, values[:, :, k].mean(0), color=colour, marker="o", markersize=4, label=f"layer {k + 1}"
        )
        power = np.cos(np.radians(fine)) ** (values.shape[-1] - 1 - k)
        ax.plot(fine, power, color=colour, linestyle="--", linewidth=1)
    return ax


def draw_turns(ax: Axes, most: ArrayLike, found: ArrayLike, names: Sequence[str]) -> Axes:
    """Scatter angles between the paper's two errors over the largest possible ones, with the diagonal.

    Args:
        most, found: degrees, one row a group.
        names: of the groups, three at most.
    """
    for a, b, name, role in zip(most, found, names, ("third", "fifth", "baseline"), strict=False):
        ax.scatter(a, b, s=22, color=COLOURS[role], label=name)
    ax.plot([0, 150], [0, 150], color=COLOURS["paper"], linestyle="--", linewidth=1.1)
    return ax


def draw_decay(ax: Axes, decay: Mapping[str, ArrayLike], factors: Mapping[str, float]) -> Axes:
    """Draw how the paper's homeostatic loss falls, and, dotted, the squares of the predicted factors.

    Args:
        decay: by network, shares of the first loss, ``(seeds, steps)``.
        factors: by network, of a weight in one step.
    """
    for (name, values), role in zip(decay.items(), ("ours", "fourth"), strict=True):
        steps = np.arange(1, np.shape(values)[1] + 1)
        ax.plot(steps, np.asarray(values).T, color=COLOURS[role], linewidth=1)
        ax.plot([], [], color=COLOURS[role], label=f"{name}, measured")
        ax.plot(steps, factors[name] ** (2 * steps), ":", color=COLOURS["paper"], linewidth=2.5)
    ax.plot([], [], ":", color=COLOURS["paper"], label="predicted")
    return ax


def draw_runs_over(ax: Axes, x: ArrayLike, values: Mapping[str, ArrayLike]) -> Axes:
    """Draw a line for each network, whose places on the x-axis differ too (for the paper's estimate).

    Args:
        x: ``(settings, networks)``.
        values: by name, of the same shape; two at most.
    """
    for (name, y), role in zip(values.items(), ("third", "fifth"), strict=False):
        ax.plot(np.asarray(x), np.asarray(y), color=COLOURS[role], marker="o", markersize=3, linewidth=1)
        ax.plot([], [], color=COLOURS[role], label=name)
    return ax


def draw_restless(ax: Axes, shares: Mapping[tuple[float, float], Sequence[ArrayLike]]) -> Axes:
    """Draw the share of inputs that still move over the gain, under the paper's steps and damped, dotted.

    Args:
        shares: by angle and gain: moving, circling, and moving although damped, each ``(seeds,)``.
    """
    for angle, role in zip(dict.fromkeys(a for a, _ in shares), ("ours", "baseline"), strict=False):
        gains = [g for a, g in shares if a == angle]
        for row, style, text in ((0, "-", "all at once"), (2, ":", "damped")):
            means = [float(np.mean(np.asarray(shares[angle, g][row]))) for g in gains]
            ax.plot(gains, means, style, marker="o", markersize=4, color=COLOURS[role])
            ax.plot([], [], style, color=COLOURS[role], label=f"{angle:.0f}°, {text}")
    return ax
