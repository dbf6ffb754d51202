"""Every assignment of the course: complete, solvable, and strict with the mistakes that students make."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from reprobook.course import classroom
from reprobook.course.grader import NOT_GRADED, PERSONAL, grade
from reprobook.course.records import read_notebook
from reprobook.paths import book_root, chapter_slugs
from toy_course import solve

COURSE = book_root() / "assignments"
NAMES = sorted(p.parent.name for p in COURSE.glob("source/*/*.ipynb"))
MISTAKES = Path(__file__).parent / "assignments"
WRONG = {n: yaml.safe_load((MISTAKES / f"{n}.yml").read_text("utf-8")) for n in NAMES}
ROUNDS = [(n, i) for n in NAMES for i in range(max(map(len, WRONG[n].values())))]
USUAL = ("sign", "transpose|axis", "off by one", "reduction", "in-place")
SECONDS = 60.0  # of processor time for the tests of one assignment, imports of two processes included


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def source(name):
    return read_notebook(COURSE / "source" / name / f"{name}.ipynb")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Release all assignments once, in a copy of the course."""
    import shutil

    folder = tmp_path_factory.mktemp("course") / "course"
    shutil.copytree(COURSE, folder, ignore=shutil.ignore_patterns("release", "*.db"))
    classroom.release(folder, [])
    return folder


def cells(notebook, **flags):
    """Yield grade_id and cell of those that nbgrader knows with these flags."""
    for cell in notebook["cells"]:
        meta = cell["metadata"].get("nbgrader")
        if meta and all(meta[k] == v for k, v in flags.items()):
            yield meta["grade_id"], cell


def text(notebook):
    return "\n".join("".join(c["source"]) for c in notebook["cells"])


def prose(notebook):
    return "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")


# ----------------------------------------------------------------------------------- what is in them


def test_every_assignment_belongs_to_a_chapter_and_has_known_mistakes():
    assert len(NAMES) >= 5
    assert set(NAMES) <= set(chapter_slugs())
    assert {p.stem for p in MISTAKES.glob("*.yml")} == set(NAMES)


def test_it_has_four_to_six_tasks_for_the_computer_one_in_words_and_twenty_points(source):
    assert 4 <= len(list(cells(source, solution=True, grade=False))) <= 6
    in_words = list(cells(source, solution=True, grade=True))
    assert len(in_words) == 1
    assert in_words[0][1]["cell_type"] == "markdown"
    points = {k: c["metadata"]["nbgrader"]["points"] for k, c in cells(source, grade=True)}
    assert sum(points.values()) == 20
    assert points[in_words[0][0]] == 4
    assert "rubric" in "".join(in_words[0][1]["source"]).lower()


def test_it_says_what_one_learns_needs_and_gets(source):
    first = "".join(source["cells"][0]["source"])
    for word in ("Goals", "You need", "Time", "Points"):
        assert f"**{word}" in first
    tasks = re.findall(r"^## Task (\d+)", prose(source), re.MULTILINE)
    assert [int(t) for t in tasks] == list(range(1, len(tasks) + 1))
    assert prose(source).count("<summary>Hint</summary>") >= len(tasks) - 1


def test_every_answer_has_tests_and_every_test_hides_a_part(source):
    answers = [k for k, _ in cells(source, solution=True, grade=False)]
    tests = {k: "".join(c["source"]) for k, c in cells(source, grade=True, solution=False)}
    assert {re.sub(r"-\d+$", "", t) for t in tests} == set(answers)
    for code in tests.values():
        visible, _, hidden = code.partition("### BEGIN HIDDEN TESTS")
        assert "same(" in visible
        assert "fresh()" in hidden or "seed" in hidden, "hidden tests use numbers that nobody has seen"
        assert "same(" in hidden
        assert not [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Assert)], (
            "same() compares types, too"
        )
        assert "torch.manual_seed" not in code and "np.random.seed" not in code


def test_what_students_run_when_graded_needs_no_library(source):
    for name, cell in cells(source, grade=False):
        if cell["cell_type"] == "code" and NOT_GRADED not in cell["metadata"].get("tags", []):
            assert "reprobook" not in "".join(cell["source"]), name


def test_it_has_a_number_of_one_s_own_and_figures(source):
    assert re.search(r"^seed = 0", "".join(dict(cells(source))[PERSONAL]["source"]))
    assert len([c for c in source["cells"] if NOT_GRADED in c["metadata"].get("tags", [])]) >= 2
    assert not any(c.get("outputs") for c in source["cells"])


# ----------------------------------------------------------------------------------- the way round


def test_the_solution_gets_full_marks_with_any_seed(source):
    graded = grade(source, source, seed=12345)
    assert {k: o.message for k, o in graded.tests.items() if o.message} == {}
    assert graded.points == 16
    assert sum(o.seconds for o in graded.tests.values()) < SECONDS


def test_the_untouched_release_gets_nothing(name, source, released):
    handed_out = read_notebook(released / "release" / name / f"{name}.ipynb")
    graded = grade(source, handed_out)
    assert graded.points == 0
    assert graded.remarks == []
    assert all(
        "has not been written yet" in o.message or "there is no" in o.message for o in graded.tests.values()
    )


def test_the_release_gives_nothing_away(name, source, released):
    shown = text(read_notebook(released / "release" / name / f"{name}.ipynb"))
    assert "SOLUTION" not in shown
    assert "HIDDEN" not in shown
    assert "rubric" not in shown.lower()
    for _, cell in cells(source, solution=True, grade=False):
        solution = re.findall(
            r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", "".join(cell["source"]), re.DOTALL
        )
        assert solution
        for line in "".join(solution).splitlines():
            if len(line.strip()) > 30 and not line.strip().startswith(("#", '"""')):
                assert line not in shown, "a line of a solution is in what students get"


@pytest.mark.slow
def test_the_instructor_s_version_runs_with_pictures(name, released):
    folder = classroom.instructor_version(released, name)
    notebook = json.loads((folder / f"{name}.ipynb").read_text("utf-8"))
    drawn = [c for c in notebook["cells"] if NOT_GRADED in c["metadata"].get("tags", [])]
    assert sum("image/png" in o.get("data", {}) for c in drawn for o in c["outputs"]) >= 2


def test_the_tests_that_students_see_stand_alone_and_do_not_point_at_the_answer(name, source, released):
    handed_out = read_notebook(released / "release" / name / f"{name}.ipynb")
    for test, cell in cells(handed_out, grade=True, solution=False):
        assert not re.search(r"reprobook\.(papers|diffusion)", "".join(cell["source"])), test
    answers = {k: "".join(c["source"]) for k, c in cells(source, solution=True, grade=False)}
    mine = solve(handed_out, **answers)
    graded = grade(mine, mine)  # as a student checks it
    assert {k: o.message for k, o in graded.tests.items() if o.message} == {}


# ----------------------------------------------------------------------------------- mistakes


def test_three_mistakes_or_more_are_known_for_every_answer_and_the_usual_kinds_are_among_them(name, source):
    assert set(WRONG[name]) == {k for k, _ in cells(source, solution=True, grade=False)}
    assert all(len(known) >= 3 for known in WRONG[name].values())
    kinds = " ".join(w["kind"] for known in WRONG[name].values() for w in known)
    for usual in USUAL:
        assert re.search(usual, kinds), f"no mistake of the kind '{usual}'"


@pytest.mark.parametrize(("name", "turn"), ROUNDS)
def test_a_mistake_costs_the_points_of_its_tests_and_is_told(name, turn):
    """One submission with the n-th mistake in every task: tasks do not depend on one another."""
    source = read_notebook(COURSE / "source" / name / f"{name}.ipynb")
    made = {task: known[turn] for task, known in WRONG[name].items() if turn < len(known)}
    graded = grade(source, solve(source, **{task: m["code"] for task, m in made.items()}), seed=7)
    failed = {k for k, o in graded.tests.items() if not o.passed}
    assert failed == {t for m in made.values() for t in m["fails"]}, {
        k: graded.tests[k].message for k in failed
    }
    for mistake in made.values():
        said = " ".join(graded.tests[t].message for t in mistake["fails"])
        assert mistake.get("says", "") in said, (mistake["kind"], said)
        assert "was stopped" not in said
