"""What a download shows: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time

__all__ = ["download_bar", "say"]


class TerminalBar:
    """A bar with size, speed and time left. Has what pooch asks of a progress bar.

    Args:
        what: the name of the file.
        size: its bytes, or 0 if unknown; the server's word replaces it.
    """

    def __init__(self, what: str, size: int) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._bars = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task(what, total=size or None)
        self._bars.start()

    @property
    def total(self) -> int | None:
        """How many bytes there are."""
        return self._bars.tasks[0].total

    @total.setter
    def total(self, size: int) -> None:
        if size:
            self._bars.update(self._task, total=size)

    def update(self, num: int) -> None:
        """Move on by some bytes."""
        self._bars.update(self._task, advance=num)

    def reset(self) -> None:
        """Go back to the start; pooch does so before it fills the bar."""
        self._bars.update(self._task, completed=0)

    def close(self) -> None:
        """Take the bar away."""
        self._bars.stop()


class Lines:
    """A line at the start and one every ``pause`` seconds, for logs; the same methods."""

    def __init__(self, what: str, size: int, pause: float = 10.0) -> None:
        self.what, self.total, self.pause = what, size, pause
        self._done, self._last = 0, time.monotonic()
        say(f"{what}: downloading{_megabytes(' ', size)}")

    def update(self, num: int) -> None:
        """Move on by some bytes, and say so if the last line is long enough ago."""
        self._done += num
        if time.monotonic() - self._last >= self.pause:
            self._last = time.monotonic()
            say(f"{self.what}: {self._done / 1e6:.1f} MB{_megabytes(' of ', self.total)}")

    def reset(self) -> None:
        """Go back to the start."""
        self._done = 0

    def close(self) -> None:
        """Say nothing more."""


def download_bar(what: str, size: int) -> TerminalBar | Lines:
    """Return a bar if a person is watching the standard error, and lines if not.

    Args:
        what: the name of the file.
        size: its bytes, or 0 if unknown.
    """
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return (TerminalBar if watched else Lines)(what, size)


def say(line: str) -> None:
    """Print a line on the standard error."""
    print(line, file=sys.stderr, flush=True)


def _megabytes(before: str, size: int) -> str:
    return f"{before}{size / 1e6:.1f} MB" if size else ""
