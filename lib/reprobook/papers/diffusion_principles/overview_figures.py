"""Pictures for the opening page of the chapter: a film strip, a film, four arrow fields (Sec. 6.3)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule
from reprobook.plotting import COLOURS

__all__ = ["draw_cloud", "draw_density", "draw_field", "draw_paths", "moving_picture"]


def draw_density(ax: Axes, mixture: Mixture, extent: float, time: Tensor, schedule: Schedule) -> Axes:
    """Shade a mixture's density at a time of the diffusion (Sec. 4.1), on a square without axes.

    Args:
        mixture: in two dimensions.
        extent: half the side of the square.
        time: t, shape ().
        schedule: of the diffusion.
    """
    side = torch.linspace(-extent, extent, 90, dtype=mixture.means.dtype)
    at = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    density = mixture.log_density(at, time, schedule).exp().sqrt()  # the root shows faint parts too
    ax.contourf(side, side, density, levels=9, cmap="Blues", alpha=0.85)
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    return ax


def draw_cloud(ax: Axes, points: Float[Tensor, "num 2"], colours: Sequence[str] | str = "ours") -> Axes:
    """Draw points as small dots; the paper's particles (Fig. 4.1)."""
    colours = COLOURS.get(colours, colours) if isinstance(colours, str) else colours
    ax.scatter(*points.T, s=4, c=colours, linewidths=0, alpha=0.8, zorder=3)
    return ax


def draw_field(
    ax: Axes, model: Model, kind: str, time: Tensor, extent: float, colour: str, longest: float = 0.32
) -> Axes:
    """Draw one of the four predictions (Prop. 6.3.1) as arrows on a grid of noisy samples.

    Args:
        model: in two dimensions.
        kind: which prediction; a clean sample is drawn as the way to it.
        time: t, shape ().
        extent: half the side of the square.
        colour: a key of the book's colours.
        longest: length of the longest arrow; arrows are scaled by kind.
    """
    side = torch.linspace(-0.88 * extent, 0.88 * extent, 11, dtype=time.dtype)
    x = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    arrows = model(x, time, kind) - (x if kind == "clean" else 0)
    arrows = arrows * (longest * extent / arrows.norm(dim=1).max())
    ax.quiver(*x.T, *arrows.T, color=COLOURS[colour], angles="xy", scale_units="xy", scale=1, width=0.008)
    return ax


def draw_paths(ax: Axes, paths: Float[Tensor, "times num 2"], colour: str) -> Axes:
    """Draw trajectories of the probability flow (Sec. 4.1.5) with a dot where each arrives."""
    for path in paths.unbind(1):
        ax.plot(*path.T, color=COLOURS[colour], linewidth=0.9, alpha=0.7)
    ax.scatter(*paths[-1].T, s=8, color=COLOURS["paper"], zorder=3)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    return ax


def moving_picture(frames: Sequence[Float[Tensor, "num 2"]], extent: float, colours: Sequence[str]) -> bytes:
    """Return an animated PNG of moving points: it plays in any page, and prints as its first frame.

    Args:
        frames: the particles of the film (after the paper's Fig. 1.1), a tensor a frame.
        extent: half the side of the square that is shown.
        colours: one a particle.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from PIL import Image

    images = []
    palette = Image.new("P", (1, 1))  # one of few colours for all frames keeps the film small
    inks = np.array([to_rgb(c) for c in sorted(set(colours))])[:, None]
    shades = 1 - np.linspace(0, 1, 6)[:, None] * (1 - inks)
    palette.putpalette(np.round(255 * shades).astype(np.uint8).tobytes())
    for points in frames:
        figure = Figure(figsize=(3, 3), dpi=100, facecolor="white", layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
        draw_cloud(ax, points, colours).set(xlim=(-extent, extent), ylim=(-extent, extent))
        ax.set_axis_off()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        images.append(drawn.quantize(palette=palette, dither=Image.Dither.NONE))
    stored = io.BytesIO()
    pauses = [900, *[60] * (len(images) - 2), 1500]  # milliseconds a frame
    images[0].save(
        stored, "PNG", optimize=True, save_all=True, append_images=images[1:], duration=pauses, loop=3
    )
    return stored.getvalue()
