"""The report of a sweep: a notebook that stands on these functions, and a page made from it.

``write_report`` leaves four files in the sweep's folder: ``table.parquet`` and ``table.csv``, one tidy table;
``report.ipynb``, executed; ``report.html``, the same as a page that needs no network.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.claims import claims_html, count_verdicts
from reprobook.errors import UserError
from reprobook.paths import book_root, chapter_folder
from reprobook.records import Record
from reprobook.storing import check_writable, write_files
from reprobook.sweeps.recorded import FOLDER_OF_RECORDED
from reprobook.sweeps.results import SEEDS, SweepResults, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "write_report", "record_sweep"]

_MOST_TABLES = 40


class Report:
    """What a report shows; a notebook calls one method a cell.

    Args:
        results: what the sweep left.
    """

    def __init__(self, results: SweepResults) -> None:
        self.results = results

    @classmethod
    def read(cls, folder: Path | str = ".") -> Report:
        """Read a sweep's folder, and set the book's style for figures.

        Raises:
            UserError: if there is no sweep, or no finished job.
        """
        from reprobook.plotting import use_style

        use_style()
        return cls(read_results(folder))

    def summary(self) -> str:
        """Return what was run, as an HTML list: jobs, seeds, what is missing, time and memory."""
        r = self.results
        seeds = sorted({s for c in r.chapters for setting in r.settings for s in r.seeds(c, setting)})
        lines = [f"{len(r.records)} finished jobs of {', '.join(r.chapters)}, tier {', '.join(self.tiers)}"]
        lines += [f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}"]
        lines += [f"settings: {'; '.join(_named(s) for s in r.settings)}"] if r.varied else []
        lines += [f"{len(r.stale)} older results are stale, and count nowhere"] if r.stale else []
        lines += [f"{len(r.failures)} jobs failed, {len(r.left)} never ran to an end"]
        hours = sum(x.wall_seconds for x in r.records) / 3600
        most = max(x.peak_memory_mib for x in r.records)
        lines += [f"{hours:.2f} hours of work in all, at most {most:.0f} MiB a job"]
        return "<ul class='rb-summary'>" + "".join(f"<li>{html.escape(x)}</li>" for x in lines) + "</ul>"

    @property
    def tiers(self) -> list[str]:
        """The tiers of the jobs."""
        return list(dict.fromkeys(record.tier for record in self.results.records))

    def claims(self, chapter: str) -> str:
        """Return a notebook's claims over all seeds as HTML, a table a setting."""
        found = []
        for number, setting in enumerate(self._settings(chapter)[:_MOST_TABLES]):
            results = list(self.results.pooled(chapter, setting).values())
            seeds = len(self.results.seeds(chapter, setting))
            counts = ", ".join(f"{n} {v.value}" for v, n in count_verdicts(results).items() if n)
            title = f"{_named(setting) + ': ' if setting else ''}{seeds} seeds: {counts}"
            table = claims_html(results, anchor=f"s{number}-claim-")
            opened = "" if number else " open"
            found.append(f"<details{opened}><summary>{html.escape(title)}</summary>{table}</details>")
        return "".join(found)

    def draw_spread(self, chapter: str, setting: Mapping[str, Any] | None = None) -> Figure | None:
        """Draw how a notebook's claims spread over its jobs, at the first setting by default."""
        from reprobook.sweeps.figures import draw_spread

        setting = self._settings(chapter)[0] if setting is None else setting
        return draw_spread(self.results.at(chapter, setting), self.results.pooled(chapter, setting))

    def draw_curves(self, chapter: str, parameter: str) -> Figure | None:
        """Draw a notebook's claims against a parameter, the others as in the first setting."""
        from reprobook.sweeps.figures import draw_curves

        settings = self._settings(chapter)
        others = {k: v for k, v in settings[0].items() if k != parameter}
        along = [s for s in settings if {k: v for k, v in s.items() if k != parameter} == others]
        along = sorted(along, key=lambda s: _order(s[parameter]))
        return draw_curves(parameter, [(s[parameter], self.results.pooled(chapter, s)) for s in along])

    def failures(self) -> str:
        """Return the jobs without a result as an HTML table, with the reason."""
        rows = [(f.name, f.error) for f in self.results.failures]
        rows += [(name, "never ran to an end") for name in self.results.left]
        if not rows:
            return "<p>None: every job finished.</p>"
        cells = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(e)}</td></tr>" for n, e in rows)
        return f"<table><thead><tr><th>Job</th><th>Why</th></tr></thead><tbody>{cells}</tbody></table>"

    def _settings(self, chapter: str) -> list[dict[str, Any]]:
        return [s for s in self.results.settings if self.results.at(chapter, s)]


def _named(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in setting.items()) or "as the tier says"


def _order(value: Any) -> tuple:
    return (0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value))


# --------------------------------------------------------------------------- the notebook and the page


def write_report(folder: Path | str) -> list[Path]:
    """Write table and report of a sweep into its folder.

    Returns:
        The four files.

    Raises:
        UserError: if there is no sweep, no finished job, or no room.
    """
    import io

    folder = Path(folder)
    results = read_results(folder)
    check_writable(folder)
    notebook = _executed(_notebook(results), folder)
    frame = results.table()
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    files = {
        folder / "report.ipynb": _text(notebook),
        folder / "report.html": _page(notebook, results),
        folder / "table.csv": frame.to_csv(index=False),
        folder / "table.parquet": parquet.getvalue(),
    }
    write_files(files)
    return list(files)


def record_sweep(folder: Path | str) -> list[Path]:
    """Store a sweep's records with the chapters, to be committed: ``chapters/SLUG/sweeps``.

    From these the book computes verdicts over seeds. Only a sweep without settings of its own may go there,
    since the book shows claims at its tiers.

    Returns:
        The files, one a notebook and tier.

    Raises:
        UserError: if jobs failed or are missing, or the sweep changed parameters besides the seeds.
    """
    results = read_results(folder)
    if results.failures or results.left:
        raise UserError(
            f"{len(results.failures)} jobs failed and {len(results.left)} are left: "
            "only a whole sweep is recorded"
        )
    if odd := [name for record in results.records for name in _changed(record)]:
        raise UserError(f"the sweep changed {odd[0]}: only one that changes nothing but seeds is recorded")
    files: dict[Path, str] = {}
    measured = {r.chapter for r in results.records if any(claim["parts"] for claim in r.claims)}
    for record in sorted(results.records, key=lambda r: (r.chapter, r.parameters["seed"])):
        if record.chapter not in measured:  # a notebook whose claims all need another tier
            continue
        name = f"{record.notebook}-{record.tier}.jsonl"
        path = chapter_folder(record.slug) / FOLDER_OF_RECORDED / name
        line = json.dumps(record.to_data(), sort_keys=True, ensure_ascii=False)
        files[path] = files.get(path, "") + line + "\n"
    for path in files:
        check_writable(path.parent)
    write_files(files)
    return list(files)


def _changed(record: Record) -> list[str]:
    from reprobook.jobs import declared_parameters, tier_parameters

    of_tier = {k: p.default for k, p in declared_parameters(record.chapter).items()}
    of_tier |= tier_parameters(record.chapter, record.tier)
    return [k for k, v in record.parameters.items() if v != of_tier[k] and k not in SEEDS]


def _notebook(results: SweepResults) -> Any:
    """Return the report as a notebook, not yet executed."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    slugs = ", ".join(dict.fromkeys(c.partition("/")[0] for c in results.chapters))
    start = "from IPython.display import HTML\n\nfrom reprobook.sweeps.reporting import Report\n\n"
    cells = [
        new_markdown_cell(f"# A sweep of {slugs}"),
        new_code_cell(f"{start}report = Report.read()"),
        new_code_cell("HTML(report.summary())"),
        *(cell for chapter in results.chapters for cell in _cells_of(results, chapter)),
        new_markdown_cell("## Jobs without a result"),
        new_code_cell("HTML(report.failures())"),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _cells_of(results: SweepResults, chapter: str) -> list[Any]:
    """Return the cells about one notebook: its claims, how they spread, and a figure a parameter."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    def drawn(call: str, alt: str) -> Any:
        return new_code_cell(f"report.{call};", metadata={"mystnb": {"image": {"alt": alt}}})

    spread = f"The values of each claim of {chapter} by job, with the interval over all seeds."
    cells = [
        new_markdown_cell(f"## {chapter}\n\nEvery claim with the estimate that all seeds give together."),
        new_code_cell(f"HTML(report.claims({chapter!r}))"),
        new_markdown_cell(
            "How the values spread: a dot a job, a bar for the 95 % interval over all seeds, and a green "
            "shade where the claim holds. Claims that come out alike in every job are left out."
        ),
        drawn(f"draw_spread({chapter!r})", spread),
    ]
    own = [record.parameters for record in results.records if record.chapter == chapter]
    for parameter in (p for p in results.varied if p in own[0]):
        words = f"Claims that change with `{parameter}`; dotted, the bound of the criterion."
        alt = f"Claims of {chapter} against {parameter}."
        cells += [new_markdown_cell(words), drawn(f"draw_curves({chapter!r}, {parameter!r})", alt)]
    return cells


def _executed(notebook: Any, folder: Path) -> Any:
    """Execute the report in the sweep's folder."""
    import tempfile

    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from traitlets.config import Config

    from reprobook.worker import connection_in, own_kernel

    with tempfile.TemporaryDirectory(prefix="rb-") as private:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            kernel_manager_class=own_kernel(),
            config=Config(KernelManager=connection_in(Path(private))),
        )
        try:
            return client.execute(env=_environment())
        except (CellExecutionError, DeadKernelError) as error:
            raise UserError(f"the report could not be made: {str(error).strip().splitlines()[-1]}") from None


def _environment() -> dict[str, str]:
    import os

    return {
        **os.environ,
        "REPROBOOK_ROOT": str(book_root()),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def _text(notebook: Any) -> str:
    import nbformat

    return nbformat.writes(notebook) + "\n"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = dark ? "dark" : "light";
</script>
<style>{style}</style>
</head>
<body class="rb-report">
<main class="bd-article">
{body}
</main>
</body>
</html>
"""

_STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; line-height: 1.55;
  font-family: system-ui, sans-serif;
  color: var(--pst-color-text-base); background: var(--pst-color-background); }
:root { color-scheme: light dark; --pst-color-text-base: #22272e; --pst-color-background: #fff;
  --pst-color-border: #d0d7de; --pst-color-text-muted: #57606a; --pst-color-surface: #f6f8fa;
  --pst-color-primary: #0072b2; --pst-color-link: #005a8f; }
@media (prefers-color-scheme: dark) { :root { --pst-color-text-base: #e6e9ee; --pst-color-background: #14181e;
  --pst-color-border: #48525f; --pst-color-text-muted: #a9b1bd; --pst-color-surface: #1d232b;
  --pst-color-primary: #5db3e6; --pst-color-link: #7cc4f0; } }
img { max-width: 100%; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem;
  border-bottom: 1px solid var(--pst-color-border); }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
.rb-claims-box { overflow-x: auto; }
"""


def _page(notebook: Any, results: SweepResults) -> str:
    """Return the executed notebook as a page of the book's style that needs nothing else."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    sheets = [book_root() / "book" / "_static" / name for name in ("book.css", "results.css")]
    style = _STYLE + "".join(s.read_text(encoding="utf-8") for s in sheets if s.is_file())
    title = f"Sweep of {', '.join(results.chapters)}"
    parts = {"title": html.escape(title), "style": style, "body": body}
    return re.sub(r"{(title|style|body)}", lambda m: parts[m[1]], _PAGE)
