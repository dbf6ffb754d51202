"""The commands ``reprobook sweep`` and ``reprobook report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobook.errors import UserError

if TYPE_CHECKING:
    from reprobook.sweeps import Sweep
    from reprobook.sweeps.engines import Engine

__all__ = ["sweep", "report", "given_values"]


def sweep(
    what: Annotated[
        str, typer.Argument(metavar="SLUG|FILE", help="A chapter, SLUG/NOTEBOOK, or a sweep in a YAML file.")
    ],
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="A:B", help="0:20 for seeds 0 to 19, or 0,3,7.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="NAME=V,V", help="Values of a parameter; may be repeated."),
    ] = None,
    tier: Annotated[str | None, typer.Option("--tier", metavar="TIER", help="Laptop by default.")] = None,
    notebook: Annotated[
        list[str] | None,
        typer.Option("--notebook", metavar="NAME", help="Of the chapter, 'all' for all; may be repeated."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Set a parameter for all jobs."),
    ] = None,
    per_job: Annotated[
        str | None,
        typer.Option("--per-job", metavar="N", help="Seeds a job; as few as possible by default, or 'tier'."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Jobs at a time; one a core by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Processor threads of a job; 1 by default.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", metavar="N", help="How often to try again; once by default.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="S", help="Seconds after which a job is stopped.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option("--memory-limit", metavar="MIB", help="MiB above which it is stopped.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler.")
    ] = None,
    slurm: Annotated[
        Path | None, typer.Option("--slurm", metavar="FILE", help="Start workers with SLURM, as FILE says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="By default _runs/sweeps/NAME in the book.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs, and what SLURM would be given, and run nothing.")
    ] = False,
) -> None:
    """Run a chapter over seeds and settings.

    On this machine, on a running Dask cluster, or on SLURM. What is finished is never run again; Ctrl-C keeps
    it. Exit code 1 if a job failed.
    """
    changes = {
        "seeds": seeds,
        "grid": grid,
        "tier": tier,
        "parameters": parameter,
        "seeds_per_job": per_job,
        "threads": threads,
        "retries": retries,
        "time_limit": time_limit,
        "memory_limit": memory_limit,
    }
    asked = _asked_for(what, notebook or [], {k: v for k, v in changes.items() if v is not None})
    engine = _engine(workers, scheduler, slurm)
    if dry_run:
        return _show_plan(asked, engine)
    from reprobook.sweeps import run_sweep

    folder = out or _usual_folder(what, asked)
    done = run_sweep(asked, folder, engine)
    print(f"{done}\nresults: {done.out}\nnext:    reprobook report {_short(done.out)}")
    for name, error in list(done.failures.items())[:5]:
        print(f"failed: {name}: {error}")
    if done.failures or done.left:
        raise UserError(
            f"{len(done.failures)} of {done.total} jobs failed; the same command tries them again"
        )


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep.")],
    record: Annotated[
        bool, typer.Option("--record", help="Store its records with the chapters, to be committed.")
    ] = False,
) -> None:
    """Put a sweep's results into a table and a report.

    Writes table.parquet, table.csv, report.html and report.ipynb into the folder.
    """
    from reprobook.sweeps.reporting import record_sweep, write_report

    made = record_sweep(folder) if record else write_report(folder)
    for path in made:
        print(path)


def _asked_for(what: str, notebooks: list[str], changes: dict[str, Any]) -> Sweep:
    """Return the sweep that the command line describes: of a chapter, or of a file, which options change."""
    from dataclasses import replace

    from reprobook.parameters import parse_value
    from reprobook.sweeps import Sweep, read_sweep
    from reprobook.sweeps.design import parse_grid

    if "grid" in changes:
        changes["grid"] = parse_grid(changes["grid"])
    if "parameters" in changes:
        changes["parameters"] = given_values(changes["parameters"])
    if "seeds_per_job" in changes:
        changes["seeds_per_job"] = parse_value(changes["seeds_per_job"])
    if what.endswith((".yml", ".yaml")):
        if notebooks:
            raise UserError("the notebooks of a sweep in a file stand in the file: leave out --notebook")
        return replace(read_sweep(what), **changes)
    if "seeds" not in changes:
        raise UserError("say which seeds: --seeds 0:20 runs the seeds 0 to 19")
    return Sweep(_names(what, notebooks), **changes)


def given_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read the values given with ``-p``, as ``NAME=VALUE``.

    Raises:
        typer.BadParameter: for a name without a value, or one that stands twice.
    """
    from reprobook.parameters import parse_value

    given = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise typer.BadParameter(f"-p takes a name and a value, got only '{pair}'")
        if name in given:
            raise typer.BadParameter(f"-p sets '{name}' twice")
        given[name] = parse_value(value)
    return given


def _names(slug: str, notebooks: list[str]) -> list[str]:
    """Return the names of the notebooks that are meant."""
    from reprobook.paths import notebook_names

    if "all" in notebooks:
        return [f"{slug}/{name}" for name in notebook_names(slug)]
    return [f"{slug}/{name}" for name in notebooks] or [slug]


def _engine(workers: int | None, scheduler: str | None, slurm: Path | None) -> Engine:
    from reprobook.sweeps import Local, Remote, Slurm

    if sum(x is not None for x in (workers, scheduler, slurm)) > 1:
        raise UserError("--workers, --scheduler and --slurm exclude each other: the last two bring workers")
    if scheduler is not None:
        return Remote(scheduler)
    return Slurm.read(slurm) if slurm is not None else Local(workers)


def _usual_folder(what: str, asked: Sweep) -> Path:
    from reprobook.paths import book_root

    name = Path(what).stem if what.endswith((".yml", ".yaml")) else f"{what.replace('/', '-')}-{asked.tier}"
    return book_root() / "_runs" / "sweeps" / name


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _show_plan(asked: Sweep, engine: Engine) -> None:
    """Print the jobs, and the script that SLURM would be given."""
    from reprobook.sweeps import Slurm

    jobs = asked.jobs(elsewhere=engine.elsewhere)
    for job in jobs:
        print(job.title)
    print(f"{len(jobs)} jobs")
    if isinstance(engine, Slurm):
        gpu = any(str(job.parameters["device"]).startswith("cuda") for job in jobs)
        with engine.cluster(asked.threads, gpu) as cluster:
            print(f"\nSLURM is asked {engine.options['jobs']} times for:\n\n{cluster.job_script()}")
