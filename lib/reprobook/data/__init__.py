"""Data sets: built in, generated, or downloaded once and checked by hash.

Arrays are NumPy's, images are bytes, and nothing here knows of torch.
"""

from reprobook.data.blending import blend, random_patches
from reprobook.data.builtin import handwritten_digits, photographs, two_moons
from reprobook.data.fonts import rendered_digits
from reprobook.data.images import Images
from reprobook.data.loading import load_images, load_reviews

__all__ = [
    "Images",
    "two_moons",
    "handwritten_digits",
    "photographs",
    "random_patches",
    "blend",
    "rendered_digits",
    "load_images",
    "load_reviews",
]
