"""Running chapters: one process a job, watched; its result stored whole or not at all.

A finished run leaves an executed notebook and its record. A run that failed or was interrupted leaves
``NAME.failed.ipynb`` with what it did and ``NAME.failed.json`` with why it stopped, and never touches a
good result; the next success removes them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import UserError
from reprobook.jobs import LAPTOP, Job, canonical_name, plan, tier_files
from reprobook.notebooks import light
from reprobook.paths import book_root, chapter_slugs, notebook_names, notebook_path
from reprobook.records import Record, RecordError, read_record_file
from reprobook.stamps import is_stale
from reprobook.storing import StoringError, check_writable, write_files

if TYPE_CHECKING:
    from reprobook.execution import Limits
    from reprobook.progress import Display

__all__ = ["Run", "RunFailed", "Interrupted", "run", "find_finished", "refresh", "notebooks_of_book"]


class RunFailed(UserError):
    """A run that did not come to its end; the message says where and why, and where its notebook is.

    Attributes:
        reason: where and why alone, as the record has it; None where there is no record.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class Interrupted(RunFailed):
    """A run that was stopped from outside.

    Attributes:
        exit_code: 128 and the number of the signal, as shells count: 130 for Ctrl-C.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        notebook: the executed notebook.
        record_path: the record's file; None where the notebook alone holds it.
        record: the record.
        fresh: whether it was run now, rather than found finished.
    """

    notebook: Path
    record_path: Path | None
    record: Record
    fresh: bool


def run(
    name: str,
    tier: str = LAPTOP,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    record: bool = False,
    force: bool = False,
    display: Display | None = None,
    limits: Limits | None = None,
) -> Run:
    """Run a notebook, unless the same job is finished already in the output folder.

    Args:
        name: ``slug`` or ``slug/notebook``.
        tier: ``laptop``, or a parameter file in the chapter's folder.
        parameters: values that override the tier's.
        out: the output folder, ``_runs/<slug>`` in the book by default.
        record: put it among the chapter's recorded runs instead.
        force: run it even if it is finished already.
        display: shows the progress; by default what suits the standard error.
        limits: what it may take; no limits by default.

    Raises:
        UserError: for a mistake in the arguments, before anything runs.
        RunFailed: if the notebook fails, goes beyond a limit or is interrupted, or if it, or the library that
            it reaches, was edited in the meantime.
    """
    job = plan(name, tier, parameters)
    folder = _recorded_folder(job, out) if record else (out or _runs_folder(job.slug))
    if not force and (found := find_finished(job, folder)):
        return found
    notebook, record_file = folder / f"{job.name}.ipynb", folder / f"{job.name}.json"
    check_writable(folder)
    made, text = _execute(job, folder, job.name, display, limits)
    text = light(text) if record else text
    _store(text, {notebook: text, record_file: made.to_json()})
    _forget_failures(folder, job.name)
    return Run(notebook, record_file, made, fresh=True)


def find_finished(job: Job, folder: Path) -> Run | None:
    """Return the result of the same job if it stands finished in a folder: same notebook, tier and stamp."""
    notebook, record_file = folder / f"{job.name}.ipynb", folder / f"{job.name}.json"
    if not (notebook.is_file() and record_file.is_file()):
        return None
    with suppress(RecordError):
        found = read_record_file(record_file)
        same = (found.chapter, found.tier, found.stamp) == (job.chapter, job.tier, job.stamp)
        return Run(notebook, record_file, found, fresh=False) if same and found.status == "finished" else None
    return None


def refresh(names: Iterable[str] = (), *, all: bool = False, display: Display | None = None) -> list[Run]:
    """Run committed notebooks again, in place, where their outputs no longer follow from the code.

    A failure leaves the committed notebook as it was, and the others are still run.

    Args:
        names: chapters (with all their notebooks) or single notebooks; everything by default.
        all: run also those that are up to date.
        display: shows the progress.

    Returns:
        The runs that were needed.

    Raises:
        UserError: for an unknown name, before anything runs.
        RunFailed: after the last notebook, if some failed; at once if interrupted.
    """
    wanted = [canonical_name(p) for name in names for p in _named(name)] or notebooks_of_book()
    due = [name for name in dict.fromkeys(wanted) if all or is_stale(notebook_path(name))]
    done, failures = [], []
    for name in due:
        try:
            done.append(_refresh_one(name, display))
        except Interrupted:
            raise
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise RunFailed("; ".join(failures))
    return done


def notebooks_of_book() -> list[str]:
    """Return the names of all committed notebooks, chapter by chapter."""
    return [canonical_name(notebook_path(f"{s}/{n}")) for s in chapter_slugs() for n in notebook_names(s)]


def _named(name: str) -> list[Path]:
    """Return the notebooks that a name stands for: a slug for all of its chapter's."""
    if "/" in name:
        return [notebook_path(name)]
    return [notebook_path(f"{name}/{notebook}") for notebook in notebook_names(name)]


def _refresh_one(name: str, display: Display | None) -> Run:
    """Run one committed notebook in place; what a failure leaves stands in ``_runs/<slug>``."""
    job = plan(name)
    check_writable(job.path.parent)
    aside = _runs_folder(job.slug)
    check_writable(aside)
    made, text = _execute(job, aside, job.path.stem, display)
    text = light(text)
    if job.path.read_text(encoding="utf-8") != job.text:
        kept = aside / f"{job.path.stem}.ipynb"
        write_files({kept: text})
        raise RunFailed(f"{name} was edited while it ran, so it is left as it is; the run is kept as {kept}")
    _store(text, {job.path: text})
    _forget_failures(aside, job.path.stem)
    return Run(job.path, None, made, fresh=True)


def _execute(
    job: Job, folder: Path, name: str, display: Display | None, limits: Limits | None = None
) -> tuple[Record, str]:
    """Run a job and return its record and its executed notebook; keep what is left of one that fails."""
    from reprobook.execution import execute
    from reprobook.progress import display_for

    made, text, signal_number = execute(job, display or display_for(), limits)
    if made.status == "finished":
        return made, text
    kept = folder / f"{name}.failed.ipynb"
    _store(text, {kept: text, kept.with_suffix(".json"): made.to_json()})
    message = f"{job.title}: {made.error}; what it did is kept in {kept}"
    raise Interrupted(message, 128 + signal_number) if signal_number else RunFailed(message, made.error)


def _recorded_folder(job: Job, out: Path | None) -> Path:
    """Return the folder of recorded runs, if this job may go there.

    Raises:
        UserError: for the laptop tier, for parameters other than the tier's, and for an output folder.
    """
    if out is not None:
        raise UserError("a recorded run goes to the chapter's runs/: leave out either --out or --record")
    if job.tier == LAPTOP:
        raise UserError(
            "the laptop tier is stored in the notebook itself: use 'reprobook refresh', not --record"
        )
    if job.given:
        changed = ", ".join(job.given)
        raise UserError(
            f"a recorded run takes its parameters from {tier_files(job.chapter)[job.tier].name} alone: "
            f"change there, or leave out, {changed}"
        )
    return job.path.parent / "runs"


def _runs_folder(slug: str) -> Path:
    return book_root() / "_runs" / slug


def _store(notebook_text: str, files: Mapping[Path, str]) -> None:
    """Write results; if that fails, keep at least the executed notebook among the temporary files."""
    try:
        write_files(files)
    except StoringError as error:
        try:
            handle, name = tempfile.mkstemp(prefix="reprobook-", suffix=".ipynb")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(notebook_text)
        except OSError:
            raise error from None
        raise StoringError(f"{error}; the executed notebook is kept as {name}") from None


def _forget_failures(folder: Path, name: str) -> None:
    for ending in ("ipynb", "json"):
        (folder / f"{name}.failed.{ending}").unlink(missing_ok=True)
