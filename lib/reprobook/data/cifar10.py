"""CIFAR-10: its entry in the catalogue, and its loader.

A set that a later chapter brings stands in a module of its own and enters itself into the catalogue: so the
stored runs of chapters that do not use it stay fresh.
"""

from __future__ import annotations

import tarfile

import numpy as np

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.data.images import Images
from reprobook.data.store import fetch
from reprobook.errors import UserError

__all__ = ["load_cifar10"]

_ARCHIVE = "cifar-10-binary.tar.gz"
_ROW = 1 + 3 * 32 * 32  # a byte of label, then red, green and blue planes
_PARTS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}

CATALOGUE["cifar10"] = DataSet(
    "cifar10",
    "CIFAR-10, small photographs of things and animals",
    shape="50,000 + 10,000 colour images of 32×32, 10 classes",
    purpose="one-step diffusion at the published settings",
    licence="none stated",
    citation="Krizhevsky (2009), Learning multiple layers of features from tiny images",
    editions=(
        (
            File(
                f"cifar10/{_ARCHIVE}",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                (f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}",),
            ),
        ),
    ),
)


def load_cifar10(split: str) -> Images:
    """Load CIFAR-10; download it first where it is not on this machine.

    Args:
        split: ``train`` (50,000 images) or ``test`` (10,000).

    Returns:
        The images in their published order, ``(N, 3, 32, 32)``, and labels 0 to 9.

    Raises:
        UserError: if there is no such split, or if the file cannot be had or is not what it should be.
    """
    if split not in _PARTS:
        raise UserError(f"unknown split '{split}'; allowed: {', '.join(_PARTS)}")
    path = fetch("cifar10")[_ARCHIVE]
    try:
        with tarfile.open(path) as archive:
            members = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in _PARTS[split]]
            rows = np.frombuffer(b"".join(member.read() for member in members), np.uint8).reshape(-1, _ROW)
    except (tarfile.TarError, EOFError, OSError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not the binary edition of CIFAR-10: {error}") from None
    return Images(rows[:, 1:].reshape(-1, 3, 32, 32).copy(), rows[:, 0].astype(np.int64))
