"""ImageNet at 32×32 pixels, read from files that you bring.

Its publisher hands it out after registration, for research only, and states no SHA-256. So it has no entry
in the catalogue and nothing is downloaded; what is read is checked for its form (Chrabaszcz, Loshchilov and
Hutter, A downsampled variant of ImageNet, arXiv 1707.08819).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from reprobook.data.images import Images
from reprobook.data.store import data_folder
from reprobook.errors import UserError

__all__ = ["load_imagenet32"]

_PARTS = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "test": ["val_data.npz"]}
_PIXELS = 3 * 32 * 32
_CLASSES = 1000


def load_imagenet32(split: str) -> Images:
    """Load ImageNet at 32×32 pixels from ``imagenet32/`` in the folder that ``REPROBOOK_DATA`` names.

    There it looks for the files of the NumPy edition: ``train_data_batch_1.npz`` to
    ``train_data_batch_10.npz``, and ``val_data.npz``. The training images take 4 GB of memory.

    Args:
        split: ``train`` (1,281,167 images) or ``test`` (the 50,000 for validation, as those for testing have
            no public labels).

    Returns:
        The images in their published order, ``(N, 3, 32, 32)``, and labels 0 to 999, which are those of the
        files less one.

    Raises:
        UserError: if there is no such split, or a file is missing or not what it should be.
    """
    if split not in _PARTS:
        raise UserError(f"unknown split '{split}'; allowed: {', '.join(_PARTS)}")
    folder = (data_folder() or Path()) / "imagenet32"
    if data_folder() is None or not all((folder / name).is_file() for name in _PARTS[split]):
        raise UserError(
            f"ImageNet at 32×32 is not here: get its NumPy edition from image-net.org, and put "
            f"{', '.join(_PARTS[split])} into imagenet32/ in the folder that REPROBOOK_DATA names"
        )
    parts = [_read(folder / name) for name in _PARTS[split]]
    return Images(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def _read(path: Path) -> Images:
    """Read one file of the NumPy edition: ``data``, bytes ``(N, 3072)``, and ``labels``, 1 to 1000."""
    try:
        with np.load(path) as content:
            pixels, labels = content["data"], content["labels"].astype(np.int64) - 1
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not of ImageNet's NumPy edition: {' '.join(str(error).split())}"
        ) from None
    good = pixels.dtype == np.uint8 and pixels.shape == (*labels.shape, _PIXELS) and labels.size
    if not good or labels.min() < 0 or labels.max() >= _CLASSES:
        raise UserError(
            f"{path} is not of ImageNet's NumPy edition: no rows of {_PIXELS} bytes with labels 1 to 1000"
        )
    return Images(pixels.reshape(-1, 3, 32, 32), labels)
