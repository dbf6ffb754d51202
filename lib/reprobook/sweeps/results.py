"""What a sweep's folder holds: records of finished jobs, failures, and the tidy table of all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.claims import ClaimSheet, Result, load_claims
from reprobook.errors import UserError
from reprobook.paths import chapter_folder, notebook_path
from reprobook.records import Record, RecordError, read_record_file
from reprobook.stamps import stamper
from reprobook.sweeps.driving import MANIFEST
from reprobook.sweeps.pooling import pooled_results

if TYPE_CHECKING:
    import pandas

__all__ = ["SweepResults", "Failure", "read_results", "split_stale", "rows_of", "SEEDS"]

#: The parameters that a sweep's seeds set.
SEEDS = ("seed", "num_seeds")


@dataclass(frozen=True)
class Failure:
    """A job without a result: its chapter, what to call it, and why."""

    chapter: str
    name: str
    error: str


@dataclass(frozen=True)
class SweepResults:
    """The finished jobs of a sweep.

    Attributes:
        records: of finished jobs whose stamp is that of the book as it stands.
        stale: of those made by other code, claims or versions; they count nowhere.
        failures: jobs that failed for good.
        left: names of jobs that never ran to an end.
    """

    records: list[Record]
    stale: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @cached_property
    def settings(self) -> list[dict[str, Any]]:
        """What differs between the jobs besides their seeds, each setting once; ``{}`` where nothing does."""
        varied = self.varied
        found = [{k: r.parameters[k] for k in varied if k in r.parameters} for r in self.records]
        return [setting for i, setting in enumerate(found) if setting not in found[:i]] or [{}]

    @cached_property
    def varied(self) -> list[str]:
        """The parameters besides the seeds that take several values within a notebook."""
        names: dict[str, None] = {}
        for chapter in self.chapters:
            own = [r.parameters for r in self.records if r.chapter == chapter]
            names |= {k: None for k in own[0] if any(p[k] != own[0][k] for p in own)}
        return [name for name in names if name not in SEEDS]

    @cached_property
    def chapters(self) -> list[str]:
        """The names of the notebooks, in the order of their first record."""
        return list(dict.fromkeys(r.chapter for r in self.records))

    def at(self, chapter: str, setting: Mapping[str, Any]) -> list[Record]:
        """Return the records of a notebook at a setting, by their seeds."""
        own = [r for r in self.records if r.chapter == chapter]
        fit = [r for r in own if all(r.parameters.get(k) == v for k, v in setting.items())]
        return sorted(fit, key=lambda r: r.parameters["seed"])

    def pooled(self, chapter: str, setting: Mapping[str, Any]) -> dict[str, Result]:
        """Return the results over all seeds of a notebook at a setting, by claim."""
        return pooled_results(self.at(chapter, setting), _sheet(chapter))

    def seeds(self, chapter: str, setting: Mapping[str, Any]) -> list[int]:
        """Return the seeds behind :meth:`pooled`."""
        runs = [r.parameters for r in self.at(chapter, setting)]
        return sorted({s for p in runs for s in range(p["seed"], p["seed"] + p["num_seeds"])})

    def table(self) -> pandas.DataFrame:
        """Return one row a job and part of a claim, parameters in columns ``p.NAME``; failed jobs have a row.

        A parameter with a list for its value stands there as JSON.
        """
        import pandas

        rows = [row for record in self.records for row in rows_of(record)]
        rows += [
            {"chapter": f.chapter, "job": f.name, "status": "failed", "error": f.error} for f in self.failures
        ]
        return pandas.DataFrame(rows).convert_dtypes()


def _sheet(chapter: str) -> ClaimSheet:
    return load_claims(chapter_folder(chapter.partition("/")[0]) / "claims.yml")


def rows_of(record: Record) -> list[dict[str, Any]]:
    """Return a record as rows of the tidy table: one a part of a claim, or one alone if it measured none."""
    run = {
        "chapter": record.chapter,
        "tier": record.tier,
        "status": record.status,
        "error": record.error,
        "stamp": record.stamp,
        "started": record.started,
        "wall_seconds": record.wall_seconds,
        "peak_memory_mib": record.peak_memory_mib,
        "machine": record.machine,
        "device": record.device,
        "commit": record.commit,
        **{f"p.{k}": json.dumps(v) if isinstance(v, list) else v for k, v in record.parameters.items()},
        **{f"version.{k}": v for k, v in record.versions.items()},
    }
    parts = [
        {
            "claim": r.claim.id,
            "part": name,
            **vars(e),
            "verdict": r.part_verdicts[name].value,
            "excluded": r.excluded,
        }
        for r in record.results()
        for name, e in r.parts.items()
    ]
    return [{**run, **part} for part in parts] or [run]


def read_results(folder: Path | str) -> SweepResults:
    """Read a sweep's folder.

    Raises:
        UserError: if there is no sweep in it, or no finished job.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} holds no sweep: there is no {MANIFEST} in it")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        jobs, failures = manifest["jobs"], manifest["failures"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / MANIFEST} is broken: start the sweep again, finished jobs stay") from None
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        with suppress(RecordError):
            record = read_record_file(path)
            if record.status == "finished" and path.with_suffix(".ipynb").is_file():
                found[f"{path.parent.name}/{path.stem}"] = record
    current, stale = split_stale(list(found.values()))
    there = {name for name, record in found.items() if record not in stale}
    slugs = {f"{job['chapter'].partition('/')[0]}/{job['name']}": job["chapter"] for job in jobs}
    failed = [Failure(slugs.get(n, ""), n, e) for n, e in failures.items() if n not in there]
    left = [name for name in slugs if name not in there and name not in failures]
    if not current:
        counts = f"{len(failed)} failed, {len(stale)} are stale, {len(left)} are left"
        raise UserError(f"no job of the sweep in {folder} has finished: {counts}")
    return SweepResults(current, stale, failed, left)


def split_stale(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records that still follow from the book as it stands, and those that do not.

    Each notebook and its library are read once, however many records there are.
    """
    current, stale, stamps = [], [], {}
    for record in records:
        try:
            if record.chapter not in stamps:
                stamps[record.chapter] = stamper(notebook_path(record.chapter))
            same = stamps[record.chapter](record.parameters) == record.stamp
        except UserError:  # its notebook is gone, or broken
            same = False
        (current if same else stale).append(record)
    return current, stale
