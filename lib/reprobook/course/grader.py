"""Grade one notebook: the student's cells in a process of their own, the teacher's tests in this one.

The tests are the teacher's, never those that came with the submission. They run here, on names that stand
for the student's: a name that an answer cell defines is asked of the other process, and what comes back are
numbers and arrays. So a student cannot reach a test, its expected values or the library that computes them.
"""

from __future__ import annotations

import ast
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from reprobook.course.checks import Wrong, drawn_from, note_change
from reprobook.course.plain import NotPlain, pack, unpack
from reprobook.course.sandbox import BY_THE_CLOCK, Cancelled, Confinement, Limits, Sandbox, Stopped
from reprobook.errors import UserError

__all__ = ["Outcome", "Graded", "grade", "personal_seed", "with_seed", "PERSONAL", "NOT_GRADED"]

#: The ``grade_id`` of the cell that holds a student's own number, ``seed = ...``.
PERSONAL = "personal"
#: The tag of given cells for looking only: they may use the book's library, and do not run when graded.
NOT_GRADED = "not-graded"

_SEED_LINE = re.compile(r"^seed = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What became of one test cell.

    Attributes:
        points: what it is worth.
        message: what is wrong, in a sentence or two; empty if nothing is.
        seconds: how long it took.
    """

    points: float
    message: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.message


@dataclass
class Graded:
    """What became of one notebook.

    Attributes:
        tests: outcomes by the ``grade_id`` of the test cell.
        cells: what the student's cells printed or raised, by ``grade_id``.
        remarks: what a teacher should know: cells that were deleted, edited, or left out.
        numbers: the number that the fresh numbers of the tests came from; with it they come again.
        confinement: what the student's code was kept from; None if none of it ran.
        seconds: how long everything took.
    """

    tests: dict[str, Outcome] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    numbers: int = 0
    confinement: Confinement | None = None
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """The points of the tests that passed."""
        return sum(o.points for o in self.tests.values() if o.passed)


def grade(
    source: Mapping[str, Any],
    submission: Mapping[str, Any],
    *,
    data: Path | None = None,
    seed: int = 0,
    numbers: int | None = None,
    limits: Limits | None = None,
    cancelled: Event | None = None,
) -> Graded:
    """Grade one notebook against the teacher's.

    Args:
        source: the teacher's notebook, from which the tests and the given cells are taken.
        submission: the student's notebook.
        data: a folder whose files, notebooks apart, lie beside the notebook when it runs.
        seed: the student's own number.
        numbers: the number of an earlier grading, to repeat its fresh numbers; at least 0.
        limits: what the student's code may use.
        cancelled: set by somebody who wants to end all gradings.

    Raises:
        UserError: if no process can be started for the student's code.
        Cancelled: if the grading was called off.
    """
    started = time.monotonic()
    numbers = secrets.randbits(32) if numbers is None else numbers
    graded = Graded(numbers=numbers, remarks=_changes(source, submission))
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        _copy_data(data, Path(folder).resolve())
        cells = list(_runnable(source, submission, seed))
        student = _Student(cells, Path(folder).resolve(), limits or Limits(), graded, cancelled)
        try:
            answers = _answers(source)
            for name, cell in _tests(source):
                before, student.test = time.monotonic(), name
                with drawn_from(numbers, zlib.crc32(name.encode())):
                    message = _outcome(_text(cell), student, answers, seed)
                points = cell["metadata"]["nbgrader"]["points"]
                graded.tests[name] = Outcome(points, message, time.monotonic() - before)
        finally:
            student.close()
    graded.seconds = time.monotonic() - started
    return graded


def personal_seed(notebook: Mapping[str, Any]) -> int:
    """Return the student's own number that a notebook holds, 0 if it has none."""
    for cell in notebook["cells"]:
        if _grade_id(cell) == PERSONAL and (found := _SEED_LINE.search(_text(cell))):
            return int(found[1])
    return 0


def with_seed(text: str, seed: int) -> str:
    """Return the text of the cell :data:`PERSONAL` with another number in it."""
    return _SEED_LINE.sub(f"seed = {seed}", text)


class StudentError(Exception):
    """The student's code raised an exception, or gave no plain answer."""


class _Student:
    """The student's process, started again where it had to be stopped."""

    def __init__(
        self,
        cells: list[tuple[str, str]],
        folder: Path,
        limits: Limits,
        graded: Graded,
        cancelled: Event | None,
    ) -> None:
        self.cells, self.folder, self.limits = cells, folder, limits
        self.graded, self.cancelled = graded, cancelled
        self.sandbox: Sandbox | None = None
        self.left_out: set[int] = set()
        self.test = ""
        self.begun, self.spent_before = time.monotonic(), 0.0

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Put a question to the student's process.

        Raises:
            StudentError: if the process had to be stopped over it, or there is no time left.
        """
        try:
            if self.sandbox is None:
                self._start()
            return self.sandbox.ask(question, self._seconds())
        except Stopped as error:
            self.close()
            self.graded.remarks.append(f"the test '{self.test}' was stopped: {error}")
            raise StudentError(f"your code was stopped: {error}.") from None

    def close(self) -> None:
        """End the process, if there is one."""
        if self.sandbox:
            self.spent_before += self.sandbox.spent
            self.sandbox.close()
            self.sandbox = None

    def _seconds(self) -> float:
        """Return how long the next question may take."""
        total = self.limits.total
        spent = self.spent_before + (self.sandbox.spent if self.sandbox else 0)
        left = min(total - spent, total - (time.monotonic() - self.begun) / BY_THE_CLOCK)
        if left <= 0:
            raise StudentError(f"the notebook's {total:.0f} s were used up by what came before.")
        return min(self.limits.question, left)

    def _start(self) -> None:
        """Start a process and run the student's cells in it, without those that stopped an earlier one."""
        while self.sandbox is None:
            self._seconds()
            self.sandbox = Sandbox(self.folder, self.limits, self.cancelled)
            self.graded.confinement = self.sandbox.confinement
            for i, (name, code) in enumerate(self.cells):
                if i in self.left_out:
                    continue
                try:
                    ran = self.sandbox.ask({"do": "run", "code": code}, self._seconds())
                except Stopped as error:
                    self.close()
                    self.left_out.add(i)
                    ran = {"error": {"kind": "Stopped", "message": str(error)}, "text": ""}
                    self.graded.remarks.append(f"the cell '{name}' was stopped and left out: {error}")
                self.graded.cells[name] = ran
                if self.sandbox is None:
                    break


class _Names(dict):
    """The names that a test sees: its own, and the student's answers."""

    def __init__(self, own: dict[str, Any], student: _Student, answers: Mapping[str, str]) -> None:
        super().__init__(own)
        self.student, self.answers = student, answers

    def __missing__(self, name: str) -> Any:
        if name not in self.answers:
            raise KeyError(name)
        reply = self.student.ask({"do": "get", "name": name})
        if reply.get("missing"):
            raise StudentError(f"there is no '{name}'{self._why(self.answers[name])}.")
        if reply.get("function"):
            return _Function(self.student, name)
        return _value(reply)

    def _why(self, cell: str) -> str:
        """Say what happened in the cell that should have defined a name."""
        ran = self.student.graded.cells.get(cell)
        if ran is None:
            return f": the cell '{cell}' is missing"
        return f": its cell {_told(ran['error'])}" if ran.get("error") else ": it may have been renamed"


class _Function:
    """A function in the student's process, called with copies; changes to them are carried back."""

    def __init__(self, student: _Student, name: str, probe: str | None = None) -> None:
        self.student, self.question = student, {"do": "call", "name": name}
        if probe:
            self.question["probe"] = probe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        packed = {"args": [pack(a) for a in args], "kwargs": {k: pack(v) for k, v in kwargs.items()}}
        reply = self.student.ask(self.question | packed)
        value = _value(reply)
        for kind, ours in (("args", args), ("kwargs", kwargs)):
            _note_changes(ours, packed[kind], reply.get(kind, packed[kind]))
        return value


def _value(reply: Mapping[str, Any]) -> Any:
    if reply.get("error"):
        raise StudentError(f"your code {_told(reply['error'])}.")
    try:
        return unpack(reply.get("value"))
    except (ValueError, OverflowError):
        raise StudentError("your code writes into the channel to the grader.") from None


def _note_changes(ours: Any, before: Any, now: Any) -> None:
    """Tell ``unchanged`` which of our values a student's function has changed in its copies.

    Ours stay as they are: a test that computes the right answer after the call must not use what the
    student's code has made of the question.
    """
    if now == before:
        return
    if isinstance(ours, tuple | list) and isinstance(now, list | dict):
        before, now = (next(iter(p.values())) if isinstance(p, dict) else p for p in (before, now))
        if len(before) == len(now):
            for triple in zip(ours, before, now, strict=True):
                _note_changes(*triple)
    elif isinstance(ours, dict) and isinstance(now, dict):
        before, now = (dict(p["dict"]) if list(p) == ["dict"] else p for p in (before, now))
        for key in ours:
            _note_changes(ours[key], before.get(key), now.get(key))
    note_change(ours)


def _told(error: Mapping[str, Any]) -> str:
    """Say what the student's code did instead of answering."""
    if error.get("kind") == "NotImplementedError":
        return "has not been written yet"
    if error.get("kind") == "NotPlain":
        return f"gives {error.get('message')}, where numbers or arrays are asked for"
    if error.get("kind") == "Stopped":
        return f"was stopped: {error.get('message')}"
    line = f" in line {error['line']} of the cell" if error.get("line") else ""
    return f"raises {error.get('kind')}{line}: {error.get('message')}"


def _outcome(code: str, student: _Student, answers: Mapping[str, str], seed: int) -> str:
    """Run one test cell and say what is wrong, in words; the empty string if nothing is."""
    names = _Names({"__builtins__": __builtins__, "__name__": "test", "seed": seed}, student, answers)
    names["_probe"] = lambda name, source: _Function(student, name, source)
    try:
        tree = ast.fix_missing_locations(_Probes().visit(ast.parse(code)))
        exec(compile(tree, "<test>", "exec"), names)
    except (Wrong, StudentError) as error:
        return str(error)
    except Cancelled:
        raise
    except NameError as error:
        return f"there is no '{error.name}' yet: its cell has not been filled in, or failed."
    except NotPlain as error:
        raise UserError(f"a test hands {error} to a student's function: use a probe") from None
    except Exception as error:
        return f"the test cannot use your answer ({type(error).__name__}: {str(error)[:300]})"
    return ""


class _Probes(ast.NodeTransformer):
    """Replaces each function marked ``@probe`` by one that runs beside the student's code."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Take the source of a probe."""
        marks = [d for d in node.decorator_list if isinstance(d, ast.Name) and d.id == "probe"]
        if not marks:
            return node
        node.decorator_list = [d for d in node.decorator_list if d not in marks]
        called = ast.Call(
            ast.Name("_probe", ast.Load()), [ast.Constant(node.name), ast.Constant(ast.unparse(node))], []
        )
        return ast.copy_location(ast.Assign([ast.Name(node.name, ast.Store())], called), node)


def _runnable(
    source: Mapping[str, Any], submission: Mapping[str, Any], seed: int
) -> Iterator[tuple[str, str]]:
    """Yield name and code of the cells that run in the student's process, in order."""
    theirs = {_grade_id(c): c for c in source["cells"] if _grade_id(c)}
    given = {k: c for k, c in theirs.items() if _is(c, locked=True, grade=False) and c["cell_type"] == "code"}
    given = {k: c for k, c in given.items() if NOT_GRADED not in c["metadata"].get("tags", [])}
    ids = [_grade_id(c) for c in submission["cells"]]
    for name, cell in given.items():
        if name not in ids:
            yield name, with_seed(_text(cell), seed) if name == PERSONAL else _text(cell)
    seen: set[str] = set()
    for i, cell in enumerate(submission["cells"]):
        name = _grade_id(cell)
        name = f"added {i}" if name is None or name in seen else name
        seen.add(name)
        if name in given:
            yield name, with_seed(_text(given[name]), seed) if name == PERSONAL else _text(given[name])
        elif cell["cell_type"] == "code" and (name not in theirs or _is(theirs[name], solution=True)):
            yield name, _text(cell)


def _changes(source: Mapping[str, Any], submission: Mapping[str, Any]) -> list[str]:
    """Say which of the teacher's cells are missing from a submission or changed in it."""
    theirs: dict[str, Any] = {}
    for cell in submission["cells"]:
        theirs.setdefault(_grade_id(cell), cell)
    remarks = []
    for cell in source["cells"]:
        name = _grade_id(cell)
        if name is None:
            continue
        if name not in theirs:
            remarks.append(f"the cell '{name}' was deleted")
        elif _is(cell, locked=True) and name != PERSONAL and _shown(cell) != _text(theirs[name]).strip():
            remarks.append(f"the cell '{name}' was edited; the original was used")
    return remarks


def _shown(cell: Mapping[str, Any]) -> str:
    """Return what students see of a teacher's cell."""
    hidden = r"^[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?"
    return re.sub(hidden, "", _text(cell), flags=re.MULTILINE | re.DOTALL).strip()


def _answers(source: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that the answer cells define, each with the ``grade_id`` of its cell."""
    found = {}
    for cell in source["cells"]:
        if cell["cell_type"] == "code" and _is(cell, solution=True):
            for node in ast.parse(_text(cell)).body:
                targets = getattr(node, "targets", [getattr(node, "target", None)])
                names = [
                    n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)
                ]
                names += [node.name] if hasattr(node, "name") else []
                found |= dict.fromkeys(names, _grade_id(cell))
    return found


def _tests(source: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for cell in source["cells"]:
        if cell["cell_type"] == "code" and _is(cell, grade=True):
            yield _grade_id(cell), cell


def _is(cell: Mapping[str, Any], **wanted: bool) -> bool:
    meta = cell.get("metadata", {}).get("nbgrader", {})
    return bool(meta) and all(bool(meta.get(k)) == v for k, v in wanted.items())


def _grade_id(cell: Mapping[str, Any]) -> str | None:
    meta = cell.get("metadata", {})
    return meta.get("nbgrader", {}).get("grade_id") if isinstance(meta, dict) else None


def _text(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


def _copy_data(data: Path | None, folder: Path) -> None:
    for file in data.iterdir() if data else ():
        if file.is_file() and file.suffix != ".ipynb":
            shutil.copy(file, folder)
