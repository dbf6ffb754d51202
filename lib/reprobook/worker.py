"""The process that executes one notebook; :mod:`reprobook.running` starts it and looks after it.

``python -m reprobook.worker FOLDER`` reads ``job.json`` and ``input.ipynb`` in a folder of its own and
writes there ``output.ipynb`` (anew after every cell), a line in ``progress.jsonl`` for every cell that
starts, and at the end ``outcome.json``. One process a job, because papermill changes the working folder.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reprobook.notebooks import spare_grammar
from reprobook.storing import write_files

__all__ = ["execute", "own_kernel", "connection_in", "main"]

_LONGEST_SOCKET = 90  # the system's limit is 104 bytes (macOS) or 108 (Linux)


def main() -> None:
    """Execute the job in the folder that the command line names."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_die_with_parent, args=(os.getppid(), folder), daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    outcome = {"error": None, **_where(job["device"])}
    try:
        execute(folder, job["parameters"])
    except Exception as error:
        outcome["error"] = _one_line(error)
    outcome["peak_memory_mib"] = _largest_child_mib()
    write_files({folder / "outcome.json": json.dumps(outcome)})


def execute(folder: Path, parameters: dict[str, Any]) -> None:
    """Execute ``input.ipynb`` into ``output.ipynb`` with papermill, in a kernel of this very interpreter.

    Args:
        folder: the job's folder, with a short name because the kernel's sockets stand in it.
        parameters: what papermill injects; with none, it injects no cell.

    Raises:
        papermill.PapermillExecutionError: if a cell fails.
        nbclient.exceptions.DeadKernelError: if the kernel dies.
    """
    spare_grammar()
    import papermill
    from papermill.iorw import papermill_io
    from traitlets.config import Config

    papermill_io.register(str(folder), _whole_files())
    papermill.execute_notebook(
        str(folder / "input.ipynb"),
        str(folder / "output.ipynb"),
        parameters=parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        start_timeout=180,
        iopub_timeout=60,
        shutdown_kernel="immediate",  # all outputs are here, and an end in good order takes a second or two
        kernel_manager_class=own_kernel(),
        config=Config(KernelManager=connection_in(folder)),
        on_cell_start=_reporter(folder / "progress.jsonl"),
    )


def own_kernel() -> type:
    """Return a kernel manager that knows no kernel but this interpreter's.

    A kernel named ``python3`` in the user's folders would otherwise take its place.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from traitlets import default

    class OwnKernelManager(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _only_this_interpreter(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

    return OwnKernelManager


def connection_in(folder: Path) -> dict[str, str]:
    """Return how to reach the kernel: by sockets in the folder, which nobody else can connect to."""
    file = folder / "k.json"
    short = len(os.fsencode(file)) < _LONGEST_SOCKET
    return {"connection_file": str(file), "transport": "ipc" if short else "tcp"}


def _whole_files() -> Any:
    """Return papermill's handler of local files, changed so that a killed worker leaves a whole notebook."""
    from papermill.iorw import LocalHandler

    class WholeFiles(LocalHandler):
        def write(self, buf: str, path: str) -> None:
            write_files({Path(path): buf})

    return WholeFiles()


def _reporter(channel: Path) -> Callable[..., None]:
    """Return a function that writes down which cell starts."""

    def report(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            with channel.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell.get("id")}) + "\n")

    return report


def _where(device: str) -> dict[str, str]:
    """Return device and machine for the record. The CPU needs no look, so torch is not imported for it."""
    from reprobook.machine import machine_kind

    if device != "cpu":
        from reprobook.device import resolve_device

        device = str(resolve_device(device))
    return {"device": device, "machine": machine_kind(device)}


def _largest_child_mib() -> float:
    """Return the largest resident memory of a finished child process: of the kernel, as a rule."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _one_line(error: Exception) -> str:
    from nbclient.exceptions import DeadKernelError

    if isinstance(error, DeadKernelError):
        return "the kernel died (killed, or out of memory)"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _die_with_parent(parent: int, folder: Path) -> None:
    """End kernel, folder and this process once the parent is gone, so that nothing runs on unseen."""
    import psutil

    while os.getppid() == parent:
        time.sleep(0.5)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
