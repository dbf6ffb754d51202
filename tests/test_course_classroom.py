"""A course goes round: released, handed in, graded, told and exported, by our commands and nbgrader's."""

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from reprobook import cli
from reprobook.course import classroom
from reprobook.course.records import grade_submission, read_record
from reprobook.course.sandbox import Limits
from reprobook.errors import UserError
from toy_course import hand_in, solve, toy_course, toy_notebook

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # nbgrader's own, of its database
SHORT = Limits(question=5, total=60)
WRONG_TOTAL = "def total(x):\n    return -float(sum(x))"


@pytest.fixture
def course(tmp_path):
    return toy_course(tmp_path / "course")


@pytest.fixture(scope="module")
def released_once(tmp_path_factory):
    folder = toy_course(tmp_path_factory.mktemp("released") / "course")
    classroom.release(folder, [])
    return folder


@pytest.fixture
def released(released_once, tmp_path):
    return Path(shutil.copytree(released_once, tmp_path / "released"))


def release_of(course):
    return json.loads((course / "release" / "toys" / "toys.ipynb").read_text())


def text(notebook):
    return "\n".join("".join(c["source"]) for c in notebook["cells"])


def points(course, student="ana"):
    (mark,) = (m for m in classroom.marks(course) if m.student == student)
    return mark.points


def reprobook(*words):
    """Run the command and return its exit code."""
    return cli.main([str(w) for w in words])


# ----------------------------------------------------------------------------------- release


def test_a_release_holds_the_tasks_and_the_data_but_no_solution_and_no_hidden_test(released):
    shown = text(release_of(released))
    assert "YOUR CODE HERE" in shown
    assert "same(total([1.0, 2.0]), 3.0" in shown
    for secret in ("BEGIN", "float(sum(x))", "fresh().normal", "7 * seed", "Because."):
        assert secret not in shown
    assert (released / "release" / "toys" / "numbers.csv").read_text() == "1,2\n"


def test_each_student_of_a_roster_gets_a_number_of_their_own_and_is_graded_by_it(released, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text("id,first_name,seed\nana,Ana,\nben,Ben,41\ncem,Cem,\n")
    students = classroom.read_roster(roster)
    classroom.hand_out(released, [], students)
    seeds = {}
    for student in ("ana", "ben"):
        notebook = json.loads((released / "handout" / student / "toys" / "toys.ipynb").read_text())
        (own,) = re.findall(r"^seed = (\d+)", text(notebook), re.MULTILINE)
        seeds[student] = int(own)
        assert (released / "handout" / student / "toys" / "numbers.csv").is_file()
        hand_in(released, student, solve(notebook, own=f"own = {7 * 41 + 1}"))
    assert seeds["ben"] == 41
    assert seeds["ana"] not in (0, 41)
    assert classroom.personal_seeds(released)["toys", "cem"] != seeds["ana"]
    records = classroom.grade_all(released, [("toys", "ana"), ("toys", "ben")], limits=SHORT)
    assert [r.graded.tests["own-1"].passed for r in records] == [False, True], "copied from ben"
    classroom.hand_out(released, [], classroom.read_roster(roster))
    assert classroom.personal_seeds(released)["toys", "ana"] == seeds["ana"], "numbers stay as they are"


@pytest.mark.parametrize(
    ("roster", "said"),
    [
        ("name\nana\n", "no column 'id'; it has: name"),
        ("id\nana\nana\n", "ana more than once"),
        ("id\n../ana\n", "line 2: '../ana' cannot be an id"),
        ("id,seed\nana,-3\n", "line 2: the seed '-3' is not a whole number"),
        ("id\n", "has no students"),
    ],
)
def test_a_roster_with_a_mistake_is_refused_in_one_line(tmp_path, roster, said):
    (tmp_path / "roster.csv").write_text(roster)
    with pytest.raises(UserError, match=re.escape(said)):
        classroom.read_roster(tmp_path / "roster.csv")


def test_the_instructor_s_version_shows_solutions_and_outputs(course):
    folder = classroom.instructor_version(course, "toys")
    assert "BEGIN SOLUTION" in (folder / "toys.html").read_text()
    notebook = json.loads((folder / "toys.ipynb").read_text())
    assert all(c.get("execution_count") for c in notebook["cells"] if c["cell_type"] == "code")


def test_a_solution_that_fails_its_own_tests_is_not_built(course):
    path = course / "source" / "toys" / "toys.ipynb"
    path.write_text(json.dumps(solve(toy_notebook(), total=WRONG_TOTAL)))
    with pytest.raises(UserError, match=r"toys: the solution fails: Wrong: .*opposite sign"):
        classroom.instructor_version(course, "toys")


# ----------------------------------------------------------------------------------- round trip


def test_the_way_round(released, capsys):
    hand_in(released, "ana", solve(release_of(released), **answers()))
    hand_in(released, "ben", release_of(released))
    hand_in(released, "cem", solve(release_of(released), **answers(total=WRONG_TOTAL), why="I say."))
    assert reprobook("course", "grade", released / "submitted", "--workers", 2, "--course", released) == 0
    report = capsys.readouterr().out
    assert re.search(r"ana +toys +✓ 3 of 3 +6 of 6", report)
    assert re.search(r"ben +toys +✗ 0 of 3 +0 of 6", report)
    assert re.search(r"cem +toys +✗ 2 of 3 +3 of 6", report)

    assert reprobook("course", "feedback", "--course", released) == 0
    page = (released / "feedback" / "cem" / "toys" / "toys.html").read_text()
    assert "has the opposite sign" in page
    assert "fresh().normal" not in page, "hidden tests stay hidden"
    assert "HIDDEN" not in page

    table = released / "marks.csv"
    assert reprobook("course", "export", "--to", table, "--course", released) == 0
    rows = {row["student"]: row for row in csv.DictReader(table.open())}
    assert [rows[s]["toys"] for s in ("ana", "ben", "cem")] == ["6", "0", "3"]
    assert rows["cem"]["toys out of"] == "10"
    assert "in words" in rows["cem"]["toys remark"]
    assert rows["ben"]["toys remark"] == "", "an answer in words that was not touched is worth nothing"


def answers(**others):
    """Return right code for every task."""
    right = {
        "total": "def total(x):\n    return float(sum(x))",
        "square": "def square(x):\n    return x * x",
        "own": "own = 7 * seed + 1",
    }
    return right | others


def test_what_is_graded_stays_graded_until_something_changes(released):
    path = hand_in(released, "ana", solve(release_of(released), **answers(total=WRONG_TOTAL)))
    first = grade_submission(released, "toys", "ana", SHORT)
    assert grade_submission(released, "toys", "ana", SHORT) == first
    assert grade_submission(released, "toys", "ana", SHORT, again=True).graded.numbers != first.graded.numbers
    path.write_text(json.dumps(solve(release_of(released), **answers())))
    assert grade_submission(released, "toys", "ana", SHORT).graded.points == 6
    source = released / "source" / "toys" / "toys.ipynb"
    source.write_text(source.read_text().replace("total([1.0, 2.0]), 3.0", "total([1.0, 2.0]), 4.0"))
    assert grade_submission(released, "toys", "ana", SHORT).graded.points == 3


def test_a_broken_file_handed_in_later_counts_and_is_told(released):
    path = hand_in(released, "ana", solve(release_of(released), **answers()))
    classroom.grade_all(released, [("toys", "ana")], limits=SHORT)
    assert points(released) == 6
    path.write_text("this is not a notebook")
    classroom.grade_all(released, [("toys", "ana")], limits=SHORT)
    (mark,) = classroom.marks(released)
    assert (mark.points, mark.remark) == (0, "toys.ipynb is not a notebook")


def test_half_a_record_is_no_record(released):
    hand_in(released, "ana", solve(release_of(released), **answers()))
    grade_submission(released, "toys", "ana", SHORT)
    path = released / "grading" / "toys" / "ana.json"
    path.write_text(path.read_text()[:100])
    assert read_record(released, "toys", "ana") is None
    assert grade_submission(released, "toys", "ana", SHORT).graded.points == 6


def test_marks_by_hand_survive_another_grading(released):
    from nbgrader.api import Gradebook

    path = hand_in(released, "ana", solve(release_of(released), **answers(total=WRONG_TOTAL), why="I say."))
    classroom.grade_all(released, [("toys", "ana")], limits=SHORT)
    with Gradebook(f"sqlite:///{released}/gradebook.db") as gradebook:
        grade = gradebook.find_grade("why", "toys", "toys", "ana")
        grade.manual_score = 2.5
        grade.needs_manual_grade = False
        gradebook.db.commit()
    assert points(released) == 5.5
    path.write_text(json.dumps(solve(release_of(released), **answers(), why="I say.")))
    classroom.grade_all(released, [("toys", "ana")], limits=SHORT)
    assert points(released) == 8.5


# ----------------------------------------------------------------------------------- submissions of all kinds


def test_sixty_submissions_good_and_bad(released, capsys):
    """Every bad kind once, the rest right or wrong in turn: all are reported, and each has its points."""
    plain = solve(release_of(released), setup="import numpy as np")
    plain["cells"] = [c for c in plain["cells"] if not c["id"].startswith("square")]
    good = solve(plain, total=answers()["total"], own=answers()["own"])
    for number in range(50):
        hand_in(released, f"student{number:02}", good if number % 2 else solve(good, total=WRONG_TOTAL))
    hand_in(released, "loop", solve(good, total="def total(x):\n    while True: pass"))
    hand_in(released, "exit", solve(good, total="import os\nos._exit(0)"))
    hand_in(released, "memory", solve(good, total="def total(x):\n    return np.ones(10**10 // 8).sum()"))
    hand_in(released, "noise", "this is not a notebook")
    hand_in(released, "half", json.dumps(good)[:500])
    hand_in(released, "list", "[]")
    hand_in(released, "binary", "\x00\x01")
    hand_in(released, "odd", json.dumps(good | {"cells": [{"cell_type": "code"}]}))
    hand_in(released, "deleted", good | {"cells": [c for c in good["cells"] if not c["id"].endswith("-1")]})
    (released / "submitted" / "nothing" / "toys").mkdir(parents=True)
    began = time.monotonic()
    words = ("--workers", 2, "--seconds", 3, "--course", released)
    assert reprobook("course", "grade", released / "submitted", *words) == 0
    took = time.monotonic() - began
    report = capsys.readouterr().out
    rows = {
        row["student"]: row
        for row in csv.DictReader(io.StringIO(classroom.marks_table(classroom.marks(released))))
    }
    assert len(rows) == 60
    for number in range(50):
        assert rows[f"student{number:02}"]["toys"] == ("4" if number % 2 else "1")
    assert {s: rows[s]["toys"] for s in ("loop", "exit", "memory", "deleted")} == {
        "loop": "1",
        "exit": "1",
        "memory": "1",
        "deleted": "4",
    }
    for student in ("noise", "half", "list", "binary", "odd"):
        assert rows[student]["toys"] == "0"
        assert "not a notebook" in rows[student]["toys remark"]
    assert rows["nothing"]["toys remark"] == "there is no toys.ipynb"
    assert re.search(r"exit .*the cell 'total' was stopped and left out", report)
    assert re.search(r"deleted .*the cell 'total-1' was deleted", report)
    assert classroom.feedback(released)
    assert "not a notebook" in (released / "feedback" / "noise" / "toys" / "toys.html").read_text()
    assert took < 240


ONE_LOOP = "def total(x):\n    while True:\n        pass"


def start_grading(course):
    """Start the command on a good submission and an endless one.

    Returns, once the good one is graded and the other one runs: the process, and those of the student's code.
    """
    good = solve(release_of(course), **answers())
    hand_in(course, "ana", good)
    hand_in(course, "loop", solve(good, total=ONE_LOOP))
    words = ["course", "grade", course / "submitted", "--workers", "1", "--course", course]
    command = [sys.executable, "-m", "reprobook.cli", *map(str, words)]
    begun = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(1200):
        with suppress(psutil.Error):
            family = begun.children(recursive=True)
            theirs = [p for p in family if "student_process.py" in " ".join(p.cmdline())]
            if theirs and (course / "grading" / "toys" / "ana.json").exists():
                return begun, theirs
        time.sleep(0.1)
    raise AssertionError("nothing was graded")


def test_an_interrupted_grading_keeps_what_is_finished_and_goes_on_later(released):
    begun, family = start_grading(released)
    before = (released / "grading" / "toys" / "ana.json").read_text()
    asked = time.monotonic()
    begun.send_signal(signal.SIGINT)
    _, said = begun.communicate(timeout=60)
    assert begun.returncode in (130, -signal.SIGINT), said.decode()[-3000:]  # to a shell both are 130
    assert time.monotonic() - asked < 15
    assert re.search(rb"interrupted; [01] of 2 are graded", said)
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert not (released / "grading" / "toys" / "loop.json").exists(), "half a grading is none"
    records = classroom.grade_all(released, [("toys", "ana"), ("toys", "loop")], limits=SHORT)
    assert (released / "grading" / "toys" / "ana.json").read_text() == before
    assert [r.graded.points for r in records] == [6, 3]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends orphans")
def test_student_code_dies_with_a_grader_that_is_killed(released):
    begun, family = start_grading(released)
    begun.kill()
    begun.communicate()
    assert not psutil.wait_procs(family, timeout=10)[1], "student code outlives the grader"


def test_a_broken_gradebook_is_told_in_one_line(released, capsys):
    (released / "gradebook.db").write_bytes(b"this is no database" * 100)
    assert reprobook("course", "export", "--course", released) == 1
    assert "gradebook.db cannot be used: file is not a database" in capsys.readouterr().err


def test_submissions_may_lie_anywhere(released, tmp_path):
    good = json.dumps(solve(release_of(released), **answers()))
    (tmp_path / "inbox" / "ana").mkdir(parents=True)
    (tmp_path / "inbox" / "ana" / "toys.ipynb").write_text(good)
    (tmp_path / "inbox" / "ben" / "toys").mkdir(parents=True)
    (tmp_path / "inbox" / "ben" / "toys" / "toys.ipynb").write_text(good)
    both = [("toys", "ana"), ("toys", "ben")]
    assert classroom.find_submissions(released, [tmp_path / "inbox"]) == both
    assert classroom.find_submissions(released, [tmp_path / "inbox" / "ana"]) == both[:1]
    assert classroom.find_submissions(released, [tmp_path / "inbox" / "ana" / "toys.ipynb"]) == both[:1]
    assert (released / "submitted" / "ben" / "toys" / "toys.ipynb").read_text() == good


# ----------------------------------------------------------------------------------- mistakes, in one line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("release", "toy"), "unknown assignment 'toy'; this course has: toys"),
        (("grade", "nowhere"), "there is no nowhere"),
        (("grade", "empty"), "no submission in empty"),
        (("grade", "submitted", "--workers", "0"), "at least one worker is needed"),
        (("grade", "submitted", "--seconds", "0"), "must be above 0 seconds"),
        (("grade", "submitted", "--memory", "0.1"), "at least 1 GiB"),
        (("feedback",), "nothing has been graded yet"),
        (("export", "--to", "nowhere/marks.csv"), "no marks yet"),
        (("release", "--per-student", "nobody.csv"), "cannot read the roster nobody.csv: No such file"),
    ],
)
def test_a_mistake_is_told_in_one_line(course, capsys, monkeypatch, words, said):
    monkeypatch.chdir(course.parent)
    (course.parent / "empty").mkdir()
    if "submitted" in words:
        hand_in(course.parent, "ana", toy_notebook())
    assert reprobook("course", *words, "--course", course) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line


def test_an_assignment_that_was_not_released_cannot_be_graded(course, capsys):
    hand_in(course, "ana", toy_notebook())
    assert reprobook("course", "grade", course / "submitted", "--course", course) == 1
    assert "toys has not been released: reprobook course release toys" in capsys.readouterr().err


def test_a_folder_that_is_no_course_is_refused(tmp_path, capsys):
    assert reprobook("course", "export", "--course", tmp_path) == 1
    assert "is not the folder of a course" in capsys.readouterr().err


def test_students_check_their_own_notebook_without_a_course(released, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    mine = tmp_path / "toys.ipynb"
    mine.write_text(json.dumps(solve(release_of(released), **answers(total=WRONG_TOTAL))))
    assert reprobook("course", "check", mine) == 1
    assert re.search(r"total-1 +✗ +the total of 1 and 2 has the opposite sign", capsys.readouterr().out)
    mine.write_text(json.dumps(solve(release_of(released), **answers())))
    assert reprobook("course", "check", mine) == 0
    assert reprobook("course", "check", tmp_path / "none.ipynb") == 1
    assert "there is no none.ipynb" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- nbgrader's own commands


def nbgrader(course, *words):
    """Run nbgrader in the folder of a course, as its documentation has it."""
    command = [Path(sysconfig.get_path("scripts")) / "nbgrader", *words]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.slow
def test_nbgrader_s_own_commands_do_the_same(course):
    nbgrader(course, "generate_assignment", "toys")
    hand_in(course, "ana", solve(release_of(course), **answers(total=WRONG_TOTAL)))
    cheat = "import builtins, reprobook.course as c\nbuiltins.float = lambda x: 3\nc.same = total = print"
    hand_in(course, "eve", solve(release_of(course), **answers(total=cheat)))
    nbgrader(course, "autograde", "toys")
    nbgrader(course, "generate_feedback", "toys")
    nbgrader(course, "export")
    rows = {row["student_id"]: row for row in csv.DictReader((course / "grades.csv").open())}
    assert float(rows["ana"]["score"]) == 3
    assert float(rows["eve"]["score"]) == 3, "the cheat earns nothing; the other answers are right"
    assert "HIDDEN" not in (course / "feedback" / "ana" / "toys" / "toys.html").read_text()
    assert points(course) == 3
