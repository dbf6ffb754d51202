"""Pictures of single inputs and paths in the plane."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from reprobook.plotting import COLOURS

__all__ = ["draw_input", "draw_path", "draw_ranks", "draw_patches"]


def draw_input(
    ax: Axes,
    tokens: Float[Tensor, "T 2"],
    s: Float[Tensor, " T"],
    direction: Float[Tensor, "2"],
    svm: Float[Tensor, "2"] | None = None,
) -> Axes:
    """Draw one input with tokens in the plane: how much attention each gets, and where W z points.

    Args:
        tokens: ``(T, 2)``, drawn as discs whose area is their attention.
        s: attention, ``(T,)``.
        direction: W z, drawn as an arrow of length 1 if it is not zero.
        svm: W^mm z of the SVM; if given, its direction and the line halfway between the selected token
            and its nearest rival are drawn.
    """
    tokens, s, direction = tokens.cpu().numpy(), s.cpu().numpy(), direction.cpu().numpy()
    top = int(s.argmax())
    if svm is not None:
        p = svm.cpu().numpy()
        height = np.sort(tokens @ p)[::-1]
        middle, along = (height[0] + height[1]) / 2 * p / (p @ p), np.array([-p[1], p[0]]) / np.linalg.norm(p)
        ends = np.stack([middle - 3 * along, middle + 3 * along])
        ax.plot(*ends.T, color=COLOURS["paper"], linestyle="--", linewidth=1.2, label="SVM separates here")
    colours = [COLOURS["ours"] if t == top and s[t] > 0.5 else COLOURS["fifth"] for t in range(len(s))]
    ax.scatter(*tokens.T, s=30 + 420 * s, c=colours, edgecolors="white", linewidths=1, zorder=3)
    if np.linalg.norm(direction) > 0:
        tip = direction / np.linalg.norm(direction)
        arrow = {"arrowstyle": "-|>", "color": COLOURS["baseline"], "linewidth": 2}
        ax.annotate("", tip * 0.72, (0, 0), arrowprops=arrow)
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
    return ax


def draw_path(ax: Axes, path: Float[Tensor, "k 2"], label: str, colour: str) -> Axes:
    """Draw a path in the plane with a dot at its end."""
    path, colour = path.cpu().numpy(), COLOURS.get(colour, colour)
    ax.plot(*path.T, color=colour, label=label)
    ax.plot(*path[-1], "o", color=colour, markersize=6)
    return ax


def draw_ranks(ax: Axes, ranks: dict[tuple[int, int], dict[str, float]], colours: list[str]) -> Axes:
    """Draw mean ranks against the dimension: a colour a number of inputs, Frobenius solid, nuclear dashed.

    Args:
        ranks: by (n, d), the mean rank of the ``frobenius`` and of the ``nuclear`` solution.
        colours: keys of :data:`reprobook.plotting.COLOURS`, used in turn.
    """
    for k, n in enumerate(sorted({n for n, _ in ranks})):
        dims = [d for m, d in ranks if m == n]
        for norm, style in {"frobenius": "-o", "nuclear": "--s"}.items():
            values = [ranks[n, d][norm] for d in dims]
            colour = COLOURS[colours[k % len(colours)]]
            ax.plot(dims, values, style, color=colour, markersize=4, label=f"n = {n}, {norm}")
    ax.set(xlabel="dimension d")
    ax.legend(fontsize=8)
    return ax


def draw_patches(ax: Axes, image: np.ndarray, patch: int, s: Float[Tensor, " T"]) -> Axes:
    """Draw an image with its patches, each framed as strongly as it is attended to."""
    ax.imshow(image, cmap="gray_r", interpolation="nearest")
    side = image.shape[1] // patch
    for t, weight in enumerate(s.tolist()):
        corner = (t % side * patch - 0.5, t // side * patch - 0.5)
        frame = {
            "fill": False,
            "edgecolor": COLOURS["baseline"],
            "linewidth": 4,
            "alpha": weight,
            "zorder": 3,
        }
        ax.add_patch(Rectangle(corner, patch, patch, **frame))
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    return ax
