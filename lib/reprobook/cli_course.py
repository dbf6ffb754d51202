"""The commands ``reprobook course ...``: hand out assignments, grade them, give feedback, export marks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reprobook.errors import UserError
from reprobook.tables import show

if TYPE_CHECKING:
    from reprobook.course.grader import Graded
    from reprobook.course.records import Record

__all__ = ["app"]

#: The command group as typer knows it.
app = typer.Typer(help="Hand out assignments, grade them, give feedback.")

Folder = Annotated[
    Path | None,
    typer.Option("--course", metavar="DIR", help="The course's folder, by default the book's assignments/."),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[ASSIGNMENT]...", help="All by default.")]


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Hand out assignments, grade them, give feedback."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def release(
    names: Names = None,
    roster: Annotated[
        Path | None,
        typer.Option("--per-student", metavar="CSV", help="Copies with a number of their own for each."),
    ] = None,
    instructor: Annotated[
        bool, typer.Option("--instructor", help="Also build the version with solutions, for teachers only.")
    ] = False,
    course: Folder = None,
) -> None:
    """Make the students' versions.

    Without solutions and hidden tests, with the data they need: in release/, and with --per-student in
    handout/STUDENT/ as well.
    """
    from reprobook.course import classroom

    root = _root(course)
    students = classroom.read_roster(roster) if roster else []
    for folder in classroom.release(root, names or []):
        print(f"{folder.name}: {folder}")
    if students:
        print(f"for {len(students)} students: {classroom.hand_out(root, names or [], students)}")
    for name in (names or classroom.assignments(root)) if instructor else ():
        print(f"{name}, with solutions, not for publication: {classroom.instructor_version(root, name)}")


@app.command()
def grade(
    submissions: Annotated[
        list[Path],
        typer.Argument(metavar="SUBMISSIONS...", help="Folders with STUDENT/ASSIGNMENT.ipynb."),
    ],
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="How many at a time; one a core by default.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="For one cell or one call.")] = 20.0,
    total: Annotated[float, typer.Option("--total", help="Seconds for one notebook.")] = 180.0,
    memory: Annotated[float, typer.Option("--memory", metavar="GIB", help="For one notebook.")] = 4.0,
    again: Annotated[bool, typer.Option("--again", help="Also those that have not changed since.")] = False,
    course: Folder = None,
) -> None:
    """Grade submissions.

    Each runs in a process of its own. What is graded stays graded: after an interruption the same command
    goes on with the rest.
    """
    from tqdm import tqdm

    from reprobook.course import classroom
    from reprobook.course.sandbox import Limits
    from reprobook.running import Interrupted

    root = _root(course)
    limits = Limits(question=seconds, total=total, memory=int(memory * 2**30))
    found = classroom.find_submissions(root, submissions)
    workers = os.cpu_count() or 1 if workers is None else workers
    with tqdm(total=len(found), desc="graded", unit="submission") as bar:
        words = {"workers": workers, "limits": limits, "again": again, "notify": lambda record: bar.update()}
        try:
            records = classroom.grade_all(root, found, **words)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {bar.n} of {len(found)} are graded and stay so, the same command goes on", 130
            ) from None
    show(("student", "assignment", "tests", "points", "remarks"), [_row(r) for r in records])
    _say_confinement([r.graded for r in records])


@app.command()
def feedback(course: Folder = None) -> None:
    """Write a page for every graded submission, without the hidden tests."""
    from reprobook.course import classroom

    root = _root(course)
    pages = classroom.feedback(root)
    print(f"{len(pages)} pages in {root / 'feedback'}")


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", metavar="CSV", help="The file.")] = Path("marks.csv"),
    course: Folder = None,
) -> None:
    """Write all marks into a CSV file.

    A line a student, three columns an assignment: points, out of how many, remark.
    """
    from reprobook.course import classroom
    from reprobook.storing import write_files

    found = classroom.marks(_root(course))
    if not found:
        raise UserError("no marks yet: reprobook course release, then reprobook course grade SUBMISSIONS")
    if not to.absolute().parent.is_dir():
        raise UserError(f"cannot write {to}: there is no folder {to.parent}")
    write_files({to.absolute(): classroom.marks_table(found)})
    num = len({m.student for m in found})
    print(f"{num} student{'s' * (num != 1)} in {to}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="Your notebook.")],
) -> None:
    """Check your own notebook before you hand it in.

    Runs the tests that you can see as a grader runs them. Exit code 1 if one fails.
    """
    from reprobook.course.grader import grade as grade_one
    from reprobook.course.grader import personal_seed
    from reprobook.course.records import read_notebook

    notebook = read_notebook(file)
    graded = grade_one(notebook, notebook, data=file.parent, seed=personal_seed(notebook))
    if not graded.tests:
        raise UserError(f"{file} has no tests: is it the notebook of an assignment?")
    rows = [
        (name, "✓" if o.passed else "✗", o.message or "as it should be") for name, o in graded.tests.items()
    ]
    show(("test", "", "what it says"), rows)
    _say_confinement([graded])
    if not all(o.passed for o in graded.tests.values()):
        raise typer.Exit(1)


def _root(course: Path | None) -> Path:
    from reprobook.course.classroom import assignments
    from reprobook.paths import book_root

    try:
        import nbgrader  # noqa: F401
    except ImportError:
        raise UserError("nbgrader is not installed: pip install 'nbgrader==0.9.6'") from None
    root = (course or book_root() / "assignments").resolve()
    assignments(root)
    return root


def _row(record: Record) -> tuple[str, ...]:
    """Return the line of a report about one submission."""
    graded = record.graded
    if record.problem:
        return record.student, record.assignment, "–", "0", record.problem
    passed = sum(o.passed for o in graded.tests.values())
    largest = sum(o.points for o in graded.tests.values())
    sign = "✓" if passed == len(graded.tests) else "✗"
    counted = f"{sign} {passed} of {len(graded.tests)}"
    return (
        record.student,
        record.assignment,
        counted,
        f"{graded.points:g} of {largest:g}",
        "; ".join(graded.remarks),
    )


def _say_confinement(graded: list[Graded]) -> None:
    """Say once what this system could not keep student code from."""
    missing = {m for g in graded if g.confinement for m in g.confinement.missing()}
    if missing:
        print(
            f"This system gives student code no such limits: {', '.join(sorted(missing))}. Use a container."
        )
