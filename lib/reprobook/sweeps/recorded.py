"""Sweeps that are committed with a chapter: one file a notebook and tier, one record a line.

``chapters/SLUG/sweeps/NOTEBOOK-TIER.jsonl`` holds the records of jobs that differ in nothing but their seeds.
Verdicts are computed from it whenever the book is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reprobook.claims import ClaimSheet, Result, load_claims
from reprobook.paths import chapter_folder
from reprobook.records import Record, RecordError
from reprobook.stats import Estimate
from reprobook.sweeps.pooling import pooled_results
from reprobook.sweeps.results import split_stale

__all__ = ["RecordedSweep", "recorded_sweeps", "FOLDER_OF_RECORDED"]

#: Where a chapter keeps its recorded sweeps.
FOLDER_OF_RECORDED = "sweeps"


@dataclass(frozen=True)
class RecordedSweep:
    """One notebook at one tier over many seeds.

    Attributes:
        path: its file.
        records: one a job, by their seeds.
        sheet: the chapter's claims.
        stale: whether the code, the claims or the versions behind one of them have changed since.
    """

    path: Path
    records: Sequence[Record]
    sheet: ClaimSheet
    stale: bool

    @property
    def notebook(self) -> str:
        """The notebook's name within its chapter."""
        return self.records[0].notebook

    @property
    def tier(self) -> str:
        """The tier of all jobs."""
        return self.records[0].tier

    @property
    def num_seeds(self) -> int:
        """How many seeds were run."""
        return len(
            {p["seed"] + i for p in (r.parameters for r in self.records) for i in range(p["num_seeds"])}
        )

    @cached_property
    def results(self) -> dict[str, Result]:
        """What all seeds say together, by claim; claims that no job measured are left out."""
        return {i: r for i, r in pooled_results(self.records, self.sheet).items() if r.parts}

    def values(self, claim: str, part: str) -> list[float]:
        """Return the value that each job measured for a part of a claim, by their seeds."""
        return [parts[part].value for run in self._parts if part in (parts := run.get(claim, {}))]

    @cached_property
    def _parts(self) -> list[dict[str, dict[str, Estimate]]]:
        return [{r.claim.id: r.parts for r in record.results(self.sheet)} for record in self.records]


def recorded_sweeps(slug: str) -> list[RecordedSweep]:
    """Return the recorded sweeps of a chapter, sorted by name.

    Raises:
        RecordError: if a line of one is not a record, or they are not of one notebook and tier.
    """
    files = sorted((chapter_folder(slug) / FOLDER_OF_RECORDED).glob("*.jsonl"))
    sheet = load_claims(chapter_folder(slug) / "claims.yml") if files else None
    return [_read(path, sheet) for path in files]


def _read(path: Path, sheet: ClaimSheet) -> RecordedSweep:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [Record.from_data(json.loads(line)) for line in lines]
    except (ValueError, RecordError) as error:
        raise RecordError(f"{path.name}: {error}") from None
    if len({(r.chapter, r.tier) for r in records}) != 1:
        raise RecordError(f"{path.name}: must hold records of one notebook and tier")
    return RecordedSweep(path, records, sheet, stale=bool(split_stale(records)[1]))
