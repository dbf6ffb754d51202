"""CIFAR-100 and ImageNet at 32×32: what their loaders read, and what they refuse."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from reprobook.data.catalogue import CATALOGUE, DataSet, File
from reprobook.data.cifar100 import load_cifar100
from reprobook.data.imagenet32 import load_imagenet32
from reprobook.errors import UserError

LOADERS = {"cifar100": load_cifar100, "imagenet32": load_imagenet32}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROBOOK_DATA", str(tmp_path))
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "imagenet32").mkdir()
    (tmp_path / "cifar100").mkdir()
    return tmp_path


@pytest.fixture
def publish(folder, monkeypatch):
    """Return a function that writes an archive of CIFAR-100's name and has the catalogue expect it."""

    def write(members):
        path = folder / "cifar100" / "cifar-100-binary.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members.items():
                entry = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        content = path.read_bytes()
        file = File(f"cifar100/{path.name}", len(content), hashlib.sha256(content).hexdigest())
        words = dict.fromkeys(("title", "shape", "purpose", "licence", "citation"), "toy")
        monkeypatch.setitem(CATALOGUE, "cifar100", DataSet("cifar100", **words, editions=((file,),)))

    return write


def validation(folder, data, labels):
    np.savez(folder / "imagenet32" / "val_data.npz", data=data, labels=labels)


def test_the_fine_label_of_cifar100_is_the_second_byte(publish):
    rows = np.random.default_rng(0).integers(0, 20, (3, 3074), dtype=np.uint8)
    rows[:, 1] = [99, 0, 42]
    publish({"train": rows.tobytes(), "test": rows[::-1].tobytes()})
    train, test = load_cifar100("train"), load_cifar100("test")
    assert (train.labels.tolist(), test.labels.tolist()) == ([99, 0, 42], [42, 0, 99])
    assert train.images[1, 2, 5, 7] == rows[1, 2 + 2 * 1024 + 5 * 32 + 7]  # blue, sixth row, eighth column


def test_imagenets_labels_count_from_zero_and_its_parts_follow_their_numbers(folder):
    data = np.arange(12, dtype=np.uint8)[:, None].repeat(3072, 1)
    for i in range(10):
        path = folder / "imagenet32" / f"train_data_batch_{i + 1}.npz"
        np.savez(path, data=data[i : i + 1], labels=np.array([100 * i + 1]))
    validation(folder, data[10:], np.array([1, 1000]))
    train, test = load_imagenet32("train"), load_imagenet32("test")
    assert train.labels.tolist() == [100 * i for i in range(10)]
    assert train.images[:, 1, 3, 4].tolist() == list(range(10))
    assert test.labels.tolist() == [0, 999]


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_an_unknown_split_is_named(load):
    with pytest.raises(UserError, match="unknown split 'val'; allowed: train, test"):
        load("val")


def test_imagenet_that_is_not_here_says_what_to_put_where(folder, monkeypatch):
    with pytest.raises(UserError, match=r"image-net.org.*val_data.npz into imagenet32/.*REPROBOOK_DATA"):
        load_imagenet32("test")
    monkeypatch.delenv("REPROBOOK_DATA")
    with pytest.raises(UserError, match=r"put train_data_batch_1.npz, .*train_data_batch_10.npz into"):
        load_imagenet32("train")


BROKEN = {
    "labels from zero": (np.zeros((2, 3072), np.uint8), np.array([0, 1])),
    "a label too large": (np.zeros((2, 3072), np.uint8), np.array([1, 1001])),
    "pixels of 64×64": (np.zeros((2, 12288), np.uint8), np.array([1, 2])),
    "pixels as numbers": (np.zeros((2, 3072)), np.array([1, 2])),
    "a label too few": (np.zeros((2, 3072), np.uint8), np.array([1])),
    "nothing": (np.zeros((0, 3072), np.uint8), np.array([], np.int64)),
}


@pytest.mark.parametrize(("data", "labels"), BROKEN.values(), ids=BROKEN)
def test_arrays_of_another_form_are_refused(folder, data, labels):
    validation(folder, data, labels)
    with pytest.raises(UserError, match=r"val_data.npz is not of ImageNet's NumPy edition: no rows of 3072"):
        load_imagenet32("test")


def test_files_of_another_kind_are_refused_in_one_line(folder, publish):
    path = folder / "imagenet32" / "val_data.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(UserError, match="not of ImageNet's NumPy edition"):
        load_imagenet32("test")
    np.savez(path, pixels=np.zeros(3))
    with pytest.raises(UserError, match="not of ImageNet's NumPy edition"):
        load_imagenet32("test")
    publish({"train": b"cut off"})
    for split in ("train", "test"):
        with pytest.raises(UserError, match="is not the binary edition of CIFAR-100") as caught:
            load_cifar100(split)
        assert "\n" not in str(caught.value)
