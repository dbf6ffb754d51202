"""The record of a run: what was computed, with what, on what, and how it ended.

A record stands in the executed notebook's metadata under the key ``reprobook``; a recorded run also has
it beside the notebook as a JSON file of its own. It holds the measured numbers but no judgement of them:
:meth:`Record.results` computes the verdicts anew from the chapter's claims file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reprobook.claims import ClaimSheet, Result, load_claims, results_from_data
from reprobook.errors import UserError
from reprobook.paths import chapter_folder

__all__ = [
    "Record",
    "RecordError",
    "SCHEMA",
    "METADATA_KEY",
    "read_record",
    "read_record_file",
    "recorded_runs",
]

#: The version of the list of fields that this code writes and reads.
SCHEMA = 1
#: The key of the record in a notebook's metadata.
METADATA_KEY = "reprobook"

_NUMBER = (int, float)
_TYPES = {
    "schema": int,
    "chapter": str,
    "tier": str,
    "parameters": dict,
    "status": str,
    "error": (str, type(None)),
    "claims": list,
    "started": str,
    "wall_seconds": _NUMBER,
    "peak_memory_mib": _NUMBER,
    "machine": str,
    "device": str,
    "versions": dict,
    "commit": (str, type(None)),
    "stamp": str,
}
_CLAIM_TYPES = {"id": str, "verdict": str, "excluded": int, "why_excluded": str, "parts": list}
_PART_TYPES = {
    "name": str,
    "statistic": str,
    "value": _NUMBER,
    "low": (*_NUMBER, type(None)),
    "high": (*_NUMBER, type(None)),
    "n": int,
    "verdict": str,
}


class RecordError(UserError):
    """A record that does not follow the schema; the message names the key."""


@dataclass(frozen=True)
class Record:
    """One run of one notebook.

    Attributes:
        schema: version of this list of fields.
        chapter: ``slug``, or ``slug/notebook`` where a chapter has several notebooks.
        tier: name of the parameter file without its ending, or ``laptop``.
        parameters: all parameters with their values.
        status: ``finished`` or ``failed``.
        error: why it failed, in one line.
        claims: what was measured, as made by :func:`reprobook.claims.results_to_data`.
        started: when, in UTC, ISO 8601 to the second.
        wall_seconds: how long it took.
        peak_memory_mib: the kernel's largest resident memory, with that of its child processes.
        machine: the kind of machine, never its name.
        device: where it computed.
        versions: versions of Python and of the libraries, by name.
        commit: the commit that was checked out, if the book stands in a git repository.
        stamp: see :func:`reprobook.stamps.stamp`.
    """

    schema: int
    chapter: str
    tier: str
    parameters: dict[str, Any]
    status: str
    error: str | None
    claims: list[dict]
    started: str
    wall_seconds: float
    peak_memory_mib: float
    machine: str
    device: str
    versions: dict[str, str]
    commit: str | None
    stamp: str

    @property
    def slug(self) -> str:
        """The chapter's slug."""
        return self.chapter.partition("/")[0]

    @property
    def notebook(self) -> str:
        """The notebook's name inside its chapter."""
        return self.chapter.partition("/")[2] or self.slug

    def to_data(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the text of the record's file, its keys sorted so that two records compare line by line."""
        return json.dumps(self.to_data(), sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_data(cls, data: Any) -> Record:
        """Read a record from JSON data.

        Raises:
            RecordError: if a key is missing, unknown, or holds a value of the wrong type.
        """
        _check("record", data, _TYPES)
        if data["schema"] != SCHEMA:
            raise RecordError(
                f"record: schema {data['schema']} is not known; this version reads schema {SCHEMA}"
            )
        if data["status"] not in ("finished", "failed"):
            raise RecordError(f"record: status '{data['status']}' is not 'finished' or 'failed'")
        for claim in data["claims"]:
            _check("record: claim", claim, _CLAIM_TYPES)
            for part in claim["parts"]:
                _check(f"record: claim '{claim['id']}': part", part, _PART_TYPES)
        return cls(**data)

    def results(self, sheet: ClaimSheet | None = None) -> list[Result]:
        """Return a result for every claim of the notebook, judged anew by the claims file as it is today.

        Args:
            sheet: the chapter's claims, if they have been read already.

        A claim that this run did not measure, or measured by another statistic than today's criterion
        asks for, is not attempted; a measured claim that has left the file is left out.
        """
        sheet = sheet or load_claims(chapter_folder(self.slug) / "claims.yml")
        claims = sheet.of_notebook(self.notebook)
        usable = [c for c in self.claims if c["id"] in claims and _fits(c, claims[c["id"]].criterion)]
        measured = {r.claim.id: r for r in results_from_data(usable, sheet)}
        return [measured.get(i, Result(claim)) for i, claim in claims.items()]


def read_record(notebook_path: Path | str) -> Record | None:
    """Return the record in a notebook's metadata, or None if the notebook has none.

    Raises:
        RecordError: if the file is not a notebook or its record is broken; the message names the file.
    """
    path = Path(notebook_path)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    except (ValueError, KeyError, TypeError):
        raise RecordError(f"{path.name} is not a notebook") from None
    if METADATA_KEY not in metadata:
        return None
    return _named(path, metadata[METADATA_KEY])


def read_record_file(path: Path | str) -> Record:
    """Return the record in a file of its own, which is read faster than the notebook that it stands beside.

    Raises:
        RecordError: if the file cannot be read or holds no record; the message names the file.
    """
    path = Path(path)
    try:
        return _named(path, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise RecordError(f"{path.name} is not a record") from None


def recorded_runs(slug: str) -> list[tuple[Path, Record]]:
    """Return the recorded runs of a chapter, sorted by name: the path of each notebook and its record.

    A failed run has no place in this list: it ends in ``.failed.ipynb``.

    Raises:
        RecordError: if one of them has no record or a broken one.
    """
    found = []
    for path in sorted((chapter_folder(slug) / "runs").glob("*.ipynb")):
        if path.name.endswith(".failed.ipynb"):
            continue
        record = read_record(path)
        if record is None:
            raise RecordError(
                f"{slug}/runs/{path.name} has no record: make it with 'reprobook run {slug} --record'"
            )
        found.append((path, record))
    return found


def _named(path: Path, data: Any) -> Record:
    try:
        return Record.from_data(data)
    except RecordError as error:
        raise RecordError(f"{path.name}: {error}") from None


def _check(label: str, data: Any, types: Mapping[str, Any]) -> None:
    """Raise RecordError unless ``data`` is a mapping of exactly these keys to values of these types."""
    if not isinstance(data, dict):
        raise RecordError(f"{label}: must be a mapping of keys to values")
    if missing := [k for k in types if k not in data]:
        raise RecordError(f"{label}: key '{missing[0]}' is missing")
    if unknown := sorted(set(data) - set(types)):
        raise RecordError(f"{label}: unknown key '{unknown[0]}'; allowed are {', '.join(types)}")
    for key, allowed in types.items():
        if not isinstance(data[key], allowed) or (isinstance(data[key], bool) and allowed is not bool):
            raise RecordError(f"{label}: '{key}' has the wrong type")


def _fits(entry: Mapping, criterion) -> bool:
    """Return whether what was measured can be judged by a criterion."""
    return criterion is not None and all(p["statistic"] == criterion.statistic for p in entry["parts"])


assert tuple(_TYPES) == tuple(f.name for f in fields(Record))
