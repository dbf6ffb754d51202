"""One job from start to end: a worker process, watched until it ends or is stopped, then its record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from reprobook.chapter import PROGRESS_VARIABLE
from reprobook.errors import UserError
from reprobook.jobs import Job
from reprobook.machine import head_commit, machine_kind, versions
from reprobook.notebooks import code_cells, first_error, measured_claims, notebook_text, read_notebook, stored
from reprobook.paths import book_root
from reprobook.progress import Channel, Display
from reprobook.records import SCHEMA, Record
from reprobook.stamps import stamp
from reprobook.storing import write_files

__all__ = ["execute", "Limits"]

_SHORT = 40  # sockets stand in the job's folder, and the system limits their names
_LOOK = 0.1  # seconds between looks at the worker
_WEIGH = 0.5  # seconds between looks at its memory


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        threads: processor threads of the numerical libraries; None leaves that to them.
        seconds: time, after which it is stopped; None for no limit.
        memory_mib: resident memory of all its processes, above which it is stopped; None for no limit.
        gpu: the number of the only GPU that it shall see; None for all of them.
    """

    threads: int | None = None
    seconds: float | None = None
    memory_mib: float | None = None
    gpu: int | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables by which the numerical libraries keep to this."""
        one = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": str(self.gpu)}
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        return one | ({} if self.threads is None else dict.fromkeys(names, str(self.threads)))


@dataclass
class _Watch:
    """What was seen of a worker.

    Attributes:
        peak_memory_mib: the largest sum of resident memory over its child processes.
        family: every process that it started, directly or not.
        stopped_by: the number of the signal that ended the run, or 0.
        beyond: which limit the run went beyond, in words, or None.
        status: the worker's exit status.
    """

    peak_memory_mib: float = 0.0
    family: set[psutil.Process] = field(default_factory=set)
    stopped_by: int = 0
    beyond: str | None = None
    status: int | None = None


class _Stopped(BaseException):
    """A signal asks for the end of the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def execute(job: Job, display: Display, limits: Limits | None = None) -> tuple[Record, str, int]:
    """Run a job.

    Args:
        job: what to run.
        display: shows the progress.
        limits: what it may take; a run that goes beyond is stopped, and has failed.

    Returns:
        The record, the text of the executed notebook with that record, and the number of the signal that
        stopped the run, or 0.
    """
    source = read_notebook(job.text)
    channel_labels = code_cells(source)
    started, clock = datetime.now(UTC), time.monotonic()
    with _job_folder() as folder:
        _prepare(folder, job, notebook_text(source))
        channel = Channel(folder / "progress.jsonl", channel_labels)
        watch = _run_worker(folder, job, channel, display, limits or Limits())
        outcome = _read_json(folder / "outcome.json")
        ran = _read_output(folder / "output.ipynb") or source
        error = _error(watch, outcome, ran, channel, folder / "stderr.txt") or _edited(job)
    record = Record(
        schema=SCHEMA,
        chapter=job.chapter,
        tier=job.tier,
        parameters=job.parameters,
        status="failed" if error else "finished",
        error=error,
        claims=measured_claims(ran),
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        wall_seconds=round(time.monotonic() - clock, 1),
        peak_memory_mib=round(max(watch.peak_memory_mib, outcome.get("peak_memory_mib", 0.0))),
        machine=outcome.get("machine") or machine_kind(),
        device=outcome.get("device") or _device(job),
        versions=versions(),
        commit=head_commit(book_root()),
        stamp=job.stamp,
    )
    return record, stored(source, ran, record), watch.stopped_by


# --------------------------------------------------------------------------- the job's folder


@contextmanager
def _job_folder() -> Iterator[Path]:
    """Make a folder with a short name for one job, and remove it afterwards."""
    usual = tempfile.gettempdir()
    parent = usual if len(usual) < _SHORT else "/tmp"
    try:
        folder = Path(tempfile.mkdtemp(prefix="reprobook-", dir=parent))
    except OSError as error:
        raise UserError(f"cannot make a folder in {parent} to work in: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, job: Job, text: str) -> None:
    """Write down for the worker what to do."""
    order = json.dumps({"parameters": job.injected, "device": _device(job)})
    write_files({folder / "input.ipynb": text, folder / "job.json": order})


def _device(job: Job) -> str:
    return str(job.parameters.get("device", "cpu"))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_output(path: Path) -> Any:
    """Return the notebook that papermill wrote, or None if it did not come to write one."""
    import nbformat

    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4) if path.is_file() else None


def _error(watch: _Watch, outcome: dict, ran: Any, channel: Channel, stderr: Path) -> str | None:
    """Return in one line where and why a run failed, or None if it did not."""
    where = channel.progress.heading
    if watch.stopped_by:
        return f"interrupted in {where}" if channel.progress.cell else "interrupted before the first cell"
    if watch.beyond:
        return f"{where}: {watch.beyond}"
    if outcome and outcome["error"] is None:
        return None
    if not outcome:
        words = stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["silently"]
        return f"{where}: the worker process ended with status {watch.status}: {words[-1]}"
    cell, says = first_error(ran) or (channel.progress.cell, outcome["error"])
    return f"{channel.labels.get(cell, where)}: {says}"


def _edited(job: Job) -> str | None:
    """Return a line if what a job is made of has changed since it was planned: then it shows neither."""
    try:
        same = stamp(job.path, job.parameters) == job.stamp
    except (UserError, OSError, ValueError):
        same = False
    return None if same else "its notebook, claims or library were edited while it ran"


# --------------------------------------------------------------------------- the worker


def _run_worker(folder: Path, job: Job, channel: Channel, display: Display, limits: Limits) -> _Watch:
    """Start the worker and watch it until it ends, or a signal asks for its end; leave no process behind."""
    watch, worker = _Watch(), None
    display.start(job.title)
    with _signals_stop():
        try:
            worker = _start(folder, job.path.parent, limits)
            _look_after(worker, channel, display, watch, limits)
        except _Stopped as stopped:
            watch.stopped_by = stopped.number
        finally:
            if worker:
                _end(worker, watch)
            display.stop()
            channel.update()
    return watch


#: Lets glibc keep freed memory. Else every training step hands its large buffers back and asks for them anew.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

#: A kernel has no widgets, and tqdm, which other libraries import, would say so in the middle of a chapter.
_NO_WIDGETS = "ignore:IProgress not found"


def _start(folder: Path, where: Path, limits: Limits) -> psutil.Popen:
    """Start the worker in the chapter's folder and in a session of its own, out of reach of Ctrl-C."""
    own = {
        "REPROBOOK_ROOT": str(book_root()),
        PROGRESS_VARIABLE: str(folder / "progress.jsonl"),
        "IPYTHONDIR": str(folder / "ipython"),  # a reader's start-up files are no part of a chapter
        "JUPYTER_RUNTIME_DIR": str(folder),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    quiet = [w for w in (os.environ.get("PYTHONWARNINGS"), _NO_WIDGETS) if w]
    own["PYTHONWARNINGS"] = ",".join(quiet)
    inherited = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    environment = _KEEP_MEMORY | inherited | limits.environment() | own
    with (folder / "stderr.txt").open("wb") as log:
        return psutil.Popen(
            [sys.executable, "-m", "reprobook.worker", str(folder)],
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _look_after(
    worker: psutil.Popen, channel: Channel, display: Display, watch: _Watch, limits: Limits
) -> None:
    """Show the progress and weigh the kernel until the worker ends, or goes beyond a limit."""
    began, weighed = time.monotonic(), 0.0
    while watch.status is None and watch.beyond is None:
        display.update(channel.update())
        if time.monotonic() - weighed > _WEIGH:
            weighed = time.monotonic()
            _weigh(worker, watch)
            if limits.memory_mib is not None and watch.peak_memory_mib > limits.memory_mib:
                watch.beyond = f"stopped, as it took more than {limits.memory_mib:.0f} MiB of memory"
        if limits.seconds is not None and time.monotonic() - began > limits.seconds:
            watch.beyond = f"stopped, as it took longer than {limits.seconds:g} s"
        with suppress(psutil.TimeoutExpired):
            watch.status = worker.wait(timeout=_LOOK)


def _weigh(worker: psutil.Popen, watch: _Watch) -> None:
    """Note the processes that the worker has started, and how much memory they hold together."""
    total = 0
    with suppress(psutil.Error):
        family = worker.children(recursive=True)
        watch.family.update(family)
        for process in family:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    watch.peak_memory_mib = max(watch.peak_memory_mib, total / 2**20)


def _end(worker: psutil.Popen, watch: _Watch) -> None:
    """Kill whatever is left of the worker and of all that it started."""
    _weigh(worker, watch)
    left = [p for p in {*watch.family, worker} if p.is_running()]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


@contextmanager
def _signals_stop() -> Iterator[None]:
    """Turn Ctrl-C, and polite requests to end, into an exception; a second one while cleaning up is void.

    A signal that is ignored (as under ``nohup``) stays so.
    """

    def stop(number: int, frame: Any) -> None:
        for s in handlers:
            signal.signal(s, signal.SIG_IGN)
        raise _Stopped(number)

    main = threading.current_thread() is threading.main_thread()  # elsewhere Python sets no handlers
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ()
    handlers = {s: signal.getsignal(s) for s in asked if signal.getsignal(s) is not signal.SIG_IGN}
    try:
        for s in handlers:
            signal.signal(s, stop)
        yield
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
