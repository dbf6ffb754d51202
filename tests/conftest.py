"""A throw-away book with one cheap chapter, for tests of everything around chapters.

The toy chapter draws pseudo-random numbers with the standard library, so a run costs little more than
the start of a kernel. Its parameter ``trouble`` makes the cell in its middle misbehave. Where a chapter with
several notebooks is wanted, it gets a second one, with a claim of its own that only a larger tier tests.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["rendered"]

# a busy machine draws examples slowly, which is no fault of what is tested
hypothesis.settings.register_profile(
    "book", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("book")

CLAIMS = """\
paper:
  title: A Toy Paper
  authors: Nobody
  year: 2020
  arxiv: "2001.00001"
  cite: nobody2020toy
claims:
  - id: mean-is-a-half
    statement: Uniform numbers are a half on average.
    where: Section 1
    value: "0.5"
    criterion: mean in [-0.5, 1.5]
    reason: Far wider than any interval of several draws.
    tiers: [smoke, laptop, paper]
  - id: all-are-small
    statement: Every uniform number is below one half.
    where: Section 2
    criterion: every trial
    reason: It is said of all.
    tiers: [laptop]
  - id: people-like-it
    statement: People like uniform numbers.
    where: Section 3
    untested: There are no people here.
"""

PARAMETERS = """\
seed: int = 0  # the first seed [0 ..]
num_seeds: int = 50  # draws, one per seed [1 .. 1000]
scale: float = 1.0  # factor on every draw [0.1 .. 10]
device: str = "cpu"  # where to compute [device]
trouble: str = "none"  # what goes wrong in the middle [none | fail | wait | die]"""

EXPERIMENT = """\
import os, random, signal, time

from reprobook.stats import mean

print("drawing")
draws = [scale * random.Random(seed + i).random() for i in range(num_seeds)]
if trouble == "fail":
    raise ZeroDivisionError("the middle cell fails\\non two lines")
if trouble == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "wait":
    open("waiting", "w").close()
for _ in chapter.track(range(600 if trouble == "wait" else 1), "waiting"):
    time.sleep(0.1 if trouble == "wait" else 0)
print(f"{mean(draws).value:.3f}")"""

MEASURE = """\
chapter.measure("mean-is-a-half", draws)
chapter.measure("all-are-small", [d < 0.5 for d in draws])
chapter.number(mean_of_draws=mean(draws).value)"""

SECOND_CLAIMS = """\
  - id: none-is-negative
    statement: No uniform number is negative.
    where: Section 4
    criterion: every trial
    reason: It is said of all.
    tiers: [smoke, laptop]
    notebook: second
  - id: many-agree
    statement: The mean of many uniform numbers is near a half.
    where: Section 5
    criterion: mean in [0.4, 0.6]
    reason: Twice the interval of a hundred draws.
    tiers: [paper-many, paper]
    notebook: second
"""

SECOND_MEASURE = """\
chapter.measure("none-is-negative", [d >= 0 for d in draws])
if num_seeds >= 100:
    chapter.measure("many-agree", draws)"""


def toy_cells(name: str = "toy", measure: str = MEASURE) -> list[dict]:
    """Return the cells of the toy notebook, or of another one that measures something else; never run."""
    sources = [
        ("markdown", "title", "# A toy chapter\n\nIt draws numbers."),
        ("code", "parameters", PARAMETERS),
        (
            "code",
            "begin",
            f'from reprobook.chapter import Chapter\n\nchapter = Chapter.begin("{name}", globals())',
        ),
        ("markdown", "experiment", "## The experiment"),
        ("code", "draw", EXPERIMENT),
        ("markdown", "verdicts", "## Claims\n\n```python\n# no heading\n```"),
        ("code", "measure", measure),
        ("code", "say", "chapter.verdicts()"),
        ("code", "table", "chapter.claims_table()"),
    ]
    return [
        {
            "cell_type": kind,
            "id": name,
            "metadata": {"tags": ["parameters"]} if name == "parameters" else {},
            "source": source.splitlines(keepends=True),
            **({"execution_count": None, "outputs": []} if kind == "code" else {}),
        }
        for kind, name, source in sources
    ]


def write_notebook(path: Path, cells: list[dict]) -> None:
    """Write a notebook of these cells."""
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


def edit_cell(path: Path, name: str, old: str, new: str) -> None:
    """Replace text in one cell of a notebook and leave everything else as it is."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if c["id"] == name)
    source = "".join(cell["source"])
    assert old in source, f"nothing to replace in cell {name}"
    cell["source"] = source.replace(old, new).splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def build_book(root: Path) -> Path:
    """Build the throw-away book in a folder, its chapter never run."""
    chapter = root / "chapters" / "toy"
    chapter.mkdir(parents=True)
    (root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: chapters/toy/toy\n")
    (root / "requirements.lock").write_text("toy==1.0\n")
    (chapter / "claims.yml").write_text(CLAIMS)
    (chapter / "smoke.yml").write_text("num_seeds: 5\n")
    (chapter / "paper.yml").write_text("num_seeds: 200\nscale: 1.5\n")
    write_notebook(chapter / "toy.ipynb", toy_cells())
    return root


def add_second(root: Path) -> Path:
    """Give the throw-away book's chapter a second notebook with tiers and claims of its own, never run."""
    chapter = root / "chapters" / "toy"
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: chapters/toy/toy\n"
        "  sections:\n  - file: chapters/toy/second\n"
    )
    (chapter / "claims.yml").write_text(
        CLAIMS.replace("    where:", "    notebook: toy\n    where:") + SECOND_CLAIMS
    )
    (chapter / "second.smoke.yml").write_text("num_seeds: 6\n")
    (chapter / "second.paper-many.yml").write_text("num_seeds: 300\n")
    write_notebook(chapter / "second.ipynb", toy_cells("toy/second", SECOND_MEASURE))
    return root


def command_environment(book: Path) -> dict[str, str]:
    """Return the environment for commands about a book: no terminal, one thread, nobody's settings."""
    own = {"REPROBOOK_ROOT": str(book), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "PYTEST_CURRENT_TEST")} | own


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away book whose chapter was never run; this process and its children take it for the book."""
    root = build_book(tmp_path / "book")
    monkeypatch.setenv("REPROBOOK_ROOT", str(root))
    return root


@pytest.fixture(scope="session")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away book whose chapter was run once by ``reprobook refresh``; not to be changed."""
    root = build_book(tmp_path_factory.mktemp("refreshed") / "book")
    command(root, "refresh")
    return root


@pytest.fixture
def executed_book(refreshed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away book whose chapter is up to date, to be changed at will."""
    root = tmp_path / "book"
    shutil.copytree(refreshed, root)
    monkeypatch.setenv("REPROBOOK_ROOT", str(root))
    return root


@pytest.fixture(scope="session")
def refreshed_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away book with two executed notebooks, and a recorded run of the second; not to be changed."""
    root = add_second(build_book(tmp_path_factory.mktemp("refreshed") / "pair"))
    command(root, "refresh")
    command(root, "run", "toy/second", "--tier", "paper-many", "--record")
    return root


@pytest.fixture
def pair(refreshed_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away book whose chapter has two notebooks, both up to date, to be changed at will."""
    root = tmp_path / "pair"
    shutil.copytree(refreshed_pair, root)
    monkeypatch.setenv("REPROBOOK_ROOT", str(root))
    return root


def command(book: Path, *words: str) -> None:
    """Call the command line on a book, in a process of its own, and see it succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "reprobook.cli", *words],
        env=command_environment(book),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def toy(book: Path) -> Path:
    """The folder of the chapter of ``book``."""
    return book / "chapters" / "toy"


@pytest.fixture
def reprobook(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess]:
    """The command line, in a process of its own, on whichever book ``REPROBOOK_ROOT`` names."""

    def call(*words: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "reprobook.cli", *words],
            env=command_environment(Path(os.environ["REPROBOOK_ROOT"])),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return call
