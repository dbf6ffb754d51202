"""CIFAR-100: its entry in the catalogue, and its loader."""

from __future__ import annotations

import tarfile

import numpy as np

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.data.images import Images
from reprobook.data.store import fetch
from reprobook.errors import UserError

__all__ = ["load_cifar100"]

_ARCHIVE = "cifar-100-binary.tar.gz"
_LABELS = 2  # a byte for the coarse class, then one for the fine class
_ROW = _LABELS + 3 * 32 * 32  # then red, green and blue planes

CATALOGUE["cifar100"] = DataSet(
    "cifar100",
    "CIFAR-100, small photographs of things and animals in finer classes",
    shape="50,000 + 10,000 colour images of 32×32, 100 classes",
    purpose="equilibrium propagation's convolutional network",
    licence="none stated",
    citation="Krizhevsky (2009), Learning multiple layers of features from tiny images",
    editions=(
        (
            File(
                f"cifar100/{_ARCHIVE}",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                (f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}",),
            ),
        ),
    ),
)


def load_cifar100(split: str) -> Images:
    """Load CIFAR-100 with its fine classes; download it first where it is not on this machine.

    Args:
        split: ``train`` (50,000 images) or ``test`` (10,000).

    Returns:
        The images in their published order, ``(N, 3, 32, 32)``, and labels 0 to 99.

    Raises:
        UserError: if there is no such split, or if the file cannot be had or is not what it should be.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'; allowed: train, test")
    path = fetch("cifar100")[_ARCHIVE]
    try:
        with tarfile.open(path) as archive:
            content = archive.extractfile(f"cifar-100-binary/{split}.bin").read()
        rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    except (tarfile.TarError, EOFError, OSError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not the binary edition of CIFAR-100: {error}") from None
    return Images(rows[:, _LABELS:].reshape(-1, 3, 32, 32).copy(), rows[:, 1].astype(np.int64))
