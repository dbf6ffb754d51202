"""Sphinx extension: the parts of the book's pages that are made from executed notebooks.

====================  ======================================================================
directive             what it becomes
====================  ======================================================================
``verdict-box``       top of a chapter: the paper, verdict counts, cost, the command to rerun
``chapter-cards``     a card a chapter, in the order of the table of contents
``scoreboard``        every claim of every chapter, with its verdict at every tier
``recorded-runs``     a chapter's recorded runs and sweeps: parameters, claims, figures, download
``verdict-legend``    the five verdicts and what they mean
====================  ======================================================================

All of it is read when the page is read, and Sphinx is told every file behind it, so that a page is made
anew when one of them changes, appears or goes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from reprobook import __version__, cards
from reprobook.errors import UserError
from reprobook.overview import (
    ChapterOverview,
    Figure,
    ShownRun,
    chapters_in_book,
    figures_of,
    files_behind,
    overview,
)
from reprobook.stamps import parameter_values
from reprobook.sweeps.recorded import RecordedSweep

__all__ = ["setup", "VerdictBox", "ChapterCards", "Scoreboard", "RecordedRuns", "VerdictLegend"]

_CHAPTERS = "_reprobook_chapters"  # what the application keeps of them during one build
FIGURE_FOLDER = "reprobook_figures"
RERUN_PAGE = "book/rerun"


class _FromResults(SphinxDirective):
    """A directive without content that reads chapters; what the user can put right becomes a build error."""

    def run(self) -> list[nodes.Node]:
        try:
            return self.make()
        except UserError as error:
            raise self.error(str(error)) from None

    def make(self) -> list[nodes.Node]:
        """Return what the directive becomes."""
        raise NotImplementedError

    def link(self, document: str, anchor: str) -> str:
        """Return the address of a place in the book, relative to the page being read."""
        uri = self.env.app.builder.get_relative_uri(self.env.docname, document)
        return f"{uri}#{anchor}" if anchor else uri or "#"

    def chapter(self, slug: str, documents: list[str]) -> ChapterOverview:
        """Gather a chapter, and make this page depend on all that is behind it."""
        known = self.env.app.__dict__.setdefault(_CHAPTERS, {})  # many pages ask for the same chapter
        if (slug, *documents) not in known:
            known[slug, *documents] = (_fingerprint(slug), overview(slug, documents))
        files, found = known[slug, *documents]
        for file in files:
            self.env.note_dependency(file)
        _slugs_seen(self.env).setdefault(self.env.docname, {})[slug] = files
        return found

    def this_chapter(self) -> ChapterOverview:
        """Gather the chapter that this page belongs to."""
        parts = self.env.docname.split("/")
        if len(parts) != 3 or parts[0] != "chapters":
            raise UserError(f"'{self.name}' belongs into a chapter's notebook, not into {self.env.docname}")
        return self.chapter(parts[1], chapters_in_book().get(parts[1], [self.env.docname]))

    def image(self, figure: Figure) -> nodes.image:
        """Put a picture where Sphinx collects it, and return the node that shows it."""
        folder = Path(self.env.app.outdir).parent / FIGURE_FOLDER
        file = folder / f"{hashlib.sha256(figure.png).hexdigest()[:24]}.png"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(figure.png)
        return nodes.image(
            uri="/" + os.path.relpath(file, self.env.srcdir).replace(os.sep, "/"), alt=figure.alt
        )

    def text(self, source: str) -> nodes.Element:
        """Return text parsed as the page's own markup."""
        box = nodes.container(classes=["rb-caption"])
        self.state.nested_parse(StringList([source], self.env.docname), self.content_offset, box)
        return box


class VerdictBox(_FromResults):
    """``{verdict-box}``, used once, under a chapter's title."""

    def make(self) -> list[nodes.Node]:
        chapter = self.this_chapter()
        start, end = cards.verdict_box(chapter, self.env.docname, self.link)
        slug, notebook = self.env.docname.split("/")[1:]
        commands = f"$ reprobook run {slug if slug == notebook else f'{slug}/{notebook}'}"
        console = nodes.literal_block(commands, commands, language="console")
        return [_raw(start), console, _raw(self._more()), _raw(end)]

    def _more(self) -> str:
        """Return a pointer to the page on rerunning, in a book that has one."""
        if RERUN_PAGE not in self.env.found_docs:
            return ""
        how = f"<a href='{self.link(RERUN_PAGE, '')}'>how to rerun</a>"
        return f"<p class='rb-small'>With other seeds, sizes or devices: {how}</p>"


class ChapterCards(_FromResults):
    """``{chapter-cards}``, used on the cover."""

    def make(self) -> list[nodes.Node]:
        found: list[nodes.Node] = [_raw("<div class='rb-cards'>")]
        for number, (slug, documents) in enumerate(chapters_in_book().items(), 1):
            chapter = self.chapter(slug, documents)
            start, end = cards.chapter_card(chapter, number, self.link)
            picture = [self.image(figure) for figure in self._cover(chapter)]
            found += [_raw(start), *picture, _raw(end)]
        return [*found, _raw("</div>")]

    def _cover(self, chapter: ChapterOverview) -> list[Figure]:
        """Return the figure whose cell is tagged ``cover``, else the first; none before the first run."""
        figures = [figure for run in chapter.executed.values() for figure in figures_of(run.path)]
        return sorted(figures, key=lambda figure: not figure.cover)[:1]


class Scoreboard(_FromResults):
    """``{scoreboard}``, used on the page of that name."""

    def make(self) -> list[nodes.Node]:
        chapters = [self.chapter(slug, documents) for slug, documents in chapters_in_book().items()]
        return [_raw(cards.scoreboard(chapters, self.link))]


class RecordedRuns(_FromResults):
    """``{recorded-runs}``, used in a chapter's section on runs at other tiers."""

    def make(self) -> list[nodes.Node]:
        chapter = self.this_chapter()
        notebook = self.env.docname.split("/")[2]
        runs = [run for run in chapter.recorded if run.record.notebook == notebook]
        sweeps = chapter.sweeps_of(self.env.docname)
        if not runs and not sweeps:
            return [_raw("<p class='rb-note'>No run at another tier has been recorded yet.</p>")]
        found = [node for run in runs for node in self._run(run)]
        return [*found, *(node for sweep in sweeps for node in self._sweep(sweep))]

    def _sweep(self, sweep: RecordedSweep) -> list[nodes.Node]:
        start = _raw(f"<section class='rb-run' id='seeds-{sweep.tier}'>{cards.recorded_sweep(sweep)}")
        return [start, self._download(sweep.path, "the records of all jobs"), _raw("</section>")]

    def _run(self, run: ShownRun) -> list[nodes.Node]:
        page = Path(self.env.srcdir) / f"{self.env.docname}.ipynb"
        defaults = parameter_values(json.loads(page.read_text(encoding="utf-8")), {})
        figures = figures_of(run.path)
        found = [
            _raw(f"<section class='rb-run' id='run-{run.name}'>"),
            _raw(cards.recorded_run(run, defaults)),
        ]
        if figures:
            found.append(
                _raw(f"<details class='rb-fold'><summary>Figures of this run: {len(figures)}</summary>")
            )
            found += [node for figure in figures for node in self._figure(figure)]
            found.append(_raw("</details>"))
        return [*found, self._download(run.path, "the executed notebook"), _raw("</section>")]

    def _figure(self, figure: Figure) -> list[nodes.Node]:
        caption = [self.text(figure.caption)] if figure.caption else []
        return [nodes.container("", self.image(figure), *caption, classes=["rb-figure"])]

    def _download(self, path: Path, what: str) -> nodes.Node:
        target = "/" + os.path.relpath(path, self.env.srcdir).replace(os.sep, "/")
        name = nodes.literal(path.name, path.name)
        link = addnodes.download_reference("", "", name, reftarget=target, refdoc=self.env.docname)
        return nodes.paragraph("", f"Download {what}: ", link, classes=["rb-small"])


class VerdictLegend(SphinxDirective):
    """``{verdict-legend}``, used wherever a reader may meet verdicts for the first time."""

    def run(self) -> list[nodes.Node]:
        return [_raw(cards.legend())]


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


# --------------------------------------------------------------------------- rebuilding what changed


def _slugs_seen(env: BuildEnvironment) -> dict[str, dict[str, list[str]]]:
    """Return what each page showed when it was read: by page and slug, the files behind the chapter."""
    if not hasattr(env, "reprobook_seen"):
        env.reprobook_seen = {}
    return env.reprobook_seen


def _fingerprint(slug: str) -> list[str]:
    return [str(file) for file in files_behind(slug)]


def _outdated(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """Name the pages that Sphinx itself does not see to be out of date.

    It sees files that changed, but not those that appeared or went. And it copies no style sheet while every
    page is up to date, so a changed one concerns all pages.
    """
    app.__dict__.pop(_CHAPTERS, None)
    before, now = getattr(env, "reprobook_look", None), _look(app)
    env.reprobook_look = now
    if before not in (None, now):
        return sorted(env.found_docs)
    fingerprint = cache(_fingerprint)  # many pages show the same chapters
    seen = _slugs_seen(env).items()
    return [page for page, slugs in seen if any(_is_other(fingerprint, s, f) for s, f in slugs.items())]


def _look(app: Sphinx) -> str:
    """Return a hash over the static files of the book."""
    folders = [Path(app.srcdir) / folder for folder in app.config.html_static_path]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _is_other(fingerprint: Callable[[str], list[str]], slug: str, files: list[str]) -> bool:
    try:
        return fingerprint(slug) != files
    except (UserError, ValueError):
        return True  # reading the page again says what is wrong


def _purge(app: Sphinx, env: BuildEnvironment, document: str) -> None:
    _slugs_seen(env).pop(document, None)


def _merge(app: Sphinx, env: BuildEnvironment, documents: list[str], other: BuildEnvironment) -> None:
    _slugs_seen(env).update({page: seen for page, seen in _slugs_seen(other).items() if page in documents})


def _use_this_book(app: Sphinx) -> None:
    """Read the chapters of the book being built, wherever the command was started."""
    os.environ["REPROBOOK_ROOT"] = str(app.srcdir)
    gc.freeze()
    gc.set_threshold(500_000)  # pages are large trees: looking for rubbish in them all the time takes longest


def _expect_claims_data(app: Sphinx, config: Config) -> None:
    """Let MyST-NB pass over the claims' data, which stands in the notebook beside their table, in silence."""
    config.suppress_warnings = [*config.suppress_warnings, "mystnb.unknown_mime_type"]


def _keep_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put back what napoleon took for a constant's type: the words before a colon in its description."""
    taken = [line for line in lines if line.startswith(":type: ")]
    if what == "data" and taken:
        lines.remove(taken[0])
        lines[0] = f"{taken[0].removeprefix(':type: ')}: {lines[0]}"


def _join_names(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let several names share one description; Sphinx takes all but the last of them for a type."""
    lines[:] = [
        re.sub(r"^(:ivar |:param )([^:]*,[^:]*):", lambda m: m[1] + m[2].replace(", ", ",") + ":", line)
        for line in lines
    ]


def _keep_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let ``|x|`` mean a length, as in mathematics; to reStructuredText a bar starts a substitution."""
    lines[:] = [
        "".join(
            part if part.startswith("`") else re.sub(r"(?<!\\)\|(?=\S)", r"\\|", part)
            for part in re.split(r"(``.*?``|`[^`]*`)", line)
        )
        for line in lines
    ]


def _end_literals(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let ``x``² mean a square; to reStructuredText a literal must be followed by a space or a stop."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.+?``)", line)  # every second one is a literal
        for k in range(2, len(parts), 2):
            if parts[k] and (parts[k][0].isalnum() or parts[k][0] in "′″"):
                parts[k] = "\\ " + parts[k]
        lines[number] = "".join(parts)


def setup(app: Sphinx) -> dict:
    """Register the directives (called by Sphinx)."""
    app.add_directive("verdict-box", VerdictBox)
    app.add_directive("chapter-cards", ChapterCards)
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("recorded-runs", RecordedRuns)
    app.add_directive("verdict-legend", VerdictLegend)
    app.connect("config-inited", _expect_claims_data)
    app.connect("builder-inited", _use_this_book)
    app.connect("env-get-outdated", _outdated)
    app.connect("env-purge-doc", _purge)
    app.connect("env-merge-info", _merge)
    if "sphinx.ext.autodoc" in app.extensions:
        for mend in (_keep_colons, _join_names, _keep_bars, _end_literals):
            app.connect("autodoc-process-docstring", mend, priority=600)  # after napoleon
    return {"version": __version__, "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
