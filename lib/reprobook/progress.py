"""What a run shows while it runs: bars on a terminal, an occasional line elsewhere.

The worker notes every cell that starts, and :meth:`reprobook.chapter.Chapter.track` notes steps within a
cell, both as lines of JSON in one file. :class:`Channel` reads that file as it grows.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

__all__ = ["Progress", "Channel", "Display", "Bars", "Lines", "display_for"]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        total: how many code cells there are.
        cell: the id of the cell that runs now, or None before the first.
        done: how many code cells are finished.
        heading: what to call the cell that runs now.
        step: what it says it is doing, or None.
        step_done: how many steps are done.
        step_total: of how many, if that is known.
    """

    total: int
    cell: str | None = None
    done: int = 0
    heading: str = "starting"
    step: str | None = None
    step_done: int = 0
    step_total: int | None = None


class Channel:
    """The file in which the worker and the notebook note their progress.

    Args:
        path: the file, which need not exist yet.
        labels: what to call each code cell, by id, in the order of the notebook.
    """

    def __init__(self, path: Path, labels: Mapping[str, str]) -> None:
        self.path = path
        self.labels = labels
        self.progress = Progress(total=len(labels))
        self._read = 0

    def update(self) -> Progress:
        """Return the progress after reading what was added since the last call."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                lines, newline, _ = file.read().rpartition(b"\n")
            self._read += len(lines) + len(newline)
            for line in lines.splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a broken note must not end a run
                    self._take(json.loads(line))
        return self.progress

    def _take(self, note: Mapping) -> None:
        now = self.progress
        if "cell" not in note:
            now.step, now.step_done, now.step_total = note["label"], note["done"], note["total"]
        elif note["cell"] in self.labels:  # the cell that papermill injects is not counted
            now.cell, now.heading = note["cell"], self.labels[note["cell"]]
            now.done, now.step = list(self.labels).index(now.cell), None


class Display(Protocol):
    """Shows the progress of one run between ``start`` and ``stop``."""

    def start(self, title: str) -> None:
        """Begin to show a run of this title."""

    def update(self, progress: Progress) -> None:
        """Show how far it is; called several times a second."""

    def stop(self) -> None:
        """Show nothing any more."""


class Bars:
    """Two bars on a terminal: cells of the notebook, and steps of the cell that runs now."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def start(self, title: str) -> None:
        """Begin to show a run of this title."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = RichProgress(*columns, console=Console(file=self.stream), transient=True)
        self._title = title
        self._cells = self._bars.add_task(title, total=None)
        self._steps = self._bars.add_task("", total=None, visible=False)
        self._bars.start()

    def update(self, progress: Progress) -> None:
        """Show how far it is."""
        title = f"{self._title} · {progress.heading}"[:60]
        self._bars.update(self._cells, description=title, completed=progress.done, total=progress.total)
        self._bars.update(
            self._steps,
            description=f"  {progress.step}",
            completed=progress.step_done,
            total=progress.step_total,
            visible=progress.step is not None,
        )

    def stop(self) -> None:
        """Take the bars away."""
        self._bars.stop()


class Lines:
    """A line now and then, for logs: one at the start, and one every ``pause`` seconds."""

    def __init__(self, stream: TextIO, pause: float = 15.0) -> None:
        self.stream = stream
        self.pause = pause

    def start(self, title: str) -> None:
        """Print the first line."""
        self._title, self._began = title, time.monotonic()
        self._last = self._began
        print(f"{title}: started", file=self.stream, flush=True)

    def update(self, progress: Progress) -> None:
        """Print a line if the last one is long enough ago."""
        now = time.monotonic()
        if now - self._last < self.pause:
            return
        self._last = now
        step = f", {progress.step} {progress.step_done}" if progress.step else ""
        step += f" of {progress.step_total}" if progress.step and progress.step_total else ""
        cells = f"{progress.done} of {progress.total} cells done, now {progress.heading}"
        line = f"{self._title}: {cells}{step}, {now - self._began:.0f} s"
        print(line, file=self.stream, flush=True)

    def stop(self) -> None:
        """Print nothing more."""


def display_for(stream: TextIO | None = None) -> Display:
    """Return bars for a terminal and lines for anything else.

    Args:
        stream: where to show it; the standard error by default, so that results can be piped.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
    return Bars(stream) if terminal else Lines(stream)
