"""The ``reprobook`` command: list chapters, run them, show their claims, bring stored outputs up to date.

Exit codes: 0 for success; 1 for a mistake or a run that failed, told in one line; 2 for a wrong command
line; 3 for ``--strict`` with a claim that was not reproduced; 130 for Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobook import __version__, cli_course, cli_data, cli_sweep
from reprobook.errors import UserError
from reprobook.tables import show as _show

if TYPE_CHECKING:
    from reprobook.claims import Result
    from reprobook.overview import ChapterOverview
    from reprobook.records import Record
    from reprobook.running import Run

__all__ = ["main", "app", "NOT_REPRODUCED"]

#: The exit code of ``--strict`` when a claim was not reproduced.
NOT_REPRODUCED = 3
_USAGE_ERROR: Any = typer.BadParameter.__base__  # the class for everything wrong with a command line

#: The command line as typer knows it.
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    help="Papers You Can Rerun: list the chapters, run them at any scale, and see which claims hold.",
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_course.app, name="course")

Slug = Annotated[
    str, typer.Argument(metavar="SLUG", help="A chapter, or one of its notebooks: SLUG/NOTEBOOK.")
]
Tier = Annotated[
    str, typer.Option("--tier", metavar="TIER", help="'laptop', or a parameter file: smoke, paper, ...")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the words after ``reprobook``; by default those it was started with.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ shows ? and does not fail
    words = _join_pairs(sys.argv[1:] if arguments is None else arguments)
    try:
        return app(args=words, prog_name="reprobook", standalone_mode=False) or 0
    except UserError as error:
        return _say(str(error), getattr(error, "exit_code", 1))
    except _USAGE_ERROR as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "reprobook"
        return _say(f"{error.format_message().rstrip('.')} (see {command} --help)", error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Papers You Can Rerun: list the chapters, run them at any scale, and see which claims hold."""
    if version:
        print(f"reprobook {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_chapters() -> None:
    """List the chapters and what became of them.

    Claims by verdict, time of the laptop tier, stale or not, recorded runs.
    """
    rows = []
    for chapter in _chapters():
        notebooks = [d.rpartition("/")[2] for d in chapter.documents]
        rows.append(
            (
                chapter.slug,
                chapter.sheet.paper.title,
                ", ".join(notebooks),
                _counted(chapter),
                _laptop_time(chapter),
                _state(chapter),
                ", ".join(run.name + (" (stale)" if run.stale else "") for run in chapter.recorded) or "none",
            )
        )
    _show(("chapter", "title", "notebooks", "claims", "laptop", "state", "recorded runs"), rows)


@app.command()
def run(
    slug: Slug,
    tier: Tier = "laptop",
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Set a parameter; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Output folder, _runs/SLUG in the book by default."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Store it among the chapter's recorded runs, to be committed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run it even if it is finished already.")] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 3 unless every claim tested at this tier is reproduced."),
    ] = False,
    params_help: Annotated[
        bool, typer.Option("--params-help", help="Print the chapter's parameters and exit.")
    ] = False,
) -> None:
    """Run a chapter and show its claims.

    A run that is finished already is not repeated. Stop it with Ctrl-C: finished results stay.
    """
    if params_help:
        return parameters(slug, tier)
    from reprobook import running

    done = running.run(
        slug, tier, cli_sweep.given_values(parameter or []), out=out, record=record, force=force
    )
    results = done.record.results()
    _show(_CLAIM_COLUMNS, [_claim_row(r) for r in results])
    _tell_where(done)
    if strict and (failed := _not_reproduced(results, tier)):
        raise typer.Exit(_say(f"--strict: not reproduced: {', '.join(failed)}", NOT_REPRODUCED))


@app.command()
def parameters(slug: Slug, tier: Tier = "laptop") -> None:
    """Show a chapter's parameters.

    Type, value at a tier, what is allowed, and what each one means.
    """
    from reprobook.jobs import declared_parameters, plan

    values = plan(slug, tier).parameters
    rows = [
        (p.name, p.type, repr(values[p.name]), _allowed(p.allowed), p.help)
        for p in declared_parameters(slug).values()
    ]
    _show(("parameter", "type", tier, "allowed", "meaning"), rows)


@app.command()
def claims(
    slug: Annotated[
        str | None, typer.Argument(metavar="[SLUG]", help="A chapter or SLUG/NOTEBOOK; all by default.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Option("--verdict", metavar="VERDICT", help="Show only claims with this verdict.")
    ] = None,
) -> None:
    """Show every claim with its verdict.

    From the committed notebooks and from the recorded runs. What only a recorded run tests and has measured
    stands there alone.
    """
    from reprobook.claims import Verdict

    if verdict is not None and verdict not in list(Verdict):
        raise UserError(f"unknown verdict '{verdict}'; the verdicts are: {', '.join(Verdict)}")
    chapter_name, _, notebook = (slug or "").partition("/")
    rows = [
        (chapter.slug, name, *_claim_row(r))
        for chapter in _chapters(chapter_name or None, notebook)
        for name, results in _runs_of(chapter)
        for r in results
        if verdict in (None, r.verdict) and (not notebook or r.claim.notebook in (None, notebook))
    ]
    _show(("chapter", "run", *_CLAIM_COLUMNS), rows)


@app.command()
def refresh(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG]...", help="Chapters or notebooks; all by default.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run also what is up to date.")] = False,
) -> None:
    """Run stale notebooks again, in place.

    A notebook is stale if its stored outputs no longer follow from its code and parameters, the library
    code that it reaches, its claims file and the lock file.
    """
    from reprobook import running

    done = running.refresh(slugs or (), all=everything)
    for one in done:
        print(f"{one.record.chapter}: refreshed in {_spent(one.record)}")
    if not done:
        print("every stored output is up to date")


app.command()(cli_sweep.sweep)
app.command()(cli_sweep.report)


# --------------------------------------------------------------------------- what the commands say

_CLAIM_COLUMNS = ("claim", "verdict", "measured", "criterion")


def _claim_row(result: Result) -> tuple[str, ...]:
    claim = result.claim
    parts = [f"{name + ': ' if name else ''}{e} (n={e.n})" for name, e in result.parts.items()]
    if result.excluded:
        parts.append(f"{result.excluded} left out: {result.why_excluded}")
    verdict = f"{result.verdict.sign} {result.verdict.value}"
    return (
        claim.id,
        verdict,
        "; ".join(parts) or claim.untested or result.why_excluded or "–",
        claim.criterion.text if claim.criterion else "–",
    )


def _not_reproduced(results: Sequence[Result], tier: str) -> list[str]:
    """Return the ids of claims that this very tier tests and that are not reproduced."""
    return [r.claim.id for r in results if tier in r.claim.tiers and r.verdict.value != "reproduced"]


def _counted(chapter: ChapterOverview) -> str:
    """Return how many claims have which verdict, and how many of these verdicts are of recorded runs."""
    from reprobook.claims import count_verdicts

    counts = count_verdicts(chapter.results)
    recorded = sum(shown.recorded is not None for shown in chapter.shown.values())
    words = ", ".join(f"{n} {verdict.value}" for verdict, n in counts.items() if n)
    return f"{words} ({recorded} from recorded runs)" if recorded else words


def _runs_of(chapter: ChapterOverview) -> list[tuple[str, list[Result]]]:
    """Return the results of a chapter's runs with their names: the laptop tier, then the recorded runs."""
    laptop = [shown.result for shown in chapter.shown.values() if shown.recorded is None]
    return [("laptop", laptop), *((run.name, list(run.results.values())) for run in chapter.recorded)]


def _chapters(slug: str | None = None, notebook: str = "") -> list[ChapterOverview]:
    """Return the chapters that have a notebook, in the order of the book; or one, which has this notebook."""
    from reprobook.overview import chapters_in_book, overview
    from reprobook.paths import chapter_slugs, notebook_names, notebook_path

    if notebook:
        notebook_path(f"{slug}/{notebook}")
    slugs = [slug] if slug else list(dict.fromkeys([*chapters_in_book(), *chapter_slugs()]))
    pages = {s: [f"chapters/{s}/{n}" for n in notebook_names(s)] for s in slugs}
    if slug and not pages[slug]:
        raise UserError(f"chapter '{slug}' has no notebook yet")
    return [overview(s, found) for s, found in pages.items() if found]


def _laptop_time(chapter: ChapterOverview) -> str:
    from reprobook.cards import duration

    return duration(chapter.seconds) if chapter.executed else "–"


def _state(chapter: ChapterOverview) -> str:
    """Return whether a chapter's outputs are up to date; where its notebooks differ, which ones are not."""
    states: dict[str, list[str]] = {}
    for document in chapter.documents:
        run = chapter.executed.get(document)
        state = "never run" if run is None else "stale" if run.stale else "up to date"
        states.setdefault(state, []).append(document.rpartition("/")[2])
    if len(states) == 1:
        return next(iter(states))
    return ", ".join(f"{name} {s}" for s, names in states.items() if s != "up to date" for name in names)


def _spent(record: Record) -> str:
    from reprobook.cards import duration, memory

    return f"{duration(record.wall_seconds)}, {memory(record.peak_memory_mib)}, {record.machine}"


def _tell_where(done: Run) -> None:
    if done.fresh:
        print(f"\nfinished in {_spent(done.record)}")
    else:
        print("\nalready finished; --force runs it anew")
    print(f"notebook: {done.notebook}\nrecord:   {done.record_path}")


def _allowed(allowed: str | None) -> str:
    return {"device": "auto, cpu, cuda, cuda:N, mps", None: "any"}.get(allowed, allowed or "any")


# --------------------------------------------------------------------------- words of the command line


def _join_pairs(words: Sequence[str]) -> list[str]:
    """Join ``-p NAME VALUE`` into ``-p NAME=VALUE``: typer has no repeatable option with two values."""
    joined, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word in ("-p", "--parameter") and len(rest) >= 2 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
        elif word in ("-p", "--parameter") and rest:
            joined.append(rest.pop(0))
    return joined


def _say(message: str, code: int) -> int:
    """Print one line on the standard error and hand back the exit code."""
    print(f"reprobook: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
