"""MNIST-M as published, put together again, and with other patches.

The published files cannot be downloaded; they, MNIST and BSDS500 are looked for in ``REPROBOOK_DATA``.
"""

import hashlib

import numpy as np
import pytest

from reprobook.data import load_images
from reprobook.data.blending import difference
from reprobook.data.images import Images
from reprobook.data.loading import _photographs
from reprobook.data.mnist_m import MISSING, SEEDS, full_ink, published_mnist_m, rebuild_mnist_m
from reprobook.data.store import find_set
from reprobook.errors import UserError

FEW = 1500  # images that are enough for statistics


def need(*names: str) -> None:
    absent = [name for name in names if not find_set(name)]
    if absent:
        pytest.skip(f"not on this machine: {', '.join(absent)} (set REPROBOOK_DATA)")


@pytest.fixture(scope="module")
def published() -> Images:
    need("mnist_m")
    return load_images("mnist_m", "test")


@pytest.fixture(scope="module")
def digits() -> Images:
    need("mnist")
    return load_images("mnist", "test")


@pytest.fixture(scope="module")
def rebuilt() -> Images:
    need("mnist", "bsds500")
    return load_images("mnist_m_rebuilt", "test")


def roughness(images: np.ndarray) -> float:
    """Return how much neighbouring pixels differ, on average."""
    images = images.astype(np.int16)
    return sum(np.abs(np.diff(images, axis=axis)).mean() for axis in (-1, -2))


def undone(images: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Return the patches if ``ink`` is where the images are inverted."""
    return np.where(ink[:, None], 255 - images, images)


# --------------------------------------------------------------------------- without any file


def test_any_ink_is_full_ink_in_the_middle_of_a_larger_square():
    digit = np.zeros((1, 28, 28), np.uint8)
    digit[0, 0, 0], digit[0, 27, 5], digit[0, 10, 10] = 1, 128, 255
    ink = full_ink(digit)
    assert ink.shape == (1, 32, 32)
    assert np.argwhere(ink[0] == 255).tolist() == [[2, 2], [12, 12], [29, 7]]
    assert ink.sum() == 3 * 255


def test_photographs_decoded_in_another_way_are_noticed():
    wrong = [np.zeros((481, 481, 3), np.uint8)] * 200
    digits = Images(np.zeros((10_000, 1, 28, 28), np.uint8), np.zeros(10_000, np.int64))
    with pytest.raises(UserError, match="other pixels than published: use mnist_m_rebuilt"):
        published_mnist_m(digits, wrong, "test")


# --------------------------------------------------------------------------- how the published set was made


def test_an_image_shows_the_digit_that_its_index_names(published, digits):
    np.testing.assert_array_equal(published.labels, digits.labels[published.ids])
    np.testing.assert_array_equal(published.ids, np.delete(np.arange(9001), MISSING["test"]))
    ink = full_ink(digits.images[published.ids[:FEW], 0]) > 0
    right = roughness(undone(published.images[:FEW], ink))
    wrong = roughness(undone(published.images[:FEW], np.roll(ink, 1, axis=0)))
    assert right < 0.6 * wrong


def test_the_published_digits_are_binary_at_the_lowest_threshold(published, digits):
    """Undoing the inversion leaves smooth photographs only if it is undone exactly where it was done."""
    grey = np.pad(digits.images[published.ids[:FEW], 0], ((0, 0), (2, 2), (2, 2)))
    rough = [roughness(undone(published.images[:FEW], grey > t)) for t in (0, 1, 8, 32, 64, 128)]
    assert rough == sorted(rough)
    assert rough[0] < 0.6 * rough[-1]


def test_the_published_digits_stand_in_the_middle(published, digits):
    ink = full_ink(digits.images[published.ids[:FEW], 0]) > 0
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    rough = [roughness(undone(published.images[:FEW], np.roll(ink, s, axis=(1, 2)))) for s in shifts]
    assert shifts[int(np.argmin(rough))] == (0, 0)


@pytest.mark.parametrize(
    "split", ["test", pytest.param("train", marks=pytest.mark.slow)]
)  # the training set takes some ten seconds to unpack
def test_the_published_set_comes_out_of_mnist_and_bsds500_byte_for_byte(split):
    need("mnist_m", "mnist", "bsds500")
    published = load_images("mnist_m", split)
    ours = published_mnist_m(load_images("mnist", split), _photographs(), split)
    for field in ("images", "labels", "ids"):
        one, two = getattr(published, field), getattr(ours, field)
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)


def test_without_the_published_files_the_loader_puts_the_same_set_together(published, tmp_path, monkeypatch):
    import os

    need("mnist", "bsds500")
    for name in ("mnist", "bsds500"):
        folder = next(iter(find_set(name).values())).parent
        (tmp_path / name).symlink_to(folder if name == "mnist" else folder.parent, target_is_directory=True)
    monkeypatch.setitem(os.environ, "REPROBOOK_DATA", str(tmp_path))
    monkeypatch.setitem(os.environ, "REPROBOOK_CACHE", str(tmp_path / "cache"))
    assert find_set("mnist_m") is None
    ours = load_images("mnist_m", "test")
    assert hashlib.sha256(ours.images).digest() == hashlib.sha256(published.images).digest()


# --------------------------------------------------------------------------- published and rebuilt


def test_the_rebuilt_set_has_every_digit_of_mnist_and_other_patches(published, rebuilt, digits):
    np.testing.assert_array_equal(rebuilt.labels, digits.labels)
    np.testing.assert_array_equal(rebuilt.ids, np.arange(10_000))
    np.testing.assert_array_equal(rebuilt.labels[published.ids], published.labels)
    same = (rebuilt.images[published.ids] == published.images).all((1, 2, 3))
    assert same.mean() < 0.01


def test_each_split_of_the_rebuilt_set_has_a_draw_of_its_own(rebuilt, digits):
    few = Images(digits.images[:20], digits.labels[:20])
    mine, other = (rebuild_mnist_m(few, _photographs(), SEEDS[split]).images for split in ("test", "train"))
    np.testing.assert_array_equal(rebuilt.images[:20], mine)
    assert not np.array_equal(mine, other)


def statistics(images: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation of every channel, and how rough the images are, ``(7,)``."""
    pixels = images.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    return np.array([*pixels.mean(1), *pixels.std(1), roughness(images)])


def standard_error(images: np.ndarray) -> np.ndarray:
    """Return the standard error of :func:`statistics`, from groups of images."""
    groups = np.array([statistics(part) for part in np.array_split(images, 20)])
    return groups.std(0, ddof=1) / np.sqrt(20)


def test_published_and_rebuilt_images_have_the_same_statistics(published, rebuilt):
    one, two = published.images[:FEW], rebuilt.images[:FEW]
    error = np.hypot(standard_error(one), standard_error(two))
    assert (np.abs(statistics(one) - statistics(two)) < 4 * error).all()


@pytest.mark.parametrize("mistake", ["grey edges", "wrapped around", "no inversion"])
def test_a_mistake_in_the_recipe_would_show_in_the_statistics(published, rebuilt, digits, mistake):
    grey = np.pad(digits.images[:FEW, 0], ((0, 0), (2, 2), (2, 2)))
    ink = full_ink(digits.images[:FEW, 0])
    patches = undone(rebuilt.images[:FEW], ink > 0).astype(np.uint8)
    wrong = {
        "grey edges": lambda: difference(grey, patches),
        "wrapped around": lambda: grey[:, None] - patches,  # in bytes, without the absolute value
        "no inversion": lambda: np.maximum(ink[:, None], patches),
    }[mistake]()
    right = published.images[:FEW]
    error = np.hypot(standard_error(right), standard_error(wrong))
    assert (np.abs(statistics(right) - statistics(wrong)) > 6 * error).any()


def test_a_rebuilt_set_follows_its_seed(digits):
    need("bsds500")
    photos = _photographs()
    few = Images(digits.images[:20], digits.labels[:20])
    one, again, other = (rebuild_mnist_m(few, photos, seed).images for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
