"""Data that needs no download: moons, digits, patches, blends, fonts."""

import numpy as np
import pytest

from reprobook.data import (
    blend,
    fonts,
    handwritten_digits,
    photographs,
    random_patches,
    rendered_digits,
    two_moons,
)
from reprobook.data.blending import cut_patches, difference
from reprobook.data.fonts import FONTS, _glyph
from reprobook.errors import UserError

# --------------------------------------------------------------------------- moons and digits


def test_moons_without_noise_lie_on_their_half_circles():
    points, labels = two_moons(50, noise=0.0, seed=0)
    upper, lower = points[labels == 0], points[labels == 1]
    assert len(upper) == len(lower) == 50
    np.testing.assert_allclose(np.hypot(*upper.T), 1, atol=1e-12)
    np.testing.assert_allclose(np.hypot(*(lower - [1, 0.5]).T), 1, atol=1e-12)
    assert upper[:, 1].min() > -1e-12
    assert lower[:, 1].max() < 0.5 + 1e-12


def test_the_noise_of_the_moons_has_the_asked_for_size_and_follows_the_seed():
    points, labels = two_moons(4000, noise=0.05, seed=3)
    radius = np.hypot(*points[labels == 0].T)
    assert np.std(radius) == pytest.approx(0.05, rel=0.05)
    np.testing.assert_array_equal(two_moons(40, 0.1, 7)[0], two_moons(40, 0.1, 7)[0])
    assert not np.array_equal(two_moons(40, 0.1, 7)[0], two_moons(40, 0.1, 8)[0])


def test_moons_come_in_random_order():
    labels = two_moons(100, 0.1, 0)[1]
    assert 50 < np.count_nonzero(np.diff(labels)) < 150


def test_handwritten_digits_are_scikit_learns_stretched_to_bytes():
    from sklearn.datasets import load_digits

    ours, theirs = handwritten_digits(), load_digits()
    assert ours.images.shape == (1797, 1, 8, 8)
    np.testing.assert_array_equal(ours.labels, theirs.target)
    assert np.abs(ours.images[:, 0] / 255 - theirs.images / 16).max() <= 0.5 / 255 + 1e-12
    assert set(np.unique(ours.images)) == {round(255 * k / 16) for k in range(17)}


def test_there_are_two_photographs_in_colour():
    for photo in photographs():
        assert (photo.shape, photo.dtype) == ((427, 640, 3), np.uint8)
        assert photo.std(axis=2).mean() > 1  # not grey


# --------------------------------------------------------------------------- patches and blends


def coordinates(height: int, width: int, number: int) -> np.ndarray:
    """Return a photograph in which every pixel says where it is: row, column, number of the photograph."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


def test_a_patch_is_an_upright_piece_of_one_photograph():
    photos = [coordinates(40, 60, 0), coordinates(70, 30, 1)]
    patches = random_patches(photos, 500, (8, 12), seed=0)
    assert patches.shape == (500, 3, 8, 12)
    rows, columns, number = patches[:, 0].astype(int), patches[:, 1].astype(int), patches[:, 2]
    np.testing.assert_array_equal(rows - rows[:, :1, :1], np.mgrid[:8, :12][0][None].repeat(500, 0))
    np.testing.assert_array_equal(columns - columns[:, :1, :1], np.mgrid[:8, :12][1][None].repeat(500, 0))
    assert (number == number[:, :1, :1]).all()


def test_photographs_and_places_are_uniform_up_to_the_last_row_and_column():
    photos = [coordinates(10, 14, 0), coordinates(12, 9, 1)]
    corner = random_patches(photos, 60_000, (8, 8), seed=1)[:, :, 0, 0]
    for number, (rows, columns) in enumerate([(3, 7), (5, 2)]):
        mine = corner[corner[:, 2] == number]
        counts = np.zeros((rows, columns))
        np.add.at(counts, (mine[:, 0], mine[:, 1]), 1)
        expected = 30_000 / (rows * columns)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_the_first_patches_do_not_depend_on_how_many_are_drawn():
    photos = photographs()
    few, many = (random_patches(photos, n, (8, 8), seed=4) for n in (5, 50))
    np.testing.assert_array_equal(few, many[:5])
    assert not np.array_equal(few, random_patches(photos, 5, (8, 8), seed=5))


def test_a_patch_is_cut_where_it_is_asked_for():
    photos = [coordinates(40, 60, 0), coordinates(70, 30, 1)]
    (patch,) = cut_patches(photos, np.array([[1, 20, 5]]), (4, 6))
    assert patch[:, 0, 0].tolist() == [20, 5, 1]
    assert patch[:, -1, -1].tolist() == [23, 10, 1]


def test_a_blend_is_the_difference_to_the_patch_in_every_channel():
    digits = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    patches = random_patches(photographs(), 30, (8, 8), seed=2)
    by_hand = np.abs(digits[:, None].astype(int) - patches.astype(int))
    np.testing.assert_array_equal(blend(digits, photographs(), seed=2), by_hand)


def test_no_ink_shows_the_patch_and_full_ink_its_negative():
    patches = random_patches(photographs(), 9, (8, 8), seed=0)
    none, full = np.zeros((9, 8, 8), np.uint8), np.full((9, 8, 8), 255, np.uint8)
    np.testing.assert_array_equal(blend(none, photographs(), 0), patches)
    np.testing.assert_array_equal(blend(full, photographs(), 0), 255 - patches)


def test_blending_changes_neither_digits_nor_patches():
    digits, patches = np.full((2, 4, 4), 200, np.uint8), np.full((2, 3, 4, 4), 90, np.uint8)
    assert (difference(digits, patches) == 110).all()
    assert (digits == 200).all()
    assert (patches == 90).all()


def test_patches_that_fit_in_no_photograph_are_refused():
    with pytest.raises(UserError, match="patches of 32×32 pixels need photographs at least as large"):
        random_patches([coordinates(40, 31, 0)], 1, (32, 32), 0)
    with pytest.raises(UserError, match="at least as large"):
        random_patches([], 1, (32, 32), 0)
    assert random_patches([coordinates(32, 32, 0)], 1, (32, 32), 0).shape == (1, 3, 32, 32)


# --------------------------------------------------------------------------- rendered digits


def test_the_first_rendered_digits_do_not_depend_on_how_many_are_drawn():
    few, many = rendered_digits(6, 16, seed=3), rendered_digits(60, 16, seed=3)
    np.testing.assert_array_equal(few.images, many.images[:6])
    np.testing.assert_array_equal(few.labels, many.labels[:6])
    assert not np.array_equal(few.images, rendered_digits(6, 16, seed=4).images)


def test_every_font_draws_ten_digits_that_differ():
    for font in FONTS:
        shapes = {_glyph(font, digit).tobytes() for digit in range(10)}
        assert len(shapes) == 10, font
        assert all(_glyph(font, digit).max() == 255 for digit in range(10))


def test_the_label_is_the_digit_that_is_drawn_and_each_is_drawn_in_every_font(monkeypatch):
    drawn, glyph = [], _glyph
    monkeypatch.setattr(fonts, "_glyph", lambda *which: (drawn.append(which), glyph(*which))[1])
    labels = rendered_digits(3000, 8, seed=0).labels
    assert [digit for _, digit in drawn] == labels.tolist()
    assert set(drawn) == {(font, digit) for font in FONTS for digit in range(10)}


def test_a_rendered_digit_has_two_colours_and_neither_ground_is_always_the_lighter():
    images = rendered_digits(300, 32, seed=0).images.astype(float)
    pixels = images.reshape(300, 3, -1)
    centred = pixels - pixels.mean(-1, keepdims=True)
    second = np.linalg.svd(centred, compute_uv=False)[:, 1]
    first = np.linalg.svd(centred, compute_uv=False)[:, 0]
    assert (second < 0.03 * first).all()  # every colour is a mixture of two, up to rounding
    corner, brightest = pixels[:, :, 0].mean(1), pixels.mean(1).max(-1)
    assert 0.3 < np.mean(corner > brightest - 20) < 0.7


def test_rendered_digits_can_be_told_apart():
    """The nearest of other drawings is mostly of the same digit; by chance, a tenth would be."""

    def ink(images: np.ndarray) -> np.ndarray:
        grey = np.abs(images.mean(1) - images[:, :, :1, :1].mean(1)).reshape(len(images), -1)
        return grey / np.linalg.norm(grey, axis=1, keepdims=True)

    known, asked = rendered_digits(3000, 16, seed=0), rendered_digits(200, 16, seed=1)
    nearest = (ink(asked.images) @ ink(known.images).T).argmax(1)
    assert np.mean(known.labels[nearest] == asked.labels) > 0.9
    assert np.bincount(known.labels, minlength=10).min() > 200


def test_without_colours_the_same_digits_are_white_on_black():
    plain, coloured = (rendered_digits(50, 16, seed=2, coloured=c) for c in (False, True))
    np.testing.assert_array_equal(plain.labels, coloured.labels)
    assert (plain.images == plain.images[:, :1]).all()
    assert np.median(plain.images, axis=(1, 2, 3)).max() < 40  # more paper than ink
    assert (plain.images.max((1, 2, 3)) > 150).mean() > 0.9
    ink, colours = plain.images[:, 0].astype(float), coloured.images.mean(1)
    shared = [abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ink, colours, strict=True)]
    assert min(shared) > 0.99  # the same drawing below the colours
