"""What a sweep shows while it runs: a bar with counts on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

__all__ = ["Counts", "Shower", "show_counts"]

_PAUSE = 15.0  # seconds between two lines of a log


@dataclass(frozen=True)
class Counts:
    """How far a sweep is: jobs done now, failed for good, running, and neither done nor failed."""

    done: int
    failed: int
    running: int
    left: int

    def __str__(self) -> str:
        waiting = max(self.left - self.running, 0)
        return f"{self.done} done · {self.running} running · {self.failed} failed · {waiting} left"


class Shower(Protocol):
    """Shows counts."""

    def update(self, counts: Counts) -> None:
        """Show these counts; called several times a second."""


@contextmanager
def show_counts(show: bool, dashboard: str, total: int, stream: TextIO | None = None) -> Iterator[Shower]:
    """Yield something that shows the progress of a sweep.

    Args:
        show: False to show nothing.
        dashboard: the address of Dask's dashboard.
        total: the number of jobs to run.
        stream: where to show it; the standard error by default.
    """
    stream = stream or sys.stderr
    if not show:
        yield _Nothing()
        return
    print(f"{total} jobs to run; dashboard: {dashboard}", file=stream, flush=True)
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        lines = _Lines(stream, total)
        yield lines
        lines.end()
        return
    with _bar(stream) as bar:
        yield _Bar(bar, total)


class _Nothing:
    def update(self, counts: Counts) -> None:
        """Show nothing."""


class _Lines:
    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream, self._began = stream, time.monotonic()
        self._last, self._counts = self._began, Counts(0, 0, 0, total)

    def update(self, counts: Counts) -> None:
        self._counts = counts
        if time.monotonic() - self._last > _PAUSE:
            self._print()

    def end(self) -> None:
        self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        spent, counts = self._last - self._began, self._counts
        done = counts.done + counts.failed
        rest = f", {spent / done * counts.left:.0f} s to go" if done and counts.left else ""
        print(f"{counts}, {spent:.0f} s{rest}", file=self._stream, flush=True)


class _Bar:
    def __init__(self, bar, total: int) -> None:
        self._bar, self._task = bar, bar.add_task("", total=total)

    def update(self, counts: Counts) -> None:
        self._bar.update(self._task, completed=counts.done + counts.failed, description=str(counts))


def _bar(stream: TextIO):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    columns = (*columns, TimeElapsedColumn(), TextColumn("time left"), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=stream), transient=True)
