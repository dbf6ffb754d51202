"""Papers stand on bricks, and on nothing else of this library; nothing stands on a paper."""

import subprocess
import sys
from pathlib import Path

import pytest

from reprobook.stamps import PACKAGE, reached_modules

#: What makes a chapter a chapter. A paper's method knows nothing of it.
MACHINERY = {"chapter", "claims", "cli", "execution", "jobs", "parameters", "records", "running", "stamps"}

FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}


def modules(package: Path) -> list[str]:
    """Return every module of a package, as ``stats`` or ``papers/dann/flow``."""
    return sorted(p.relative_to(package).with_suffix("").as_posix() for p in package.rglob("*.py"))


def reached(names: list[str], package: Path) -> set[str]:
    """Return the modules that importing these modules reaches, themselves included."""
    source = "\n".join(f"import reprobook.{n.removesuffix('/__init__').replace('/', '.')}" for n in names)
    return {p.relative_to(package).with_suffix("").as_posix() for p in reached_modules(source, package)}


def breaches(package: Path) -> set[tuple[str, str]]:
    """Return every pair of a module and one that it reaches against the law."""
    found = set()
    papers = {n.split("/")[1] for n in modules(package) if n.startswith("papers/")} - {"__init__"}
    for paper in papers:
        own = {n for n in modules(package) if n.split("/")[:2] == ["papers", paper]}
        others = reached(sorted(own), package) - own - {"papers/__init__"}
        found |= {(paper, n) for n in others if n in MACHINERY or n.startswith("papers/")}
    for name in modules(package):
        if not name.startswith("papers/") and name != "__init__":
            found |= {(name, n) for n in reached([name], package) if n.startswith("papers/")}
    return found


def test_papers_reach_bricks_only_and_nothing_reaches_a_paper():
    assert breaches(PACKAGE) == set()


def test_the_machinery_that_papers_must_not_reach_exists():
    assert set(modules(PACKAGE)) >= MACHINERY


@pytest.mark.parametrize(
    ("file", "text", "breach"),
    [
        ("papers/one.py", "from reprobook.papers import two", ("one", "papers/two")),
        ("papers/one.py", "def f():\n    from .two import x", ("one", "papers/two")),
        ("papers/one.py", "from reprobook.chapter import Chapter", ("one", "chapter")),
        ("papers/one.py", "import reprobook.brick", ("one", "chapter")),
        ("papers/big/part.py", "from ..two import x", ("big", "papers/two")),
        ("device.py", "from reprobook.papers.two import x", ("device", "papers/two")),
        ("stats.py", "import reprobook.papers", ("stats", "papers/__init__")),
    ],
)
def test_a_breach_of_the_law_is_seen(tmp_path, file, text, breach):
    package = tmp_path / "reprobook"
    for name in (
        "__init__",
        "chapter",
        "device",
        "stats",
        "papers/__init__",
        "papers/two",
        "papers/big/__init__",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").touch()
    (package / "brick.py").write_text("import reprobook.chapter")
    assert breaches(package) == set()
    (package / file).write_text(text)
    assert breach in breaches(package)


def test_no_module_is_a_drawer_for_odds_and_ends():
    assert [n for n in modules(PACKAGE) if FORBIDDEN_NAMES & set(n.split("/"))] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("reprobook", {"torch", "numpy", "scipy", "yaml"}),
        ("reprobook.chapter", {"torch", "numpy", "scipy", "papermill", "IPython"}),
        ("reprobook.cli", {"torch", "numpy", "scipy", "papermill", "yaml", "nbformat", "rich.table"}),
        ("reprobook.jobs, reprobook.running", {"torch", "numpy", "scipy", "papermill", "nbformat"}),
    ],
)
def test_what_must_start_at_once_imports_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.split()) == set()
