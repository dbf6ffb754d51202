"""Readers of formats, on small files of each format that the test makes."""

import bz2
import gzip
import lzma
import struct

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from reprobook.data import formats
from reprobook.errors import UserError


def idx(array: np.ndarray) -> bytes:
    """Return an array in the idx format, written from its definition."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


# --------------------------------------------------------------------------- idx


@pytest.mark.parametrize("shape", [(7,), (3, 28, 28), (2, 300, 5)])
def test_idx_gives_back_what_was_written(tmp_path, rng, shape):
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(formats.read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: gzip.compress(b)[:-20], "is not a gzip file, or is cut off"),
        (lambda b: b, "is not a gzip file"),
        (lambda b: gzip.compress(b[:-1]), "its header promises (2, 3) values, 5 bytes follow"),
        (lambda b: gzip.compress(b + b"x"), "7 bytes follow"),
        (lambda b: gzip.compress(b"\0\0\x0d" + b[3:]), "is not an idx file of unsigned bytes"),
        (lambda b: gzip.compress(b[:9]), "is not an idx file of unsigned bytes"),
        (lambda b: gzip.compress(b""), "is not an idx file of unsigned bytes"),
    ],
)
def test_a_damaged_idx_file_is_told_in_one_line(tmp_path, damage, message):
    content = damage(idx(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError) as error:
        formats.read_idx(tmp_path / "a.gz")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------- USPS


def usps_hdf5(path, steps: np.ndarray, labels: np.ndarray, split: str) -> None:
    """Write images given in steps 0..2000 as the HDF5 edition has them: float32, multiples of 1/2000."""
    with h5py.File(path, "w") as file:
        file[f"{split}/data"] = (steps / 2000).astype(np.float32)
        file[f"{split}/target"] = labels.astype(np.int32)


def usps_libsvm(path, steps: np.ndarray, labels: np.ndarray) -> None:
    """Write them as LIBSVM has them: in [-1, 1] with three decimals, features and labels from 1."""
    rows = [
        f"{label + 1} " + " ".join(f"{k}:{step / 1000 - 1:.3f}" for k, step in enumerate(row, 1))
        for row, label in zip(steps, labels, strict=True)
    ]
    path.write_bytes(bz2.compress(("\n".join(rows) + "\n").encode()))


def test_both_editions_of_usps_give_the_same_bytes_for_every_grey_value(tmp_path):
    steps = np.resize(np.arange(2001), (8, 256))  # all of them
    labels = np.array([6, 5, 4, 7, 3, 0, 9, 1])
    usps_hdf5(tmp_path / "usps.h5", steps, labels, "test")
    usps_libsvm(tmp_path / "usps.t.bz2", steps, labels)
    one = formats.read_usps_hdf5(tmp_path / "usps.h5", "test")
    two = formats.read_usps_libsvm(tmp_path / "usps.t.bz2")
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one[1], labels)


def test_usps_bytes_are_the_nearest_to_the_grey_value_and_reach_both_ends(tmp_path):
    steps = np.resize(np.arange(2001), (8, 256))
    usps_hdf5(tmp_path / "usps.h5", steps, np.zeros(8), "train")
    images, _ = formats.read_usps_hdf5(tmp_path / "usps.h5", "train")
    assert images.shape == (8, 16, 16)
    error = np.abs(images.reshape(8, 256) - steps * 255 / 2000)
    assert error.max() <= 0.5 + 1e-9
    assert images.min() == 0
    assert images.max() == 255


# --------------------------------------------------------------------------- the others


def test_svhn_moves_the_images_to_the_front_and_ten_means_zero(tmp_path, rng):
    images = rng.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    labels = np.array([10, 1, 9, 10, 5])
    content = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)}
    savemat(tmp_path / "train_32x32.mat", content)
    read, classes = formats.read_svhn(tmp_path / "train_32x32.mat")
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(classes, [0, 1, 9, 0, 5])
    assert (read.dtype, classes.dtype) == (np.uint8, np.int64)


def test_svmlight_counts_columns_from_zero_also_where_the_first_and_last_are_empty(tmp_path):
    (tmp_path / "a.svmlight").write_text("1 1:6 3:2\n-1 2:1\n1 \n")
    table, labels = formats.read_svmlight(tmp_path / "a.svmlight", num_features=5)
    np.testing.assert_array_equal(table.toarray(), [[0, 6, 0, 2, 0], [0, 0, 1, 0, 0], [0] * 5])
    np.testing.assert_array_equal(labels, [1, 0, 1])
    assert table.dtype == np.float32


def test_an_array_packed_with_xz_comes_back(tmp_path, rng):
    array = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with lzma.open(tmp_path / "a.npy.xz", "wb") as file:
        np.save(file, array)
    np.testing.assert_array_equal(formats.read_npy_xz(tmp_path / "a.npy.xz"), array)


def test_an_array_of_objects_is_refused(tmp_path):
    with lzma.open(tmp_path / "a.npy.xz", "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        formats.read_npy_xz(tmp_path / "a.npy.xz")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
