"""Where jobs run: on this machine, on a cluster that is up already, or on one that SLURM starts.

All three are ``dask.distributed``. Every worker process runs one job at a time; what a job takes is declared
as resources of the worker, so that threads and GPUs are never given away twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from reprobook.errors import UserError
from reprobook.parameters import parse_value

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Engine", "Local", "Remote", "Slurm", "cores"]

_START = 60  # seconds for a worker to appear


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()


class Engine:
    """Something that runs jobs.

    Attributes:
        elsewhere: whether jobs run on other machines than this one.
    """

    elsewhere = True

    @contextmanager
    def client(self, threads: int, gpu: bool, retries: int) -> Iterator[Client]:
        """Yield a client whose workers can run jobs.

        Args:
            threads: processor threads of a job.
            gpu: whether a job takes a GPU.
            retries: how many times a job may be given to another worker after one died with it.

        Raises:
            UserError: if there is no worker that could run such a job.
        """
        raise NotImplementedError

    def gpus(self, gpu: bool) -> int:
        """Return how many GPUs a worker should choose among; 0 where that is settled elsewhere."""
        return 0


@dataclass(frozen=True)
class Local(Engine):
    """Workers on this machine, for as long as the sweep takes.

    Attributes:
        workers: how many; None for as many as cores (or GPUs) allow.
    """

    workers: int | None = None
    elsewhere = False

    def gpus(self, gpu: bool) -> int:
        """Return the GPUs of this machine, if jobs take one."""
        if not gpu:
            return 0
        import torch

        return torch.cuda.device_count()

    def count(self, threads: int, gpu: bool) -> int:
        """Return how many workers there will be.

        Raises:
            UserError: if that many would share cores or GPUs.
        """
        here = cores()
        room = min(here // threads, self.gpus(True)) if gpu else here // threads
        wanted = max(room, 1) if self.workers is None else self.workers
        if wanted < 1:
            raise UserError(f"--workers must be at least 1, not {wanted}")
        if wanted > room:
            has = f"{here} cores" + (f" and {self.gpus(True)} GPUs" if gpu else "")
            raise UserError(
                f"{wanted} workers of {threads} {'threads' if threads > 1 else 'thread'} are more than this "
                f"machine's {has}: take {max(room, 1)} with --workers, or fewer --threads"
            )
        return wanted

    @contextmanager
    def client(self, threads: int, gpu: bool, retries: int) -> Iterator[Client]:
        """Start workers, yield their client, and end them."""
        import logging

        import dask
        from distributed import Client, LocalCluster

        number = self.count(threads, gpu)
        quiet = {
            "distributed.scheduler.allowed-failures": retries,
            "distributed.admin.system-monitor.gil.enabled": False,
        }
        with (
            dask.config.set(quiet),
            LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                resources=_resources(threads, gpu),
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@dataclass(frozen=True)
class Remote(Engine):
    """A scheduler that somebody else started, with its workers.

    Attributes:
        address: as in ``tcp://10.0.0.1:8786``.
    """

    address: str

    @contextmanager
    def client(self, threads: int, gpu: bool, retries: int) -> Iterator[Client]:
        """Connect, check that some worker can run such a job, and yield the client."""
        import logging

        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a lost scheduler is told in one line
        try:
            client = Client(self.address, timeout=10)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no scheduler answers at {self.address} ({type(error).__name__}): "
                "start one with 'dask scheduler'"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=_START)
            except TimeoutError:
                raise UserError(
                    f"the scheduler at {self.address} has no workers: "
                    f"start some with 'dask worker {self.address}'"
                ) from None
            _check_fit(client, self.address, threads, gpu)
            yield client


@dataclass(frozen=True)
class Slurm(Engine):
    """Workers that SLURM starts as jobs of its own, through dask-jobqueue.

    Attributes:
        options: what the file says: ``jobs`` (how many SLURM jobs), ``cores`` of each, and any argument of
            :class:`dask_jobqueue.SLURMCluster` but those that follow from the sweep.
    """

    options: Mapping[str, Any]

    def gpus(self, gpu: bool) -> int:
        """Return the GPUs of a SLURM job, among which its workers have to choose."""
        return self.options.get("gpus", 0) if gpu else 0

    @classmethod
    def read(cls, path: Path | str) -> Slurm:
        """Read a SLURM file.

        Raises:
            UserError: if it cannot be read, lacks a key, or has one that is unknown.
        """
        try:
            options = parse_value(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', 'not text')})") from None
        if not isinstance(options, dict):
            raise UserError(f"{path}: must be YAML with the keys {', '.join(_SLURM_KEYS)}")
        if unknown := [key for key in options if key not in _SLURM_KEYS]:
            raise UserError(f"{path}: unknown key '{unknown[0]}'; allowed are {', '.join(_SLURM_KEYS)}")
        for key in ("jobs", "cores"):
            if type(options.get(key)) is not int or options[key] < 1:
                raise UserError(f"{path}: '{key}' must be a whole number from 1")
        if "memory" not in options:
            raise UserError(f"{path}: key 'memory' is missing, for example memory: 8GB")
        return cls(options)

    def cluster(self, threads: int, gpu: bool) -> Any:
        """Return the cluster, not yet scaled; its ``job_script()`` is what SLURM will be given.

        Raises:
            UserError: if a SLURM job has fewer cores than one job of the sweep takes.
        """
        import dask
        from dask_jobqueue import SLURMCluster

        options = {k: v for k, v in self.options.items() if k != "jobs"}
        cores, gpus = options.pop("cores"), options.pop("gpus", 0)
        processes = min(cores // threads, gpus) if gpu else cores // threads
        if processes < 1:
            raise UserError(f"a SLURM job with {cores} cores and {gpus} GPUs cannot run a job of the sweep")
        directives = [*options.pop("job_extra_directives", []), *([f"--gres=gpu:{gpus}"] if gpus else [])]
        words = ["--resources", _written(_resources(threads, gpu))]
        with dask.config.set({"jobqueue.slurm.worker-extra-args": None}):
            return SLURMCluster(
                cores=processes,  # one thread a process, which so runs one job at a time
                processes=processes,
                job_cpu=cores,
                job_extra_directives=directives,
                worker_extra_args=words,
                **options,
            )

    @contextmanager
    def client(self, threads: int, gpu: bool, retries: int) -> Iterator[Client]:
        """Hand workers to SLURM and yield their client; jobs wait for the first, however long the queue."""
        import shutil

        import dask
        from distributed import Client

        if not shutil.which("sbatch"):
            raise UserError("SLURM is not here: there is no command 'sbatch' on this machine")
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": retries}),
            self.cluster(threads, gpu) as cluster,
            Client(cluster) as client,
        ):
            cluster.scale(jobs=self.options["jobs"])
            yield client


#: What a SLURM file may say.
_SLURM_KEYS = (
    "jobs",
    "cores",
    "memory",
    "gpus",
    "queue",
    "account",
    "walltime",
    "job_extra_directives",
    "job_script_prologue",
    "interface",
    "local_directory",
    "log_directory",
    "python",
    "death_timeout",
)


def _resources(threads: int, gpu: bool) -> dict[str, float]:
    """Return what a job takes, under the names that workers declare."""
    return {"threads": threads} | ({"GPU": 1} if gpu else {})


def _written(resources: Mapping[str, float]) -> str:
    return ",".join(f"{name}={amount:g}" for name, amount in resources.items())


def demanded(threads: int, gpu: bool) -> dict[str, float]:
    """Return what a job demands of its worker; one thread alone is what any worker has."""
    return _resources(threads, gpu) if threads > 1 or gpu else {}


def _check_fit(client: Client, address: str, threads: int, gpu: bool) -> None:
    """Raise UserError unless some worker declares enough for a job."""
    wanted = demanded(threads, gpu)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    fits = [w for w in workers if all(w["resources"].get(k, 0) >= v for k, v in wanted.items())]
    if not fits:
        raise UserError(
            f"no worker of {address} declares {_written(wanted)}: start one with "
            f"'dask worker {address} --nthreads 1 --resources {_written(wanted)}'"
        )
