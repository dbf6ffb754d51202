"""Pictures of training, after Fig. 3 and Fig. 4 of the paper (Laborieux and Zenke, arXiv 2309.02214).

Functions take an Axes and return it. Colours have fixed roles: recurrent backpropagation dark, the nudge's
derivative blue, with homeostasis green, a one-sided nudge orange-red, two nudges amber.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.papers.equilibrium_propagation.watching import Cell, Course
from reprobook.plotting import COLOURS, estimates, mean_with_runs

__all__ = ["draw_told", "draw_over_angle", "draw_course", "draw_layers", "draw_unsettled"]


def draw_told(
    ax: Axes, delta: Float[Tensor, "B n"], nudge: Float[Tensor, "B n"], colour: str, shown: int = 1500
) -> Axes:
    """Draw what the nudge tells each neuron over what it should be told, d_β r over δ (for Fig. 4's cosines).

    Both are divided by the root mean square of δ of their input, so that hard and easy inputs count alike.

    Args:
        delta, nudge: both errors in one layer, for some inputs.
        colour: a role.
        shown: points at most.
    """
    size = delta.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-30)
    x, y = ((e / size).flatten()[:shown].cpu().numpy() for e in (delta, nudge))
    ax.plot([-4, 4], [-4, 4], color=COLOURS["paper"], linestyle="--", linewidth=1.0)
    ax.scatter(x, y, s=4, alpha=0.35, color=COLOURS[colour], linewidths=0)
    ax.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xticks=(-3, 0, 3), yticks=(-3, 0, 3))
    return ax


def draw_over_angle(ax: Axes, course: Course, angles: Sequence[float], label: str, colour: str) -> Axes:
    """Draw the error at the end over the angle at the beginning, without homeostasis (Fig. 3)."""
    ends = [course.last("wrong", Cell(angle)).tolist() for angle in angles]
    return estimates(ax, angles, ends, "mean", label, colour)


def draw_course(
    ax: Axes,
    courses: Mapping[str, tuple[Course, Cell, str]],
    name: str,
    part: int | None = None,
    dashed: Sequence[str] = (),
) -> Axes:
    """Draw one quantity over training, a line a setting, seeds as hairlines (Fig. 4).

    Args:
        courses: course, cell and colour of each line, by label.
        name: of the quantity, a key of ``Course.seen``.
        part: which pair of ways, or which layer; None if there is one number only.
        dashed: labels of lines that are dashed.
    """
    for label, (course, cell, colour) in courses.items():
        runs = course.of(name, cell)
        runs = runs if part is None else runs[..., part]
        mean_with_runs(ax, course.steps, runs.mT.numpy(), label, colour, dashed=label in dashed)
    return ax


def draw_layers(ax: Axes, courses: Mapping[str, tuple[Course, Cell, str]]) -> Axes:
    """Draw the cosine of d_β r with δ at the end, a line a setting over the layers (Fig. 4)."""
    for label, (course, cell, colour) in courses.items():
        ends = course.last("cosines", cell)
        estimates(ax, range(1, ends.shape[1] + 1), ends.mT.tolist(), "mean", label, colour)
    ax.set(xticks=range(1, ends.shape[1] + 1))
    return ax


def draw_unsettled(ax: Axes, shares: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Axes:
    """Draw the shares of inputs that move, that go in cycles, and that move in spite of damping (reruns).

    Args:
        shares: the three shares, one value a network, by name of a group of networks.
    """
    kinds = {"still moving": "baseline", "in short cycles": "fifth", "moving with damping": "third"}
    places = np.arange(len(shares))
    for k, (label, colour) in enumerate(kinds.items()):
        spread = [100 * group[k].cpu().numpy() for group in shares.values()]
        at = places + 0.25 * (k - 1)
        ax.bar(at, [s.mean() for s in spread], 0.22, color=COLOURS[colour], label=label)
        for x, s in zip(at, spread, strict=True):
            ax.plot(np.full(len(s), x), s, "o", color=COLOURS["paper"], markersize=2.5, alpha=0.6)
    ax.set_xticks(places, list(shares))
    ax.grid(False, axis="x")
    return ax
