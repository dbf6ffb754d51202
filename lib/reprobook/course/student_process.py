"""The process that a student's code runs in: given cells and questions as lines of JSON, it answers likewise.

Started by :mod:`reprobook.course.sandbox` as a file, without the book's library on its path. It first gives
up what the system lets it give up (company, other files, memory without end), says so, and then obeys.
Nothing that it says is trusted: what runs here can lie about its own numbers, but not change the tests.
"""

import ctypes
import importlib.util
import io
import json
import math
import os
import resource
import signal
import sys

__all__ = ["give_up_company", "give_up_files", "give_up_memory", "main"]

# System calls, the same on all processors.
_LANDLOCK = {"create": 444, "add": 445, "restrict": 446}
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38
_RUN, _READ_FILE, _LIST = 0b1, 0b100, 0b1000  # rights as Landlock numbers them
_WRITE_FILE, _CHANGE_FOLDERS = 0b10, 0b1_1111_1111_0000
_ALL = _RUN | _READ_FILE | _LIST | _WRITE_FILE | _CHANGE_FOLDERS
_OF_FILES = _RUN | _READ_FILE | _WRITE_FILE


def give_up_company() -> bool:
    """Move this process where there is no network and no other process; say whether that worked.

    What follows runs in a child; this one waits for it and ends as it ends. When the child ends, all that it
    started ends, too.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        alone = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWPID) == 0
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    except (OSError, AttributeError):
        return False
    if not alone:
        return False
    if child := os.fork():
        os.close(0)
        os.close(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_NPROC, (256, 256))
    return True


def give_up_files(listable: list[str], readable: list[str], writable: list[str]) -> bool:
    """Keep this process from all files but some; say whether that worked.

    Uses Landlock, which Linux has had since version 5.13. It holds for all threads and processes begun later.

    Args:
        listable: folders in which names may be seen.
        readable: files and folders to be read, with all that is in them.
        writable: likewise, to be written, too.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_ALL)
    rules = libc.syscall(_LANDLOCK["create"], ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False

    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))

    kinds = ((listable, _LIST), (readable, _RUN | _READ_FILE | _LIST), (writable, _ALL))
    for path, allowed in ((p, allowed) for paths, allowed in kinds for p in paths if os.path.exists(p)):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = Beneath(allowed if os.path.isdir(path) else allowed & _OF_FILES, handle)
        failed = libc.syscall(_LANDLOCK["add"], rules, 1, ctypes.byref(rule), 0)
        os.close(handle)
        if failed:
            return False
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return libc.syscall(_LANDLOCK["restrict"], rules, 0) == 0


def give_up_memory(size: int) -> bool:
    """Limit the address space of this process, in bytes, and what it may write to a file."""
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ValueError, OSError):
        return False
    return sys.platform.startswith("linux")  # macOS takes the limit and does not keep it


def main() -> None:
    """Set the process up as its first line asks, then answer line by line until the input ends."""
    alone = give_up_company()
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what is printed past Python does not get among the answers
    asked = json.loads(questions.readline())
    sys.path[:] = asked["path"]
    sys.dont_write_bytecode = True
    os.chdir(asked["folder"])
    # Before numpy is imported: it starts threads, to which what follows would not apply.
    confined = {
        "company": alone,
        "files": give_up_files(asked["listable"], asked["readable"], [asked["folder"], os.devnull]),
        "memory": give_up_memory(asked["memory"]),
    }
    spec = importlib.util.spec_from_file_location("plain", asked["plain"])
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    student = _Student(plain)
    _say(answers, confined | {"token": asked["token"]})
    for line in questions:
        question = json.loads(line)
        _say(answers, student.answer(question) | {"token": question["token"]})


def _say(stream: io.BufferedWriter, answer: object) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")
    stream.flush()


class _Student:
    """The student's names, and what can be asked of them."""

    def __init__(self, plain) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        self.plain = plain

        class Shell(InteractiveShell):
            system = InteractiveShell.system_raw  # the other way needs a terminal

            def enable_gui(self, gui=None) -> None:
                """Figures have no window here."""

        self.shell = Shell.instance(history_length=0, history_load_length=0)
        self.shell.history_manager.enabled = False
        self.names = self.shell.user_ns

    def answer(self, question: dict) -> dict:
        """Do one of ``run``, ``get``, ``call``; an exception of the student's code is an answer, too."""
        said = io.StringIO()
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = said
        try:
            answer = getattr(self, f"_{question['do']}")(question)
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: none may end the grading
            answer = {"error": self._told(error)}
        finally:
            sys.stdout, sys.stderr = stdout, stderr
        return answer | {"text": said.getvalue()[:10_000]}

    def _run(self, question: dict) -> dict:
        shell = self.shell
        shell.showtraceback = shell.showsyntaxerror = lambda *a, **k: None
        result = shell.run_cell(question["code"], store_history=False, silent=False)
        error = result.error_before_exec or result.error_in_exec
        return {"error": self._told(error) if error else None}

    def _get(self, question: dict) -> dict:
        if question["name"] not in self.names:
            return {"missing": True}
        value = self.names[question["name"]]
        return {"function": True} if callable(value) else {"value": self.plain.pack(value)}

    def _call(self, question: dict) -> dict:
        function = self._probe(question) if "probe" in question else self.names[question["name"]]
        args = [self.plain.unpack(a) for a in question["args"]]
        kwargs = {k: self.plain.unpack(v) for k, v in question["kwargs"].items()}
        value = function(*args, **kwargs)
        pack = self.plain.pack
        left = {"args": [pack(a) for a in args], "kwargs": {k: pack(v) for k, v in kwargs.items()}}
        return {"value": pack(value)} | left

    def _probe(self, question: dict) -> object:
        """Define a test's helper among the student's names; what it imports is not theirs to change."""
        import numpy as np

        names = {**self.names, "np": np, "math": math}
        if "torch" in question["probe"]:
            names["torch"] = importlib.import_module("torch")
        exec(compile(question["probe"], "<test>", "exec"), names)
        return names[question["name"]]

    @staticmethod
    def _told(error: BaseException) -> dict:
        """Say what was raised, and in which line of the student's cells."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if "ipython-input" in trace.tb_frame.f_code.co_filename:
                line = trace.tb_lineno
            trace = trace.tb_next
        return {"kind": type(error).__name__, "message": str(error)[:500], "line": line}


if __name__ == "__main__":
    main()
