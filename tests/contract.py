"""What every chapter promises its readers: a rule a function, which yields the faults that it finds.

The tests hold every notebook of the book against :data:`RULES`, and show of each rule that it catches what
it is for, on a chapter made from the template.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from papermill.inspection import inspect_notebook

from reprobook.claims import load_claims
from reprobook.errors import UserError
from reprobook.jobs import LAPTOP, declared_parameters, tier_files, tier_parameters, tiers
from reprobook.parameters import parameters_cell, read_parameters
from reprobook.paths import book_root, notebook_names
from reprobook.records import read_record, recorded_runs
from reprobook.stamps import is_stale

HEADINGS = (
    "What is reproduced, and what is not",
    "Parameters",
    "The idea",
    "Theory",
    "A case with a known answer",
    "Experiments",
    "Claims and verdicts",
    "Recorded runs",
    "Departures from the paper",
    "What was easy, what was hard",
    "Exercises",
    "What next",
    "References",
)
COMMON_PARAMETERS = {"seed": "int", "num_seeds": "int", "device": "str"}
LINES_OF_A_CELL, LINES_OF_A_LOOP, LINES_OF_PLOTTING = 40, 25, 10
TIER_OF_A_FILE = re.compile(r"smoke|paper(-[a-z0-9_]+)*")
LARGEST_NOTEBOOK, LARGEST_FILE = 1_000_000, 2_000_000  # bytes


@dataclass(frozen=True)
class Page:
    """A notebook of a chapter, with the files that belong to it."""

    path: Path

    @property
    def name(self) -> str:
        """The name that the ``reprobook`` command knows it by."""
        slug, stem = self.path.parent.name, self.path.stem
        return slug if slug == stem else f"{slug}/{stem}"

    @cached_property
    def notebook(self) -> dict:
        return json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def code(self) -> list[dict]:
        """The code cells that are not empty."""
        return [c for c in self.notebook["cells"] if c["cell_type"] == "code" and source(c).strip()]

    @property
    def text(self) -> list[str]:
        """The sources of the Markdown cells."""
        return [source(c) for c in self.notebook["cells"] if c["cell_type"] == "markdown"]

    @property
    def trees(self) -> list[ast.Module]:
        """The code cells, parsed."""
        return [ast.parse(source(c)) for c in self.code]

    @property
    def figures(self) -> list[dict]:
        """The code cells with a picture among their outputs."""
        return [c for c in self.code if any(mime.startswith("image/") for mime in mimes(c))]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def mimes(cell: dict) -> list[str]:
    return [mime for output in cell["outputs"] for mime in output.get("data", {})]


def first_line(cell: dict) -> str:
    return source(cell).strip().splitlines()[0]


# --------------------------------------------------------------------------- order and text


def the_headings_stand_in_the_order_of_the_book(page: Page) -> Iterator[str]:
    found = list(_headings(page.text))
    titles = [text for level, text in found if level == 1]
    if len(titles) != 1 or found[0] != (1, titles[0]):
        yield f"one title at the top is needed, found {titles}"
    sections = [text for level, text in found if level == 2]
    if sections != list(HEADINGS):
        wrong = next((pair for pair in zip(sections, HEADINGS, strict=False) if pair[0] != pair[1]), None)
        yield f"sections: {wrong[0]!r} where {wrong[1]!r} belongs" if wrong else f"{len(sections)} sections"


def _headings(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    for text in texts:
        for line in re.sub(r"^(```+|~~~+).*?^\1\s*$", "", text, flags=re.S | re.M).splitlines():
            if match := re.match(r"(#+) (.+)", line):
                yield len(match[1]), match[2].strip()


def results_have_their_places(page: Page) -> Iterator[str]:
    first = page.notebook["cells"][0]
    if first["cell_type"] != "markdown" or "```{verdict-box}" not in source(first):
        yield "the first cell has no {verdict-box}"
    section = "\n".join(page.text).partition("\n## Recorded runs")[2].partition("\n## ")[0]
    if "```{recorded-runs}" not in section:
        yield "there is no {recorded-runs} under 'Recorded runs'"


_NOT_PROSE = re.compile(
    r"^(```+|~~~+)(?!\{)[^\n]*\n.*?^\1\s*$"  # a block of code
    r"|^```+\{(?:math|code-block|code-cell|bibliography)\}.*?^```+\s*$"
    r"|^(?:`{3,}|~{3,}|:{3,})[^\n]*$"  # the fence of a directive, whose content is prose
    r"|^:[\w-]+:.*?$"  # an option of a directive
    r"|\$\$.*?\$\$(?: \([\w-]+\))?"  # displayed mathematics
    r"|\$(?P<formula>[^$\n]+)\$"
    r"|(?:\{[\w:.-]+\})?`[^`]+`"  # code, or a role such as {glue:text} or {cite}
    r"|\]\([^)]*\)|<[^>\n]+>"  # targets of links, HTML
    r"|\barXiv:?\s*\d{4}\.\d{4,5}(?:v\d+)?"
    r"|\b(?:Sec(?:tion|\.)|Eq(?:uation|\.)|Fig(?:ure|\.)|Table|Theorem|Lemma|Corollary|Proposition|Definition|"
    r"Assumption|Remark|Example|Appendix|Python|version|v)\.?\s*\(?[A-Z]?\.?\d+(?:\.\d+)*\)?",
    re.M | re.S,
)
_NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:\s*%)?|(?<![\w.])\d+\s*%")
_LONE_NUMBER = re.compile(r"[=<>~\s\\a-z]*?\d*\.\d*[1-9]\d*(?:\\?%)?\s*")


def typed_numbers(text: str) -> list[str]:
    """Return the numbers in prose that look like a typed result.

    A decimal number or a percentage has to come from ``{glue:text}``. What a reader can see is no result of
    ours may stay: code, links, numbers of sections and equations, formulas, ``95 %`` (the level of all
    intervals), and tables whose head says "paper", which hold the paper's own values and settings. A
    formula that is nothing but a number of three or more digits is no formula.
    """
    lines, exempt = [], False
    for line in text.splitlines():
        is_row = line.lstrip().startswith("|")
        exempt = is_row and (exempt or "paper" in line.lower())
        lines += [] if exempt else [line]
    text = "\n".join(lines)
    formulas = [m["formula"] for m in _NOT_PROSE.finditer(text) if m["formula"]]
    hidden = [f for f in formulas if _LONE_NUMBER.fullmatch(f) and len(re.sub(r"\D", "", f).lstrip("0")) > 2]
    found = [m[0] for m in _NUMBER.finditer(_NOT_PROSE.sub(" ", text))]
    return hidden + [n for n in found if n.replace(" ", "") != "95%"]


def no_result_is_typed(page: Page) -> Iterator[str]:
    captions = [_caption(c) for c in page.code] + [_alt(c) for c in page.code]
    for text in [*page.text, *captions]:
        for number in typed_numbers(text):
            yield f"the number {number} is typed, in '{' '.join(text.split())[:60]}…'"


# --------------------------------------------------------------------------- parameters


def the_parameters_are_common_explained_and_used(page: Page) -> Iterator[str]:
    try:
        declared = read_parameters(parameters_cell(page.notebook))
    except UserError as error:
        yield str(error)
        return
    for name, kind in COMMON_PARAMETERS.items():
        if name not in declared or declared[name].type != kind:
            yield f"there is no parameter '{name}: {kind}'"
    at = next(i for i, c in enumerate(page.code) if "parameters" in tags(c))
    used = {n.id for tree in page.trees[at + 1 :] for n in ast.walk(tree) if _is_read(n)}
    yield from (f"parameter '{name}' is never used" for name in declared if name not in used)
    explained = inspect_notebook(str(page.path))
    for name in declared:
        if not explained.get(name, {}).get("help"):
            yield f"papermill --help-notebook does not explain '{name}' (a second '=' in its line?)"


def _is_read(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def every_tier_is_a_valid_set_of_parameters(page: Page) -> Iterator[str]:
    there = tier_files(page.name)
    if "smoke" not in there:
        yield f"there is no smoke.yml and no {page.path.stem}.smoke.yml"
    if not any(tier.partition("-")[0] == "paper" for tier in there):
        yield f"there is no paper.yml and no paper-….yml, with or without '{page.path.stem}.' in front"
    for tier, file in there.items():
        if not TIER_OF_A_FILE.fullmatch(tier):
            yield f"{file.name}: a tier with a file is called smoke, paper or paper-NAME, not '{tier}'"
        try:
            tier_parameters(page.name, tier)
        except UserError as error:
            yield str(error)
    used = {f for name in _names_of_chapter(page) for f in tier_files(name).values()}
    for file in sorted(set(page.path.parent.glob("*.yml")) - used - {page.path.parent / "claims.yml"}):
        yield f"{file.name} applies to no notebook"


def _names_of_chapter(page: Page) -> list[str]:
    slug = page.path.parent.name
    return [f"{slug}/{notebook}" for notebook in notebook_names(slug)]


def the_chapter_begins_with_its_parameters(page: Page) -> Iterator[str]:
    at = next((i for i, c in enumerate(page.code) if "parameters" in tags(c)), None)
    if at != 0:
        yield "the first code cell is not the one tagged 'parameters'"
    begin = f'Chapter.begin("{page.name}", globals())'
    if len(page.code) < 2 or begin not in source(page.code[1]):
        yield f"the cell after the parameters does not call {begin}"


# --------------------------------------------------------------------------- claims


def every_claim_is_measured_or_says_why_not(page: Page) -> Iterator[str]:
    sheet = load_claims(page.path.parent / "claims.yml")
    mine, measured = sheet.of_notebook(page.path.stem), _measured(page)
    for call in _calls(page, "measure"):
        if not call.args or not isinstance(call.args[0], ast.Constant):
            yield f"'{ast.unparse(call)[:60]}' does not name its claim by a literal"
    yield from (f"'{claim}' is measured, but not a claim" for claim in measured if claim not in mine)
    for name, claim in mine.items():
        if claim.criterion and name not in measured:
            yield f"claim '{name}' is not measured"


def every_claim_names_its_notebook_and_its_tiers(page: Page) -> Iterator[str]:
    notebooks = notebook_names(page.path.parent.name)
    for name, claim in load_claims(page.path.parent / "claims.yml").claims.items():
        if claim.notebook is None and len(notebooks) > 1:
            yield f"claim '{name}' does not name one of the chapter's notebooks"
        elif claim.notebook not in (None, *notebooks):
            yield f"claim '{name}' names a notebook that is not there: {claim.notebook}"
        elif claim.notebook in (None, page.path.stem):
            missing = [tier for tier in claim.tiers if tier not in tiers(page.name)]
            yield from (f"claim '{name}' is to be tested at '{t}', which has no file" for t in missing)


def _measured(page: Page) -> list[str]:
    """Return the ids of the claims that a notebook measures."""
    firsts = [call.args[0] for call in _calls(page, "measure") if call.args]
    return [first.value for first in firsts if isinstance(first, ast.Constant)]


def _calls(page: Page, method: str) -> list[ast.Call]:
    """Return the calls of a method of ``chapter``."""
    nodes = [n for tree in page.trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [n for n in nodes if ast.unparse(n.func) == f"chapter.{method}"]


def the_verdicts_are_shown_and_compared(page: Page) -> Iterator[str]:
    for call in ("chapter.claims_table()", "chapter.verdicts()"):
        if not any(call in source(c) for c in page.code):
            yield f"there is no {call}"
    if any("chapter.verdicts()" in source(c) and _is_ignored(c) for c in page.code):
        yield "the verdicts are not compared"


def numbers_of_full_precision_are_not_compared(page: Page) -> Iterator[str]:
    for cell in page.code:
        if re.search(r"chapter\.(number|claims_table)\(", source(cell)) and not _is_ignored(cell):
            yield f"'{first_line(cell)}' needs the tag nbval-ignore-output"


def _is_ignored(cell: dict) -> bool:
    return bool({"nbval-ignore-output", "nbval-skip"} & set(tags(cell))) or "NBVAL_" in source(cell)


# --------------------------------------------------------------------------- stored outputs


def the_cells_were_run_once_from_top_to_bottom(page: Page) -> Iterator[str]:
    counts = [c["execution_count"] for c in page.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


def no_output_is_an_error_or_a_warning(page: Page) -> Iterator[str]:
    for cell in page.code:
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"'{first_line(cell)}' ended in {output['ename']}"
            if output.get("name") == "stderr":
                yield f"'{first_line(cell)}' wrote to the standard error: {''.join(output['text'])[:60]}"


def enough_results_are_compared_when_the_tests_run_it_again(page: Page) -> Iterator[str]:
    compared = sum(not _is_ignored(c) and any(map(_is_text, c["outputs"])) for c in page.code)
    if compared < 4:
        yield f"only {compared} cells have text that nbval compares; 4 are needed"


def _is_text(output: dict) -> bool:
    """Return whether an output is text with content, not the name of an object."""
    shown = output.get("text") or output.get("data", {}).get("text/plain") or ""
    return bool("".join(shown).strip()) and not "".join(shown).startswith("<")


def nothing_stands_in_the_way_of_comparing(page: Page) -> Iterator[str]:
    for cell in page.code:
        if "image/svg+xml" in mimes(cell):
            yield f"'{first_line(cell)}' has an SVG output: figures are PNG"
        if source(cell).rstrip().endswith(";"):
            yield f"'{first_line(cell)}' ends with a semicolon"


def the_stored_outputs_follow_from_the_code(page: Page) -> Iterator[str]:
    if is_stale(page.path):
        yield f"stale: run 'make chapter CHAPTER={page.path.parent.name}'"


# --------------------------------------------------------------------------- figures and size


def figures_speak_to_everybody(page: Page) -> Iterator[str]:
    for cell in page.figures:
        if len(_alt(cell)) < 40:
            yield f"'{first_line(cell)}' has no mystnb.image.alt of at least 40 characters"
        if not _caption(cell):
            yield f"'{first_line(cell)}' has no mystnb.figure.caption"


def _alt(cell: dict) -> str:
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")


def _caption(cell: dict) -> str:
    return cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")


def what_is_visible_stays_short(page: Page) -> Iterator[str]:
    for cell, tree in zip(page.code, page.trees, strict=True):
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines = len(source(cell).strip().splitlines()) - sum(n.end_lineno - n.lineno + 1 for n in imports)
        if lines > LINES_OF_A_CELL:
            yield f"'{first_line(cell)}' has {lines} lines without its imports; {LINES_OF_A_CELL} are allowed"
        for loop in (n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While)):
            if (lines := loop.end_lineno - loop.lineno + 1) > LINES_OF_A_LOOP:
                yield f"a loop in '{first_line(cell)}' has {lines} lines; {LINES_OF_A_LOOP} are allowed"
        if cell in page.figures and (lines := _lines_of_plotting(tree)) > LINES_OF_PLOTTING:
            yield f"'{first_line(cell)}' has {lines} lines of plotting; {LINES_OF_PLOTTING} are allowed"


_DRAWN_ON = re.compile(r"plt|sns|fig(ure)?s?|ax(e?s|is)?\w?|grid")


def _lines_of_plotting(tree: ast.Module) -> int:
    """Count the lines of statements that name a figure or axes; of a compound one, its head."""
    lines: set[int] = set()
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.stmt)):
        body = getattr(node, "body", [])
        end = body[0].lineno - 1 if body else node.end_lineno
        parts = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.lineno <= end]
        if any(_DRAWN_ON.fullmatch(n.id) for n in parts):
            lines |= set(range(node.lineno, end + 1))
    return len(lines)


def the_notebooks_are_small(page: Page) -> Iterator[str]:
    for path in [page.path, *page.path.parent.glob("runs/*.ipynb")]:
        if (size := path.stat().st_size) > LARGEST_NOTEBOOK:
            yield f"{path.name} has {size / 1e6:.1f} MB"


# --------------------------------------------------------------------------- runs and book


def the_recorded_runs_have_their_records(page: Page) -> Iterator[str]:
    slug, folder = page.path.parent.name, page.path.parent / "runs"
    try:
        runs = recorded_runs(slug)
    except UserError as error:
        yield str(error)
        return
    for path, record in runs:
        file = path.with_suffix(".json")
        if not file.is_file() or file.read_text(encoding="utf-8") != record.to_json():
            yield f"{file.name} is not the record of {path.name}"
        known = record.slug == slug and record.notebook in notebook_names(slug)
        if record.status != "finished" or not known or record.tier not in tiers(record.chapter):
            yield f"{path.name} records a {record.status} run of {record.chapter} at tier '{record.tier}'"
            continue
        if path.stem != (name := f"{'' if record.notebook == slug else f'{record.notebook}-'}{record.tier}"):
            yield f"{path.name} is a run that belongs into {name}.ipynb"
        if unknown := set(record.parameters) - set(declared_parameters(record.chapter)):
            yield f"{path.name} has parameters that the chapter has no longer: {', '.join(sorted(unknown))}"
    files = {f.name for f in folder.glob("*")} if folder.is_dir() else set()
    strays = files - {p.name for p, _ in runs} - {p.with_suffix(".json").name for p, _ in runs}
    yield from (f"runs/{name} belongs to no recorded run" for name in sorted(strays))


def the_record_is_of_the_laptop_tier(page: Page) -> Iterator[str]:
    record = read_record(page.path)
    if record is None or (record.chapter, record.tier, record.status) != (page.name, "laptop", "finished"):
        yield "the stored outputs are not those of a finished run at the laptop tier"


def the_stored_run_measured_what_the_laptop_tier_tests(page: Page) -> Iterator[str]:
    record = read_record(page.path)
    entries = {entry["id"]: entry for entry in record.claims} if record else {}
    for name, claim in load_claims(page.path.parent / "claims.yml").of_notebook(page.path.stem).items():
        entry = entries.get(name, {"parts": [], "why_excluded": ""})
        if LAPTOP in claim.tiers and not (entry["parts"] or entry["why_excluded"]):
            yield f"claim '{name}' is to be tested at the laptop tier, but the stored run did not measure it"
        if LAPTOP not in claim.tiers and entry["parts"]:
            yield f"the stored run measured claim '{name}', which is not to be tested at the laptop tier"


def the_table_of_contents_lists_it(page: Page) -> Iterator[str]:
    contents = yaml.safe_load((book_root() / "_toc.yml").read_text(encoding="utf-8"))
    folder = page.path.parent.relative_to(book_root()).as_posix()
    main, file = f"{folder}/{page.path.parent.name}", f"{folder}/{page.path.stem}"
    entry = next((e for e in toc_entries(contents) if e.get("file") == main), {})
    if file == main and not entry:
        yield f"_toc.yml has no line '- file: {file}'"
    if file != main and file not in toc_files(entry.get("sections", [])):
        yield f"_toc.yml has no line '- file: {file}' under the 'sections:' of {main}"


def toc_entries(entry) -> Iterator[dict]:
    """Yield every mapping in a table of contents, the outer ones first."""
    if isinstance(entry, dict):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from toc_entries(part)


def toc_files(contents) -> Iterator[str]:
    """Yield every file named in a table of contents."""
    for entry in toc_entries(contents):
        yield from (entry[key] for key in ("root", "file") if key in entry)


RULES = (
    the_headings_stand_in_the_order_of_the_book,
    results_have_their_places,
    no_result_is_typed,
    the_parameters_are_common_explained_and_used,
    every_tier_is_a_valid_set_of_parameters,
    the_chapter_begins_with_its_parameters,
    every_claim_is_measured_or_says_why_not,
    every_claim_names_its_notebook_and_its_tiers,
    the_verdicts_are_shown_and_compared,
    numbers_of_full_precision_are_not_compared,
    the_cells_were_run_once_from_top_to_bottom,
    no_output_is_an_error_or_a_warning,
    enough_results_are_compared_when_the_tests_run_it_again,
    nothing_stands_in_the_way_of_comparing,
    the_stored_outputs_follow_from_the_code,
    figures_speak_to_everybody,
    what_is_visible_stays_short,
    the_notebooks_are_small,
    the_recorded_runs_have_their_records,
    the_record_is_of_the_laptop_tier,
    the_stored_run_measured_what_the_laptop_tier_tests,
    the_table_of_contents_lists_it,
)
