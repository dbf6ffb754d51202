"""What ``make`` does and leaves alone, with Pythons that only write down what they are asked to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FAKE_PYTHON = """\
#!/bin/sh
# Knows venv and pip by name only; runs code in a Python that says it is another version.
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" "$3/lib"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/jupyter-book" ;;
    "-c "*) exec "{real}" -c "import sys, platform; {lie}
$2" ;;
    *) echo "$@" >>"$LOG"; case "$*" in *"${{BREAK:-nothing}}"*) exit 1 ;; esac ;;
esac
"""


def version_lie(version: str) -> str:
    numbers = ", ".join(version.split("."))
    return f"sys.version_info = ({numbers}); platform.python_version = lambda: '{version}'"


def python(path: Path, lie: str = version_lie("3.12.4")) -> Path:
    """Write a Python that claims to be something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE_PYTHON.format(real=sys.executable, lie=lie))
    path.chmod(0o755)
    return path


class Checkout:
    """A checkout in a folder with a space in its name, and a PATH without any Python but those put there."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.log = folder / "my checkout", folder / "bin", folder / "log"
        self.root.mkdir()
        self.bin.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools"):
            shutil.copytree(ROOT / name, self.root / name) if (ROOT / name).is_dir() else shutil.copy(
                ROOT / name, self.root / name
            )
        for tool in ("sh", "echo", "make", "cat", "rm", "mkdir", "cp", "find", "touch", "test", "dirname"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        own = {"PATH": str(self.bin), "LOG": str(self.log), **environment}
        return subprocess.run(
            ["make", *words], cwd=self.root, env=own, capture_output=True, text=True, check=False
        )

    def asked(self) -> list[str]:
        """Return what Python was asked to do since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout) -> Checkout:
    """A checkout that is set up."""
    python(checkout.bin / "python3")
    assert checkout.make("setup").returncode == 0
    checkout.asked()
    return checkout


PIP = [
    "-m pip install --requirement requirements.lock",
    "-m pip install --no-deps --no-build-isolation --editable .",
]


# --------------------------------------------------------------------------- setting up


def test_setup_installs_the_lock_and_then_the_book_and_the_second_call_does_nothing(checkout):
    python(checkout.bin / "python3")
    first, second = checkout.make("setup"), checkout.make("setup")
    assert first.stdout.splitlines()[0] == "Making .venv with Python 3.12.4"
    assert (second.returncode, second.stdout, second.stderr) == (0, ".venv is ready\n", "")
    assert checkout.asked() == PIP


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_setup_installs_again_when_what_it_installs_has_changed(ready, file):
    later = (ready.root / ".venv" / ".installed").stat().st_mtime + 5
    os.utime(ready.root / file, (later, later))
    assert ready.make("setup").returncode == 0
    assert ready.asked() == PIP


def test_an_interrupted_installation_is_taken_up_again_and_half_packages_are_forgotten(checkout):
    python(checkout.bin / "python3")
    assert checkout.make("setup", BREAK="requirements.lock").returncode != 0
    assert checkout.asked() == PIP[:1]
    packages = checkout.root / ".venv" / "lib" / "python3.12" / "site-packages"
    for name in ("whole-1.0.dist-info", "half-1.0.dist-info", "~ld"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.0.dist-info" / "RECORD").touch()
    assert checkout.make("setup").returncode == 0
    assert checkout.asked() == PIP
    assert {p.name for p in packages.iterdir()} == {"whole-1.0.dist-info"}


def test_an_environment_whose_making_was_interrupted_is_made_anew(ready):
    (ready.root / ".venv" / ".unfinished").touch()
    (ready.root / ".venv" / "leftover").touch()
    assert "Making .venv" in ready.make("setup").stdout
    assert ready.asked() == PIP
    assert not (ready.root / ".venv" / "leftover").exists()


def test_an_environment_whose_python_has_gone_is_made_anew(ready):
    (ready.root / ".venv" / "bin" / "python").unlink()
    assert "Making .venv" in ready.make("setup").stdout
    assert ready.asked() == PIP


def test_an_environment_that_was_moved_is_made_anew(ready):
    moved = ready.root.rename(ready.root.with_name("elsewhere"))
    ready.root = moved
    assert "Making .venv" in ready.make("setup").stdout
    assert ready.asked() == PIP


def test_an_environment_of_your_own_is_kept_with_what_is_in_it(checkout):
    python(checkout.root / ".venv" / "bin" / "python")
    (checkout.root / ".venv" / "lib").mkdir()
    (checkout.root / ".venv" / "lib" / "your-torch").touch()
    assert "Making" not in checkout.make("setup").stdout
    assert checkout.asked() == PIP
    assert (checkout.root / ".venv" / "lib" / "your-torch").exists()


def test_venv_makes_the_environment_and_installs_nothing(checkout):
    python(checkout.bin / "python3")
    assert checkout.make("venv").returncode == 0
    assert checkout.asked() == []


def test_the_first_python_that_is_new_enough_is_taken(checkout):
    python(checkout.bin / "python3", version_lie("3.9.2"))
    python(checkout.bin / "python3.11", version_lie("3.11.9"))
    assert "Making .venv with Python 3.11.9" in checkout.make("venv").stdout


def test_the_python_that_is_named_is_taken(checkout):
    python(checkout.bin / "python3", version_lie("3.12.4"))
    python(checkout.bin / "other", version_lie("3.13.1"))
    assert "Making .venv with Python 3.13.1" in checkout.make("venv", "PYTHON=other").stdout


def told(done: subprocess.CompletedProcess) -> str:
    """Return the one line that a failed make says before make's own."""
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("make[", "make: ***"))]
    assert len(lines) == 1
    return lines[0]


def test_without_a_python_there_is_one_line(checkout):
    assert told(checkout.make("book")).startswith(
        "make: no Python 3.11 or newer found: install one, or name it"
    )


def test_with_only_an_old_python_there_is_one_line(checkout):
    python(checkout.bin / "python3", version_lie("3.10.6"))
    assert told(checkout.make("test")).startswith("make: no Python 3.11 or newer found")


def test_an_old_python_that_is_named_is_refused_with_its_version(checkout):
    python(checkout.bin / "old", version_lie("3.10.6"))
    assert (
        told(checkout.make("PYTHON=old", "book"))
        == "make: PYTHON=old is Python 3.10.6, but 3.11 or newer is needed"
    )


def test_a_python_that_is_not_there_is_refused(checkout):
    assert told(checkout.make("PYTHON=nowhere", "book")) == "make: PYTHON=nowhere does not run"


def test_a_python_without_venv_is_one_line_that_names_the_package(checkout):
    python(checkout.bin / "python3", version_lie("3.11.2") + "; sys.modules['ensurepip'] = None")
    assert told(checkout.make("book")) == (
        "make: Python 3.11.2 came without its venv module: install it (on Debian and Ubuntu: python3-venv)"
    )


def test_an_old_environment_of_your_own_is_refused_and_kept(checkout):
    python(checkout.root / ".venv" / "bin" / "python", version_lie("3.9.2"))
    assert told(checkout.make("book")).startswith(
        "make: .venv holds Python 3.9.2, but 3.11 or newer is needed"
    )
    assert (checkout.root / ".venv" / "bin" / "python").exists()


def test_naming_another_python_than_the_environments_is_refused(ready):
    python(ready.bin / "python3.13", version_lie("3.13.0"))
    assert told(ready.make("PYTHON=python3.13", "book")) == (
        "make: .venv holds Python 3.12.4, not python3.13 (3.13.0): remove .venv first"
    )
    assert ready.make("PYTHON=python3", "setup").returncode == 0


# --------------------------------------------------------------------------- the other targets


def test_make_alone_explains_every_target(checkout):
    shown = checkout.make().stdout
    (names,) = [
        line.split()[1:] for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY")
    ]
    for name in names:
        assert f"make {name}" in shown or name == "help"
    assert not (checkout.root / ".venv").exists()


def test_book_refreshes_and_then_renders_with_warnings_as_errors(ready):
    done = ready.make("book")
    assert ready.asked() == ["-m reprobook.cli refresh", "tools/render_book.py build . -W -n --keep-going"]
    assert done.stdout.endswith("The book is ready: open _build/html/index.html\n")


def test_a_book_whose_chapters_fail_is_not_rendered(ready):
    done = ready.make("book", BREAK="refresh")
    assert done.returncode != 0
    assert ready.asked() == ["-m reprobook.cli refresh"]


def test_a_book_that_does_not_render_is_not_called_ready(ready):
    done = ready.make("book", BREAK="build")
    assert done.returncode != 0
    assert "ready" not in done.stdout


def test_rerun_and_chapter_say_what_to_refresh(ready):
    ready.make("rerun")
    ready.make("chapter", "CHAPTER=dann")
    asked = [line for line in ready.asked() if "refresh" in line]
    assert asked == ["-m reprobook.cli refresh --all", "-m reprobook.cli refresh dann"]


def test_test_runs_the_tests_and_beside_them_every_notebook_but_no_recorded_run(ready):
    for notebook in ("a/a.ipynb", "b/b.ipynb", "b/second.ipynb", "b/runs/paper.ipynb"):
        (ready.root / "chapters" / notebook).parent.mkdir(parents=True, exist_ok=True)
        (ready.root / "chapters" / notebook).touch()
    assert ready.make("test").returncode == 0
    tests, notebooks = sorted(ready.asked(), key=len)
    assert tests == "-m pytest tests"
    assert notebooks.split() == [
        *("-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"),
        *(f"chapters/{n}.ipynb" for n in ("a/a", "b/b", "b/second")),
    ]


@pytest.mark.parametrize("half", ["pytest tests", "pytest --nbval"])
def test_either_half_failing_makes_make_fail(ready, half):
    assert ready.make("test", BREAK=half).returncode != 0


def test_a_failing_test_makes_make_fail(ready):
    assert ready.make("test", BREAK="pytest").returncode != 0


@pytest.mark.parametrize(("broken", "code"), [("nothing", 0), ("ruff check", 2), ("ruff format", 2)])
def test_lint_makes_both_checks_and_fails_if_one_does(ready, broken, code):
    assert ready.make("lint", BREAK=broken).returncode == code
    assert ready.asked() == ["-m ruff check .", "-m ruff format --check ."]


def test_bench_measures_and_writes_json(ready):
    assert ready.make("bench").returncode == 0
    (words,) = ready.asked()
    assert "--benchmark-only" in words
    assert words.endswith("--benchmark-json=benchmarks/results/benchmarks.json")
    assert (ready.root / "benchmarks" / "results").is_dir()


def test_clean_removes_what_was_made_and_never_a_run(ready):
    kept = [
        "chapters/dann/runs/paper.ipynb",
        "_runs/dann/laptop.ipynb",
        "benchmarks/results/old.json",
        ".venv/.place",
    ]
    gone = [
        "_build/html/index.html",
        ".pytest_cache/x",
        "lib/reprobook/__pycache__/x.pyc",
        "tests/__pycache__/x.pyc",
    ]
    for name in kept + gone:
        (ready.root / name).parent.mkdir(parents=True, exist_ok=True)
        (ready.root / name).touch()
    assert ready.make("clean").returncode == 0
    assert [name for name in kept + gone if (ready.root / name).exists()] == kept


def test_nothing_of_the_users_python_settings_reaches_the_environment(ready):
    (ready.root / ".venv" / "bin" / "python").write_text(
        '#!/bin/sh\necho "$1:${PYTHONPATH-unset}" >>"$LOG"\n'
    )
    ready.make("bench", PYTHONPATH="somewhere")
    assert set(ready.asked()) == {"-c:unset", "-m:unset"}
