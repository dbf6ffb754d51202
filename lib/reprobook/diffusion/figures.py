"""Drawings of samples: sheets of images and clouds of points. Functions take an Axes and return it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from reprobook.plotting import COLOURS

__all__ = ["draw_sheet", "draw_cloud"]


def draw_sheet(ax: Axes, images: Float[Tensor, "N C H W"], columns: int, title: str = "") -> Axes:
    """Draw images in rows, a pixel apart; -1 is black and 1 is white."""
    padded = torch.nn.functional.pad(images.float().cpu().clamp(-1, 1), (0, 1, 0, 1), value=1.0)
    num, channels, height, width = padded.shape
    rows = padded.reshape(num // columns, columns, channels, height, width)
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(num // columns * height, columns * width, channels)
    ax.imshow((sheet.numpy() + 1) / 2, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")
    return ax


def draw_cloud(ax: Axes, points: Float[Tensor, "n 2"], colour: str = "ours", reach: float = 2.6) -> Axes:
    """Draw samples in the plane as a cloud of dots, on fixed square axes."""
    ax.scatter(*points.cpu().T, s=2.5, color=COLOURS[colour], alpha=0.5, linewidths=0, rasterized=True)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    return ax
