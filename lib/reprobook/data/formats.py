"""Readers of the formats that data sets come in: one function a format, from a file to arrays."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["read_idx", "read_usps_hdf5", "read_usps_libsvm", "read_npy_xz", "read_svhn", "read_svmlight"]


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of bytes, as MNIST comes in.

    The header is two zero bytes, the type (8 for unsigned bytes), the number of dimensions, and each
    dimension as a big-endian 32-bit integer; the values follow, last dimension fastest.

    Returns:
        The array, uint8.

    Raises:
        UserError: if the file is not that.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a gzip file, or is cut off: {error}") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise UserError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise UserError(f"{path}: its header promises {shape} values, {len(content) - start} bytes follow")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_usps_hdf5(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read USPS from its HDF5 file, whose values are multiples of 1/2000 in [0, 1].

    Args:
        path: the file, with the groups ``train`` and ``test`` of ``data`` and ``target``.
        split: ``train`` or ``test``.

    Returns:
        Images, uint8 ``(N, 16, 16)``; and labels, int64 ``(N,)``.
    """
    import h5py

    with h5py.File(path) as file:
        grey, labels = file[split]["data"][:], file[split]["target"][:]
    return _usps_bytes(grey.astype(np.float64) * 2000), labels.astype(np.int64)


def read_usps_libsvm(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of USPS from its file in LIBSVM's format: values in [-1, 1], labels 1..10 for 0..9.

    Returns:
        The same arrays as :func:`read_usps_hdf5`.
    """
    from sklearn.datasets import load_svmlight_file

    grey, labels = load_svmlight_file(str(path), n_features=256, zero_based=False)
    return _usps_bytes((grey.toarray() + 1) * 1000), labels.astype(np.int64) - 1


def _usps_bytes(steps: np.ndarray) -> np.ndarray:
    """Turn grey values 0..2000 into bytes, rounded half up; whole numbers, so both formats agree."""
    return ((np.rint(steps).astype(np.int64) * 255 + 1000) // 2000).astype(np.uint8).reshape(-1, 16, 16)


def read_npy_xz(path: Path) -> np.ndarray:
    """Read an array stored in NumPy's own format and packed with xz."""
    import lzma

    with lzma.open(path) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)


def read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read SVHN's cropped digits from its official MATLAB file.

    Args:
        path: a file with ``X``, uint8 ``(32, 32, 3, N)``, and ``y``, ``(N, 1)``, where 10 stands for digit 0.

    Returns:
        Images, uint8 ``(N, 3, 32, 32)``; and labels, int64 ``(N,)``.
    """
    from scipy.io import loadmat

    content = loadmat(path, variable_names=["X", "y"])
    images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
    return images, content["y"].ravel().astype(np.int64) % 10


def read_svmlight(path: Path, num_features: int) -> tuple[csr_matrix, np.ndarray]:
    """Read a sparse table with labels ±1, its columns counted from zero.

    Returns:
        The features, a float32 ``csr_matrix`` of shape ``(N, num_features)``; and labels, int64 ``(N,)``: 1
        for +1, 0 for -1.
    """
    from sklearn.datasets import load_svmlight_file

    table, signs = load_svmlight_file(str(path), n_features=num_features, dtype=np.float32, zero_based=True)
    return table, (signs > 0).astype(np.int64)
