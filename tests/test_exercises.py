"""Exercises have solutions, and the code in a solution runs by itself, as it stands on the page."""

import io
import json
import re
import time
from contextlib import redirect_stdout

import pytest

from reprobook.paths import book_root, chapter_slugs

_SOLUTION = re.compile(r"^(`{3,}|:{3,})\{solution\} (\S+)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_EXERCISE = re.compile(r"^[`:]{3,}\{exercise\}[^\n]*\n:label: (\S+)$", re.MULTILINE)
_CODE = re.compile(r"^```(?:python|\{code-block\} python)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def prose(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


NOTEBOOKS = sorted((book_root() / "chapters").glob("*/*.ipynb"))
SOLUTIONS = [(p, label, body) for p in NOTEBOOKS for _, label, body in _SOLUTION.findall(prose(p))]
CODE = [(label, code) for _, label, body in SOLUTIONS for code in _CODE.findall(body)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_exercise_has_a_folded_solution(path):
    labels = _EXERCISE.findall(prose(path))
    solved = {label: body for p, label, body in SOLUTIONS if p == path}
    assert labels
    assert sorted(labels) == sorted(solved)
    assert all(body.startswith(":class: dropdown") for body in solved.values())


@pytest.mark.parametrize("slug", chapter_slugs())
def test_every_chapter_has_a_solution_in_code(slug):
    assert [b for p, _, b in SOLUTIONS if p.parent.name == slug and _CODE.search(b)]


@pytest.mark.parametrize(("label", "code"), CODE, ids=[label for label, _ in CODE])
def test_the_code_of_a_solution_runs_by_itself(label, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    began, said = time.process_time(), io.StringIO()
    with redirect_stdout(said):
        exec(compile(code, label, "exec"), {"__name__": "solution"})
    assert said.getvalue().strip(), "a solution shows its result"
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"
    assert time.process_time() - began < 20
