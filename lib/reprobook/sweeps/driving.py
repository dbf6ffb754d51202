"""Driving a sweep: give every missing job to a worker, try failures again, and lose nothing that is finished.

The sweep's folder holds ``SLUG/NAME.ipynb`` and ``SLUG/NAME.json`` for every finished job,
``SLUG/NAME.failed.ipynb`` for what a failed one did, and ``sweep.json``: what was asked for, and why jobs
failed. Starting the same sweep again in the same folder runs what is missing.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import UserError
from reprobook.execution import Limits
from reprobook.jobs import Job
from reprobook.paths import book_root
from reprobook.running import Interrupted, find_finished
from reprobook.storing import check_writable, write_files
from reprobook.sweeps.attempts import FOLDER, STOP, Order, Outcome, attempt, marks
from reprobook.sweeps.design import Sweep
from reprobook.sweeps.engines import Engine, Local, demanded
from reprobook.sweeps.showing import Counts, show_counts

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Summary", "run_sweep", "MANIFEST"]

#: The file in which a sweep's folder says what was asked for.
MANIFEST = "sweep.json"
_AT_ONCE = 10_000  # jobs that the scheduler knows of at a time
_PAUSE = 0.2  # seconds between two looks at what has come back
_LOOK = 1.0  # seconds between two looks at what is under way


@dataclass
class Summary:
    """How a sweep ended.

    Attributes:
        out: its folder.
        total: how many jobs it has.
        found: how many were finished before it began.
        finished: how many it finished now.
        failures: why jobs failed for good, by the name of their files within the folder.
        again: how many attempts had to be repeated.
    """

    out: Path
    total: int
    found: int = 0
    finished: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    again: int = 0

    @property
    def left(self) -> int:
        """How many jobs have neither finished nor failed."""
        return self.total - self.found - self.finished - len(self.failures)

    def __str__(self) -> str:
        parts = [f"{self.found + self.finished} of {self.total} jobs finished"]
        parts += [f"{self.found} of them before"] if self.found else []
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        parts += [f"{self.left} left"] if self.left else []
        parts += [f"{self.again} attempts repeated"] if self.again else []
        return ", ".join(parts)


def run_sweep(sweep: Sweep, out: Path | str, engine: Engine | None = None, *, show: bool = True) -> Summary:
    """Run the jobs of a sweep that are not finished yet.

    In a script of your own, call it below ``if __name__ == "__main__":``, since workers import the script.

    Args:
        sweep: what to run.
        out: the folder for results; one that the workers see under the same name.
        engine: where to run; this machine by default.
        show: whether to show the progress on the standard error.

    Returns:
        How it ended. A job that failed does not stop the others, and raises nothing.

    Raises:
        UserError: for a mistake in the sweep, a folder that cannot be written to or in which another sweep is
            at work, or a cluster that cannot be reached or is lost; what is finished stays.
        Interrupted: for Ctrl-C; what is finished stays.
    """
    engine = engine or Local()
    out = Path(out).resolve()
    jobs = sweep.jobs(elsewhere=engine.elsewhere)
    check_writable(out)
    with _only_one(out):
        summary = Summary(out, len(jobs))
        missing = [job for job in jobs if not find_finished(job, out / job.slug)]
        summary.found = len(jobs) - len(missing)
        _note(sweep, jobs, summary)
        if not missing:
            return summary
        gpu = any(_takes_gpu(job) for job in missing)
        limits = Limits(sweep.threads, sweep.time_limit, sweep.memory_limit)
        orders = [_order(job, out, limits, sweep.retries, engine.gpus(gpu)) for job in missing]
        try:
            with engine.client(sweep.threads, gpu, sweep.retries) as client:
                _drive(client, orders, demanded(sweep.threads, gpu), summary, show)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {summary}; start the same command again to go on", 130) from None
        finally:
            _note(sweep, jobs, summary)
    return summary


def _drive(
    client: Client, orders: list[Order], resources: Mapping[str, float], summary: Summary, show: bool
) -> None:
    """Hand out the orders, take what comes back, and hand out again what failed.

    Raises:
        UserError: if the scheduler is lost.
    """
    waiting, tried = iter(orders), dict.fromkeys((o.key for o in orders), 1)
    running: dict[str, tuple[Future, Order]] = {}
    back: queue.SimpleQueue[Future] = queue.SimpleQueue()

    def hand_out(order: Order) -> None:
        key = f"{order.key}#{tried[order.key]}#{time.time_ns()}"
        future = client.submit(attempt, order, key=key, pure=False, retries=0, resources=resources or None)
        running[key] = (future, order)
        future.add_done_callback(back.put)

    def fill() -> None:
        while len(running) < _AT_ONCE and (order := next(waiting, None)):
            hand_out(order)

    showing = show_counts(show, client.dashboard_link, len(orders))
    with showing as counts, _workers_stop_too(client, running, summary.out):
        fill()
        looked = 0.0
        while running:
            for future in _arrived(back):
                _, order = running.pop(future.key)
                outcome = _outcome(future, order)
                if outcome is None:
                    raise _lost(summary)
                future.release()
                if outcome.again and tried[order.key] <= order.retries:
                    tried[order.key] += 1
                    summary.again += 1
                    hand_out(order)
                else:
                    _count(outcome, order, summary)
            fill()
            if client.status != "running":
                raise _lost(summary)
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                counts.update(_counts(summary))
        counts.update(_counts(summary))


@contextmanager
def _workers_stop_too(client: Client, running: dict[str, tuple[Future, Order]], out: Path) -> Iterator[None]:
    """Tell the workers when the sweep ends before its time, also those that this process did not start."""
    try:
        yield
    except BaseException:
        (out / FOLDER / STOP).touch()
        with suppress(Exception):  # a lost scheduler cancels nothing
            client.cancel([future for future, _ in running.values()])
        raise


def _counts(summary: Summary) -> Counts:
    return Counts(summary.finished, len(summary.failures), len(marks(summary.out)), summary.left)


def _arrived(back: queue.SimpleQueue) -> Iterator[Future]:
    """Yield what has come back; wait a moment for the first."""
    try:
        yield back.get(timeout=_PAUSE)
        while True:
            yield back.get_nowait()
    except queue.Empty:
        return


def _outcome(future: Future, order: Order) -> Outcome | None:
    """Return how an attempt ended, even if its worker could not say; None if the scheduler is gone."""
    if future.status == "finished":
        with suppress(OSError):  # the result was on its way when the scheduler went
            return future.result()
    if future.status == "error":
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            times = order.retries + 1
            return Outcome(order.key, False, f"its worker died, {times} time{'s' * (times > 1)}")
        return Outcome(
            order.key, False, f"{type(error).__name__}: {' '.join(str(error).split())}", again=True
        )
    return None


def _count(outcome: Outcome, order: Order, summary: Summary) -> None:
    summary.again += outcome.died
    if outcome.finished:
        summary.finished += 1
    else:
        summary.failures[f"{order.folder.name}/{order.name}"] = outcome.error or "failed"


def _lost(summary: Summary) -> UserError:
    return UserError(f"the scheduler is lost: {summary}; start the same command again to go on")


def _order(job: Job, out: Path, limits: Limits, retries: int, gpus: int) -> Order:
    return Order(
        str(book_root()),
        str(out),
        job.chapter,
        job.tier,
        job.given,
        job.name,
        job.stamp,
        limits,
        retries,
        gpus,
    )


def _takes_gpu(job: Job) -> bool:
    """Return whether a job computes on a GPU; ``auto`` is left to the machine and declares nothing."""
    return str(job.parameters.get("device", "cpu")).startswith("cuda")


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the folder's lock, and forget what an earlier sweep left among its marks.

    Raises:
        UserError: if another sweep is at work there.
    """
    from filelock import FileLock, Timeout

    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another sweep is at work in {out}: wait for it, or choose another --out") from None
    try:
        for left in [folder / STOP, *marks(out)]:
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _note(sweep: Sweep, jobs: list[Job], summary: Summary) -> None:
    """Write down what was asked for and what failed."""
    fields = ("chapter", "tier", "given", "name", "stamp")
    manifest: dict[str, Any] = {
        "sweep": sweep.to_data(),
        "jobs": [{f: getattr(job, f) for f in fields} for job in jobs],
        "failures": summary.failures,
        "noted": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    write_files({summary.out / MANIFEST: json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"})
