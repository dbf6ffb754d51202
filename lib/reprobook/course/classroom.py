"""A course from release to marks, on nbgrader's folders and gradebook.

source/ASSIGNMENT/        the teacher's notebooks: tasks, solutions, tests
release/ASSIGNMENT/       what students get
handout/STUDENT/...       the same for each student, with numbers of their own
submitted/STUDENT/...     what came back
grading/ASSIGNMENT/...    a record of every graded submission
autograded/, feedback/    nbgrader's, as its own commands leave them
instructor/ASSIGNMENT/    solutions with all outputs; not for publication
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import nbformat

from reprobook.course.grader import PERSONAL, with_seed
from reprobook.course.records import (
    Record,
    grade_submission,
    personal_seeds,
    read_notebook,
    read_record,
    source_notebook,
    submitted_notebook,
)
from reprobook.course.sandbox import Limits
from reprobook.errors import UserError
from reprobook.storing import check_writable, write_files
from reprobook.worker import connection_in, own_kernel

__all__ = [
    "Student",
    "Mark",
    "assignments",
    "read_roster",
    "release",
    "hand_out",
    "instructor_version",
    "find_submissions",
    "grade_all",
    "feedback",
    "marks",
    "marks_table",
]

_STUDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")
_ALLOWED = "letters, digits and _ . @ + -"
_LARGEST_SEED = 10**6


@dataclass(frozen=True)
class Student:
    """A line of a roster.

    Attributes:
        id: the name of the student's folder: letters, digits and ``_ . @ + -``.
        first_name, last_name, email: as the gradebook keeps them; may be empty.
        seed: the student's own number, None if it is to be drawn.
    """

    id: str
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Mark:
    """What one student has for one assignment.

    Attributes:
        points: those given so far.
        largest: those to be had.
        remark: what a teacher should know, or empty.
    """

    student: str
    assignment: str
    points: float
    largest: float
    remark: str


def assignments(root: Path) -> list[str]:
    """Return the names of a course's assignments.

    Raises:
        UserError: if the folder is not a course.
    """
    if not (root / "nbgrader_config.py").is_file():
        raise UserError(f"{root} is not the folder of a course: it has no nbgrader_config.py")
    return sorted(p.stem for p in (root / "source").glob("*/*.ipynb") if p.stem == p.parent.name)


def read_roster(path: Path) -> list[Student]:
    """Read a table of students: a CSV file with a column ``id`` and perhaps the others of :class:`Student`.

    Raises:
        UserError: if it cannot be read, has no such column, or a line is wrong; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"cannot read the roster {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    students = [_student(path, line, row) for line, row in enumerate(rows, 2)]
    if not students:
        raise UserError(f"the roster {path} has no students")
    twice = {s.id for s in students if [t.id for t in students].count(s.id) > 1}
    if twice:
        raise UserError(f"the roster {path} has {', '.join(sorted(twice))} more than once")
    return students


def release(root: Path, names: Sequence[str]) -> list[Path]:
    """Make the students' versions of some assignments, with the data that lie beside them.

    Args:
        root: the folder of the course.
        names: of assignments; all if empty.

    Raises:
        UserError: if there is no such assignment, or nbgrader refuses.
    """
    from nbgrader.converters import GenerateAssignment

    for name in (names := names or assignments(root)):
        source_notebook(root, name)
    check_writable(root)
    for name in names:
        _convert(root, GenerateAssignment, name, ".")
    return [root / "release" / name for name in names]


def hand_out(root: Path, names: Sequence[str], roster: Sequence[Student]) -> Path:
    """Make a copy of released assignments for each student, with a number of their own in it.

    The numbers are the roster's, or drawn once from the student's name, and kept in ``personal.csv``, where
    grading finds them. Students are also entered into the gradebook.

    Returns:
        The folder of all copies.
    """
    names = names or assignments(root)
    seeds = personal_seeds(root)
    for name in names:
        for student in roster:
            drawn = seeds.get((name, student.id), _own_number(name, student.id))
            seeds[name, student.id] = drawn if student.seed is None else student.seed
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("assignment", "student", "seed"))
    writer.writerows((a, s, n) for (a, s), n in sorted(seeds.items()))
    write_files({root / "personal.csv": table.getvalue()})
    with _gradebook(root) as gradebook:
        for s in roster:
            gradebook.update_or_create_student(
                s.id, first_name=s.first_name, last_name=s.last_name, email=s.email
            )
    for name in names:
        notebook = read_notebook(root / "release" / name / f"{name}.ipynb")
        for student in roster:
            folder = root / "handout" / student.id / name
            shutil.copytree(root / "release" / name, folder, dirs_exist_ok=True)
            for cell in notebook.cells:
                if cell.metadata.get("nbgrader", {}).get("grade_id") == PERSONAL:
                    cell.source = with_seed(cell.source, seeds[name, student.id])
            write_files({folder / f"{name}.ipynb": nbformat.writes(notebook) + "\n"})
    return root / "handout"


def instructor_version(root: Path, name: str) -> Path:
    """Execute the teacher's notebook of an assignment, solutions and all, into ``instructor/``.

    Raises:
        UserError: if a cell fails, which a release should not survive.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    source = source_notebook(root, name)
    notebook = read_notebook(source)
    with tempfile.TemporaryDirectory(prefix="c") as sockets:
        client = NotebookClient(
            notebook,
            timeout=300,
            resources={"metadata": {"path": str(source.parent)}},
            kernel_manager_class=own_kernel(),
            config=Config(KernelManager=connection_in(Path(sockets))),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise UserError(f"{name}: the solution fails: {error.ename}: {error.evalue}") from None
    folder = root / "instructor" / name
    folder.mkdir(parents=True, exist_ok=True)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    write_files({folder / f"{name}.ipynb": nbformat.writes(notebook) + "\n", folder / f"{name}.html": page})
    return folder


def find_submissions(root: Path, paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Find submissions and put those that lie elsewhere into ``submitted/``.

    A notebook's name says the assignment, its folder the student: ``ana/dann.ipynb`` or
    ``ana/dann/dann.ipynb``, at any depth below a path. A folder ``ana/dann`` without that notebook counts,
    too: it is a submission with nothing in it.

    Returns:
        Assignment and student of each, in alphabetical order.

    Raises:
        UserError: if a path does not exist, holds no submission, or a student's name cannot be one.
    """
    known, found = set(assignments(root)), {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}")
        here = dict(_submissions_below(path.resolve(), known))
        if not here:
            raise UserError(
                f"no submission in {path}: expected STUDENT/ASSIGNMENT.ipynb or "
                f"STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb with an assignment of {', '.join(sorted(known))}"
            )
        found |= here
    for (name, student), file in found.items():
        if not _STUDENT.fullmatch(student):
            raise UserError(
                f"'{student}' cannot be a student's name: letters, digits and _ . @ + - are allowed"
            )
        place = submitted_notebook(root, name, student)
        if file != place.resolve():
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                shutil.copyfile(file, place)
    return sorted(found)


def grade_all(
    root: Path,
    submissions: Sequence[tuple[str, str]],
    *,
    workers: int = 1,
    limits: Limits | None = None,
    again: bool = False,
    notify: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Grade submissions, several at a time, and enter the marks into the gradebook.

    Args:
        root: the folder of the course.
        submissions: assignment and student of each.
        workers: how many at a time; each takes a core.
        limits: what a student's code may use.
        again: whether to grade those again that have not changed.
        notify: called after each.

    Returns:
        The records, in the order of the submissions.
    """
    from nbgrader.api import MissingEntry
    from nbgrader.converters import Autograde

    if workers < 1:
        raise UserError("at least one worker is needed")
    check_writable(root / "grading")
    with _gradebook(root) as gradebook:
        for name in sorted({a for a, _ in submissions}):
            try:
                gradebook.find_assignment(name)
            except MissingEntry:
                raise UserError(f"{name} has not been released: reprobook course release {name}") from None
    records: dict[tuple[str, str], Record] = {}
    pool, cancelled = ThreadPoolExecutor(workers), Event()
    words = {"again": again, "cancelled": cancelled}
    try:
        tasks = {pool.submit(grade_submission, root, *s, limits, **words): s for s in submissions}
        for task in as_completed(tasks):
            record = records[tasks[task]] = task.result()
            if not record.problem:
                _convert(root, Autograde, record.assignment, record.student)
            notify(record)
    finally:  # also on Ctrl-C: what is finished stays, what is under way leaves nothing
        cancelled.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return [records[s] for s in submissions]


def feedback(root: Path) -> list[Path]:
    """Write a page for every graded submission: what each test said, points, comments; no hidden tests.

    Raises:
        UserError: if nothing has been graded.
    """
    from nbgrader.converters import GenerateFeedback

    pages = []
    for record in _records(root):
        folder = root / "feedback" / record.student / record.assignment
        if record.problem:
            folder.mkdir(parents=True, exist_ok=True)
            write_files({folder / f"{record.assignment}.html": _notice(record)})
        else:
            _convert(root, GenerateFeedback, record.assignment, record.student)
        pages.append(folder / f"{record.assignment}.html")
    if not pages:
        raise UserError("nothing has been graded yet: reprobook course grade SUBMISSIONS")
    return pages


def marks(root: Path) -> list[Mark]:
    """Return the marks of all students for all released assignments, 0 for those who handed in nothing."""
    from nbgrader.api import MissingEntry

    records = {(r.assignment, r.student): r for r in _records(root)}
    found = []
    with _gradebook(root) as gradebook:
        students = sorted({s.id for s in gradebook.students} | {s for _, s in records})
        for assignment in sorted(gradebook.assignments, key=lambda a: a.name):
            for student in students:
                record = records.get((assignment.name, student))
                try:
                    entry = gradebook.find_submission(assignment.name, student)
                    points = entry.score
                    remark = "answers in words are still to be marked" if entry.needs_manual_grade else ""
                except MissingEntry:
                    points, remark = 0.0, "nothing handed in"
                if record and record.problem:
                    points, remark = 0.0, record.problem
                found.append(Mark(student, assignment.name, points, assignment.max_score, remark))
    return found


def marks_table(found: Sequence[Mark]) -> str:
    """Return marks as CSV: a line a student, three columns an assignment (points, of how many, remark)."""
    names = sorted({m.assignment for m in found})
    by_student: dict[str, dict[str, Mark]] = {}
    for mark in found:
        by_student.setdefault(mark.student, {})[mark.assignment] = mark
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["student", *(f"{n}{what}" for n in names for what in ("", " out of", " remark"))])
    for student, theirs in by_student.items():
        cells = ((f"{theirs[n].points:g}", f"{theirs[n].largest:g}", theirs[n].remark) for n in names)
        writer.writerow([student, *(c for triple in cells for c in triple)])
    return table.getvalue()


def _student(path: Path, line: int, row: dict[str, str]) -> Student:
    """Check one line of a roster."""
    student = (row.get("id") or "").strip()
    if "id" not in row:
        raise UserError(f"the roster {path} has no column 'id'; it has: {', '.join(k for k in row if k)}")
    if not _STUDENT.fullmatch(student):
        raise UserError(
            f"{path}, line {line}: '{student}' cannot be an id: letters, digits and _ . @ + - are allowed"
        )
    seed = (row.get("seed") or "").strip()
    if seed and not (seed.isascii() and seed.isdigit()):
        raise UserError(f"{path}, line {line}: the seed '{seed}' is not a whole number from 0 on")
    rest = {k: (row.get(k) or "").strip() for k in ("first_name", "last_name", "email")}
    return Student(student, **rest, seed=int(seed) if seed else None)


def _own_number(assignment: str, student: str) -> int:
    """Draw a number from a name, the same at every call."""
    digest = hashlib.sha256(f"{assignment}/{student}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % _LARGEST_SEED


def _submissions_below(path: Path, known: set[str]) -> Iterator[tuple[tuple[str, str], Path]]:
    """Yield assignment, student and file of what lies below a path, also where the file is missing."""
    below = [path] if path.is_file() else sorted(path.rglob("*"))
    for item in below:
        if item.is_file() and item.suffix == ".ipynb" and item.stem in known:
            folder = item.parent.parent if item.parent.name == item.stem else item.parent
            yield (item.stem, folder.name), item
        elif item.is_dir() and item.name in known and not (item / f"{item.name}.ipynb").is_file():
            yield (item.name, item.parent.name), item / f"{item.name}.ipynb"


def _records(root: Path) -> Iterator[Record]:
    for path in sorted((root / "grading").glob("*/*.json")):
        if record := read_record(root, path.parent.name, path.stem):
            yield record


def _notice(record: Record) -> str:
    """Return a page that says why there was nothing to grade."""
    import html

    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{record.assignment}</title>\n'
        f"<h1>{record.assignment}: 0 points</h1>\n<p>{html.escape(record.problem)}.</p>\n</html>\n"
    )


def _config(root: Path) -> Any:
    from traitlets.config import PyFileConfigLoader

    scripts = sysconfig.get_path("scripts")  # nbgrader calls alembic, which makes its gradebook, by name
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    config = PyFileConfigLoader("nbgrader_config.py", str(root)).load_config()
    config.CourseDirectory.root = str(root)
    return config


def _coursedir(root: Path, **names: str) -> Any:
    from nbgrader.coursedir import CourseDirectory

    return CourseDirectory(config=_config(root), **names)


@contextmanager
def _gradebook(root: Path) -> Iterator[Any]:
    """Open the gradebook of a course."""
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import DatabaseError

    try:
        with Gradebook(_coursedir(root).db_url, "") as gradebook:
            yield gradebook
    except DatabaseError as error:
        raise UserError(
            f"the gradebook {root / 'gradebook.db'} cannot be used: {error.orig}; "
            "bring back a copy, or move it away, release again and grade again"
        ) from None


def _convert(root: Path, converter: Any, assignment: str, student: str) -> None:
    """Run one of nbgrader's converters on one assignment of one student ("." for a release)."""
    from nbgrader.utils import capture_log

    coursedir = _coursedir(root, assignment_id=assignment, student_id=student)
    job = converter(coursedir=coursedir, config=_config(root))
    job.force = True
    job.log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's use of its database makes many, for nobody to mend here
        result = capture_log(job)
    if "KeyboardInterrupt" in str(result.get("error")):  # nbgrader keeps it to itself
        raise KeyboardInterrupt
    if not result["success"]:
        lines = [line.strip() for line in str(result["log"]).splitlines()]
        reasons = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        whose = f" of {student}" if student != "." else ""
        raise UserError(f"nbgrader stops at {assignment}{whose}: {reasons[-1] if reasons else lines[-1]}")
