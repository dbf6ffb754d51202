"""Data that needs no file of its own: two moons, and what scikit-learn ships."""

from __future__ import annotations

import numpy as np

from reprobook.data.images import Images

__all__ = ["two_moons", "handwritten_digits", "photographs"]


def two_moons(num_per_moon: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw points on two interleaved half circles of radius 1.

    Args:
        num_per_moon: points on each moon, at least 1.
        noise: standard deviation of the Gaussian noise on both coordinates, at least 0.
        seed: which draw, in 0 .. 2³²-1.

    Returns:
        Points, float64 ``(2n, 2)``, in random order; and labels, int64 ``(2n,)``: 0 on the upper moon, 1 on
        the lower one.
    """
    from sklearn.datasets import make_moons

    points, labels = make_moons((num_per_moon, num_per_moon), noise=noise, random_state=seed)
    return points, labels.astype(np.int64)


def handwritten_digits() -> Images:
    """Return scikit-learn's handwritten digits: 1,797 images of 8×8, stretched from 0..16 to 0..255.

    Returns:
        Images ``(1797, 1, 8, 8)`` with labels 0..9; ink is bright, as in MNIST. They are the test half of a
        larger set, and nobody says who wrote which: there is no official split.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images.astype(np.int64) * 255 + 8) // 16  # rounded
    return Images(images.astype(np.uint8)[:, None], data.target.astype(np.int64))


def photographs() -> list[np.ndarray]:
    """Return the two photographs that scikit-learn ships, a temple and a flower, uint8 ``(427, 640, 3)``."""
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
