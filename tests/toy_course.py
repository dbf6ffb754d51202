"""A course of one small assignment, and submissions of all kinds to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from reprobook.paths import book_root

TESTS = """
from reprobook.course import fresh, same, unchanged
import numpy as np

same(total([1.0, 2.0]), 3.0, "the total of 1 and 2")
### BEGIN HIDDEN TESTS
x = fresh().normal(size=5)
before = x.copy()
same(total(x), x.sum(), "the total of five numbers")
unchanged(x, before, "x")
### END HIDDEN TESTS
"""
SLOPE = """
from reprobook.course import fresh, probe, same
import torch

@probe
def slope(x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(square(x).sum(), x)[0]

same(slope(torch.tensor([3.0])), torch.tensor([6.0]), "the slope at 3")
### BEGIN HIDDEN TESTS
x = torch.from_numpy(fresh().normal(size=4))
same(slope(x), 2 * x, "the slope at four places")
### END HIDDEN TESTS
"""
OWN = """
from reprobook.course import same

same(type(own) is int and own >= 0, True, "whether your number is a whole one")
### BEGIN HIDDEN TESTS
same(own, 7 * seed + 1, "seven times your seed and one")
### END HIDDEN TESTS
"""
TOTAL = (
    'def total(x):\n    """Add up."""\n    ### BEGIN SOLUTION\n    return float(sum(x))\n    ### END SOLUTION'
)
SQUARE = "def square(x):\n    ### BEGIN SOLUTION\n    return x * x\n    ### END SOLUTION"


def cell(kind: str, text: str, name: str = "", **meta: Any) -> dict[str, Any]:
    """Return a cell of a notebook, for nbgrader if it has a name."""
    made = {"cell_type": kind, "id": name or f"text{abs(hash(text)) % 10**6}", "metadata": {}, "source": text}
    if name:
        flags = {"grade": False, "solution": False, "locked": True, "task": False, "schema_version": 3}
        made["metadata"]["nbgrader"] = flags | {"grade_id": name} | meta
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def toy_notebook() -> dict[str, Any]:
    """Return the teacher's notebook: three tasks of 3, 2 and 1 points, and 4 points for words."""
    answer, words = {"solution": True, "locked": False}, {"solution": True, "locked": False, "grade": True}
    cells = [
        cell("markdown", "# Toys"),
        cell("code", "import numpy as np\nimport torch", "setup"),
        cell("code", "seed = 0  # yours", "personal"),
        cell("code", TOTAL, "total", **answer),
        cell("code", TESTS.strip(), "total-1", grade=True, points=3),
        cell("code", SQUARE, "square", **answer),
        cell("code", SLOPE.strip(), "square-1", grade=True, points=2),
        cell("code", "### BEGIN SOLUTION\nown = 7 * seed + 1\n### END SOLUTION", "own", **answer),
        cell("code", OWN.strip(), "own-1", grade=True, points=1),
        cell("markdown", "Because.", "why", points=4, **words),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def toy_course(folder: Path) -> Path:
    """Make the folder of a course."""
    (folder / "source" / "toys").mkdir(parents=True)
    shutil.copy(book_root() / "assignments" / "nbgrader_config.py", folder)
    (folder / "source" / "toys" / "toys.ipynb").write_text(json.dumps(toy_notebook()))
    (folder / "source" / "toys" / "numbers.csv").write_text("1,2\n")
    return folder


def solve(notebook: dict[str, Any], **answers: str) -> dict[str, Any]:
    """Return a notebook with other code in some of its cells."""
    changed = json.loads(json.dumps(notebook))
    for one in changed["cells"]:
        name = one["metadata"].get("nbgrader", {}).get("grade_id")
        if name in answers:
            one["source"] = answers[name]
    return changed


def hand_in(folder: Path, student: str, notebook: dict[str, Any] | str, name: str = "toys") -> Path:
    """Put a submission where nbgrader collects them."""
    path = folder / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook))
    return path
