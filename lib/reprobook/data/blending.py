"""Digits on patches of photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reprobook.errors import UserError

__all__ = ["blend", "difference", "random_patches", "cut_patches"]


def blend(digits: np.ndarray, photographs: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Put each digit on a patch of a photograph, as MNIST-M does: \\|digit - patch\\| in every channel.

    Where there is no ink the patch shows as it is, where there is full ink it shows inverted: so neither
    colour nor brightness of a pixel says whether it belongs to the digit, only the contrast along its edge.

    Args:
        digits: grey images, uint8 ``(N, H, W)``, 0 for no ink. (The published MNIST-M blends digits in which
            every pixel with any ink is 255, see :func:`reprobook.data.mnist_m.full_ink`.)
        photographs: RGB images, uint8 ``(h, w, 3)`` each.
        seed: which patches; see :func:`random_patches`.

    Returns:
        Colour images, uint8 ``(N, 3, H, W)``.
    """
    return difference(digits, random_patches(photographs, len(digits), digits.shape[1:], seed))


def difference(digits: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return \\|digit - patch\\| in every channel: uint8 ``(N, H, W)`` and ``(N, 3, H, W)`` to the latter."""
    digits = digits[:, None]
    smaller = np.minimum(digits, patches)
    larger = np.maximum(digits, patches)
    return np.subtract(larger, smaller, out=larger)  # max - min stays within uint8


def random_patches(
    photographs: Sequence[np.ndarray], num: int, size: tuple[int, int], seed: int
) -> np.ndarray:
    """Cut patches from photographs, each from a photograph and a place in it that are drawn uniformly.

    Args:
        photographs: RGB images, uint8 ``(h, w, 3)`` each, of any sizes not below ``size``.
        num: how many patches.
        size: height and width of a patch, in pixels.
        seed: which draw. The first patches are the same whatever ``num`` is.

    Returns:
        Patches, uint8 ``(num, 3, height, width)``.

    Raises:
        UserError: if there is no photograph, or one is smaller than a patch.
    """
    room = np.array([p.shape[:2] for p in photographs]).reshape(-1, 2) - size + 1  # places to choose from
    if not len(room) or room.min() < 1:
        raise UserError(f"patches of {size[0]}×{size[1]} pixels need photographs at least as large")
    draws = np.random.default_rng(seed).random((num, 3))
    which = (draws[:, 0] * len(room)).astype(int)
    corners = (draws[:, 1:] * room[which]).astype(int)
    return cut_patches(photographs, np.column_stack([which, corners]), size)


def cut_patches(photographs: Sequence[np.ndarray], places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut patches at given places.

    Args:
        photographs: RGB images, uint8 ``(h, w, 3)`` each.
        places: the number of the photograph, the upper row and the left column of each patch, ``(N, 3)``.
        size: height and width of a patch, in pixels.

    Returns:
        Patches, uint8 ``(N, 3, height, width)``.
    """
    height, width = size
    upright = [np.ascontiguousarray(p.transpose(2, 0, 1)) for p in photographs]
    patches = np.empty((len(places), 3, height, width), np.uint8)
    for patch, (which, top, left) in zip(patches, places.tolist(), strict=True):
        patch[:] = upright[which][:, top : top + height, left : left + width]
    return patches
