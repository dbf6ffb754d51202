"""Loaders: from a data set's name to arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprobook.data import formats
from reprobook.data.catalogue import data_set
from reprobook.data.images import Images
from reprobook.data.mnist_m import PHOTOGRAPHS, SEEDS, published_mnist_m, rebuild_mnist_m
from reprobook.data.store import fetch, find_set
from reprobook.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["load_images", "load_reviews", "IMAGE_SETS", "DOMAINS"]

#: What kinds of products the reviews are about.
DOMAINS = ("books", "dvd", "electronics", "kitchen")
_SPLITS = ("train", "test")


def load_images(name: str, split: str) -> Images:
    """Load a set of labelled images; download it first where it is not on this machine.

    Args:
        name: one of :data:`IMAGE_SETS`.
        split: ``train`` or ``test``.

    Returns:
        The images of that split in their published order.

    Raises:
        UserError: if there is no such set or split, or if its files cannot be had.
    """
    _check("image set", name, tuple(IMAGE_SETS))
    _check("split", split, _SPLITS)
    return IMAGE_SETS[name](name, split)


def load_reviews(domain: str, split: str) -> tuple[csr_matrix, np.ndarray]:
    """Load Amazon reviews of one kind of product; download them first where they are not on this machine.

    Args:
        domain: ``books``, ``dvd``, ``electronics`` or ``kitchen``.
        split: ``train`` (2,000 reviews) or ``test`` (the rest).

    Returns:
        How often each of 5,000 words and word pairs occurs, a float32 ``csr_matrix`` ``(N, 5000)``; and
        labels, int64 ``(N,)``: 1 for praise, 0 for blame.

    Raises:
        UserError: if there is no such domain or split, or if its files cannot be had.
    """
    _check("domain", domain, DOMAINS)
    _check("split", split, _SPLITS)
    name = f"{domain}_{split}.svmlight"
    return formats.read_svmlight(fetch("amazon_reviews", only=(name,))[name], num_features=5000)


def _idx(name: str, split: str) -> Images:
    stem = {"train": "train", "test": "t10k"}[split]
    names = f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"
    files = fetch(name, only=names)
    images, labels = (formats.read_idx(files[n]) for n in names)
    return Images(images[:, None], labels.astype(np.int64))


def _usps(name: str, split: str) -> Images:
    files = fetch(name)
    if "usps.h5" in files:
        images, labels = formats.read_usps_hdf5(files["usps.h5"], split)
    else:
        images, labels = formats.read_usps_libsvm(files[{"train": "usps.bz2", "test": "usps.t.bz2"}[split]])
    return Images(images[:, None], labels)


def _mnist_m(name: str, split: str) -> Images:
    names = f"mnist_m_{split}_images_u8.npy.xz", f"mnist_m_{split}_labels.npz"
    files = find_set(name, only=names)
    if not files:
        return published_mnist_m(_idx("mnist", split), _photographs(), split)
    images = np.ascontiguousarray(formats.read_npy_xz(files[names[0]]).transpose(0, 3, 1, 2))
    with np.load(files[names[1]], allow_pickle=False) as facts:
        return Images(images, facts["y"].astype(np.int64), facts["ids"].astype(np.int64))


def _rebuilt(name: str, split: str) -> Images:
    return rebuild_mnist_m(_idx("mnist", split), _photographs(), SEEDS[split])


def _photographs() -> list[np.ndarray]:
    """Return the photographs that MNIST-M is made from, in the order of their names."""
    from PIL import Image

    listed = data_set("bsds500").editions[0]
    names = sorted(file.name for file in listed if file.name.startswith(f"{PHOTOGRAPHS}/"))
    files = fetch("bsds500", only=names)
    return [np.asarray(Image.open(files[name]).convert("RGB")) for name in names]


def _svhn(name: str, split: str) -> Images:
    file = f"{split}_32x32.mat"
    return Images(*formats.read_svhn(fetch(name, only=(file,))[file]))


#: The image sets and how each is read.
IMAGE_SETS = {
    "mnist": _idx,
    "fashion_mnist": _idx,
    "usps": _usps,
    "mnist_m": _mnist_m,
    "mnist_m_rebuilt": _rebuilt,
    "svhn": _svhn,
}


def _check(kind: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"unknown {kind} '{value}'; allowed: {', '.join(allowed)}")
