"""What happens on a worker: one attempt at one job, alone, within its limits.

A worker shares a file system with whoever started the sweep. A job has a lock there, so that it never runs
twice at the same time, and a mark while it runs, so that an attempt whose worker died is known to the next.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobook import running
from reprobook.errors import UserError
from reprobook.execution import Limits
from reprobook.jobs import Job, plan
from reprobook.progress import Progress

__all__ = ["Order", "Outcome", "attempt", "FOLDER", "MARKS", "STOP", "marks"]

#: The folder within a sweep's own where locks and marks are.
FOLDER = ".sweep"
#: The folder in that, with a mark for every job under way.
MARKS = "running"
#: The file in it whose presence asks all workers to stop.
STOP = "stop"
_LOOK = 1.0  # seconds between looks at it


@dataclass(frozen=True)
class Order:
    """One job, told to a worker.

    Attributes:
        root: the book's folder.
        out: the sweep's folder.
        chapter: ``slug`` or ``slug/notebook``.
        tier: its tier.
        given: parameters that differ from the tier's.
        name: the name of its files.
        stamp: what the job was planned as; a job with another stamp is not run.
        limits: what it may take.
        retries: how many attempts may die before it is given up.
        gpus: the number of GPUs of the worker's machine, of which it takes the one of its own number; 0 to
            leave that alone.
    """

    root: str
    out: str
    chapter: str
    tier: str
    given: dict[str, Any]
    name: str
    stamp: str
    limits: Limits
    retries: int
    gpus: int = 0

    @property
    def folder(self) -> Path:
        """Where its results go."""
        return Path(self.out) / self.chapter.partition("/")[0]

    @property
    def key(self) -> str:
        """A name for it that is unique within a sweep."""
        return f"{self.chapter.partition('/')[0]}--{self.name}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        key: the order's key.
        finished: whether the job's result stands in the folder.
        error: else why not, in one line.
        again: whether another attempt may help.
        seconds: how long the run took; 0 if it was found finished.
        died: how many earlier attempts ended without a word.
    """

    key: str
    finished: bool
    error: str | None = None
    again: bool = False
    seconds: float = 0.0
    died: int = 0


class _Asked(UserError):
    """Somebody asked the sweep to stop."""


class _Silent:
    """A display that shows nothing, and ends the run when the sweep is to stop."""

    def __init__(self, stop: Path) -> None:
        self._stop, self._looked = stop, time.monotonic()

    def start(self, title: str) -> None:
        """Show nothing."""

    def update(self, progress: Progress) -> None:
        """Look now and then whether to stop."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            if self._stop.exists():
                raise _Asked("the sweep was stopped")

    def stop(self) -> None:
        """Show nothing."""


def attempt(order: Order) -> Outcome:
    """Run a job, unless it is finished already.

    Returns:
        How it ended. A failed run leaves ``NAME.failed.ipynb`` and its record, as everywhere.
    """
    os.environ["REPROBOOK_ROOT"] = order.root
    display = _Silent(Path(order.out) / FOLDER / STOP)
    try:
        with _alone(order, display) as died:
            if died > order.retries:
                return Outcome(order.key, False, f"its worker died, {died} times", died=died)
            return _run(order, display, died)
    except UserError as error:
        again = isinstance(error, running.RunFailed)
        return Outcome(order.key, False, (again and error.reason) or str(error), again=again)
    except OSError as error:
        return Outcome(order.key, False, f"cannot use the folder {order.out}: {error.strerror}")


def _run(order: Order, display: _Silent, died: int) -> Outcome:
    job = plan(order.chapter, order.tier, order.given)
    if job.stamp != order.stamp:
        raise UserError(f"{job.title}: edited since the sweep began; start the same command again")
    done = running.run(
        order.chapter,
        order.tier,
        order.given,
        out=order.folder,
        display=display,
        limits=_with_gpu(order, job),
    )
    return Outcome(order.key, True, seconds=done.record.wall_seconds if done.fresh else 0.0, died=died)


def _with_gpu(order: Order, job: Job) -> Limits:
    """Give a worker the GPU of its own number, with which its name ends."""
    if not order.gpus or job.parameters.get("device", "cpu") == "cpu":
        return order.limits
    from distributed import get_worker

    number = re.search(r"\d*$", str(get_worker().name))[0]
    return replace(order.limits, gpu=int(number or 0) % order.gpus)


@contextmanager
def _alone(order: Order, display: _Silent) -> Iterator[int]:
    """Hold the job's lock and leave a mark; yield how many attempts died before this one."""
    from filelock import FileLock, Timeout

    folder = Path(order.out) / FOLDER
    lock, mark = FileLock(folder / f"{order.key}.lock"), folder / MARKS / order.key
    mark.parent.mkdir(parents=True, exist_ok=True)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_LOOK)
        except Timeout:  # another worker has it, perhaps one that the scheduler lost sight of
            display.update(Progress(total=0))
    try:
        died = int(mark.read_text().split()[0]) + 1 if mark.exists() else 0
        mark.write_text(f"{died} {socket.gethostname()}\n")
        yield died
    finally:
        mark.unlink(missing_ok=True)
        lock.release()


def marks(out: Path) -> list[Path]:
    """Return the marks of the jobs that run now, or died."""
    return list((out / FOLDER / MARKS).glob("*"))
