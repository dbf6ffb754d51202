"""Where the files of data sets are on this machine, and how they come here.

A file is looked for in the folder that ``REPROBOOK_DATA`` names, then in the cache (``REPROBOOK_CACHE``, or
the system's place for caches), and is downloaded into the cache if it is in neither. Wherever it comes from,
it is used only if its SHA-256 is the published one. A download goes to a folder of its own, is checked there,
and is put in place by one rename; so whatever stops it, no part of a file is ever taken for the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from reprobook.data.catalogue import Archive, DataSet, File, data_set
from reprobook.data.showing import download_bar, say
from reprobook.errors import UserError

__all__ = ["fetch", "find_set", "find", "has_published_hash", "data_folder", "cache_folder", "FetchError"]

_TIMEOUT = 30  # seconds without a byte before a home counts as unreachable
_CHUNK = 2**18  # bytes between two moves of the progress bar
_checked: set[tuple] = set()  # what this process has seen to be the published file


class FetchError(UserError):
    """A file that cannot be had; the message names what was tried and what to do."""


def data_folder() -> Path | None:
    """Return the folder that ``REPROBOOK_DATA`` names, or None.

    Raises:
        UserError: if it names something that is not a folder.
    """
    named = os.environ.get("REPROBOOK_DATA")
    if named and not Path(named).is_dir():
        raise UserError(f"REPROBOOK_DATA={named} is not a folder: name one that exists, or unset it")
    return Path(named) if named else None


def cache_folder() -> Path:
    """Return the folder for downloads: what ``REPROBOOK_CACHE`` names, or the system's place for caches."""
    import pooch

    return Path(os.environ.get("REPROBOOK_CACHE") or pooch.os_cache("reprobook"))


def find(file: File) -> Path | None:
    """Return where a file is on this machine, or None; its hash is not looked at."""
    folders = (data_folder(), cache_folder())
    return next((f / file.path for f in folders if f and (f / file.path).is_file()), None)


def has_published_hash(path: Path, file: File) -> bool:
    """Return whether what stands at ``path`` is the published file.

    Raises:
        FetchError: if it cannot be read.
    """
    try:
        stat = path.stat()
        state = (path, stat.st_size, stat.st_mtime_ns, file.sha256)
        if state not in _checked:
            with path.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                    return False
            _checked.add(state)
    except OSError as error:
        raise FetchError(f"cannot read {path}: {error.strerror}") from None
    return True


def find_set(name: str, only: Sequence[str] = ()) -> dict[str, Path] | None:
    """Return checked files of a data set that are on this machine, by name; None if one is missing.

    Where a set has several editions, the first that is complete is taken.

    Args:
        name: a data set.
        only: names of the files that are wanted; all by default.

    Raises:
        UserError: if there is no such set, or a file in ``REPROBOOK_DATA`` is not the published one.
    """
    for edition in data_set(name).editions:
        wanted = _wanted(edition, only)
        paths = {file.name: _usable(file) for file in wanted}
        if paths and all(paths.values()):
            return paths
    return None


def fetch(name: str, only: Sequence[str] = ()) -> dict[str, Path]:
    """Return checked files of a data set; download what is missing.

    Where a set has several editions, the one that is here already is taken, else the first with an address.

    Args:
        name: a data set with files.
        only: names of the files that are wanted; all by default.

    Returns:
        The path of every file, by its name within the set.

    Raises:
        UserError: if there is no such set, a file in ``REPROBOOK_DATA`` is not the published one, or what is
            missing cannot be downloaded; one line that says what to do.
    """
    if here := find_set(name, only):
        return here
    entry = data_set(name)
    if entry.to_download is None:
        raise FetchError(_no_address(entry))
    wanted = _wanted(entry.to_download, only) or list(entry.to_download)
    missing = [file for file in wanted if not _usable(file)]
    if entry.archives:
        _download_packed(entry, missing)
    else:
        for file in missing:
            _download(file)
    return {file.name: _usable(file) for file in wanted}


def _wanted(edition: Sequence[File], only: Sequence[str]) -> list[File]:
    """Return the files of an edition that are asked for; none if it lacks one of them."""
    chosen = [file for file in edition if not only or file.name in only]
    return chosen if len(chosen) == (len(only) or len(edition)) else []


def _usable(file: File) -> Path | None:
    """Return where a file is, if it is the published one; a wrong one in the cache counts as missing."""
    path = find(file)
    if path is None or has_published_hash(path, file):
        return path
    if path.is_relative_to(cache_folder()):
        return None
    raise FetchError(f"{path} is not the published file, its SHA-256 differs: replace it, or take it away")


def _no_address(entry: DataSet) -> str:
    files = ", ".join(file.path for file in entry.editions[0]) if entry.editions else "files"
    advice = f"; {entry.note}" if entry.note else ""
    return (
        f"data set '{entry.name}' is not here: put {files} into the folder that REPROBOOK_DATA names{advice}"
    )


# --------------------------------------------------------------------------- downloads


def _download(file: File) -> None:
    """Download one file into the cache from the first of its homes that serves it."""

    def take(home: str, incoming: Path) -> None:
        path = _get(home, incoming, file.path, file.size)
        if not has_published_hash(path, file):
            raise FetchError(_what_is_wrong(path, file))
        _put_in_place({path: cache_folder() / file.path})

    with _alone(file.path) as incoming:
        if not _usable(file):  # another process may have downloaded it in the meantime
            _from_first_home(file.path, file.homes, take, incoming, file.size)


def _download_packed(entry: DataSet, missing: Sequence[File]) -> None:
    """Download an archive and put the missing files of a set into the cache."""

    def take(home: str, incoming: Path) -> None:
        archive = next(a for a in entry.archives if a.home == home)
        packed = _get(home, incoming, f"{entry.name} (archive)", 0)
        _put_in_place(_unpack(packed, archive, missing, incoming / "files"))

    with _alone(entry.name) as incoming:
        if any(not _usable(file) for file in missing):
            room = 3 * entry.size  # the archive holds more than the files, and both are there for a moment
            _from_first_home(entry.name, [a.home for a in entry.archives], take, incoming, room)


def _from_first_home(
    what: str, homes: Sequence[str], take: Callable[[str, Path], None], incoming: Path, size: int
) -> None:
    """Try the homes in their order until one serves what is wanted.

    Raises:
        FetchError: if none does, or the disk is full; the folder ``incoming`` is empty again in any case.
    """
    _check_room(incoming, what, size)
    failures = []
    for home in homes:
        try:
            return take(home, incoming)
        except FetchError as error:
            failures.append(f"{urlsplit(home).netloc}: {error}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FetchError(f"cannot store {what} in {cache_folder()}: {error.strerror}") from None
            failures.append(f"{urlsplit(home).netloc}: {_reason(error)}")
        finally:
            _empty(incoming)
    raise FetchError(
        f"cannot download {what} ({'; '.join(failures)}): try again later, or put the file into the folder "
        "that REPROBOOK_DATA names"
    )


def _get(home: str, incoming: Path, what: str, size: int) -> Path:
    """Download an address into a folder, unchecked, showing how far it is."""
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    bar = download_bar(what, size)
    fetcher = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT)
    try:
        return Path(pooch.retrieve(home, None, fname="download", path=incoming, downloader=fetcher))
    finally:
        bar.close()


def _unpack(packed: Path, archive: Archive, files: Sequence[File], folder: Path) -> dict[Path, Path]:
    """Take files out of an archive and check each; return where each one is and where it belongs.

    Raises:
        FetchError: if the archive is broken, or a file is missing in it or is not the published one.
    """
    moves = {}
    try:
        with _opened(packed) as read:
            for file in files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(read(f"{archive.folder}/{file.name}"))
                if not has_published_hash(path, file):
                    raise FetchError(_what_is_wrong(path, file))
                moves[path] = cache_folder() / file.path
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise FetchError(f"its archive is cut off or another one ({' '.join(str(error).split())})") from None
    return moves


@contextlib.contextmanager
def _opened(packed: Path) -> Iterator[Callable[[str], bytes]]:
    """Open a zip or tar file and yield a function from a member's name to its content."""
    if zipfile.is_zipfile(packed):
        with zipfile.ZipFile(packed) as zipped:
            yield zipped.read
    else:
        with tarfile.open(packed) as tarred:
            members = {member.name: member for member in tarred.getmembers()}
            yield lambda name: tarred.extractfile(members[name]).read()


def _put_in_place(moves: dict[Path, Path]) -> None:
    """Move checked files to where they belong, each by one rename on the same disk."""
    for path, target in moves.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb+") as content:
            os.fsync(content.fileno())
        path.replace(target)


@contextlib.contextmanager
def _alone(what: str) -> Iterator[Path]:
    """Yield an empty folder in the cache that only this process uses; wait while another one does."""
    from filelock import FileLock, Timeout

    incoming = cache_folder() / ".incoming" / what.replace("/", "--")
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{incoming}.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            say(f"{what}: another process is downloading it; waiting")
            held = lock.acquire()
    except OSError as error:
        raise FetchError(f"cannot write to the cache {cache_folder()}: {error.strerror}") from None
    with held:
        _empty(incoming)  # what a killed process left
        yield incoming


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


# --------------------------------------------------------------------------- words for what went wrong


def _check_room(folder: Path, what: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FetchError(
            f"cannot store {what} in {cache_folder()}: {free // 2**20} MiB are free, "
            f"{size // 2**20 + 1} MiB are needed"
        )


def _what_is_wrong(path: Path, file: File) -> str:
    size = path.stat().st_size
    if file.size and size < file.size:
        return f"{file.path} is cut off after {size} of {file.size} bytes"
    return f"{file.path} is not the published file, its SHA-256 differs"


def _reason(error: OSError) -> str:
    """Return in a few words why a home did not answer; every error of requests is an OSError."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return error.strerror or " ".join(str(error).split())[:100]
