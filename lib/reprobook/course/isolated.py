"""nbgrader's step that runs a submission, done as :mod:`reprobook.course.grader` does it.

``assignments/nbgrader_config.py`` puts it in the place of nbgrader's own, so that ``nbgrader autograde`` and
the formgrader keep student code and tests apart, too.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import ClearHiddenTests, NbGraderPreprocessor

from reprobook.course.grader import PERSONAL, Graded, with_seed
from reprobook.course.records import grade_submission, read_notebook

__all__ = [
    "IsolatedExecute",
    "RestoreCells",
    "HideTests",
    "sanitize_steps",
    "autograde_steps",
    "feedback_steps",
]


_WIDTH = 96  # characters of a line in feedback


class IsolatedExecute(NbGraderPreprocessor):
    """Fills in the outputs of a notebook from its grading, which is done now if it is not there."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Give every code cell its output; a test cell that failed gets an error, which costs its points."""
        named = resources["nbgrader"]
        record = grade_submission(_root(self.config), named["assignment"], named["student"])
        for cell in nb.cells:
            if cell.cell_type == "code":
                name = cell.metadata.get("nbgrader", {}).get("grade_id")
                cell.outputs = list(_outputs(record.graded, name))
                if name == PERSONAL:
                    cell.source = with_seed(cell.source, record.seed)
        return nb, resources


class RestoreCells(NbGraderPreprocessor):
    """Puts back the cells of an assignment that a student deleted, as they were handed out."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Insert every missing cell behind the one that it follows in the release."""
        name = resources["nbgrader"]["assignment"]
        released = read_notebook(_root(self.config) / "release" / name / f"{name}.ipynb")
        place = 0
        for cell in released.cells:
            wanted = cell.metadata.get("nbgrader", {}).get("grade_id")
            ids = [c.metadata.get("nbgrader", {}).get("grade_id") for c in nb.cells]
            if wanted and wanted not in ids:
                nb.cells.insert(place, cell)
                place += 1
            elif wanted:
                place = ids.index(wanted) + 1
        return nb, resources


class HideTests(ClearHiddenTests):
    """Takes hidden tests out of what students get back; what a test said stays."""

    enforce_metadata = False

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Remove the hidden part of every test cell."""
        for cell in nb.cells:
            self._remove_hidden_test_region(cell)
        return nb, resources


def sanitize_steps() -> list[Any]:
    """Return what nbgrader does with a submission before it is run, after one step that restores cells."""
    from nbgrader.converters import Autograde

    return [RestoreCells, *Autograde.sanitize_preprocessors.default_args[0]]


def autograde_steps() -> list[Any]:
    """Return nbgrader's steps of autograding, with ours in the place of its own that runs the notebook."""
    from nbgrader.converters import Autograde
    from nbgrader.preprocessors import Execute

    steps = Autograde.autograde_preprocessors.default_args[0]
    return [IsolatedExecute if step is Execute else step for step in steps]


def feedback_steps() -> list[Any]:
    """Return nbgrader's steps of feedback, after one that hides the hidden tests."""
    from nbgrader.converters import GenerateFeedback

    return [HideTests, *GenerateFeedback.preprocessors.default_args[0]]


def _root(config: Any) -> Path:
    """Return the course's folder, which for nbgrader's commands is the working folder unless it is set."""
    return Path(config.get("CourseDirectory", {}).get("root") or ".").resolve()


def _outputs(graded: Graded, name: str | None) -> Any:
    if name in graded.tests:
        if message := graded.tests[name].message:
            wrapped = textwrap.wrap(message, _WIDTH)
            yield new_output("error", ename="Wrong", evalue=message, traceback=wrapped)
        return
    ran = graded.cells.get(name or "", {})
    if ran.get("text"):
        yield new_output("stream", name="stdout", text=ran["text"])
    if error := ran.get("error"):
        told = f"{error.get('kind')}: {error.get('message')}"
        yield new_output(
            "error", ename=str(error.get("kind")), evalue=str(error.get("message")), traceback=[told]
        )
