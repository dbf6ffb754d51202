"""MNIST-M, put together from MNIST and the photographs of BSDS500.

How it was made can be read off the published images. A pixel inverted twice is what it was, so every image
yields its patch; and every patch is found, byte for byte, in a photograph of BSDS500. Hence we know:

* every pixel with any ink at all counts as full ink (the paper's formula would keep the grey edges);
* the digit of 28×28 stands in the middle of 32×32, not stretched;
* the patches have the photographs' own scale, and for both splits come from the 200 of the folder ``train``;
* photograph and place are drawn uniformly;
* the images of a split are the first digits of the same split of MNIST in their order, without one of them;
  the last 999 of each split are not used.

Where a patch lies is 25 bits. With these, in ``mnist_m_places.npz``, the published images come out of MNIST
and BSDS500 to the last byte; with other draws, others that are as good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reprobook.data.blending import blend, cut_patches, difference
from reprobook.data.images import Images
from reprobook.errors import UserError

__all__ = ["published_mnist_m", "rebuild_mnist_m", "full_ink", "SEEDS", "MISSING", "PHOTOGRAPHS"]

#: Which draw of patches each split of ``mnist_m_rebuilt`` is.
SEEDS = {"train": 0, "test": 1}

#: The one digit of each split of MNIST that has no image in the published set, up to that set's length.
MISSING = {"train": 3, "test": 2}

#: The folder of BSDS500 that the patches come from.
PHOTOGRAPHS = "train"

_SHA256 = {  # of the published images, uint8 (N, 3, 32, 32) in row-major order
    "train": "ce514edae6c628383e4c5ef251aed2b9c4fa49519639470e21ff16f8c15d5762",
    "test": "8a91a4cf0a548ab350b16bdfdf72c40217ed5e4dfb6062d571ad5e00ec0999b9",
}


def full_ink(digits: np.ndarray) -> np.ndarray:
    """Return digits as MNIST-M blends them: any ink is full ink, with a margin of two pixels.

    Args:
        digits: uint8 ``(N, 28, 28)``.

    Returns:
        0 or 255, uint8 ``(N, 32, 32)``.
    """
    return np.pad((digits > 0) * np.uint8(255), ((0, 0), (2, 2), (2, 2)))


def rebuild_mnist_m(digits: Images, photographs: Sequence[np.ndarray], seed: int) -> Images:
    """Make a set like MNIST-M, with other patches than the published one.

    Args:
        digits: one split of MNIST, ``(N, 1, 28, 28)``.
        photographs: the photographs of :data:`PHOTOGRAPHS`, uint8 ``(h, w, 3)`` each, by name.
        seed: which patches; the book takes :data:`SEEDS`.

    Returns:
        Images ``(N, 3, 32, 32)`` with the digits' labels; image i is digit i.
    """
    images = blend(full_ink(digits.images[:, 0]), photographs, seed)
    return Images(images, digits.labels, np.arange(len(digits)))


def published_mnist_m(digits: Images, photographs: Sequence[np.ndarray], split: str) -> Images:
    """Make the published MNIST-M, byte for byte.

    Args:
        digits: MNIST, the same split, ``(N, 1, 28, 28)``.
        photographs: the photographs of :data:`PHOTOGRAPHS`, uint8 ``(h, w, 3)`` each, by name.
        split: ``train`` or ``test``.

    Returns:
        Images ``(59000, 3, 32, 32)`` or ``(9000, 3, 32, 32)`` with labels and the index of each one's digit.

    Raises:
        UserError: if the images are not the published ones, because a photograph was decoded in another way.
    """
    places = _places(split)
    ids = np.delete(np.arange(len(places) + 1), MISSING[split])
    images = difference(full_ink(digits.images[ids, 0]), cut_patches(photographs, places, (32, 32)))
    if hashlib.sha256(images).hexdigest() != _SHA256[split]:
        raise UserError("MNIST-M came out with other pixels than published: use mnist_m_rebuilt instead")
    return Images(images, digits.labels[ids], ids)


def _places(split: str) -> np.ndarray:
    """Return photograph, upper row and left column of every patch, int ``(N, 3)``."""
    with np.load(Path(__file__).with_name("mnist_m_places.npz"), allow_pickle=False) as packed:
        which, row, row_high, column, column_high = packed[split].astype(int)
    return np.column_stack([which, row + 256 * row_high, column + 256 * column_high])
