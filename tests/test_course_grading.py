"""Foreign code is graded by what it computes, and cannot do more than lose its own points."""

import importlib.machinery
import json
import os
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from reprobook.course import Wrong, unchanged
from reprobook.course.checks import drawn_from
from reprobook.course.grader import _note_changes, grade, personal_seed
from reprobook.course.plain import NotPlain, pack, unpack
from reprobook.course.sandbox import Limits, Sandbox, Stopped, _setting
from reprobook.errors import UserError
from toy_course import cell, solve, toy_notebook

SHORT = Limits(question=4, total=30)
FOUL_PLAY = yaml.safe_load((Path(__file__).parent / "foul_play.yml").read_text(encoding="utf-8"))
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these limits exist on Linux only")


@pytest.fixture(scope="module")
def source():
    return toy_notebook()


def light(source):
    """Leave torch out of a notebook: it starts sooner."""
    cells = [c for c in source["cells"] if not c["id"].startswith("square")]
    return solve(source | {"cells": cells}, setup="import numpy as np")


def told(graded):
    return {name: outcome.message for name, outcome in graded.tests.items()}


# ----------------------------------------------------------------------------------- marks


def test_the_solution_gets_all_points(source):
    graded = grade(source, source, seed=3, limits=SHORT)
    assert told(graded) == {"total-1": "", "square-1": "", "own-1": ""}
    assert graded.points == 6


def test_a_wrong_answer_costs_the_points_of_its_own_tests_only(source):
    graded = grade(source, solve(source, square="def square(x):\n    return -x * x"), limits=SHORT)
    assert graded.points == 4
    assert "opposite sign" in told(graded)["square-1"]


def test_a_change_in_place_is_seen_across_the_processes(source):
    code = "def total(x):\n    s = float(sum(x))\n    x[0] = 0\n    return s"
    assert "argument x in place" in told(grade(light(source), solve(light(source), total=code)))["total-1"]


def test_a_change_is_noted_wherever_the_value_stands_and_our_own_value_stays(source):
    x, y, z = np.ones(2), torch.ones(2), np.ones(2)
    packed, left = pack([x, {"y": y}, (z,)]), pack([0 * x, {"y": y + 1}, (z,)])
    with drawn_from(0):
        _note_changes([x, {"y": y}, (z,)], packed, left)
        for value, name in ((x, "x"), (y, "y")):
            assert bool((value == 1).all())
            with pytest.raises(Wrong, match=f"argument {name} in place"):
                unchanged(value, value, name)
        unchanged(z, z, "z")
    unchanged(x, x, "x")


def test_the_student_s_own_seed_is_the_teacher_s_to_say(source):
    graded = grade(light(source), solve(light(source), personal="seed = 99", own="own = 99 * 7 + 1"), seed=5)
    assert "right: 36" in told(graded)["own-1"]
    assert grade(light(source), solve(light(source), own="own = 36"), seed=5).tests["own-1"].passed
    assert personal_seed(solve(source, personal="seed = 12  # yours")) == 12


def test_a_grading_can_be_repeated_with_the_same_fresh_numbers(source):
    wrong = solve(light(source), total="def total(x):\n    return 3.0 if len(x) == 2 else 0.0")
    first = grade(light(source), wrong)
    again = grade(light(source), wrong, numbers=first.numbers)
    other = grade(light(source), wrong)
    assert told(first)["total-1"] == told(again)["total-1"] != told(other)["total-1"]


def test_functions_may_use_helpers_from_added_cells(source):
    helped = solve(light(source), total="def total(x):\n    return helper(x)")
    added = cell("code", "def helper(x):\n    return float(sum(x))")
    helped["cells"].insert(1, added)
    assert grade(light(source), helped).tests["total-1"].passed


def test_magics_and_shell_lines_are_no_errors(source):
    magic = solve(light(source), total="%matplotlib inline\n!true\ndef total(x):\n    return float(sum(x))")
    assert grade(light(source), magic).tests["total-1"].passed


def test_data_lie_beside_the_notebook(source, tmp_path):
    (tmp_path / "numbers.csv").write_text("1,2\n")
    reads = "def total(x):\n    return float(sum(x)) + np.loadtxt('numbers.csv', delimiter=',').sum() - 3"
    assert grade(light(source), solve(light(source), total=reads), data=tmp_path).tests["total-1"].passed


# ----------------------------------------------------------------------------------- cheats


@pytest.mark.parametrize("name", FOUL_PLAY["cheats"])
def test_a_cheat_gets_no_points(source, name):
    code, said = (FOUL_PLAY["cheats"][name][k] for k in ("code", "says"))
    graded = grade(light(source), solve(light(source), total=code), limits=SHORT)
    assert said in told(graded)["total-1"] or "there is no 'total'" in told(graded)["total-1"]
    assert told(graded)["own-1"] == "", "the rest of the notebook is graded as before"


@linux
def test_the_solution_cannot_be_read_or_imported(source, tmp_path):
    secret = tmp_path / "toys.ipynb"
    secret.write_text(json.dumps(source))
    library = os.path.dirname(os.path.dirname(os.path.abspath(pack.__code__.co_filename)))
    code = (
        f"import sys\nsys.path.insert(0, {os.path.dirname(library)!r})\nfound = []\n"
        f"for path in ({str(secret)!r}, {library + '/course/checks.py'!r}, '/proc/1/environ'):\n"
        "    try:\n        found.append(open(path).read())\n    except OSError:\n        pass\n"
        "try:\n    import reprobook.course\n    found.append('library')\nexcept ImportError:\n    pass\n"
        "own = len(found)"
    )
    graded = grade(light(source), solve(light(source), own=code), seed=0)
    if not graded.confinement.files:
        pytest.skip("this system has no Landlock")
    assert "yours: 0" in told(graded)["own-1"]


def test_the_library_is_not_on_the_path_of_student_code(tmp_path):
    """This holds where the system has no Landlock, too."""
    assert importlib.machinery.PathFinder.find_spec("numpy", _setting(tmp_path, SHORT)["path"])
    assert not importlib.machinery.PathFinder.find_spec("reprobook", _setting(tmp_path, SHORT)["path"])


def test_edited_and_deleted_tests_are_the_teacher_s_again(source):
    edited = solve(light(source), total="def total(x):\n    return 0.0")
    edited["cells"] = [c for c in edited["cells"] if c["id"] != "own-1"]
    for one in edited["cells"]:
        if one["id"] == "total-1":
            one["source"] = "pass"
            one["metadata"]["nbgrader"] |= {"points": 100}
    graded = grade(light(source), edited)
    assert graded.points == 1, (
        "own-1 is right though its test was deleted; total-1 is wrong though it was edited"
    )
    assert "the cell 'total-1' was edited; the original was used" in graded.remarks
    assert "the cell 'own-1' was deleted" in graded.remarks


def test_a_deleted_or_renamed_answer_is_told(source):
    without = light(source)
    without = without | {"cells": [c for c in without["cells"] if c["id"] != "total"]}
    assert "its cell" in (said := told(grade(light(source), without))["total-1"]) or "is missing" in said
    renamed = solve(light(source), total="def sum_of(x):\n    return float(sum(x))")
    assert "renamed" in told(grade(light(source), renamed))["total-1"]


# ----------------------------------------------------------------------------------- accidents


@pytest.mark.parametrize("name", FOUL_PLAY["accidents"])
def test_an_accident_costs_its_own_points_and_no_more(source, name):
    code, said = (FOUL_PLAY["accidents"][name][k] for k in ("code", "says"))
    if "memory" in name and not sys.platform.startswith("linux"):
        pytest.skip("macOS does not keep limits on memory")
    graded = grade(light(source), solve(light(source), total=code), limits=replace(SHORT, memory=1 << 30))
    assert said in told(graded)["total-1"]
    assert told(graded)["own-1"] == ""
    assert graded.points == 1
    assert [r for r in graded.remarks if "the test 'total-1' was stopped" in r] or "stopped" not in said


def test_a_cell_that_never_ends_is_left_out_and_the_rest_is_graded(source):
    graded = grade(light(source), solve(light(source), total="while True: pass"), limits=SHORT)
    assert "was stopped" in told(graded)["total-1"]
    assert told(graded)["own-1"] == ""
    assert any("stopped and left out" in r for r in graded.remarks)


def test_a_notebook_ends_when_its_time_is_used_up(source):
    slow = solve(light(source), total="import time\ndef total(x):\n    time.sleep(60)")
    before = time.monotonic()
    graded = grade(light(source), slow, limits=Limits(question=30, total=3))
    assert time.monotonic() - before < 40, "and not the minute that it would sleep"
    assert "was stopped" in told(graded)["total-1"]
    at_once = grade(light(source), light(source), limits=Limits(question=30, total=0.05))
    assert all("used up" in message for message in told(at_once).values())


@linux
def test_student_code_has_no_network_and_reaches_no_other_process(source, tmp_path):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    try:
        code = f"""
import os, socket
own = 0
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
except OSError:
    own += 1
for process in ({child}, {os.getpid()}):
    try:
        os.kill(process, 9)
    except OSError:
        own += 1
"""
        graded = grade(light(source), solve(light(source), own=code), seed=0)
        if not graded.confinement.company:
            pytest.skip("this system gives no namespaces")
        assert "yours: 3" in told(graded)["own-1"]
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it lives"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        server.close()


@linux
def test_nothing_that_student_code_started_outlives_the_grading(source):
    import psutil

    code = "import subprocess\nsubprocess.Popen(['sleep', '54321'], start_new_session=True)\nown = 1"
    assert grade(light(source), solve(light(source), own=code)).tests["own-1"].passed
    time.sleep(0.5)
    assert not [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[1:] == ["54321"]]


def test_the_working_folder_is_gone_afterwards(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    grade(light(source), solve(light(source), own="open('left.txt', 'w').write('x')\nown = 1"))
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------- the channel


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        float("inf"),
        1 + 2j,
        "words",
        (1, [2.0, {"a": (None,)}]),
        np.arange(6.0).reshape(2, 3).T,
        np.float32(0.1),
        np.array([True, False]),
        np.array(3),
        torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
        torch.tensor([1 + 1j]).conj(),
        torch.zeros(0, 3),
    ],
    ids=repr,
)
def test_plain_values_survive_the_channel(value):
    back = unpack(json.loads(json.dumps(pack(value))))
    assert type(back) is type(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert bool((back == value).all())
    else:
        assert back == value


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([None]), lambda: 0, bytearray(1)])
def test_nothing_else_passes_the_channel(value):
    with pytest.raises(NotPlain):
        pack(value)


@pytest.mark.parametrize(
    "packed", [{"pickle": "x"}, {"array": ["|O", [1], ""]}, {"array": 3}, {}, {"a": 1, "b": 2}]
)
def test_what_no_honest_process_says_is_refused(packed):
    with pytest.raises(ValueError):
        unpack(packed)


def test_limits_that_make_no_sense_are_refused():
    for wrong in ({"question": 0}, {"total": -1}, {"memory": 1 << 20}):
        with pytest.raises(UserError, match="limit"):
            Limits(**wrong)


def test_a_busy_process_is_stopped_by_the_time_it_computes_not_by_the_clock(tmp_path):
    with Sandbox(tmp_path, SHORT) as sandbox:
        with pytest.raises(Stopped):
            sandbox.ask({"do": "run", "code": "while True: pass"}, 2)
        assert 1.5 < sandbox.spent < 4.5, "by the clock it might have had six seconds"


def test_a_stopped_process_is_gone(tmp_path):
    sandbox = Sandbox(tmp_path, SHORT)
    with pytest.raises(Stopped, match="longer than"):
        sandbox.ask({"do": "run", "code": "while True: pass"}, 1)
    assert sandbox._process.poll() is not None
    shutil.rmtree(tmp_path)
