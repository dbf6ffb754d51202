"""A process for a student's code: started, asked, and stopped when it takes too long.

Student code is foreign code. It runs in a process of its own, with a limit on time and memory, without a
network and without the book's library, as far as the operating system gives such means: :class:`Confinement`
says what was had. That keeps honest mistakes and simple mischief away from the grader. It is no wall against
a determined attacker; a container is, and the page for teachers says how to use one.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import psutil

from reprobook.errors import UserError

__all__ = ["Limits", "Confinement", "Sandbox", "Stopped", "Cancelled", "BY_THE_CLOCK"]

_HERE = Path(__file__).parent
_START_SECONDS = 60
#: How much more time may pass by the clock than the processor works.
BY_THE_CLOCK = 3.0
_GLANCE = 0.25  # seconds between two looks at the time
_LONGEST_ANSWER = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    Time is the processor's, so that a busy machine costs nobody points; by the clock three times as much
    may pass.

    Attributes:
        question: seconds of processor time for a cell or a call of a function.
        total: seconds of processor time for a whole notebook.
        memory: bytes of address space; torch alone takes some 0.7 GiB of it.
    """

    question: float = 20.0
    total: float = 180.0
    memory: int = 4 << 30

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: if one is not positive, or the memory is too small to import torch.
        """
        if min(self.question, self.total) <= 0:
            raise UserError("the limits on time must be above 0 seconds")
        if self.memory < 1 << 30:
            raise UserError("the limit on memory must be at least 1 GiB: torch takes most of that")


@dataclass(frozen=True)
class Confinement:
    """What the system let the process give up.

    Attributes:
        company: it has no network, and cannot reach other processes.
        files: it reads Python's own files and its working folder only.
        memory: it cannot take more than the limit.
    """

    company: bool
    files: bool
    memory: bool

    def missing(self) -> list[str]:
        """Return what could not be had, in words."""
        words = {"company": "network", "files": "other files", "memory": "memory without end"}
        return [words[k] for k in words if not getattr(self, k)]


class Stopped(Exception):
    """The process was stopped, or ended by itself; the message says why, for the student to read."""


class Cancelled(Exception):
    """The grading itself was called off, which is no fault of the student."""


class Sandbox:
    """One process for one student's code.

    Args:
        folder: its working folder, the only one it may write to; with the data of the assignment.
        limits: what it may use.
        cancelled: set by somebody who wants to end all gradings.

    Raises:
        UserError: if it does not start, which is no fault of the student.
    """

    def __init__(self, folder: Path, limits: Limits, cancelled: Event | None = None) -> None:
        self.limits, self._cancelled = limits, cancelled or Event()
        self._pending, self._spent = b"", 0.0
        command = [sys.executable, "-I", "-S", str(_HERE / "student_process.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes, start_new_session=True, env=_environment(folder))
        try:
            self.confinement = Confinement(**self._exchange(_setting(folder, limits), _START_SECONDS))
        except Stopped as error:
            raise UserError(f"the process for student code does not start: {error}") from None

    @property
    def spent(self) -> float:
        """Seconds of processor time that the process and what it started have used so far."""
        times = [0.0]
        with suppress(psutil.NoSuchProcess):
            ours = psutil.Process(self._process.pid)
            for process in (ours, *ours.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    used = process.cpu_times()
                    times.append(used.user + used.system)
        self._spent = max(self._spent, sum(times))
        return self._spent

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put one question and return the answer.

        Args:
            question: what :mod:`reprobook.course.student_process` understands.
            seconds: of processor time, three times as much by the clock.

        Raises:
            Stopped: if the process takes longer, ends, or says what is no answer; it is gone then.
            Cancelled: if the grading was called off.
        """
        return self._exchange(question, seconds)

    def close(self) -> None:
        """End the process and all that it started."""
        try:
            family = [*psutil.Process(self._process.pid).children(recursive=True), self._process]
        except psutil.NoSuchProcess:
            family = [self._process]
        for process in family:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put a question with a token that the answer must repeat: no line is taken for another's answer."""
        token = secrets.token_hex(8)
        try:
            self._process.stdin.write(json.dumps(question | {"token": token}).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(seconds))
            if answer.pop("token") == token:
                return answer
            reason = "it wrote into the channel to the grader"
        except (BrokenPipeError, EOFError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)  # for its exit code
            reason = _ended(self._process.returncode)
        except TimeoutError:
            reason = f"it took longer than {seconds:.0f} s: is there a loop without an end?"
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            reason = "it wrote into the channel to the grader"
        self.close()
        raise Stopped(reason)

    def _line(self, seconds: float) -> bytes:
        """Read up to the next end of a line."""
        begun, spent = time.monotonic(), self.spent
        parts, size, handle = [self._pending], len(self._pending), self._process.stdout.fileno()
        while b"\n" not in parts[-1]:
            if size > _LONGEST_ANSWER:
                raise ValueError("the answer is too long")
            if select.select([handle], [], [], _GLANCE)[0]:
                parts.append(os.read(handle, 1 << 16))
                size += len(parts[-1])
                if not parts[-1]:
                    raise EOFError
            if self._cancelled.is_set():
                self.close()
                raise Cancelled
            if self.spent - spent > seconds or time.monotonic() - begun > BY_THE_CLOCK * seconds:
                raise TimeoutError
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line


def _ended(code: int | None) -> str:
    """Say how a process ended."""
    if code is not None and (code < 0 or code > 128):
        return "it was ended by the system, most likely because it wanted too much memory"
    return f"it ended by itself (exit code {code})"


def _environment(folder: Path) -> dict[str, str]:
    """Return the variables of the environment that student code may see: nothing of the user's."""
    kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if k in os.environ}
    homes = {k: str(folder) for k in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR")}
    return {**kept, **homes, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _setting(folder: Path, limits: Limits) -> dict[str, Any]:
    """Return the first line that the process reads: everything but the book's own library is in its sight."""
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    standard = [
        p for p in sys.path if p.startswith((sys.base_prefix, sys.base_exec_prefix)) and p not in packages
    ]
    own = Path(__file__).parents[1].name
    contents = [str(p) for d in packages for p in Path(d).iterdir() if not p.name.lstrip("_").startswith(own)]
    plain = str(_HERE / "plain.py")
    system = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/opt", "/nix"]
    system += ["/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system"]
    libraries = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("LIBDIR")]
    return {
        "path": [*standard, *packages],
        "folder": str(folder),
        "plain": plain,
        "listable": packages,
        "readable": [*system, *standard, *filter(None, libraries), *contents, plain],
        "memory": limits.memory,
    }
