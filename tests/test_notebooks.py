"""The stored form of notebooks: what it keeps of the pictures in them."""

import base64
import io
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

from reprobook.notebooks import light, read_notebook, stored
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


def made_light(picture, **more):
    """A picture as a light notebook holds it, and how many bytes it takes before and after."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, **more)
    png = base64.b64encode(file.getvalue()).decode()
    output = nbformat.v4.new_output("display_data", {"image/png": png})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x()", outputs=[output])])
    (cell,) = nbformat.reads(light(nbformat.writes(notebook)), as_version=4).cells
    kept = cell.outputs[0].data["image/png"]
    return Image.open(io.BytesIO(base64.b64decode(kept))), len(png), len(kept)


def pixels(picture, mode="RGB"):
    return np.asarray(picture.convert(mode)).astype(float)


def test_moving_pictures_keep_their_frames():
    frames = [Image.new("RGB", (8, 8), (60 * k, 0, 0)) for k in range(4)]
    after, _, _ = made_light(frames[0], save_all=True, append_images=frames[1:], duration=60)
    assert after.n_frames == 4


def test_pictures_with_few_colors_keep_every_pixel():
    before = Image.fromarray(np.random.default_rng(0).integers(0, 3, (40, 60, 3), dtype=np.uint8) * 80)
    after, size_before, size_after = made_light(before)
    assert np.array_equal(pixels(before), pixels(after))
    assert size_after < size_before


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_plots_look_the_same_and_weigh_less_than_half(mode):
    plot = Image.new("RGB", (1600, 1200), "white")
    draw = ImageDraw.Draw(plot)
    for k in range(12):
        color = (20 * k, 255 - 20 * k, (90 * k) % 256)
        draw.line([(0, 100 * k), (1600, 1200 - 60 * k)], color, 9)
        draw.ellipse([130 * k, 500, 130 * k + 90, 590], color)
    draw.rectangle([1500, 20, 1520, 40], (255, 0, 255))  # small, and of a color of its own
    before = plot.resize((800, 600), Image.Resampling.LANCZOS).convert(mode)
    after, size_before, size_after = made_light(before)
    moved = pixels(before) - pixels(after)
    assert (moved**2).mean((0, 1)).max() <= 2**2
    assert np.abs(moved[15, 755]).max() <= 8
    assert size_after < size_before / 2


def test_small_marks_of_many_colors_keep_theirs():
    plot = Image.new("RGB", (800, 800), "white")
    colors = [(60 * r, 60 * g, 60 * b) for r in range(4) for g in range(4) for b in range(3)]
    for k, color in enumerate(colors):
        ImageDraw.Draw(plot).rectangle([15 * k, 15 * k, 15 * k + 5, 15 * k + 5], color)
    after, _, _ = made_light(plot)
    assert np.abs(pixels(plot) - pixels(after)).max() <= 8


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_photographs_and_transparent_pictures_keep_every_pixel(mode):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, len(mode)), dtype=np.uint8)
    after, _, _ = made_light(Image.fromarray(noise))
    assert np.array_equal(pixels(after, mode), noise)


def test_notebooks_are_checked_without_the_grammar_of_addresses():
    code = (
        "import sys; from reprobook.notebooks import spare_grammar; spare_grammar()\n"
        "import nbformat, papermill\n"
        "assert sys.modules['rfc3987_syntax'] is None and 'lark' not in sys.modules\n"
        "nbformat.v4.new_code_cell('x()', execution_count='one')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "On instance['execution_count']:\n'one'" in done.stderr


def test_a_stored_warning_does_not_say_where_the_book_stands():
    warning = f"{book_root()}/lib/reprobook/papers/toy.py:3: UserWarning: rough\n"
    kept = stored_output(nbformat.v4.new_output("stream", name="stderr", text=warning))
    assert kept.text == "lib/reprobook/papers/toy.py:3: UserWarning: rough\n"
