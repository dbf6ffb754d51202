"""What the book's pages know of its chapters, read from claims files and executed notebooks alone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reprobook.claims import Claim, ClaimSheet, Result, load_claims
from reprobook.jobs import LAPTOP
from reprobook.paths import book_root, chapter_folder
from reprobook.records import Record, read_record, recorded_runs
from reprobook.stamps import code_of, is_stale, reached_modules
from reprobook.sweeps.recorded import RecordedSweep, recorded_sweeps

__all__ = [
    "ShownRun",
    "Shown",
    "ChapterOverview",
    "Figure",
    "chapters_in_book",
    "overview",
    "figures_of",
    "files_behind",
]


@dataclass(frozen=True)
class ShownRun:
    """One executed notebook.

    Attributes:
        path: the executed notebook.
        record: how it ran and what it measured.
        stale: whether the code, the claims or the versions behind it have changed since.
    """

    path: Path
    record: Record
    stale: bool

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @cached_property
    def results(self) -> dict[str, Result]:
        """A result for every claim of the notebook, by claim id."""
        return {r.claim.id: r for r in self.record.results()}


class Shown(NamedTuple):
    """What the book shows of a claim.

    Attributes:
        result: the result.
        recorded: the recorded run that it comes from; None for a result of the laptop tier.
    """

    result: Result
    recorded: ShownRun | None


@dataclass(frozen=True)
class ChapterOverview:
    """A chapter at a glance.

    Attributes:
        slug: the chapter's folder.
        title: the first heading of its first notebook in the table of contents.
        documents: the chapter's pages in order, as Sphinx names them (``chapters/dann/dann``).
        titles: the first heading of each page, by page.
        sheet: its paper and its claims.
        executed: the laptop run of each page that was executed, by page.
        recorded: the recorded runs, sorted by name.
        sweeps: the recorded sweeps over seeds, sorted by name.
    """

    slug: str
    title: str
    documents: list[str]
    titles: dict[str, str]
    sheet: ClaimSheet
    executed: dict[str, ShownRun] = field(default_factory=dict)
    recorded: list[ShownRun] = field(default_factory=list)
    sweeps: list[RecordedSweep] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        """What the book shows of every claim of the chapter; not attempted where nothing ran."""
        return [shown.result for shown in self.shown.values()]

    @cached_property
    def shown(self) -> dict[str, Shown]:
        """What the book shows of every claim, by claim id.

        The laptop tier goes first. What it neither measured nor is to test, a recorded run answers for: one
        at a tier that the claim names, the claim's first tier before its second.
        """
        return {i: self._shown(claim) for i, claim in self.sheet.claims.items()}

    def _shown(self, claim: Claim) -> Shown:
        laptop = self.result(claim, list(self.executed.values()))
        if laptop.parts or LAPTOP in claim.tiers:
            return Shown(laptop, None)
        named = [run for tier in claim.tiers for run in self.recorded if run.record.tier == tier]
        measured = [run for run in named if self.result(claim, [run]).parts]
        return Shown(measured[0].results[claim.id], measured[0]) if measured else Shown(laptop, None)

    def result(self, claim: Claim, runs: list[ShownRun]) -> Result:
        """Return what the first of these runs that measured a claim says about it."""
        found = [r.results[claim.id] for r in runs if claim.id in r.results]
        return next((r for r in found if r.parts), Result(claim))

    def page_of(self, claim: Claim) -> str:
        """Return the page that answers for a claim."""
        wanted = f"chapters/{self.slug}/{claim.notebook}"
        return wanted if wanted in self.documents else self.documents[0]

    def sweeps_of(self, document: str) -> list[RecordedSweep]:
        """Return the recorded sweeps of the notebook that a page is."""
        return [sweep for sweep in self.sweeps if sweep.notebook == document.rpartition("/")[2]]

    @property
    def seconds(self) -> float:
        """How long the chapter's executed notebooks took together."""
        return sum(run.record.wall_seconds for run in self.executed.values())


@dataclass(frozen=True)
class Figure:
    """A PNG output of an executed notebook; ``cover`` if its cell is tagged so."""

    png: bytes
    alt: str
    caption: str
    cover: bool


def chapters_in_book() -> dict[str, list[str]]:
    """Return the pages of every chapter in the order of ``_toc.yml``, by slug."""
    chapters: dict[str, list[str]] = {}
    for name in _files_named(yaml.safe_load((book_root() / "_toc.yml").read_text(encoding="utf-8"))):
        if match := re.fullmatch(r"chapters/([^/]+)/[^/]+", name.removesuffix(".ipynb")):
            chapters.setdefault(match[1], []).append(match[0])
    return chapters


def _files_named(entry: Any) -> Iterator[str]:
    """Yield the ``file`` entries of a table of contents, in order."""
    if isinstance(entry, dict):
        if "file" in entry:
            yield entry["file"]
        entry = list(entry.values())
    if isinstance(entry, list):
        for part in entry:
            yield from _files_named(part)


def overview(slug: str, documents: list[str]) -> ChapterOverview:
    """Gather what is known of a chapter.

    Args:
        slug: the chapter's folder.
        documents: its pages, as :func:`chapters_in_book` gives them.

    Raises:
        UserError: if its claims file or one of its records is broken.
    """
    notebooks = {name: book_root() / f"{name}.ipynb" for name in documents}
    records = {name: read_record(path) for name, path in notebooks.items()}
    titles = {name: _title(path) or path.stem for name, path in notebooks.items()}
    return ChapterOverview(
        slug=slug,
        title=titles[documents[0]],
        documents=documents,
        titles=titles,
        sheet=load_claims(chapter_folder(slug) / "claims.yml"),
        executed={n: ShownRun(notebooks[n], r, is_stale(notebooks[n])) for n, r in records.items() if r},
        recorded=[ShownRun(path, record, is_stale(path)) for path, record in recorded_runs(slug)],
        sweeps=recorded_sweeps(slug),
    )


def _title(notebook: Path) -> str:
    """Return the first heading of a notebook without its Markdown marks."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return re.sub(r"[*_`]", "", heading[1]).strip()
    return ""


def figures_of(notebook: Path) -> list[Figure]:
    """Return the PNG outputs of an executed notebook in order.

    Alternative text and caption come from the cell's metadata (``mystnb.image.alt`` and
    ``mystnb.figure.caption``), where MyST-NB looks for them too.
    """
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        said = cell["metadata"].get("mystnb", {})
        alt, caption = said.get("image", {}).get("alt", ""), said.get("figure", {}).get("caption", "")
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                cover = "cover" in cell["metadata"].get("tags", [])
                found.append(Figure(base64.b64decode("".join(png)), alt or caption, caption, cover))
    return found


def files_behind(slug: str) -> list[Path]:
    """Return every file that what the pages say of a chapter depends on, staleness included."""
    folder = chapter_folder(slug)
    notebooks = sorted(folder.glob("*.ipynb"))
    code = [code_of(json.loads(path.read_text(encoding="utf-8"))) for path in notebooks]
    modules = reached_modules("\n".join(chain.from_iterable(code)))
    shared = [book_root() / "_toc.yml", book_root() / "requirements.lock"]
    files = [
        *notebooks,
        folder / "claims.yml",
        *sorted((folder / "runs").glob("*.ipynb")),
        *sorted((folder / "sweeps").glob("*.jsonl")),
        *sorted(modules),
        *shared,
    ]
    return [file for file in files if file.is_file()]
