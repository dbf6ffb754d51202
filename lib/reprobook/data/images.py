"""What every set of labelled images looks like in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """Labelled images, kept as bytes: small enough to stay in memory whole.

    Attributes:
        images: pixels, uint8 ``(N, C, H, W)``, 0 for black.
        labels: classes, int64 ``(N,)``.
        ids: where an image was made from one of another set, the index of that one in the same split,
            int64 ``(N,)``; else None.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)
