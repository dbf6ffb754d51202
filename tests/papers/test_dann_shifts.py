"""The pairs of image domains: which images they hold, and that test and training images are apart."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from reprobook.data import Images
from reprobook.papers.dann import shifts
from reprobook.papers.dann.shifts import fitted, load_shift


def made_up(num: int, size: int, channels: int, ids: np.ndarray | None = None, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, channels, size, size), dtype=np.uint8)
    return Images(images, np.arange(num) % 10 if ids is None else ids % 10, ids)


@pytest.fixture
def mnist_m(monkeypatch):
    """MNIST and MNIST-M with twenty digits, of which the target lacks two."""
    ids = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19])
    parts = {
        ("mnist", "train"): made_up(20, 28, 1),
        ("mnist", "test"): made_up(6, 28, 1, seed=1),
        ("mnist_m", "train"): made_up(18, 32, 3, ids, 2),
        ("mnist_m", "test"): made_up(6, 32, 3, np.arange(6), 3),
    }
    monkeypatch.setattr(shifts, "load_images", lambda name, split: parts[name, split])
    return parts


def test_source_and_target_test_and_training_are_what_they_are_called(mnist_m):
    shift = load_shift("mnist_m", 28)
    for part, key in zip(shift, mnist_m, strict=True):
        assert_close(part.labels, torch.from_numpy(mnist_m[key].labels))
        assert part.images.dtype == torch.uint8
        assert part.images.shape[1:] == (3, 28, 28)
    assert_close(shift.source.images[:, 1], torch.from_numpy(mnist_m["mnist", "train"].images[:, 0]))


@pytest.mark.parametrize(("overlap", "expected"), [("shared", range(10)), ("disjoint", range(10, 20))])
def test_the_target_is_made_of_the_sources_digits_or_of_others(mnist_m, overlap, expected):
    shift = load_shift("mnist_m", 28, overlap)
    ids = mnist_m["mnist_m", "train"].ids
    kept = [k for k, i in enumerate(ids) if i in expected]
    assert_close(shift.target.images, fitted(torch.from_numpy(mnist_m["mnist_m", "train"].images[kept]), 28))
    assert_close(shift.target.labels, torch.from_numpy(ids[kept] % 10))
    assert len(shift.source.labels) == 10
    assert len(shift.target_test.labels) == 6


def test_an_overlap_is_refused_where_there_are_no_digits_in_common():
    with pytest.raises(ValueError, match="no overlap to choose"):
        load_shift("digits", 16, "disjoint")


def test_no_test_image_of_the_built_in_pair_is_a_training_image():
    shift = load_shift("digits", 16)
    for train, test in ((shift.source, shift.source_test), (shift.target, shift.target_test)):
        seen = {x.numpy().tobytes() for x in train.images}
        assert not seen & {x.numpy().tobytes() for x in test.images}


def test_the_built_in_target_is_coloured_and_the_source_is_not():
    shift = load_shift("digits", 16)
    assert torch.equal(shift.source.images[:, 0], shift.source.images[:, 2])
    assert (shift.target.images[:, 0] != shift.target.images[:, 2]).float().mean() > 0.5
    assert shift.source.labels.unique().tolist() == shift.target.labels.unique().tolist() == list(range(10))


def test_a_frame_is_added_and_taken_away():
    x = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    framed = fitted(x, 32)
    assert framed.sum() == x.sum()
    assert torch.equal(framed[:, :, 2:30, 2:30], x)
    assert torch.equal(fitted(framed, 28), x)


def test_enlarging_keeps_what_is_constant_and_where_things_are():
    flat = torch.full((1, 1, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(fitted(flat, 28), torch.full((1, 1, 28, 28), 77, dtype=torch.uint8))
    corner = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    corner[..., :8, 8:] = 255
    large = fitted(corner, 28).float()
    assert large[..., :14, 14:].mean() > 240
    assert large[..., 14:, :14].mean() < 1
