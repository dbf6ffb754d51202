"""Running chapters for real: what a run leaves behind when it finishes, fails, is killed or is stopped."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import add_second, build_book, command_environment, edit_cell, toy_cells, write_notebook
from reprobook import execution, worker
from reprobook.errors import UserError
from reprobook.jobs import Job, plan, tier_files, tiers
from reprobook.notebooks import read_notebook, stored
from reprobook.records import read_record, recorded_runs
from reprobook.running import Run, RunFailed, refresh, run
from reprobook.stamps import is_stale, stamp
from reprobook.storing import StoringError, check_writable, write_files


class Silence:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def start(self, title: str) -> None:
        self.title = title

    def update(self, progress) -> None:
        self.seen.append((progress.heading, progress.done, progress.total, progress.step))

    def stop(self) -> None:
        self.seen.append(("stopped",))


def content(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(path: Path) -> dict[str, list]:
    """Return the outputs of a notebook's code cells by cell id."""
    return {c["id"]: c["outputs"] for c in content(path)["cells"] if c["cell_type"] == "code"}


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --------------------------------------------------------------------------- a run that finishes


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory) -> Run:
    """The smoke tier, run once in somebody's odd environment; not to be changed.

    That somebody has a kernel named python3 that cannot start, a start-up file that
    silences print, and a backend that shows no figures. None of it may matter.
    """
    home = tmp_path_factory.mktemp("finished")
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print = lambda *words: None\n")
    kernel = home / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    broken = {"argv": ["false"], "display_name": "broken", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(broken))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_ROOT", str(build_book(home / "book")))
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        patch.setenv("JUPYTER_PATH", str(home / "jupyter"))
        patch.setenv("MPLBACKEND", "agg")
        notebook = home / "book" / "chapters" / "toy" / "toy.ipynb"
        edit_cell(notebook, "draw", 'print("drawing")', 'print("drawing", os.environ["MPLBACKEND"])')
        return run("toy", "smoke", display=Silence())


@pytest.fixture
def finished(smoke_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, and its book is the book."""
    monkeypatch.setenv("REPROBOOK_ROOT", str(smoke_run.notebook.parents[2]))
    return smoke_run


def test_a_run_stands_in_the_runs_folder_under_its_tier(finished):
    root = Path(os.environ["REPROBOOK_ROOT"])
    assert finished.fresh
    assert finished.notebook == root / "_runs" / "toy" / "smoke.ipynb"
    assert finished.record_path == root / "_runs" / "toy" / "smoke.json"
    assert sorted(files(root / "_runs" / "toy")) == ["smoke.ipynb", "smoke.json"]


def test_results_have_the_permissions_of_ordinary_files(finished, tmp_path):
    (tmp_path / "ordinary").touch()
    assert finished.notebook.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_the_record_stands_in_the_notebook_and_beside_it(finished):
    assert read_record(finished.notebook) == finished.record
    assert content(finished.record_path) == finished.record.to_data()


def test_the_record_says_what_was_run(finished):
    record = finished.record
    assert (record.chapter, record.tier, record.status, record.error) == ("toy", "smoke", "finished", None)
    assert record.parameters == {"seed": 0, "num_seeds": 5, "scale": 1.0, "device": "cpu", "trouble": "none"}
    assert [c["parts"][0]["n"] for c in record.claims if c["parts"]] == [5, 5]
    assert record.stamp == stamp(plan("toy").path, {"num_seeds": 5})


def test_the_record_says_on_what_it_ran_and_not_on_whose(finished):
    record = finished.record
    assert record.device == "cpu"
    assert record.machine.endswith("CPU")
    assert record.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "+" not in record.versions["torch"]
    assert 0.1 < record.wall_seconds < 60
    assert 20 < record.peak_memory_mib < 1000
    assert os.uname().nodename not in finished.record_path.read_text()
    assert "/" not in "".join([record.machine, *record.versions.values()])


def test_the_notebook_shows_the_parameters_that_papermill_injected(finished):
    cells = content(finished.notebook)["cells"]
    assert [c["id"] for c in cells[:4]] == ["title", "parameters", "injected-parameters", "begin"]
    assert "num_seeds = 5" in "".join(cells[2]["source"])


def test_the_notebook_keeps_nothing_about_where_and_when_it_ran(finished):
    notebook = content(finished.notebook)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "reprobook"}
    assert all(set(c["metadata"]) <= {"tags"} and c["metadata"] != {"tags": []} for c in notebook["cells"])
    assert "/tmp" not in finished.notebook.read_text()
    assert str(finished.notebook.parents[2]) not in finished.notebook.read_text()


def test_nothing_of_the_users_own_settings_gets_into_a_run(finished):
    (printed,) = outputs(finished.notebook)["draw"]
    assert re.match(r"drawing module://matplotlib_inline\S+\n0\.\d+\n$", "".join(printed["text"]))


def test_the_notebook_is_as_nbformat_writes_it(finished):
    import nbformat

    notebook = nbformat.read(finished.notebook, as_version=4)
    nbformat.validate(notebook)
    assert finished.notebook.read_text() == nbformat.writes(notebook) + "\n"


def test_a_finished_job_is_not_run_again(finished):
    before = files(finished.notebook.parent)
    again = run("toy", "smoke", display=Silence())
    assert not again.fresh
    assert again.record == finished.record
    assert files(finished.notebook.parent) == before


def test_a_forced_run_is_run_again_and_gives_the_same_notebook(finished, tmp_path):
    shutil.copy(finished.notebook, tmp_path)
    shutil.copy(finished.record_path, tmp_path)
    again = run("toy", "smoke", out=tmp_path, force=True, display=Silence())
    assert again.fresh
    assert again.notebook.parent == tmp_path
    first, second = content(finished.notebook), content(again.notebook)
    for notebook in (first, second):
        for passing in ("started", "wall_seconds", "peak_memory_mib"):
            notebook["metadata"]["reprobook"].pop(passing)
    assert first == second


def test_progress_tells_cell_heading_and_inner_steps(toy):
    edit_cell(toy / "toy.ipynb", "draw", 'range(600 if trouble == "wait" else 1)', "range(3)")
    edit_cell(toy / "toy.ipynb", "draw", '0.1 if trouble == "wait" else 0', "0.3")
    display = Silence()
    run("toy", display=display)
    assert display.title == "toy (laptop)"
    assert display.seen[0] == ("starting", 0, 6, None)
    assert ("cell 3 (The experiment)", 2, 6, "waiting") in display.seen
    assert display.seen[-1] == ("stopped",)


def test_memory_counts_what_the_kernels_children_hold(toy):
    held = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', {!r}])\n"
    hungry = "block = b'x' * 400 * 2**20; import time; time.sleep(1.2)"
    edit_cell(toy / "toy.ipynb", "draw", "import os,", held.format(hungry) + "import os,")
    assert run("toy", display=Silence()).record.peak_memory_mib > 440


def test_memory_counts_a_peak_that_nobody_looked_at(toy, monkeypatch):
    monkeypatch.setattr("reprobook.execution._WEIGH", 1e9)
    edit_cell(toy / "toy.ipynb", "draw", "import os,", "block = b'x' * 400 * 2**20\ndel block\nimport os,")
    assert run("toy", display=Silence()).record.peak_memory_mib > 440


# --------------------------------------------------------------------------- runs that fail


def test_a_failing_cell_keeps_what_it_did_and_says_where(book):
    with pytest.raises(
        RunFailed, match=r"cell 3 \(The experiment\): ZeroDivisionError: the middle cell fails"
    ) as e:
        run("toy", parameters={"trouble": "fail"}, display=Silence())
    kept = book / "_runs" / "toy" / "laptop-trouble=fail.failed.ipynb"
    assert str(kept) in str(e.value)
    assert "\n" not in str(e.value)
    assert sorted(p.name for p in kept.parent.iterdir()) == [kept.name, kept.with_suffix(".json").name]
    assert [o["output_type"] for o in outputs(kept)["draw"]] == ["stream", "error"]
    assert outputs(kept)["table"] == []
    record = read_record(kept)
    assert record.status == "failed"
    assert record.error == "cell 3 (The experiment): ZeroDivisionError: the middle cell fails"
    assert content(kept.with_suffix(".json")) == record.to_data()


def test_a_failed_run_keeps_the_good_one_and_the_next_success_removes_it(executed_book):
    notebook = executed_book / "chapters" / "toy" / "toy.ipynb"
    folder = executed_book / "_runs" / "toy"
    run("toy", "smoke", display=Silence())
    good = files(folder)
    edit_cell(notebook, "draw", 'print("drawing")', "1 / 0")
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        run("toy", "smoke", display=Silence())
    assert {name: data for name, data in files(folder).items() if "failed" not in name} == good
    assert sorted(set(files(folder)) - set(good)) == ["smoke.failed.ipynb", "smoke.failed.json"]
    edit_cell(notebook, "draw", "1 / 0", 'print("mended")')
    assert run("toy", "smoke", display=Silence()).fresh
    assert sorted(files(folder)) == ["smoke.ipynb", "smoke.json"]


def test_a_killed_kernel_is_a_failed_run(book):
    with pytest.raises(RunFailed, match=r"cell 3 \(The experiment\): the kernel died"):
        run("toy", parameters={"trouble": "die"}, display=Silence())
    kept = book / "_runs" / "toy" / "laptop-trouble=die.failed.ipynb"
    assert read_record(kept).status == "failed"
    assert content(kept)["cells"][2]["id"] == "injected-parameters"


def test_a_worker_that_cannot_start_is_a_failed_run(book, tmp_path, monkeypatch):
    (tmp_path / "papermill.py").write_text("raise RuntimeError('no papermill today')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunFailed, match="no papermill today"):
        run("toy", display=Silence())
    assert read_record(book / "_runs" / "toy" / "laptop.failed.ipynb").status == "failed"


# --------------------------------------------------------------------------- runs that are stopped


@pytest.fixture
def waiting(executed_book: Path) -> Iterator[Callable[[], tuple[psutil.Popen, list[psutil.Process]]]]:
    """A function that starts a run which waits in its middle; it returns the command and its descendants."""
    started = []

    def start() -> tuple[psutil.Popen, list[psutil.Process]]:
        command = [sys.executable, "-m", "reprobook.cli", "run", "toy", "--force", "-p", "trouble", "wait"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        pipes["start_new_session"] = True  # so that a test can signal its group, as a terminal does
        process = psutil.Popen(command, env=command_environment(executed_book), **pipes)
        started.append(process)
        mark = executed_book / "chapters" / "toy" / "waiting"
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mark.exists(), "the notebook did not come to its middle"
        return process, process.children(recursive=True)

    yield start
    for process in started:
        for left in [*process.children(recursive=True), process] if process.is_running() else []:
            left.kill()


def living(family: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run; one that only waits to be collected does not."""
    found = []
    for process in family:
        with suppress(psutil.NoSuchProcess):
            found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_run_leaves_no_process_and_no_damage(waiting, executed_book, number, code):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this signal is ignored here, as under nohup, and so it is by the command")
    committed = files(executed_book / "chapters" / "toy")
    process, family = waiting()
    assert len(family) >= 2, "a worker and a kernel were expected"
    assert all(os.getsid(p.pid) != os.getsid(process.pid) for p in family), "out of reach of Ctrl-C"
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert living(family) == []
    assert out == ""
    kept = executed_book / "_runs" / "toy" / "laptop-trouble=wait.failed.ipynb"
    where = "toy (laptop; trouble = wait): interrupted in cell 3 (The experiment)"
    line = f"reprobook: {where}; what it did is kept in {kept}"
    assert err.splitlines() == ["toy (laptop; trouble = wait): started", line]
    assert outputs(kept)["parameters"] == []
    assert read_record(kept).error == "interrupted in cell 3 (The experiment)"
    assert sorted(p.name for p in kept.parent.iterdir()) == [kept.name, kept.with_suffix(".json").name]
    del_mark = {k: v for k, v in files(executed_book / "chapters" / "toy").items() if k != "waiting"}
    assert del_mark == committed


def test_when_the_command_is_killed_worker_and_kernel_end_too(waiting):
    process, family = waiting()
    folder = next(Path(p.cmdline()[-1]) for p in family if "reprobook.worker" in p.cmdline())
    assert (folder / "output.ipynb").is_file()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 15
    while living(family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(family) == []
    assert not folder.exists()


# --------------------------------------------------------------------------- the kernel's sockets


def test_the_kernel_is_reached_by_sockets_in_a_folder_whatever_the_temporary_folder_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    with execution._job_folder() as folder:
        connection = worker.connection_in(folder)
        assert connection["transport"] == "ipc"
        assert len(connection["connection_file"]) < 90
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_name_too_long_for_a_socket_falls_back_to_tcp(tmp_path):
    assert worker.connection_in(tmp_path / ("x" * 90))["transport"] == "tcp"


# --------------------------------------------------------------------------- where results cannot go


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_below_a_file_is_refused_before_anything_runs(book, monkeypatch):
    monkeypatch.setattr("reprobook.execution.execute", lambda *_: pytest.fail("something was run"))
    (book / "file").touch()
    with pytest.raises(StoringError, match=r"cannot write to the folder .*file/below: Not a directory"):
        run("toy", out=book / "file" / "below")


def test_a_read_only_folder_is_refused_before_anything_runs(book, small_disk, monkeypatch):
    monkeypatch.setattr("reprobook.execution.execute", lambda *_: pytest.fail("something was run"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoringError, match=r"cannot write to the folder .*disk: Read-only file system"):
        run("toy", out=small_disk)


def test_a_full_disk_is_refused_before_anything_runs(book, small_disk, monkeypatch):
    monkeypatch.setattr("reprobook.execution.execute", lambda *_: pytest.fail("something was run"))
    with pytest.raises(StoringError, match="256 KiB are free on its disk, 4096 KiB are needed"):
        run("toy", out=small_disk)


def test_a_disk_that_fills_up_during_the_run_keeps_the_old_result_and_the_new_notebook(
    book, small_disk, monkeypatch
):
    monkeypatch.setattr("reprobook.running.check_writable", lambda _: None)
    old = run("toy", "smoke", out=small_disk, display=Silence())
    (small_disk / "ballast").write_bytes(b"x" * (256 * 1024 - 24 * 1024))
    before = files(small_disk)
    edit_cell(book / "chapters" / "toy" / "toy.ipynb", "draw", 'print("drawing")', "print('x' * 50_000)")
    with pytest.raises(StoringError, match=r"cannot write .*No space left on device; .* kept as (\S+)") as e:
        run("toy", "smoke", out=small_disk, display=Silence())
    assert files(small_disk) == before
    kept = Path(str(e.value).rpartition(" ")[2])
    assert read_record(kept).status == "finished"
    assert "xxxxx" in kept.read_text()
    assert read_record(old.notebook) == old.record
    kept.unlink()


def test_files_that_belong_together_are_written_all_or_none(small_disk):
    first, second = small_disk / "first", small_disk / "second"
    write_files({first: "old", second: "old"})
    with pytest.raises(StoringError, match="No space left on device"):
        write_files({first: "new", second: "x" * 300_000})
    assert files(small_disk) == {"first": b"old", "second": b"old"}


def test_a_written_file_is_replaced_and_never_changed_in_place(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    os.link(path, tmp_path / "link")
    write_files({path: "new"})
    assert (path.read_text(), (tmp_path / "link").read_text()) == ("new", "old")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "link").stat().st_mode)


def test_papermills_files_are_replaced_and_never_changed_in_place(tmp_path):
    path = tmp_path / "output.ipynb"
    path.write_text("old")
    os.link(path, tmp_path / "link")
    worker._whole_files().write("new", str(path))
    assert (path.read_text(), (tmp_path / "link").read_text()) == ("new", "old")


def test_a_missing_folder_is_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert list((tmp_path / "a" / "b").iterdir()) == []


# --------------------------------------------------------------------------- tiers and names


def test_tiers_are_the_parameter_files_and_laptop(toy):
    (toy / "paper-big.yml").write_text("num_seeds: 1000\n")
    assert tiers("toy") == ["laptop", "paper", "paper-big", "smoke"]


def test_a_notebooks_own_parameter_file_goes_before_the_chapters(book):
    add_second(book)
    assert tiers("toy") == ["laptop", "paper", "smoke"]
    assert tiers("toy/second") == ["laptop", "paper", "paper-many", "smoke"]
    assert {tier: f.name for tier, f in tier_files("toy/second").items()} == {
        "paper": "paper.yml",
        "paper-many": "second.paper-many.yml",
        "smoke": "second.smoke.yml",
    }
    sizes = [plan(name, "smoke").parameters["num_seeds"] for name in ("toy", "toy/second")]
    assert sizes == [5, 6]
    assert plan("toy/second", "paper").parameters == plan("toy", "paper").parameters


def test_the_notebook_of_the_chapters_name_may_have_its_own_parameter_files_too(toy):
    (toy / "smoke.yml").rename(toy / "toy.smoke.yml")
    add_second(toy.parents[1])
    (toy / "second.smoke.yml").unlink()
    assert plan("toy", "smoke") == plan("toy/toy", "smoke")
    assert plan("toy", "smoke").parameters["num_seeds"] == 5
    with pytest.raises(UserError, match=r"^toy/second has no tier 'smoke'; it has: laptop, paper, paper-m"):
        plan("toy/second", "smoke")


def test_files_and_tiers_are_those_of_the_notebook_whose_name_stands_in_front_of_the_dot(toy):
    add_second(toy.parents[1])
    (toy / "second-toy.paper-x.yml").write_text("num_seeds: 2\n")
    (toy / "toy-second.paper-y.yml").write_text("num_seeds: 2\n")
    assert tiers("toy") == ["laptop", "paper", "smoke"]
    assert tiers("toy/second") == ["laptop", "paper", "paper-many", "smoke"]


def test_an_unknown_tier_lists_those_that_exist(book):
    with pytest.raises(UserError, match=r"^toy has no tier 'huge'; it has: laptop, paper, smoke$"):
        plan("toy", "huge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_sedes: 5\n", r"toy/smoke\.yml: unknown parameter 'num_sedes'; did you mean 'num_seeds'\?"),
        ("num_seeds: 0\n", r"toy/smoke\.yml: num_seeds = 0 is not allowed; allowed: 1 \.\. 1000"),
        ("num_seeds: five\n", r"toy/smoke\.yml: num_seeds = 'five' has the wrong type"),
        ("- 5\n", r"toy/smoke\.yml: must be a mapping"),
        ("num_seeds: [5\n", r"toy/smoke\.yml: not valid YAML"),
    ],
)
def test_a_broken_parameter_file_is_named(toy, text, message):
    (toy / "smoke.yml").write_text(text)
    with pytest.raises(UserError, match=message):
        plan("toy", "smoke")


def test_a_notebooks_own_broken_parameter_file_is_named(toy):
    add_second(toy.parents[1])
    (toy / "second.smoke.yml").write_text("num_sedes: 5\n")
    with pytest.raises(UserError, match=r"^toy/second\.smoke\.yml: unknown parameter 'num_sedes'"):
        plan("toy/second", "smoke")
    plan("toy", "smoke")


def test_given_parameters_override_the_tier_which_overrides_the_notebook(book):
    job = plan("toy", "paper", {"num_seeds": 7})
    assert job.parameters == {"seed": 0, "num_seeds": 7, "scale": 1.5, "device": "cpu", "trouble": "none"}
    assert job.injected == {"num_seeds": 7, "scale": 1.5}
    assert job.given == {"num_seeds": 7}


def test_a_parameter_at_its_own_value_changes_nothing(book):
    assert plan("toy", given={"num_seeds": 50, "scale": 1}) == plan("toy")


def test_a_device_that_this_machine_lacks_is_refused_before_anything_runs(book):
    with pytest.raises(UserError, match="device 'cuda:77' is not to be had: this machine has cpu"):
        plan("toy", given={"device": "cuda:77"})


def job_named(given: dict, tier: str = "laptop") -> Job:
    return Job("toy", tier, given, {}, {}, Path("toy/toy.ipynb"), "", "")


def test_names_tell_tier_and_changed_parameters():
    assert job_named({}).name == "laptop"
    assert job_named({"seed": 3, "loss": "logistic"}, "smoke").name == "smoke-loss=logistic-seed=3"


@example({"data": "x" * 200})
@given(
    st.dictionaries(
        st.sampled_from(["seed", "dims", "data"]), st.text() | st.lists(st.integers()), max_size=3
    )
)
def test_names_fit_any_disk(values):
    name = job_named(values).name
    assert len(name) <= 100
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-")
    assert name == job_named(dict(reversed(values.items()))).name


@given(st.text(max_size=200), st.text(max_size=200))
@example("A", "a")
@example("x" * 200, "x" * 199)
@example("a/b", "a:b")
def test_different_parameters_have_different_names_even_where_case_is_not_told_apart(one, other):
    names = {job_named({"data": v}).name.lower() for v in (one, other)}
    assert len(names) == len({one, other})


# --------------------------------------------------------------------------- recorded runs


def test_a_recorded_run_stands_in_the_chapter(executed_book):
    done = run("toy", "paper", record=True, display=Silence())
    assert done.notebook == executed_book / "chapters" / "toy" / "runs" / "paper.ipynb"
    assert recorded_runs("toy") == [(done.notebook, done.record)]
    assert not is_stale(done.notebook)
    assert not run("toy", "paper", record=True, display=Silence()).fresh
    edit_cell(executed_book / "chapters" / "toy" / "toy.ipynb", "draw", "drawing", "painting")
    assert is_stale(done.notebook)


def test_recorded_runs_of_two_notebooks_at_one_tier_stand_side_by_side(pair):
    runs = pair / "chapters" / "toy" / "runs"
    (runs.parent / "paper-many.yml").write_text("num_seeds: 200\n")
    done = run("toy", "paper-many", record=True, display=Silence())
    assert done.notebook == runs / "paper-many.ipynb"
    assert [(p.name, r.chapter, r.parameters["num_seeds"]) for p, r in recorded_runs("toy")] == [
        ("paper-many.ipynb", "toy", 200),
        ("second-paper-many.ipynb", "toy/second", 300),
    ]
    assert not is_stale(done.notebook) and not is_stale(runs / "second-paper-many.ipynb")
    edit_cell(runs.parent / "second.ipynb", "draw", "drawing", "painting")
    assert not is_stale(done.notebook) and is_stale(runs / "second-paper-many.ipynb")


def test_a_refused_recorded_run_names_the_notebooks_own_parameter_file(book):
    add_second(book)
    with pytest.raises(UserError, match=r"parameters from second\.paper-many\.yml alone: .* seed"):
        run("toy/second", "paper-many", {"seed": 4}, record=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": "laptop"}, "the laptop tier is stored in the notebook itself"),
        ({"tier": "paper", "parameters": {"seed": 4}}, r"parameters from paper\.yml alone: .* seed"),
        ({"tier": "paper", "out": Path("elsewhere")}, "either --out or --record"),
    ],
)
def test_what_is_no_recorded_run_is_refused(book, arguments, message):
    with pytest.raises(UserError, match=message):
        run("toy", record=True, **arguments)
    assert not (book / "chapters" / "toy" / "runs").exists()


# --------------------------------------------------------------------------- refresh


def test_refresh_runs_what_is_stale_and_nothing_else(executed_book):
    toy = executed_book / "chapters" / "toy"
    second = [dict(c, source=[s.replace('"toy"', '"toy/second"') for s in c["source"]]) for c in toy_cells()]
    write_notebook(toy / "second.ipynb", second)
    before = (toy / "toy.ipynb").read_bytes()
    assert [r.record.chapter for r in refresh(display=Silence())] == ["toy/second"]
    assert (toy / "toy.ipynb").read_bytes() == before
    assert refresh(display=Silence()) == []
    assert read_record(toy / "second.ipynb").notebook == "second"
    assert plan("toy/second", "smoke").name == "second-smoke"


def test_a_refreshed_notebook_has_no_injected_cell_and_no_record_beside_it(executed_book):
    toy = executed_book / "chapters" / "toy"
    assert [c["id"] for c in content(toy / "toy.ipynb")["cells"]] == [c["id"] for c in toy_cells()]
    assert [c["source"] for c in content(toy / "toy.ipynb")["cells"]] == [c["source"] for c in toy_cells()]
    assert sorted(p.name for p in toy.iterdir()) == ["claims.yml", "paper.yml", "smoke.yml", "toy.ipynb"]


def test_a_failed_refresh_leaves_the_committed_notebook_and_runs_the_others(executed_book):
    toy = executed_book / "chapters" / "toy"
    second = [
        dict(c, source=[s.replace('"toy"', '"toy/a_second"') for s in c["source"]]) for c in toy_cells()
    ]
    write_notebook(toy / "a_second.ipynb", second)
    edit_cell(toy / "a_second.ipynb", "draw", 'print("drawing")', "1 / 0")
    before = (toy / "a_second.ipynb").read_bytes()
    edit_cell(toy / "toy.ipynb", "draw", "drawing", "painting")
    with pytest.raises(RunFailed, match=r"^toy/a_second \(laptop\): cell 3 .*ZeroDivisionError"):
        refresh(display=Silence())
    assert (toy / "a_second.ipynb").read_bytes() == before
    assert sorted(files(executed_book / "_runs")) == ["toy/a_second.failed.ipynb", "toy/a_second.failed.json"]
    assert not is_stale(toy / "toy.ipynb")


def test_a_notebook_edited_while_it_is_refreshed_is_left_alone(toy, book):
    notebook = toy / "toy.ipynb"
    edit = "from pathlib import Path\nhere = Path('toy.ipynb')\nhere.write_text(here.read_text() + '\\n')\n"
    edit_cell(notebook, "draw", "import os,", edit + "import os,")
    before = notebook.read_text()
    with pytest.raises(RunFailed, match="toy was edited while it ran"):
        refresh(["toy"], display=Silence())
    assert notebook.read_text() == before + "\n"
    assert read_record(book / "_runs" / "toy" / "toy.ipynb").status == "finished"


def test_refresh_checks_every_name_before_it_runs_one(executed_book, monkeypatch):
    monkeypatch.setattr("reprobook.execution.execute", lambda *_: pytest.fail("something was run"))
    with pytest.raises(UserError, match="unknown chapter 'no_such'"):
        refresh(["toy", "no_such"], all=True)


# --------------------------------------------------------------------------- the stored form


def test_consecutive_pieces_of_a_stream_are_joined_and_others_are_kept_apart(finished):
    source = read_notebook(json.dumps({**content(finished.notebook)}))
    ran = read_notebook(json.dumps({**content(finished.notebook)}))

    def piece(name: str, text: str) -> dict:
        return {"output_type": "stream", "name": name, "text": text}

    cell = next(c for c in ran.cells if c.id == "draw")
    from nbformat import from_dict

    pieces = [("stdout", "a\n"), ("stdout", "b\n"), ("stderr", "c\n"), ("stdout", "d\n")]
    cell.outputs = [from_dict(piece(*p)) for p in pieces]
    text = stored(source, ran, finished.record)
    found = next(c for c in json.loads(text)["cells"] if c["id"] == "draw")["outputs"]
    assert [(o["name"], "".join(o["text"])) for o in found] == [
        ("stdout", "a\nb\n"),
        ("stderr", "c\n"),
        ("stdout", "d\n"),
    ]


def test_what_other_tools_noted_about_an_earlier_run_is_dropped(finished):
    notebook = content(finished.notebook)
    notebook["metadata"]["papermill"] = {"input_path": "somewhere/toy.ipynb"}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"papermill": {"duration": 3}, "execution": {"iopub.status.busy": "2020"}}
    found = read_notebook(json.dumps(notebook))
    assert set(found.metadata) == {"kernelspec", "language_info"}
    assert [c.metadata for c in found.cells if c.metadata] == [{"tags": ["parameters"]}]
    assert all(c.outputs == [] and c.execution_count is None for c in found.cells if c.cell_type == "code")
    assert len(found.cells) == len(toy_cells())


def test_cells_without_an_identity_get_one_that_stays(finished):
    notebook = content(finished.notebook)
    for cell in notebook["cells"]:
        del cell["id"]
    notebook["nbformat_minor"] = 4
    first, second = (read_notebook(json.dumps(notebook)) for _ in range(2))
    assert [c.id for c in first.cells] == [c.id for c in second.cells]
    assert len({c.id for c in first.cells}) == len(first.cells)


# --------------------------------------------------------------------------- plain papermill


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("typo", "1", "ParameterError: unknown parameter 'typo'"),
        ("num_seeds", "0", "ParameterError: num_seeds = 0 is not allowed; allowed: 1 .. 1000"),
    ],
)
def test_plain_papermill_fails_with_the_line_too(toy, book, name, value, message):
    command = [
        sys.executable,
        "-m",
        "papermill",
        "toy.ipynb",
        "out.ipynb",
        "-k",
        "python3",
        "-p",
        name,
        value,
    ]
    done = subprocess.run(
        command,
        cwd=toy,
        env=command_environment(book),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "paths.py" not in done.stderr, "the library's own traceback helps nobody"
