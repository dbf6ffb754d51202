"""Writing results so that a reader never meets half of one.

A file is written under a temporary name in its own folder, flushed to the disk, and put in place by one
rename; whoever looks finds the old file or the new one. Where several files belong together, all of them
are on the disk before the first is renamed, so a full disk leaves the old ones as they were.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reprobook.errors import UserError

__all__ = ["StoringError", "write_files", "check_writable", "ROOM"]

#: Bytes that must be free before a run: more than any executed notebook with its record.
ROOM = 4 * 2**20


class StoringError(UserError):
    """A result that could not be written; the message names the folder and what the system said."""


def write_files(texts: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together, all or none.

    Args:
        texts: what each file shall hold, text or bytes; the folders exist.

    Raises:
        StoringError: if the system refuses. No file has been replaced then, and no temporary file is left.
    """
    waiting: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            waiting[path] = _write_beside(path, text)
        for path, temporary in waiting.items():
            temporary.replace(path)
    except OSError as error:
        raise StoringError(f"cannot write {error_place(error, texts)}: {error.strerror}") from None
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path, room: int = ROOM) -> None:
    """Make a folder if need be, and check before a long run that its result can be written there.

    Args:
        folder: where results go.
        room: how many bytes must be free.

    Raises:
        StoringError: if the folder cannot be made or written to, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StoringError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if free < room:
        raise StoringError(
            f"cannot write to the folder {folder}: {free // 1024} KiB are free on its disk, "
            f"{room // 1024} KiB are needed"
        )


def error_place(error: OSError, texts: Mapping[Path, str]) -> str:
    """Return the file or folder that an error of :func:`write_files` is about."""
    return str(error.filename or next(iter(texts)).parent)


def _write_beside(path: Path, text: str | bytes) -> Path:
    """Write a temporary file beside a path, down to the disk, and return its name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _usual_mode())
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    return Path(name)


def _usual_mode() -> int:
    """Return the permissions that a new file has by default; ``mkstemp`` makes files private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
