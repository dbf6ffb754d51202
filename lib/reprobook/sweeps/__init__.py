"""Sweeps: chapters over seeds and settings, on this machine or on a cluster."""

from reprobook.sweeps.design import Sweep, read_sweep
from reprobook.sweeps.driving import Summary, run_sweep
from reprobook.sweeps.engines import Local, Remote, Slurm

__all__ = ["Sweep", "read_sweep", "run_sweep", "Summary", "Local", "Remote", "Slurm"]
