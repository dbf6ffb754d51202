"""Pairs of image domains: where the labels are, and where the classifier shall work (Sec. 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from reprobook.data import Images, blend, load_images, photographs, rendered_digits
from reprobook.papers.dann.training import Labelled

__all__ = ["Shift", "SHIFTS", "OVERLAPS", "load_shift", "fitted"]


class Shift(NamedTuple):
    """A source and a target domain, images of one size in three channels.

    The labels of ``target`` are for the baseline "train on target" alone.
    """

    source: Labelled
    source_test: Labelled
    target: Labelled
    target_test: Labelled


#: Which digits the target is made of: all there are, half of them and the same half as the source, or
#: the other half. The published MNIST-M is made of the very digits of MNIST, so the source holds the
#: target's digits, with labels.
OVERLAPS = ("all", "shared", "disjoint")


def load_shift(name: str, size: int, overlap: str = "all", device: torch.device | str = "cpu") -> Shift:
    """Load a pair of domains.

    Args:
        name: a key of :data:`SHIFTS`.
        size: side of the images, pixels.
        overlap: one of :data:`OVERLAPS`; other than ``all`` only where the target is made of MNIST's digits.
        device: where the images are kept, as bytes.

    Raises:
        UserError: if the data are not here and cannot be downloaded.
        ValueError: if an overlap is asked for that this pair cannot have.
    """
    parts = SHIFTS[name]()
    if overlap != "all":
        parts = _halved(parts, overlap == "shared")
    return Shift(*(_labelled(part, size, device) for part in parts))


def _mnist_m(published: bool = True) -> tuple[Images, ...]:
    target = "mnist_m" if published else "mnist_m_rebuilt"
    return tuple(load_images(name, split) for name in ("mnist", target) for split in ("train", "test"))


def _usps(first: str, second: str) -> tuple[Images, ...]:
    return tuple(load_images(name, split) for name in (first, second) for split in ("train", "test"))


@cache
def _digits_on_photographs() -> tuple[Images, ...]:
    """Return digits drawn from fonts, and others of that kind blended with photographs as in MNIST-M."""
    plain = [rendered_digits(num, 16, seed, coloured=False) for seed, num in enumerate((3000, 1000) * 2)]
    for seed, part in enumerate(plain[2:]):
        on_photographs = blend(part.images[:, 0], photographs(), seed)
        plain[2 + seed] = Images(on_photographs, part.labels)
    return tuple(plain)


#: How to load a pair: source, source's test, target, target's test. Digits drawn from fonts to digits on
#: photographs (built in); MNIST to MNIST-M, as published or rebuilt; MNIST to USPS, and back.
SHIFTS: dict[str, Callable[[], tuple[Images, ...]]] = {
    "digits": _digits_on_photographs,
    "mnist_m": _mnist_m,
    "mnist_m_rebuilt": lambda: _mnist_m(published=False),
    "usps": lambda: _usps("mnist", "usps"),
    "from_usps": lambda: _usps("usps", "mnist"),
}


def _halved(parts: tuple[Images, ...], shared: bool) -> tuple[Images, ...]:
    """Keep half of MNIST's digits as the source; in the target either the same or the other ones."""
    source, source_test, target, target_test = parts
    if target.ids is None or target.ids.max() >= len(source.images):
        raise ValueError("the target is not made of the source's digits, so there is no overlap to choose")
    middle = len(source.images) // 2
    kept = (target.ids < middle) == shared
    return (
        Images(source.images[:middle], source.labels[:middle], None),
        source_test,
        Images(target.images[kept], target.labels[kept], target.ids[kept]),
        target_test,
    )


def _labelled(part: Images, size: int, device: torch.device | str) -> Labelled:
    images = fitted(torch.from_numpy(part.images), size).expand(-1, 3, -1, -1)
    return Labelled(images.contiguous().to(device), torch.from_numpy(part.labels).to(device))


def fitted(images: Tensor, size: int) -> Tensor:
    """Bring images to a size: digits in a frame are cropped or framed, smaller formats are enlarged.

    Args:
        images: uint8 ``(N, C, H, H)``.
        size: side, pixels. MNIST's 28 and MNIST-M's 32 pixels differ by a frame of 2 pixels only, so a
            difference of up to 4 pixels is cropped off, or filled with black.

    Returns:
        uint8 ``(N, C, size, size)``.
    """
    side = images.shape[-1]
    if abs(side - size) <= 4:
        return pad(images, [(size - side) // 2] * 4)
    larger = interpolate(
        images.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return larger.round().clamp(0, 255).to(torch.uint8)
