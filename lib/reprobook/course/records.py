"""The folder of a course, and what is kept of every graded submission.

A submission is graded once: its record holds a hash of the student's notebook and the teacher's, and is used
again as long as both are the same. Records are written in one piece, so one that is there is finished.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import nbformat

from reprobook.course.grader import Graded, Outcome, grade
from reprobook.course.sandbox import Confinement, Limits
from reprobook.errors import UserError
from reprobook.storing import write_files

__all__ = [
    "Record",
    "grade_submission",
    "read_record",
    "read_notebook",
    "source_notebook",
    "submitted_notebook",
    "personal_seeds",
    "LARGEST",
]

#: The largest notebook that is looked at, in bytes.
LARGEST = 20 << 20


@dataclass(frozen=True)
class Record:
    """What became of one submission.

    Attributes:
        student, assignment: whose, and of what.
        seed: the student's own number.
        graded: the outcomes; without tests if there was nothing to grade.
        problem: why there was nothing to grade, in one sentence, or empty.
        key: the hash of what the outcomes follow from.
    """

    student: str
    assignment: str
    seed: int
    graded: Graded
    problem: str
    key: str


def grade_submission(
    root: Path,
    assignment: str,
    student: str,
    limits: Limits | None = None,
    *,
    again: bool = False,
    cancelled: Event | None = None,
) -> Record:
    """Grade one submission of a course, or return its record if neither it nor the assignment has changed.

    Args:
        root: the folder of the course.
        assignment, student: whose and which; the notebook lies where :func:`submitted_notebook` says.
        limits: what the student's code may use.
        again: whether to grade it even so.
        cancelled: set by somebody who wants to end all gradings.

    Raises:
        Cancelled: if the grading was called off; no record is written.
        UserError: if there is no such assignment, or the record cannot be written.
    """
    source = source_notebook(root, assignment)
    theirs = submitted_notebook(root, assignment, student)
    seed = personal_seeds(root).get((assignment, student), 0)
    key = _key(source, theirs, seed)
    known = read_record(root, assignment, student)
    if known and known.key == key and not again:
        return known
    graded, problem = Graded(), ""
    try:
        submission = read_notebook(theirs)
    except UserError as error:
        problem = str(error)
    else:
        words = {"data": source.parent, "seed": seed, "limits": limits, "cancelled": cancelled}
        graded = grade(read_notebook(source), submission, **words)
    record = Record(student, assignment, seed, graded, problem, key)
    path = _record_path(root, assignment, student)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: json.dumps(asdict(record), indent=1)})
    return record


def read_record(root: Path, assignment: str, student: str) -> Record | None:
    """Return the record of a submission, None if there is none or it is of another version."""
    try:
        raw = json.loads(_record_path(root, assignment, student).read_text(encoding="utf-8"))
        inner = raw["graded"]
        tests = {k: Outcome(**o) for k, o in inner["tests"].items()}
        confinement = Confinement(**inner["confinement"]) if inner["confinement"] else None
        return Record(**raw | {"graded": Graded(**inner | {"tests": tests, "confinement": confinement})})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_notebook(path: Path) -> Mapping[str, Any]:
    """Return a notebook as nbformat 4 has it.

    Raises:
        UserError: if there is none, or the file is not one; the message is for a report.
    """
    if not path.is_file():
        raise UserError(f"there is no {path.name}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path.name} is larger than {LARGEST >> 20} MB: clear its outputs")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception:  # nbformat lets through whatever a broken file leads to
        raise UserError(f"{path.name} is not a notebook") from None
    return notebook


def source_notebook(root: Path, assignment: str) -> Path:
    """Return the teacher's notebook of an assignment.

    Raises:
        UserError: if there is no such assignment; the message lists those that exist.
    """
    path = root / "source" / assignment / f"{assignment}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in (root / "source").glob("*/*.ipynb"))) or "none"
        raise UserError(f"unknown assignment '{assignment}'; this course has: {known}")
    return path


def submitted_notebook(root: Path, assignment: str, student: str) -> Path:
    """Return where nbgrader expects a student's notebook."""
    return root / "submitted" / student / assignment / f"{assignment}.ipynb"


def personal_seeds(root: Path) -> dict[tuple[str, str], int]:
    """Return the students' own numbers by assignment and student, empty if none were handed out."""
    path = root / "personal.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["assignment"], row["student"]): int(row["seed"]) for row in csv.DictReader(file)}


def _record_path(root: Path, assignment: str, student: str) -> Path:
    return root / "grading" / assignment / f"{student}.json"


def _key(source: Path, theirs: Path, seed: int) -> str:
    """Hash what a grading follows from."""
    digest = hashlib.sha256(str(seed).encode())
    for path in (source, theirs):
        digest.update(path.read_bytes() if path.is_file() else b"none")
    return digest.hexdigest()
