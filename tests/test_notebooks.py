"""The stored form of notebooks: what it keeps of the pictures in them."""

import base64
import io

import nbformat
import numpy as np
from PIL import Image

from reprobook.notebooks import read_notebook, stored
from reprobook.paths import book_root
from reprobook.records import Record

RECORD = Record(
    schema=1, chapter="toy", tier="laptop", parameters={}, status="finished", error=None, claims=[],
    started="2026-01-01T00:00:00Z", wall_seconds=1.0, peak_memory_mib=1, machine="", device="cpu",
    versions={}, commit=None, stamp="",
)  # fmt: skip


def stored_output(output):
    """One cell's output after it went through the stored form."""
    source = read_notebook(
        nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x()")]))
    )
    ran = nbformat.from_dict(source)
    ran.cells[0].outputs = [output]
    return nbformat.reads(stored(source, ran, RECORD), as_version=4).cells[0].outputs[0]


def test_moving_pictures_keep_their_frames():
    frames = [Image.new("RGB", (8, 8), (60 * k, 0, 0)) for k in range(4)]
    film = io.BytesIO()
    frames[0].save(film, "PNG", save_all=True, append_images=frames[1:], duration=60)
    png = base64.b64encode(film.getvalue()).decode()
    kept = stored_output(nbformat.v4.new_output("display_data", {"image/png": png})).data["image/png"]
    assert Image.open(io.BytesIO(base64.b64decode(kept))).n_frames == 4


def test_stored_pictures_keep_every_pixel_and_do_not_grow():
    pixels = np.random.default_rng(0).integers(0, 4, (40, 60, 3), dtype=np.uint8) * 60
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, "PNG", compress_level=0)
    png = base64.b64encode(plain.getvalue()).decode()
    kept = stored_output(nbformat.v4.new_output("display_data", {"image/png": png})).data["image/png"]
    assert len(kept) < len(png)
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(kept)))), pixels)


def test_a_stored_warning_does_not_say_where_the_book_stands():
    warning = f"{book_root()}/lib/reprobook/papers/toy.py:3: UserWarning: rough\n"
    kept = stored_output(nbformat.v4.new_output("stream", name="stderr", text=warning))
    assert kept.text == "lib/reprobook/papers/toy.py:3: UserWarning: rough\n"
