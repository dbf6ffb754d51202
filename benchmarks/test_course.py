"""How long a submission takes to grade: run with ``make bench``.

The teacher's own solution of each assignment, through both processes, imports included; with the imports left
out where nothing but numpy is needed the rest is the tests themselves. Wall time is measured, because the
student's code computes elsewhere.
"""

import json

import pytest

from reprobook.course.grader import grade
from reprobook.paths import book_root

SOURCES = sorted((book_root() / "assignments" / "source").glob("*/*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_grade_a_submission(benchmark, path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    graded = benchmark.pedantic(grade, args=(notebook, notebook), rounds=3, warmup_rounds=1)
    assert graded.points == 16
