"""Chapters keep what the book promises, the rules that say so can fail, and the library is documented."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import contract
import reprobook
from contract import RULES, Page, source, typed_numbers
from reprobook.paths import book_root, chapter_slugs, notebook_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib" / "reprobook"
PAGES = [f"{slug}/{name}" for slug in chapter_slugs() for name in notebook_names(slug)]
MODULES = sorted(m.name for m in pkgutil.walk_packages(reprobook.__path__, "reprobook."))
PAPERS = sorted({m.split(".")[2] for m in MODULES if m.startswith("reprobook.papers.")})


# --------------------------------------------------------------------------- chapters


def test_the_book_has_chapters_and_each_has_the_notebook_of_its_name():
    folders = {p.name for p in (ROOT / "chapters").iterdir() if p.is_dir() and p.name[0] != "."}
    assert folders == set(chapter_slugs()) != set()
    assert {slug for slug in folders if slug in notebook_names(slug)} == folders


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chapter(rule, page):
    assert list(rule(Page(ROOT / "chapters" / f"{page}.ipynb"))) == []


# --------------------------------------------------------------------------- template, rules that can fail


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A book with one chapter, made from the template as CONTRIBUTING.md says, and run."""
    book = tmp_path_factory.mktemp("book")
    shutil.copytree(PACKAGE, book / "lib" / "reprobook", ignore=shutil.ignore_patterns("__pycache__"))
    command("tools/new_chapter.py", "from_template", str(book))
    (book / "_toc.yml").write_text("root: index\nchapters:\n- file: chapters/from_template/from_template\n")
    (book / "requirements.lock").write_text("")
    command("-m", "reprobook.cli", "refresh", book=book)
    command("-m", "reprobook.cli", "run", "from_template", "--tier", "smoke", "--record", book=book)
    return book


def command(*words: str, book: Path | None = None) -> None:
    """Run Python in the checkout, or in a book with the library of its own."""
    own = {"REPROBOOK_ROOT": str(book), "PYTHONPATH": str(book / "lib")} if book else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | own
    done = subprocess.run(
        [sys.executable, *words], cwd=book or ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def page(finished, tmp_path, monkeypatch) -> Page:
    """The chapter of a copy of that book, to be spoilt."""
    shutil.copytree(finished, tmp_path / "book", ignore=shutil.ignore_patterns("lib"))
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path / "book"))
    monkeypatch.setattr(contract, "is_stale", _is_stale_there(finished))
    assert book_root() == (tmp_path / "book").resolve()
    return Page(tmp_path / "book" / "chapters" / "from_template" / "from_template.ipynb")


def _is_stale_there(book: Path) -> Callable[[Path], bool]:
    from reprobook.stamps import is_stale

    return lambda path: is_stale(path, package=book / "lib" / "reprobook")


@pytest.mark.slow
def test_a_chapter_from_the_template_keeps_every_rule_once_it_was_run(page):
    assert {rule.__name__: found for rule in RULES if (found := list(rule(page)))} == {}


@pytest.mark.slow
def test_the_tests_of_the_template_pass(finished):
    command("-m", "pytest", "-q", "tests/papers/test_from_template.py", book=finished)


@pytest.mark.parametrize("slug", ["", "Coin", "coin-flips", "2coins", "import", "transformers_as_svm"])
def test_a_chapter_is_not_started_under_a_bad_or_taken_name(slug, tmp_path):
    (tmp_path / "chapters" / "transformers_as_svm").mkdir(parents=True)
    (tmp_path / "chapters" / "transformers_as_svm" / "claims.yml").touch()
    words = [sys.executable, "tools/new_chapter.py", slug, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert sum(f.is_file() for f in tmp_path.rglob("*")) == 1


def cell_with(notebook: dict, text: str) -> dict:
    return next(c for c in notebook["cells"] if text in source(c))


def replaced(old: str, new: str) -> Callable[[dict], None]:
    """Return what replaces text in the one cell that holds it."""

    def spoil(notebook: dict) -> None:
        cell = cell_with(notebook, old)
        cell["source"] = source(cell).replace(old, new).splitlines(keepends=True)

    return spoil


def changed(text: str, **entries) -> Callable[[dict], None]:
    """Return what changes entries of the cell that holds a text."""
    return lambda notebook: cell_with(notebook, text).update(entries)


def output(**data) -> list[dict]:
    return [{"output_type": "display_data", "metadata": {}, "data": data}]


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
WARNING = {"output_type": "stream", "name": "stderr", "text": "UserWarning"}
LONG_LOOP = "for k in sizes:\n" + "    print(k)\n" * 26

SPOILT_NOTEBOOKS = [
    ("the_headings_stand_in_the_order_of_the_book", replaced("## Theory", "## The theory")),
    ("the_headings_stand_in_the_order_of_the_book", replaced("## The idea", "### The idea")),
    ("the_headings_stand_in_the_order_of_the_book", replaced("## Theory", "# Theory")),
    ("the_headings_stand_in_the_order_of_the_book", replaced("## References", "## References\n## More")),
    ("results_have_their_places", replaced("```{verdict-box}\n```", "")),
    ("results_have_their_places", replaced("```{recorded-runs}\n```", "")),
    ("no_result_is_typed", replaced("The idea in a picture", "We found 0.4931, the idea in a picture")),
    ("no_result_is_typed", replaced("The idea in a picture", "It fell by 40 %: the idea in a picture")),
    (
        "no_result_is_typed",
        changed("loglog", metadata={"mystnb": {"figure": {"caption": "It fell to 0.5."}}}),
    ),
    ("the_parameters_are_common_explained_and_used", replaced("num_seeds: int", "seeds: int")),
    ("the_parameters_are_common_explained_and_used", replaced('device: str = "cpu"', "device: int = 0")),
    (
        "the_parameters_are_common_explained_and_used",
        replaced("seed: int", "unused: int = 0  # no use\nseed: int"),
    ),
    (
        "the_parameters_are_common_explained_and_used",
        replaced("# the first seed", "# the first seed (a = b)"),
    ),
    ("the_parameters_are_common_explained_and_used", replaced("# the first seed [0 .. 1000000]", "")),
    ("every_tier_is_a_valid_set_of_parameters", replaced("num_draws: int", "draws: int")),
    (
        "the_chapter_begins_with_its_parameters",
        replaced('Chapter.begin("from_template"', 'Chapter.begin("other"'),
    ),
    ("the_chapter_begins_with_its_parameters", changed("num_seeds: int", metadata={})),
    (
        "every_claim_is_measured_or_says_why_not",
        replaced('measure("mean-is-a-half"', 'measure("no-such-claim"'),
    ),
    ("every_claim_is_measured_or_says_why_not", replaced('chapter.measure("mean-is-a-half"', "print(0")),
    ("every_claim_is_measured_or_says_why_not", replaced('measure("mean-is-a-half"', 'measure(str("mean")')),
    ("the_verdicts_are_shown_and_compared", replaced("chapter.claims_table()", "print()")),
    ("the_verdicts_are_shown_and_compared", replaced("chapter.verdicts()", "print()")),
    (
        "the_verdicts_are_shown_and_compared",
        changed("chapter.verdicts()", metadata={"tags": ["nbval-ignore-output"]}),
    ),
    ("numbers_of_full_precision_are_not_compared", changed("chapter.claims_table()", metadata={})),
    ("numbers_of_full_precision_are_not_compared", changed("chapter.number(", metadata={})),
    ("the_cells_were_run_once_from_top_to_bottom", changed("sizes = [10", execution_count=1)),
    ("the_cells_were_run_once_from_top_to_bottom", changed("sizes = [10", execution_count=None)),
    ("no_output_is_an_error_or_a_warning", changed("sizes = [10", outputs=[ERROR])),
    ("no_output_is_an_error_or_a_warning", changed("sizes = [10", outputs=[WARNING])),
    ("enough_results_are_compared_when_the_tests_run_it_again", changed("sizes = [10", outputs=[])),
    (
        "enough_results_are_compared_when_the_tests_run_it_again",
        changed("sizes = [10", outputs=output(**{"text/plain": "<Figure>"})),
    ),
    (
        "enough_results_are_compared_when_the_tests_run_it_again",
        changed("sizes = [10", metadata={"tags": ["nbval-ignore-output"]}),
    ),
    (
        "nothing_stands_in_the_way_of_comparing",
        changed("plt.show()", outputs=output(**{"image/svg+xml": "<svg/>"})),
    ),
    ("nothing_stands_in_the_way_of_comparing", replaced("plt.show()", "plt.show();")),
    ("the_stored_outputs_follow_from_the_code", replaced("sizes = [10", "sizes = [20")),
    ("the_stored_outputs_follow_from_the_code", lambda notebook: notebook["metadata"].pop("reprobook")),
    (
        "figures_speak_to_everybody",
        changed("loglog", metadata={"mystnb": {"figure": {"caption": "Errors fall."}}}),
    ),
    (
        "figures_speak_to_everybody",
        changed("loglog", metadata={"mystnb": {"image": {"alt": "Falling lines. " * 4}}}),
    ),
    ("what_is_visible_stays_short", replaced("sizes = [10", "print()\n" * 41 + "sizes = [10")),
    ("what_is_visible_stays_short", replaced("sizes = [10", LONG_LOOP + "sizes = [10")),
    ("what_is_visible_stays_short", replaced("plt.show()", "axis.grid()\n" * 8 + "plt.show()")),
    ("the_notebooks_are_small", changed("loglog", outputs=output(**{"image/png": "A" * 1_000_001}))),
    (
        "the_stored_run_measured_what_the_laptop_tier_tests",
        lambda nb: nb["metadata"]["reprobook"]["claims"].pop(0),
    ),
    (
        "the_stored_run_measured_what_the_laptop_tier_tests",
        lambda nb: nb["metadata"]["reprobook"]["claims"][0].update(parts=[]),
    ),
    ("the_record_is_of_the_laptop_tier", lambda nb: nb["metadata"]["reprobook"].update(tier="smoke")),
    ("the_record_is_of_the_laptop_tier", lambda nb: nb["metadata"].pop("reprobook")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spoil"), SPOILT_NOTEBOOKS, ids=[name for name, _ in SPOILT_NOTEBOOKS])
def test_a_fault_in_a_notebook_is_found_by(name, spoil, page):
    before = page.path.read_text(encoding="utf-8")
    notebook = json.loads(before)
    spoil(notebook)
    assert notebook != json.loads(before), "nothing was spoilt"
    page.path.write_text(json.dumps(notebook), encoding="utf-8")
    found = list(getattr(contract, name)(Page(page.path)))
    assert found
    assert all(len(line.splitlines()) == 1 for line in found)


def rewritten(name: str, old: str, new: str) -> Callable[[Page], None]:
    """Return what rewrites a file beside the notebook."""

    def spoil(page: Page) -> None:
        file = page.path.parent / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return spoil


def stray(name: str) -> Callable[[Page], None]:
    """Return what puts a copy of the notebook somewhere."""

    def spoil(page: Page) -> None:
        (page.path.parent / name).parent.mkdir(exist_ok=True)
        shutil.copy(page.path, page.path.parent / name)

    return spoil


def renamed(name: str, new: str) -> Callable[[Page], None]:
    """Return what renames a file beside the notebook."""
    return lambda page: (page.path.parent / name).rename(page.path.parent / new)


SPOILT_CHAPTERS = [
    ("every_tier_is_a_valid_set_of_parameters", lambda page: (page.path.parent / "smoke.yml").unlink()),
    ("every_tier_is_a_valid_set_of_parameters", lambda page: (page.path.parent / "paper.yml").unlink()),
    ("every_tier_is_a_valid_set_of_parameters", rewritten("paper.yml", "num_draws", "draws")),
    ("every_tier_is_a_valid_set_of_parameters", rewritten("smoke.yml", "5", "0")),
    (
        "every_claim_is_measured_or_says_why_not",
        rewritten("claims.yml", "id: mean-is-a-half", "id: another-one"),
    ),
    ("every_tier_is_a_valid_set_of_parameters", renamed("paper.yml", "paper_long.yml")),
    ("every_tier_is_a_valid_set_of_parameters", renamed("paper.yml", "other.paper.yml")),
    ("every_tier_is_a_valid_set_of_parameters", lambda page: (page.path.parent / "laptop.yml").touch()),
    ("every_tier_is_a_valid_set_of_parameters", lambda page: (page.path.parent / "large.yml").touch()),
    ("every_tier_is_a_valid_set_of_parameters", lambda page: (page.path.parent / "other.paper.yml").touch()),
    (
        "every_claim_names_its_notebook_and_its_tiers",
        rewritten("claims.yml", "where: Table", "notebook: x\n    where: Table"),
    ),
    (
        "every_claim_names_its_notebook_and_its_tiers",
        rewritten("claims.yml", "[laptop, paper]", "[laptop, paper-long]"),
    ),
    ("every_claim_names_its_notebook_and_its_tiers", stray("second.ipynb")),
    (
        "the_stored_run_measured_what_the_laptop_tier_tests",
        rewritten("claims.yml", "[laptop, paper]", "[paper]"),
    ),
    ("the_stored_outputs_follow_from_the_code", rewritten("claims.yml", "0.05", "0.06")),
    ("the_recorded_runs_have_their_records", stray("runs/paper.ipynb")),
    ("the_recorded_runs_have_their_records", stray("runs/paper.failed.ipynb")),
    ("the_recorded_runs_have_their_records", stray("runs/notes.json")),
    (
        "the_recorded_runs_have_their_records",
        lambda page: [f.rename(f.with_stem("other")) for f in (page.path.parent / "runs").iterdir()],
    ),
    (
        "the_recorded_runs_have_their_records",
        rewritten("runs/smoke.ipynb", '"chapter": "from_template"', '"chapter": "from_template/gone"'),
    ),
    (
        "the_recorded_runs_have_their_records",
        rewritten("runs/smoke.json", '"num_seeds": 5', '"num_seeds": 6'),
    ),
    (
        "the_recorded_runs_have_their_records",
        rewritten("runs/smoke.ipynb", '"tier": "smoke"', '"tier": "dear"'),
    ),
    (
        "the_recorded_runs_have_their_records",
        rewritten("runs/smoke.ipynb", '"status": "finished"', '"status": "failed"'),
    ),
    ("the_recorded_runs_have_their_records", rewritten("runs/smoke.ipynb", '"wall_seconds"', '"wall"')),
    ("the_recorded_runs_have_their_records", rewritten("from_template.ipynb", "num_draws", "draws")),
    (
        "the_recorded_runs_have_their_records",
        lambda page: (page.path.parent / "runs" / "smoke.json").unlink(),
    ),
    (
        "the_notebooks_are_small",
        lambda page: (page.path.parent / "runs" / "a.ipynb").write_text("0" * 1_000_001),
    ),
    ("the_table_of_contents_lists_it", lambda page: (book_root() / "_toc.yml").write_text("root: index\n")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spoil"), SPOILT_CHAPTERS, ids=[name for name, _ in SPOILT_CHAPTERS])
def test_a_fault_beside_a_notebook_is_found_by(name, spoil, page):
    spoil(page)
    found = list(getattr(contract, name)(Page(page.path)))
    assert found
    assert all(len(line.splitlines()) == 1 for line in found)


# --------------------------------------------------------------------------- a chapter with two notebooks

PER_NOTEBOOK = (
    "every_tier_is_a_valid_set_of_parameters",
    "the_chapter_begins_with_its_parameters",
    "every_claim_is_measured_or_says_why_not",
    "every_claim_names_its_notebook_and_its_tiers",
    "the_recorded_runs_have_their_records",
    "the_stored_run_measured_what_the_laptop_tier_tests",
    "the_record_is_of_the_laptop_tier",
    "the_table_of_contents_lists_it",
)


def divided(page: Page) -> tuple[Page, Page]:
    """Give the chapter a second notebook, which takes over its second claim, its paper tier and its run."""
    folder, second = page.path.parent, page.path.with_name("second.ipynb")
    text = page.path.read_text(encoding="utf-8")
    name, first_claim, second_claim = "from_template", "error-falls-like-a-root", "mean-is-a-half"
    for path, own, other in ((page.path, first_claim, second_claim), (second, second_claim, first_claim)):
        notebook = json.loads(text.replace(f'chapter.measure(\\"{other}\\"', 'print(\\"elsewhere\\"'))
        record = notebook["metadata"]["reprobook"]
        record["claims"] = [entry for entry in record["claims"] if entry["id"] == own]
        if path == second:
            begin = cell_with(notebook, "Chapter.begin")
            begin["source"] = source(begin).replace(f'"{name}"', f'"{name}/second"')
            record["chapter"] = f"{name}/second"
        path.write_text(json.dumps(notebook), encoding="utf-8")
    claims = (folder / "claims.yml").read_text()
    head, *entries = claims.split("\n  - id: ")
    owners = (name, "second", "second")
    named = [f"{entry.rstrip()}\n    notebook: {o}\n" for entry, o in zip(entries, owners, strict=True)]
    tiers = [entry.replace("[smoke, laptop, paper]", "[smoke, laptop, paper-many]") for entry in named]
    (folder / "claims.yml").write_text("\n  - id: ".join([head, *tiers]))
    (folder / "second.paper-many.yml").write_text((folder / "paper.yml").read_text())
    (folder / "paper.yml").rename(folder / f"{name}.paper.yml")
    for file in list((folder / "runs").iterdir()):  # its run once more, as one of the second at its own tier
        changed_run = file.read_text().replace(f'"chapter": "{name}"', f'"chapter": "{name}/second"')
        changed_run = changed_run.replace('"tier": "smoke"', '"tier": "paper-many"')
        file.with_stem("second-paper-many").write_text(changed_run)
    toc = (book_root() / "_toc.yml").read_text()
    (book_root() / "_toc.yml").write_text(f"{toc}  sections:\n  - file: chapters/{name}/second\n")
    return Page(page.path), Page(second)


def faults(*pages: Page) -> dict[str, set[str]]:
    """Return the notebooks in which each of the rules finds a fault, by rule."""
    found = {n: {p.path.stem for p in pages if list(getattr(contract, n)(p))} for n in PER_NOTEBOOK}
    return {name: stems for name, stems in found.items() if stems}


@pytest.mark.slow
def test_two_notebooks_of_one_chapter_keep_the_rules_side_by_side(page):
    assert faults(*divided(page)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (
            lambda page: (page.path.parent / "second.paper-many.yml").unlink(),
            {
                "every_tier_is_a_valid_set_of_parameters": {"second"},
                "every_claim_names_its_notebook_and_its_tiers": {"second"},
                "the_recorded_runs_have_their_records": {"from_template", "second"},
            },
        ),
        (
            rewritten("claims.yml", "    notebook: from_template\n", ""),
            {
                "every_claim_is_measured_or_says_why_not": {"second"},
                "every_claim_names_its_notebook_and_its_tiers": {"from_template", "second"},
                "the_stored_run_measured_what_the_laptop_tier_tests": {"second"},
            },
        ),
        (
            rewritten("second.ipynb", '"chapter": "from_template/second"', '"chapter": "from_template"'),
            {"the_record_is_of_the_laptop_tier": {"second"}},
        ),
        (
            lambda page: toc_with("  sections:\n  - file", "- file"),
            {"the_table_of_contents_lists_it": {"second"}},
        ),
        (
            lambda page: toc_with("from_template/from_template", "from_template/other"),
            {"the_table_of_contents_lists_it": {"from_template", "second"}},
        ),
        (
            renamed("runs/smoke.ipynb", "runs/second-smoke.ipynb"),
            {"the_recorded_runs_have_their_records": {"from_template", "second"}},
        ),
    ],
    ids=["tier", "claim without notebook", "record", "sections", "main", "run"],
)
def test_a_fault_in_a_chapter_of_two_notebooks_is_found_in_the_right_one(spoil, found, page):
    pages = divided(page)
    spoil(page)
    assert faults(*(Page(p.path) for p in pages)) == found


def toc_with(old: str, new: str) -> None:
    """Replace text in the table of contents."""
    path = book_root() / "_toc.yml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_every_rule_is_shown_to_catch_something():
    assert {name for name, _ in SPOILT_NOTEBOOKS + SPOILT_CHAPTERS} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It reached 0.93 in the end.", ["0.93"]),
        ("It reached 93 % of them, and 93% again.", ["93 %", "93%"]),
        ("Ours is $0.931$, or $\\approx 0.931$.", ["0.931", "\\approx 0.931"]),
        ("{glue:text}`share:.2f` of 100 problems, at 95 %.", []),
        ("As in Sec. 4.1, Section 4.1, Theorem 3.2, Eq. (2.1), Figure 1.3 and Appendix A.2.", []),
        ("A rate of $\\eta = 0.1$ and $0.5$, set by `learning_rate = 0.125`.", []),
        ("| paper | value |\n|---|---|\n| rate | 0.125 |", []),
        ("| ours | value |\n|---|---|\n| rate | 0.125 |", ["0.125"]),
        ("| paper | value |\n|---|---|\n| rate | 0.125 |\n\nWe saw 0.3.", ["0.3"]),
        ("```python\nx = 0.125\n```\n\n$$\nx = 0.125\n$$ (label)\n", []),
        ("```{exercise}\n:label: a-1.5\nIt is 0.125.\n```", ["0.125"]),
        ("[data](files/v1.25.html), arXiv:2308.16898v3, Python 3.11, <b width=1.5>bold</b>", []),
    ],
)
def test_a_number_typed_into_prose_is_told_from_a_formula_or_a_place(text, found):
    assert typed_numbers(text) == found


# --------------------------------------------------------------------------- the library


def paper_of(module: str) -> str | None:
    """Return the slug of the paper that a module belongs to."""
    parts = module.split(".")
    return parts[2] if parts[1] == "papers" and len(parts) > 2 else None


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_listed_there_and_documented(module):
    loaded = importlib.import_module(module)
    assert (loaded.__doc__ or "").strip(), "the module has no docstring"
    own = [v for v in vars(loaded).values() if inspect.isclass(v) or inspect.isfunction(v)]
    if any(v.__module__ == module for v in own):
        assert isinstance(getattr(loaded, "__all__", None), list | tuple), "the module has no __all__"
    for name in getattr(loaded, "__all__", ()):
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), f"{name} has no docstring"
            assert not value.__doc__.startswith(f"{name}("), (
                f"{name} has only the docstring that Python makes up"
            )
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            is_own = (
                inspect.isfunction(function) and function.__module__ == module and not method.startswith("_")
            )
            if is_own and not any(hasattr(base, method) for base in value.__bases__):
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"


SOURCE = re.compile(
    r"\b(Eqs?\.|Equation|Algorithm|Sec\.|Section|[Cc]hapters? \d|Fig|Tables? \d|Theorem|Lemma|Prop\.)"
    r"|\bProposition|\bpaper|\bauthors"
)


@pytest.mark.parametrize("paper", PAPERS)
def test_what_implements_a_paper_says_which_part_of_it(paper):
    for module in (m for m in MODULES if paper_of(m) == paper):
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", ()):
            value = getattr(loaded, name)
            if inspect.isfunction(value) and value.__module__ == module and not module.endswith("figures"):
                assert SOURCE.search(f"{loaded.__doc__} {value.__doc__}"), f"{module}.{name} names no place"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_its_arxiv_number_its_tests_and_its_chapter(paper):
    assert re.search(
        r"arXiv:?\s*\d{4}\.\d{4,5}", importlib.import_module(f"reprobook.papers.{paper}").__doc__
    )
    assert list((ROOT / "tests" / "papers").glob(f"test_{paper}*.py"))
    assert paper in chapter_slugs()


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short_enough_to_be_read(module):
    text = inspect.getsource(importlib.import_module(module))
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert _lines(node) <= 40, f"{node.name} has {_lines(node)} lines without its docstring"


def _lines(node: ast.FunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


# --------------------------------------------------------------------------- all files


def tracked() -> list[Path]:
    """Return the files that are in the repository or are about to be."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_is_large():
    assert [f.name for f in tracked() if f.stat().st_size > contract.LARGEST_FILE] == []


PACKAGE_HOSTS = [("pypi", "org"), ("files", "pythonhosted"), ("registry", "npmjs"), ("deb", "debian")]
LEAK = re.compile(
    r"(?<![\w.~-])/(?:work|root|tmp|home|opt|Users|var/folders)/[\w.-]+|[A-Z]:\\\\Users|\b(?:"
    + "|".join(r"\.".join(words) for words in [*PACKAGE_HOSTS, ("download", "pytorch")])
    + ")"
)


def test_no_file_names_a_place_on_somebodys_machine_or_a_package_host():
    found = []
    for file in tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in LEAK.finditer(text)]
    assert found == []


def test_a_leak_would_be_found():
    for leak in (
        "/" + "root/x",
        "see /" + "tmp/run.log",
        "https://" + ".".join(PACKAGE_HOSTS[0]) + "/simple",
        "/" + "Users/me",
    ):
        assert LEAK.search(leak)
    assert not LEAK.search("book/tmp/x and chapters/work/x and ../shared/data")


def test_the_table_of_contents_names_only_files_that_are_there():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    there = {
        p.relative_to(ROOT).with_suffix("").as_posix() for p in tracked() if p.suffix in (".md", ".ipynb")
    }
    assert set(contract.toc_files(contents)) <= there
