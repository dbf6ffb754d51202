"""Pictures of two moons and of what a network makes of them: the panels of Fig. 2, and the two pulls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.papers.dann.moons import END_CLASSES, principal_plane
from reprobook.papers.dann.shallow import Shallow, domain_logits, features, label_logits
from reprobook.plotting import COLOURS

__all__ = ["draw_points", "draw_zones", "draw_neurons", "draw_pulls", "draw_row_of_fig_2"]

#: colour and sign of a class of the source; the target is grey, because its classes are not known
_CLASSES = ((COLOURS["ours"], "_"), (COLOURS["baseline"], "+"))
_TARGET = "#4d4d4d"


def draw_points(
    ax: Axes,
    source: Float[Tensor, "n 2"],
    classes: Int[Tensor, " n"],
    target: Float[Tensor, "k 2"],
    ends: Float[Tensor, "4 2"] | None = None,
) -> Axes:
    """Draw the source as minus and plus signs, the target as dots, and the target's moon ends as A to D.

    Args:
        source, classes: points in the plane of the inputs or of two principal components, and their classes.
        target: points in the same plane.
        ends: points to be lettered, in the colours of their classes.
    """
    source, target, classes = source.cpu(), target.cpu(), classes.cpu()
    ax.scatter(*target.T, s=5, color=_TARGET, alpha=0.75, linewidths=0, label="target", zorder=3)
    for k, (colour, sign) in enumerate(_CLASSES):
        points = source[classes == k].T
        ax.scatter(
            *points, s=14, marker=sign, color=colour, linewidths=1, label=f"source, class {k}", zorder=2
        )
    frame = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "linewidth": 1}
    for letter, point, k in zip("ABCD", ends.tolist() if ends is not None else [], END_CLASSES, strict=False):
        colour = _CLASSES[k][0]
        ax.annotate(  # beside its point, on the side of its class, since ends may coincide
            letter, point, (12 * k - 6, 0), textcoords="offset points", color=colour, fontsize=8,
            ha="center", va="center", bbox=frame | {"edgecolor": colour}, zorder=4,
        )  # fmt: skip
    ax.set(aspect="auto", xticks=[], yticks=[])
    ax.grid(False)
    return ax


def draw_zones(
    ax: Axes, score: Callable[[Tensor], Tensor], reach: float, colours: Sequence[str] = ("ours", "baseline")
) -> Axes:
    """Tint the plane by the sign of a score, with a line where it is zero.

    Args:
        score: a function of points ``(n, 2)`` that returns one number a point, ``(n,)``.
        reach: the picture goes from minus this to this, in both directions.
        colours: keys of :data:`reprobook.plotting.COLOURS` for the negative and the positive side.
    """
    ticks = torch.linspace(-reach, reach, 201, dtype=torch.float64)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    z = score(torch.stack([x.flatten(), y.flatten()], 1)).reshape(x.shape).cpu()
    sides = [COLOURS.get(c, c) for c in colours]
    ax.contourf(x, y, z, levels=[-torch.inf, 0, torch.inf], colors=sides, alpha=0.16)
    if z.min() < 0 < z.max():
        ax.contour(x, y, z, levels=[0], colors=COLOURS["paper"], linewidths=1.2)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return ax


def draw_neurons(ax: Axes, W: Float[Tensor, "D 2"], b: Float[Tensor, " D"], reach: float) -> Axes:
    """Draw for each hidden unit the line W_i x + b_i = 0, where its activation is 1/2."""
    for (w1, w2), bias in zip(W.tolist(), b.tolist(), strict=True):
        scale = -bias / (w1**2 + w2**2)
        foot = (scale * w1, scale * w2)  # the point of the line that is nearest to the origin
        ax.axline(foot, (foot[0] - w2, foot[1] + w1), color=COLOURS["third"], linewidth=0.9, alpha=0.8)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return ax


def draw_pulls(
    ax: Axes, points: Float[Tensor, "n 2"], pulls: Float[Tensor, "n 2"], label: str, colour: str
) -> Axes:
    """Draw where a gradient pulls points of the plane: an arrow a point, the longest a fifth long."""
    size = pulls.norm(dim=1).max().clamp_min(torch.finfo(pulls.dtype).tiny)
    x, y = points.cpu().T
    dx, dy = (pulls / size / 5).cpu().T
    ax.quiver(
        x, y, dx, dy, color=COLOURS.get(colour, colour), label=label, angles="xy", scale_units="xy", scale=1,
        width=0.006, zorder=4,
    )  # fmt: skip
    return ax


def draw_row_of_fig_2(
    axes: Iterable[Axes],
    state: Shallow,
    xs: Float[Tensor, "1 n 2"],
    ys: Int[Tensor, "1 n"],
    xt: Float[Tensor, "1 k 2"],
    ends: Float[Tensor, "1 4 2"],
    reach: float = 3.6,
) -> list[Axes]:
    """Draw the four panels of Fig. 2 for one network.

    They are: the boundary between the classes; the hidden layer in the plane of its first two principal
    components; the boundary between the domains; the lines of the hidden neurons.
    """

    axes = list(axes)

    def of_inputs(head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: head(features(state, x.to(xs.device).unsqueeze(0)))[0]

    scores = {
        0: (of_inputs(lambda h: label_logits(state, h).diff(dim=-1).squeeze(-1)), ("ours", "baseline")),
        2: (of_inputs(lambda h: domain_logits(state, h)), ("fifth", "muted")),
    }
    for k, (score, colours) in scores.items():
        draw_points(draw_zones(axes[k], score, reach, colours), xs[0], ys[0], xt[0], None if k else ends[0])
    mean, directions = principal_plane(features(state, torch.cat([xs, xt], 1)))
    hs, ht, he = (((features(state, x) - mean) @ directions)[0] for x in (xs, xt, ends))
    draw_points(axes[1], hs, ys[0], ht, he)
    draw_neurons(draw_points(axes[3], xs[0], ys[0], xt[0]), state.W[0], state.b[0], reach)
    return axes
