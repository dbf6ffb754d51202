"""The boxes, cards and tables of the book's pages, as HTML made from chapter overviews.

Every function here is pure: overview in, HTML out. ``Link`` turns a page's name and an anchor into an
address that works from the page being written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from html import escape

from reprobook.claims import Claim, Criterion, Result, Verdict, claims_html, count_verdicts
from reprobook.jobs import LAPTOP
from reprobook.overview import ChapterOverview, Shown, ShownRun
from reprobook.records import Record
from reprobook.stats import Estimate
from reprobook.sweeps.recorded import RecordedSweep

__all__ = [
    "Link",
    "verdict_box",
    "chapter_card",
    "scoreboard",
    "recorded_run",
    "recorded_sweep",
    "legend",
    "tally",
    "bar",
    "duration",
    "memory",
    "day",
]

Link = Callable[[str, str], str]


# --------------------------------------------------------------------------- words for numbers


def duration(seconds: float) -> str:
    """Return a time as a reader would say it: ``9 s``, ``2 min 10 s``, ``1 h 5 min``."""
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def memory(mib: float) -> str:
    """Return an amount of memory in MiB or, from 1024 of them, in GiB."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def day(started: str) -> str:
    """Return the day of an ISO 8601 time: ``21 November 2026``."""
    found = date.fromisoformat(started[:10])
    return f"{found.day} {found:%B %Y}"


def _short_day(started: str) -> str:
    found = date.fromisoformat(started[:10])
    return f"{found.day}\N{NO-BREAK SPACE}{found:%b}\N{NO-BREAK SPACE}{found.year}"


# --------------------------------------------------------------------------- verdict counts


def _chip(verdict: Verdict) -> str:
    return f"<span class='rb-verdict {verdict.css}'>{verdict.sign} {verdict.value}</span>"


def tally(results: Iterable[Result], href: Callable[[Result], str] | None = None) -> str:
    """Return the number of claims by verdict, all five of them.

    Args:
        results: the claims' results.
        href: the address of a result; with it, each number leads to the first claim of its verdict.
    """
    results = list(results)
    items = []
    for verdict, count in count_verdicts(results).items():
        words = f"<b>{count}</b> <span class='rb-word'>{verdict.sign} {verdict.value}</span>"
        first = next((r for r in results if r.verdict is verdict), None)
        inside = f"<a href='{href(first)}'>{words}</a>" if first and href else f"<span>{words}</span>"
        items.append(f"<li class='{verdict.css}{'' if count else ' rb-none'}'>{inside}</li>")
    return f"<ul class='rb-tally'>{''.join(items)}</ul>"


def bar(results: Iterable[Result]) -> str:
    """Return a bar whose pieces are as long as the verdicts are many; the words stand elsewhere."""
    counts = count_verdicts(results)
    pieces = "".join(f"<i class='{v.css}' style='flex-grow:{n}'></i>" for v, n in counts.items() if n)
    return f"<span class='rb-bar' aria-hidden='true'>{pieces}</span>"


def _in_words(results: Iterable[Result]) -> str:
    """Return the counts that are not zero as one line of words."""
    counts = count_verdicts(results)
    words = [f"<span class='{v.css}'>{n} {v.sign} {v.value}</span>" for v, n in counts.items() if n]
    return f"<span class='rb-words'>{' '.join(words)}</span>"


def _notice(title: str, words: str = "") -> str:
    return f"<p class='rb-stale'><b>{title}</b> {escape(words)}</p>"


def _notices(record: Record, stale: bool) -> str:
    """Return what a reader must know before believing a run: that it failed, or that it is out of date."""
    if record.status == "failed":
        return _notice("This run failed.", record.error or "")
    changed = "The code, claims or library versions behind this run have changed since."
    return _notice("Stale.", changed) if stale else ""


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f"<div><dt>{name}</dt><dd class='rb-fact'>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f"<dl class='rb-facts'>{rows}</dl>"


def _run_facts(record: Record) -> str:
    return _facts(
        [
            ("Executed", day(record.started)),
            ("Took", duration(record.wall_seconds)),
            ("Memory", memory(record.peak_memory_mib)),
            ("Machine", record.machine),
        ]
    )


_MEANINGS = {
    Verdict.REPRODUCED: "The whole interval lies where the claim says.",
    Verdict.PARTLY: "The claim has several parts; some are reproduced, others are not.",
    Verdict.NOT_REPRODUCED: "The whole interval lies elsewhere.",
    Verdict.INCONCLUSIVE: "The interval straddles the bound; more seeds may decide.",
    Verdict.NOT_ATTEMPTED: "Not measured in this run, or it cannot be tested here; the table says why.",
}


def legend() -> str:
    """Return the five verdicts with their meaning."""
    rows = "".join(
        f"<div><dt>{_chip(v)}</dt><dd class='rb-fact'>{meaning}</dd></div>"
        for v, meaning in _MEANINGS.items()
    )
    return f"<dl class='rb-legend'>{rows}</dl>"


# --------------------------------------------------------------------------- the top of a chapter


def verdict_box(chapter: ChapterOverview, document: str, link: Link) -> tuple[str, str]:
    """Return the box at the top of a chapter's page, in two halves: the commands stand between them.

    Args:
        chapter: the chapter.
        document: the page that the box stands on.
        link: see the module.
    """
    paper, run = chapter.sheet.paper, chapter.executed.get(document)
    arxiv = f"<a href='https://arxiv.org/abs/{escape(paper.arxiv)}'>arXiv:{escape(paper.arxiv)}</a>"
    head = (
        "<section class='rb-box' aria-label='Paper and verdicts'>"
        "<div class='rb-paper'><p class='rb-eyebrow'>The paper</p>"
        f"<p class='rb-paper-title'>{escape(paper.title)}</p>"
        f"<p class='rb-paper-by'>{escape(paper.authors)}<br>{paper.year} · {arxiv}</p></div>"
    )
    if run is None:
        body = _notice("Not executed yet.", "There are no verdicts until this chapter has run.")
    else:
        shown = [chapter.shown[claim] for claim in run.results]
        results = [s.result for s in shown]
        said = tally(results, lambda r: link(document, _place(chapter.shown[r.claim.id])))
        claims = "1 claim" if len(results) == 1 else f"{len(results)} claims"
        body = (
            f"<p class='rb-eyebrow'>What became of {claims}</p>{bar(results)}{said}"
            f"{_from_recorded(shown, lambda name: link(document, f'run-{name}'))}"
            f"{_over_seeds(chapter.sweeps_of(document), lambda s: link(document, f'seeds-{s.tier}'))}"
            f"{_notices(run.record, run.stale)}{_run_facts(run.record)}"
        )
    again = "Run it again" if run else "Run it"
    return f"{head}{body}<div class='rb-commands'><p class='rb-eyebrow'>{again}</p>", "</div></section>"


def _place(shown: Shown) -> str:
    """Return the anchor of the row in which a claim's result stands on its page."""
    run = f"{shown.recorded.name}-" if shown.recorded else ""
    return f"{run}claim-{shown.result.claim.id}"


def _from_recorded(shown: Iterable[Shown], href: Callable[[str], str] | None = None) -> str:
    """Return a line that says how many verdicts come from which recorded runs; nothing where none does.

    Args:
        shown: what is shown of the claims.
        href: the address of a recorded run by its name; without it, the runs are only named.
    """
    runs = [s.recorded for s in shown if s.recorded]
    if not runs:
        return ""
    named = {
        run.name: (f"<a href='{href(run.name)}'>{run.name}</a>" if href else run.name)
        + (" (stale)" if run.stale else "")
        for run in runs
    }
    verdicts = "1 of these verdicts is" if len(runs) == 1 else f"{len(runs)} of these verdicts are"
    word = "run" if len(named) == 1 else "runs"
    return f"<p class='rb-small'>{verdicts} of the recorded {word} {', '.join(named.values())}</p>"


def _over_seeds(sweeps: Iterable[RecordedSweep], href: Callable[[RecordedSweep], str]) -> str:
    """Return a line a recorded sweep: how many claims have which verdict over its seeds."""
    lines = []
    for sweep in sweeps:
        counts = count_verdicts(sweep.results.values())
        words = ", ".join(f"{n} {v.sign} {v.value}" for v, n in counts.items() if n)
        named = f"<a href='{href(sweep)}'>Over {sweep.num_seeds} seeds</a>"
        lines.append(f"<p class='rb-small'>{named}: {words}{' (stale)' if sweep.stale else ''}</p>")
    return "".join(lines)


# --------------------------------------------------------------------------- the cover


def chapter_card(chapter: ChapterOverview, number: int, link: Link) -> tuple[str, str]:
    """Return a chapter's card in two halves: its picture, if it has one, stands between them."""
    paper = chapter.sheet.paper
    named = "" if paper.title == chapter.title else f"<cite>{escape(paper.title)}</cite>. "
    if chapter.executed:
        claims = len(chapter.results)
        state = (
            f"{bar(chapter.results)}{_in_words(chapter.results)}"
            f"<p class='rb-small'>{claims} claims · runs in {duration(chapter.seconds)}</p>"
            f"{_from_recorded(chapter.shown.values())}"
        )
    else:
        state = _notice("Not executed yet.")
    return (
        "<article class='rb-card'><div class='rb-card-picture'>",
        f"</div><div class='rb-card-text'><p class='rb-eyebrow'>Chapter {number}</p>"
        f"<p class='rb-card-title' role='heading' aria-level='3'>"
        f"<a href='{link(chapter.documents[0], '')}'>{escape(chapter.title)}</a></p>"
        f"<p class='rb-small'>{named}{escape(paper.authors)}, {paper.year}</p>{state}</div></article>",
    )


# --------------------------------------------------------------------------- the scoreboard


def scoreboard(chapters: list[ChapterOverview], link: Link) -> str:
    """Return every claim of every chapter with its verdicts, totals on top.

    The claims of a notebook lie folded under its title and counts. The totals are radio buttons: choosing one
    leaves only the claims of that verdict, and unfolds them. A claim that only a recorded run tests counts
    with that run's verdict.
    """
    results = [r for c in chapters for r in c.results]
    counts = count_verdicts(results)
    recorded = any(shown.recorded for c in chapters for shown in c.shown.values())
    where = ", or of the recorded run where only that tests the claim" if recorded else ""
    choices = "".join(_choice(v.css, f"{v.sign} {v.value}", n) for v, n in counts.items())
    sections = "".join(_board(chapter, number, link) for number, chapter in enumerate(chapters, 1))
    return (
        "<div class='rb-scoreboard'><fieldset class='rb-filter'>"
        f"<legend>Verdicts at the laptop tier{where}; choose one to see only its claims</legend>"
        f"{_choice('rb-all', 'all claims', len(results), chosen=True)}{choices}</fieldset>{sections}</div>"
    )


def _choice(css: str, words: str, count: int, chosen: bool = False) -> str:
    mark = " checked" if chosen else ""
    return (
        f"<label class='rb-choice {css}'><input type='radio' name='rb-show' value='{css}'{mark}>"
        f"<b>{count}</b> <span class='rb-word'>{words}</span></label>"
    )


def _board(chapter: ChapterOverview, number: int, link: Link) -> str:
    parts = "".join(_board_part(chapter, page, link) for page in chapter.documents)
    title = f"<a href='{link(chapter.documents[0], '')}'>{number}. {escape(chapter.title)}</a>"
    return (
        f"<section class='rb-board' id='board-{chapter.slug}'>"
        f"<p class='rb-board-title' role='heading' aria-level='2'>{title}</p>{parts}</section>"
    )


def _board_part(chapter: ChapterOverview, page: str, link: Link) -> str:
    """Return the claims that a page answers for, folded under its title and counts."""
    results = [r for r in chapter.results if chapter.page_of(r.claim) == page]
    if not results:
        return ""
    rows = "".join(_board_row(chapter, result, link) for result in results)
    heads = "".join(
        f"<th scope='col'>{h}</th>" for h in ("Claim", "Laptop tier", "Over seeds", "Recorded runs")
    )
    title = escape(chapter.titles[page])
    return (
        "<details class='rb-fold rb-board-part'>"
        f"<summary><b>{title}</b>{bar(results)}{_in_words(results)}</summary>"
        f"<div class='rb-claims-box' tabindex='0' role='region' aria-label='Claims of {title}'>"
        f"<table class='rb-claims rb-board-table'><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _board_row(chapter: ChapterOverview, result: Result, link: Link) -> str:
    claim = result.claim
    page = chapter.page_of(claim)
    if chapter.shown[claim.id].recorded:
        laptop = f"<span class='rb-note'>{escape(_tested_only(claim))}</span>"
    else:
        laptop = _score(result, chapter.executed.get(page), link(page, f"claim-{claim.id}"))
    recorded = [
        _score(run.results[claim.id], run, link(page, f"{run.name}-claim-{claim.id}"), run.record.tier)
        for run in chapter.recorded
        if claim.id in run.results and run.results[claim.id].parts
    ]
    seeds = [
        _swept_score(sweep, claim.id, link(page, f"seeds-{sweep.tier}-claim-{claim.id}"))
        for sweep in chapter.sweeps_of(page)
        if claim.id in sweep.results
    ]
    none = "<span class='rb-note'>none</span>"
    cells = (
        ("Claim", f"<p>{escape(claim.statement)}</p><p class='rb-note'>{escape(claim.where)}</p>"),
        ("Laptop tier", laptop),
        ("Over seeds", "".join(seeds) or none),
        ("Recorded runs", "".join(recorded) or none),
    )
    tds = "".join(f"<td data-label='{label}'>{content}</td>" for label, content in cells)
    return f"<tr class='rb-row {result.verdict.css}'>{tds}</tr>"


def _score(result: Result, run: ShownRun | None, href: str, tier: str = "") -> str:
    """Return one verdict with how many trials it rests on and when it was computed."""
    if run is None:
        return _scored(_chip(Verdict.NOT_ATTEMPTED), "not executed yet")
    sizes = sorted({e.n for e in result.parts.values()})
    trials = "" if not sizes else f"n={sizes[0]}" if len(sizes) == 1 else f"n={sizes[0]} to {sizes[-1]}"
    why = "" if result.parts else "untested" if result.claim.untested else _tested_only(result.claim)
    said = (tier, trials or why, _short_day(run.record.started), "stale" if run.stale else "")
    return _scored(f"<a href='{href}'>{_chip(result.verdict)}</a>", " · ".join(filter(None, said)))


def _swept_score(sweep: RecordedSweep, claim: str, href: str) -> str:
    """Return one verdict over seeds."""
    said = (
        f"{sweep.num_seeds} seeds",
        "" if sweep.tier == LAPTOP else sweep.tier,
        "stale" if sweep.stale else "",
    )
    chip = f"<a href='{href}'>{_chip(sweep.results[claim].verdict)}</a>"
    return _scored(chip, " · ".join(filter(None, said)))


def _tested_only(claim: Claim) -> str:
    """Return why the laptop tier has no verdict on a claim that can be tested."""
    return "not measured" if LAPTOP in claim.tiers else f"tested only at {', '.join(claim.tiers)}"


def _scored(chip: str, note: str) -> str:
    return f"<p class='rb-score'>{chip}<span class='rb-note'>{escape(note)}</span></p>"


# --------------------------------------------------------------------------- recorded runs


def recorded_run(run: ShownRun, defaults: dict) -> str:
    """Return the head and the claims table of a recorded run.

    Claims that are tested at other tiers alone, and were not measured, have no place in it.

    Args:
        run: the run.
        defaults: the laptop tier's parameters, so that those that differ can be marked.
    """
    record = run.record
    results = [r for r in run.results.values() if r.parts or r.claim.untested or record.tier in r.claim.tiers]
    changed = {name for name, value in record.parameters.items() if defaults.get(name) != value}
    parameters = "".join(
        f"<li{' class=rb-changed' if name in changed else ''}>"
        f"<code>{escape(f'{name} = {value!r}')}</code></li>"
        for name, value in record.parameters.items()
    )
    differ = f"Parameters: {len(changed)} of {len(record.parameters)} differ from the laptop tier"
    table = claims_html(results, anchor=f"{run.name}-claim-")
    return (
        "<p class='rb-eyebrow'>Tier</p>"
        f"<p class='rb-run-title' role='heading' aria-level='3'>{escape(record.tier)}</p>"
        f"{bar(results)}{_in_words(results)}{_notices(record, run.stale)}{_run_facts(record)}"
        + _fold(differ, f"<ul class='rb-parameters'>{parameters}</ul>")
        + _fold(f"Claims at this tier: {len(results)}", table)
    )


def _fold(summary: str, content: str) -> str:
    return f"<details class='rb-fold'><summary>{summary}</summary>{content}</details>"


# --------------------------------------------------------------------------- recorded sweeps


def recorded_sweep(sweep: RecordedSweep) -> str:
    """Return what a recorded sweep says: verdicts over its seeds, how the values spread, the claims table."""
    results = list(sweep.results.values())
    hours = sum(r.wall_seconds for r in sweep.records)
    notice = _notice("Stale.", "The code, claims or library versions behind it have changed since.")
    facts = [
        ("Executed", day(max(r.started for r in sweep.records))),
        ("Jobs", str(len(sweep.records))),
        ("Took in all", duration(hours)),
        ("Machine", sweep.records[0].machine),
    ]
    table = claims_html(results, anchor=f"seeds-{sweep.tier}-claim-")
    strips = _strips(sweep)
    return (
        "<p class='rb-eyebrow'>Over seeds</p>"
        "<p class='rb-run-title' role='heading' aria-level='3'>"
        f"{sweep.num_seeds} seeds, tier {escape(sweep.tier)}</p>"
        f"{bar(results)}{_in_words(results)}{notice if sweep.stale else ''}{_facts(facts)}"
        + (_fold(f"How the values spread over {len(sweep.records)} jobs", strips) if strips else "")
        + _fold(f"Claims over {sweep.num_seeds} seeds: {len(results)}", table)
    )


def _strips(sweep: RecordedSweep) -> str:
    """Return a strip for each claim whose value differs between jobs; nothing if none does."""
    rows = []
    for claim, result in sweep.results.items():
        for part, together in result.parts.items():
            values = sweep.values(claim, part)
            if len(set(values)) > 1:
                name = f"<code>{claim}</code>{' ' + escape(part) if part else ''}"
                drawn = _strip(values, together, result.claim.criterion)
                rows.append(
                    f"<li>{name} <span class='rb-n'>{result.part_verdicts[part].sign}</span>{drawn}</li>"
                )
    if not rows:
        return ""
    how = "A dot a job, a bar for the 95 % interval over all seeds, a shade where the claim holds."
    return f"<p class='rb-small'>{how}</p><ul class='rb-strips'>{''.join(rows)}</ul>"


def _strip(values: Sequence[float], together: Estimate, criterion: Criterion) -> str:
    """Return a line of numbers as a picture: values, interval, and where the criterion is met."""
    bounds = (*values, together.low, together.high, criterion.low, criterion.high)
    finite = [v for v in bounds if math.isfinite(v)]
    low, width = min(finite), (max(finite) - min(finite)) or 1.0

    def at(v: float) -> str:
        return f"{10 + 480 * min(max((v - low) / width, -0.02), 1.02):.1f}"

    def box(a: float, b: float, y: int, height: int, kind: str) -> str:
        left, right = float(at(a)), float(at(b))
        return (
            f"<rect class='{kind}' x='{left}' y='{y}' width='{max(right - left, 1):.1f}' height='{height}'/>"
        )

    dots = "".join(f"<circle cx='{at(v)}' cy='12' r='4'/>" for v in values)
    ends = f"{min(values):.3g} to {max(values):.3g}".replace("-", "−")
    words = f"{len(values)} values from {ends}; over all seeds {together}"
    return (
        f"<svg class='rb-strip' viewBox='0 0 500 24' role='img' aria-label='{escape(words)}'>"
        f"{box(criterion.low, criterion.high, 2, 20, 'rb-holds')}<line x1='0' x2='500' y1='12' y2='12'/>"
        f"{box(together.low, together.high, 10, 4, 'rb-interval')}{dots}</svg>"
        f"<span class='rb-note'>{escape(words)}</span>"
    )
