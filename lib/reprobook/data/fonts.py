"""Digits drawn from the fonts that matplotlib ships."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np

from reprobook.data.images import Images

__all__ = ["rendered_digits", "FONTS"]

#: The fonts: with and without serifs, of one width, upright, slanted and bold.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)

_GLYPH = 96  # pixels of the em square in which a digit is drawn once
_OVERSAMPLING = 3


def rendered_digits(num: int, size: int, seed: int, *, coloured: bool = True) -> Images:
    """Draw digits in many fonts, in the manner of the Syn Numbers of the DANN paper (Sec. 5.2.4).

    Font, digit, height, angle, position, both colours and blur are drawn at random. Unlike Syn Numbers there
    is one digit an image, and no neighbours.

    Args:
        num: how many images.
        size: height and width in pixels, at least 8.
        seed: which draw. The first images are the same whatever ``num`` is.
        coloured: in two colours, one dark and one light; otherwise white on black, as MNIST's are.

    Returns:
        Colour images ``(num, 3, size, size)`` with labels 0..9.
    """
    draws = np.random.default_rng(seed).random((num, 14))
    labels = (draws[:, 0] * 10).astype(np.int64)
    images = np.empty((num, 3, size, size), np.uint8)
    for image, label, draw in zip(images, labels, draws, strict=True):
        ink = _placed(_glyph(FONTS[int(draw[1] * len(FONTS))], int(label)), size, draw[2:7])
        paper, colour = _two_colours(draw[7:]) if coloured else (np.zeros(3), np.full(3, 255))
        image[:] = np.rint(paper[:, None, None] * (1 - ink) + colour[:, None, None] * ink)
    return Images(images, labels)


@cache
def _glyph(font: str, digit: int) -> np.ndarray:
    """Return a digit, cropped to its ink, 0..255."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    drawer = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")))
    drawer.set_size(_GLYPH, 72)
    drawer.set_text(str(digit))
    drawer.draw_glyphs_to_bitmap()
    bitmap = np.asarray(drawer.get_image())
    rows, columns = bitmap.any(1).nonzero()[0], bitmap.any(0).nonzero()[0]
    return bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)


def _placed(glyph: np.ndarray, size: int, draw: np.ndarray) -> np.ndarray:
    """Return the share of ink in every pixel, 0..1: a glyph scaled, turned, moved and blurred.

    Args:
        glyph: the digit, ``(h, w)``.
        size: height and width of the result, in pixels.
        draw: uniform numbers for height, angle, both shifts and blur, ``(5,)``.
    """
    from PIL import Image, ImageFilter

    height = (0.55 + 0.35 * draw[0]) * size * _OVERSAMPLING
    angle = math.radians(50 * draw[1] - 25)
    shift = (0.2 * draw[2:4] - 0.1) * size * _OVERSAMPLING
    blur = 0.03 * draw[4] * size * _OVERSAMPLING
    zoom = glyph.shape[0] / height
    a, b = zoom * math.cos(angle), zoom * math.sin(angle)
    x, y = size * _OVERSAMPLING / 2 + shift  # where the middle of the glyph comes to lie
    inverse = (a, b, glyph.shape[1] / 2 - a * x - b * y, -b, a, glyph.shape[0] / 2 + b * x - a * y)
    canvas = (size * _OVERSAMPLING,) * 2
    drawn = Image.fromarray(glyph).transform(
        canvas, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )
    return np.asarray(drawn.filter(ImageFilter.GaussianBlur(float(blur))).reduce(_OVERSAMPLING)) / 255


def _two_colours(draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two RGB colours 0..255, one dark and one light, in random order; ``draw`` holds 7 numbers."""
    dark, light = 100 * draw[:3], 155 + 100 * draw[3:6]
    return (dark, light) if draw[6] < 0.5 else (light, dark)
