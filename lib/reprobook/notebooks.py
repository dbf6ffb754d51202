"""The form in which an executed notebook is stored.

Only outputs and execution counts are taken from what papermill wrote; everything else is the notebook
that went in. So nothing that differs from run to run, or tells about the machine (paths, times,
environment), gets into the file, and rerunning an unchanged chapter changes nothing but its record.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reprobook.chapter import CLAIMS_MIME
from reprobook.paths import book_root
from reprobook.records import METADATA_KEY, Record

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from PIL.Image import Image

__all__ = [
    "spare_grammar",
    "read_notebook",
    "notebook_text",
    "stored",
    "measured_claims",
    "code_cells",
    "light",
    "first_error",
]

_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
_PASSING = {"papermill", "execution", "ExecuteTime"}
_INJECTED = "injected-parameters"
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)


def spare_grammar() -> None:
    """Make the first import of nbformat, and of papermill, more than a second shorter.

    For it, jsonschema imports what checks addresses, if that is installed, and this builds a large grammar.
    No notebook holds an address to check; without the module, jsonschema leaves that one check out.
    """
    sys.modules.setdefault("rfc3987_syntax", None)


def read_notebook(text: str) -> NotebookNode:
    """Return the notebook to be run: no outputs, no injected parameters, an identity for every cell."""
    spare_grammar()
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    notebook.cells = [c for c in notebook.cells if _INJECTED not in c.metadata.get("tags", [])]
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k not in ("widgets", METADATA_KEY)}
    notebook.metadata |= {"kernelspec": dict(_KERNEL), "language_info": dict(_LANGUAGE)}
    _drop_passing(notebook)
    for cell in notebook.cells:
        _drop_passing(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    _name_cells(notebook)
    return notebook


def notebook_text(notebook: Mapping) -> str:
    """Return a notebook as the text of its file, as nbformat writes it."""
    import nbformat

    return nbformat.writes(notebook).rstrip("\n") + "\n"


def stored(source: NotebookNode, ran: NotebookNode, record: Record) -> str:
    """Return the text of the executed notebook: the source with the outputs of a run, and its record.

    Args:
        source: the notebook that went in, from :func:`read_notebook`.
        ran: the same notebook as papermill wrote it, perhaps not to its end.
        record: the record of the run.
    """
    from copy import deepcopy

    notebook = deepcopy(source)
    executed = {c.id: c for c in ran.cells if c.cell_type == "code"}
    for cell in notebook.cells:
        if cell.id in executed:
            _take_outputs(cell, executed[cell.id])
    _insert_injected(notebook, ran)
    notebook.metadata[METADATA_KEY] = record.to_data()
    return notebook_text(notebook)


def measured_claims(ran: NotebookNode) -> list[dict]:
    """Return what a run measured: the data of its last claims table, or nothing if it has none."""
    found: list[dict] = []
    for cell in ran.cells:
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get(CLAIMS_MIME, found)
    return found


def code_cells(notebook: NotebookNode) -> dict[str, str]:
    """Return what to call each code cell in a message, by cell id: ``cell 3 (Local convergence)``."""
    labels, heading = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (_HEADING.findall(_FENCE.sub("", cell.source)) or [heading])[-1]
        elif cell.cell_type == "code":
            labels[cell.id] = f"cell {len(labels) + 1}" + (f" ({heading})" if heading else "")
    return labels


def light(text: str) -> str:
    """Return a stored notebook with pictures that look the same and take a third of the room.

    Every picture gets a palette of its own. A photograph that would suffer keeps every pixel, as does a
    picture with transparent parts; a moving one is left as it is.
    """
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = _light_picture(png)
    return notebook_text(notebook)


def _light_picture(png: str) -> str:
    """Return a picture, in base64 as notebooks hold it, with a palette where that shows no difference."""
    from PIL import Image

    before = base64.b64decode(png)
    after = io.BytesIO()
    with Image.open(io.BytesIO(before)) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            return png
        clear = picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255
        small = picture if clear else _with_palette(picture.convert("RGB")) or picture
        small.save(after, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    return base64.b64encode(min(before, after.getvalue(), key=len)).decode()


def _with_palette(picture: Image) -> Image | None:
    """Return a picture in the fewest colours that show no difference; None if 256 are too few.

    None shows if the pixels move by 2 of 255 (root of the mean square, each of red, green and blue), and
    those that are like all their neighbours, which make up lines, letters and areas, by 8 at most.
    """
    import numpy as np
    from PIL import ImageFilter

    highest, lowest = (picture.filter(kind(3)) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
    flat = (np.asarray(highest) == np.asarray(lowest)).all(-1)
    for colors in range(16, 257, 16):
        small = picture.quantize(colors, kmeans=1, dither=0)
        moved = np.asarray(small.convert("RGB"), dtype=float) - np.asarray(picture)
        if (moved**2).mean((0, 1)).max() <= 2**2 and np.abs(moved[flat]).max(initial=0) <= 8:
            return small
    return None


def first_error(ran: NotebookNode) -> tuple[str, str] | None:
    """Return the first error among a notebook's outputs: the cell's id, and the error in one line."""
    for cell in ran.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                says = str(output.evalue).strip().partition("\n")[0]
                return cell.id, f"{output.ename}: {says}" if says else output.ename
    return None


def _drop_passing(node: NotebookNode) -> None:
    """Drop metadata about one run from a notebook or a cell."""
    node.metadata = {k: v for k, v in node.metadata.items() if k not in _PASSING}


def _name_cells(notebook: NotebookNode) -> None:
    """Give every cell an id that stays: the one it has, or its position."""
    seen: set[str] = set()
    for position, cell in enumerate(notebook.cells):
        if "id" not in cell or cell.id in seen:
            cell.id = f"cell-{position}"
        seen.add(cell.id)
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)


def _take_outputs(cell: NotebookNode, executed: NotebookNode) -> None:
    """Take over outputs, consecutive pieces of one stream joined: where they break is a matter of timing.

    Paths in what was printed become relative to the book.
    """
    cell.execution_count = executed.execution_count
    here = f"{book_root()}{os.sep}"  # a warning names the file it comes from
    for output in executed.outputs:
        if output.output_type == "stream":
            output.text = output.text.replace(here, "")
        last = cell.outputs[-1] if cell.outputs else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            cell.outputs.append(output)


def _insert_injected(notebook: NotebookNode, ran: NotebookNode) -> None:
    """Show in the notebook, as papermill does, the cell that set other parameters."""
    injected = [c for c in ran.cells if _INJECTED in c.metadata.get("tags", [])]
    for cell in injected[:1]:
        after = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
        cell.id = _INJECTED
        _drop_passing(cell)
        notebook.cells.insert(after + 1, cell)
