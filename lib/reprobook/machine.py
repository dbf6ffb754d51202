"""What a run ran on: the kind of machine, the versions of the libraries, the commit.

Enough to judge a number by, and nothing that tells whose machine it was.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["machine_kind", "versions", "head_commit", "LIBRARIES"]

#: The libraries whose versions a record holds.
#: The libraries whose versions a record tells.
LIBRARIES = (
    "clarabel",
    "cvxpy",
    "ipykernel",
    "jupyter-book",
    "matplotlib",
    "numpy",
    "papermill",
    "reprobook",
    "scikit-learn",
    "scipy",
    "torch",
)


def machine_kind(device: str = "cpu") -> str:
    """Return the kind of machine in words, for example ``2-core x86_64 CPU``.

    Args:
        device: where the run computes; the name of a GPU is added.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"{cores}-core {platform.machine()} CPU"
    if device.startswith("cuda"):
        import torch

        kind = f"{torch.cuda.get_device_name(device)}, {kind}"
    elif device == "mps":
        kind = f"Apple GPU, {kind}"
    return kind


def versions() -> dict[str, str]:
    """Return the versions of Python and of :data:`LIBRARIES`, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name).partition("+")[0]  # "2.13.0+cpu" names a build, not a version
        except PackageNotFoundError:
            continue
    return found


def head_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder, or None if there is no git repository."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
