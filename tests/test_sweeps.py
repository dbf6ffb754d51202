"""Sweeps for real: workers in processes of their own, and everything that can go wrong with them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from conftest import command_environment, edit_cell
from reprobook import cards
from reprobook.errors import UserError
from reprobook.execution import Limits
from reprobook.jobs import plan
from reprobook.records import read_record
from reprobook.running import RunFailed, run
from reprobook.sweeps import Local, Remote, Summary, Sweep, run_sweep
from reprobook.sweeps.attempts import FOLDER, MARKS, STOP, Order, attempt, marks
from test_running import Silence

TOY = Sweep(["toy"], "0:4", tier="smoke")


def soon(fact: Callable[[], object], seconds: float = 60.0) -> object:
    """Return what a function says as soon as that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := fact():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("toy/*"))


def waiting(out: Path) -> list[Path]:
    """Return the marks of jobs that are under way."""
    return marks(out)


def notebook_processes(book: Path) -> list[psutil.Process]:
    """Return the processes that execute a notebook of a book."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if "reprobook.worker" in (process.info["cmdline"] or []):
                found += [process] if process.environ().get("REPROBOOK_ROOT") == str(book) else []
    return found


# --------------------------------------------------------------------------- the plain case


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Iterator[tuple[Path, Path, Summary]]:
    """A book and the folder of a sweep in which one job fails; not to be changed."""
    from conftest import build_book

    home = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_ROOT", str(build_book(home / "book")))
        cells = [{"trouble": "none"}, {"trouble": "fail"}]
        sweep = Sweep(["toy"], "0:2", tier="smoke", grid={"scale": [0.5, 1.0]}, cells=cells[:1])
        first = run_sweep(sweep, home / "out", Local(2), show=False)
        assert (first.finished, first.failures) == (4, {})
        more = Sweep(["toy"], "0:2", tier="smoke", parameters={"trouble": "fail"}, retries=1)
        last = run_sweep(more, home / "failing", Local(2), show=False)
        shutil.copytree(home / "out" / "toy", home / "failing" / "toy", dirs_exist_ok=True)
    yield home / "book", home, last


@pytest.fixture
def sweep_book(swept, monkeypatch) -> Path:
    monkeypatch.setenv("REPROBOOK_ROOT", str(swept[0]))
    return swept[1]


def test_every_job_leaves_notebook_and_record(sweep_book):
    stems = ["smoke-num_seeds=1", "smoke-num_seeds=1-seed=1"]
    stems += ["smoke-num_seeds=1-scale=0.5", "smoke-num_seeds=1-scale=0.5-seed=1"]
    assert names(sweep_book / "out") == sorted(f"{s}.{e}" for s in stems for e in ("ipynb", "json"))
    for stem in stems:
        record = read_record(sweep_book / "out" / "toy" / f"{stem}.ipynb")
        assert record.status == "finished"
        assert record.stamp == plan("toy", "smoke", {"num_seeds": 1} | record.parameters).stamp


def test_starting_it_again_runs_nothing(sweep_book):
    before = {p: p.stat().st_mtime_ns for p in (sweep_book / "out" / "toy").iterdir()}
    sweep = Sweep(["toy"], "0:2", tier="smoke", grid={"scale": [0.5, 1.0]})
    again = run_sweep(sweep, sweep_book / "out", Local(1), show=False)
    assert (again.found, again.finished, again.left) == (4, 0, 0)
    assert {p: p.stat().st_mtime_ns for p in (sweep_book / "out" / "toy").iterdir()} == before


def test_a_failing_job_is_tried_again_and_kept_with_its_error(swept, sweep_book):
    summary = swept[2]
    assert (summary.finished, summary.again, summary.left) == (0, 2, 0)
    assert sorted(summary.failures) == [
        "toy/smoke-num_seeds=1-seed=1-trouble=fail",
        "toy/smoke-num_seeds=1-trouble=fail",
    ]
    assert all("ZeroDivisionError" in error for error in summary.failures.values())
    assert json.loads((summary.out / "sweep.json").read_text())["failures"] == summary.failures
    assert str(summary) == "0 of 2 jobs finished, 2 failed, 2 attempts repeated"
    kept = summary.out / "toy" / "smoke-num_seeds=1-trouble=fail.failed.ipynb"
    assert "ZeroDivisionError" in read_record(kept).error


# --------------------------------------------------------------------------- limits


def test_a_job_keeps_to_its_threads_and_sees_its_gpu_alone(book, toy):
    seen = '{k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}'
    edit_cell(toy / "toy.ipynb", "draw", 'print("drawing")', f"print({seen})")
    done = run("toy", "smoke", display=Silence(), limits=Limits(threads=3, gpu=5))
    assert "'OMP_NUM_THREADS': '3', 'MKL_NUM_THREADS': '3', 'CUDA_VISIBLE_DEVICES': '5'" in (
        done.notebook.read_text()
    )


def test_a_job_that_hangs_is_stopped_at_its_limit(book):
    sweep = Sweep(["toy"], "0", tier="smoke", parameters={"trouble": "wait"}, time_limit=8, retries=0)
    began = time.monotonic()
    done = run_sweep(sweep, book / "out", Local(1), show=False)
    assert time.monotonic() - began < 40  # the notebook would wait a minute
    assert list(done.failures.values()) == ["cell 3 (The experiment): stopped, as it took longer than 8 s"]
    assert names(book / "out") == [
        "smoke-num_seeds=1-trouble=wait.failed.ipynb",
        "smoke-num_seeds=1-trouble=wait.failed.json",
    ]


def test_a_job_that_takes_too_much_memory_is_stopped(book, toy):
    edit_cell(toy / "toy.ipynb", "draw", 'print("drawing")', "hoard = bytearray(400 * 2**20); time.sleep(20)")
    with pytest.raises(RunFailed, match="stopped, as it took more than 300 MiB of memory") as caught:
        run("toy", "smoke", display=Silence(), limits=Limits(memory_mib=300))
    assert caught.value.reason == "cell 3 (The experiment): stopped, as it took more than 300 MiB of memory"
    assert notebook_processes(book) == []


# --------------------------------------------------------------------------- one attempt


def order(book: Path, out: Path, **given) -> Order:
    job = plan("toy", "smoke", given)
    words = (job.chapter, job.tier, job.given, job.name, job.stamp, Limits())
    return Order(str(book), str(out), *words, retries=1)


def test_a_chapter_edited_since_the_sweep_began_is_not_run(book, toy):
    planned = order(book, book / "out")
    edit_cell(toy / "toy.ipynb", "draw", "drawing", "painting")
    outcome = attempt(planned)
    assert (outcome.finished, outcome.again) == (False, False)
    assert outcome.error == ("toy (smoke): edited since the sweep began; start the same command again")
    assert names(book / "out") == []


def test_a_chapter_edited_while_a_job_runs_leaves_no_result(book, toy):
    edit = "text = open('toy.ipynb').read()\nopen('toy.ipynb', 'w').write(text.replace('draw', 'paint'))\n"
    edit_cell(toy / "toy.ipynb", "draw", "import os,", edit + "import os,")
    outcome = attempt(order(book, book / "out"))
    assert outcome.error == "its notebook, claims or library were edited while it ran"
    assert names(book / "out") == ["smoke.failed.ipynb", "smoke.failed.json"]


def test_a_mark_counts_the_attempts_that_died(book):
    planned = order(book, book / "out")
    mark = book / "out" / FOLDER / MARKS / planned.key
    mark.parent.mkdir(parents=True)
    mark.write_text("1 somewhere\n")  # two have died: the one that wrote this, and the one before it
    outcome = attempt(planned)
    assert (outcome.finished, outcome.again, outcome.died) == (False, False, 2)
    assert outcome.error == "its worker died, 2 times"
    assert not mark.exists()
    mark.write_text("0 somewhere\n")
    outcome = attempt(planned)
    assert (outcome.finished, outcome.died) == (True, 1)


def test_one_job_never_runs_twice_at_a_time(book):
    from filelock import FileLock

    planned = order(book, book / "out", trouble="none")
    (book / "out" / FOLDER).mkdir(parents=True)
    lock = book / "out" / FOLDER / f"{planned.key}.lock"
    script = f"""if True:
        from reprobook.execution import Limits
        from reprobook.sweeps.attempts import Order, attempt
        attempt({planned!r})"""
    with FileLock(lock):
        other = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(3)
        assert not waiting(book / "out")
        assert other.poll() is None
    assert other.wait(timeout=60) == 0
    assert attempt(planned).seconds == 0.0  # found finished


def test_a_stop_ends_a_job_that_runs_and_leaves_nothing_half_done(book, tmp_path):
    import threading

    planned = order(book, book / "out", trouble="wait")
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(attempt(planned)))
    thread.start()
    soon((book / "chapters" / "toy" / "waiting").exists)
    (book / "out" / FOLDER / STOP).touch()
    thread.join(timeout=30)
    assert [(o.finished, o.error, o.again) for o in outcomes] == [(False, "the sweep was stopped", False)]
    assert names(book / "out") == []
    assert notebook_processes(book) == []


def test_a_full_disk_is_told_and_leaves_nothing(book, small_disk):
    with pytest.raises(UserError, match="256 KiB are free on its disk"):
        run_sweep(TOY, small_disk / "out", Local(1), show=False)
    outcome = attempt(order(book, small_disk / "out"))
    assert not outcome.finished
    assert "KiB are free on its disk" in outcome.error
    assert names(small_disk / "out") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# --------------------------------------------------------------------------- the command


@contextmanager
def started(book: Path, *words: str) -> Iterator[subprocess.Popen]:
    """Start the command in a group of its own, as a terminal does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reprobook.cli", *words],
        env=command_environment(book),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_keeps_what_is_finished_and_a_second_start_runs_the_rest(book, reprobook):
    """The first job finishes; the second waits, and is interrupted."""
    words = ("sweep", "toy", "--seeds", "0", "--tier", "smoke", "--out", str(book / "out"), "--workers", "1")
    with started(book, *words, "--grid", "trouble=none,wait") as process:
        soon((book / "chapters" / "toy" / "waiting").exists)
        with started(book, *words) as second:
            _, error = second.communicate(timeout=60)
            assert second.returncode == 1
            assert "another sweep is at work in" in error
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        last = error.strip().splitlines()[-1]
        assert last == (
            "reprobook: interrupted: 1 of 2 jobs finished, 1 left; start the same command again to go on"
        )
    soon(lambda: not notebook_processes(book))
    assert names(book / "out") == ["smoke-num_seeds=1.ipynb", "smoke-num_seeds=1.json"]
    done = reprobook(*words, "--grid", "trouble=none")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "1 of 1 jobs finished, 1 of them before")


def test_the_command_says_what_failed_and_where_the_results_are(book, reprobook):
    done = reprobook(
        *("sweep", "toy", "--seeds", "0:2", "--tier", "smoke", "--grid", "trouble=none,fail"),
        *("--retries", "0", "--out", str(book / "out")),
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "2 of 4 jobs finished, 2 failed"
    assert lines[1:3] == [f"results: {book / 'out'}", f"next:    reprobook report {book / 'out'}"]
    assert sum(line.startswith("failed: toy/smoke-") and "ZeroDivisionError" in line for line in lines) == 2
    assert re.search(r"4 jobs to run; dashboard: http://127.0.0.1:\d+/status", done.stderr)
    assert done.stderr.strip().splitlines()[-1].startswith("reprobook: 2 of 4 jobs failed")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("toi", "--seeds", "0:2"), "unknown chapter 'toi'"),
        (("toy",), "say which seeds"),
        (("toy", "--seeds", "2:0"), "holds no seed"),
        (("toy", "--seeds", "0:2", "--grid", "scale"), "--grid takes a name and values"),
        (("toy", "--seeds", "0:2", "--grid", "scal=1"), "did you mean 'scale'"),
        (("toy", "--seeds", "0:2", "--notebook", "tay"), "unknown notebook 'toy/tay'"),
        (("toy", "--seeds", "0:2", "--workers", "-1"), "--workers must be at least 1"),
        (("toy", "--seeds", "0:2", "--workers", "999"), "more than this machine's"),
        (("toy", "--seeds", "0:2", "--threads", "0"), "threads must be a whole number from 1"),
        (("toy", "--seeds", "0:2", "--workers", "1", "--scheduler", "tcp://x:1"), "exclude each other"),
        (("toy", "--seeds", "0:2", "--slurm", "no.yml"), "no.yml: cannot be read"),
        (("toy", "--seeds", "0:2", "--scheduler", "tcp://127.0.0.1:9"), "no scheduler answers"),
        (("toy", "--seeds", "0:2", "--scheduler", "nonsense"), "no scheduler answers"),
        (("no.yml",), "no.yml: cannot be read"),
        (("no.yml", "--notebook", "toy"), "leave out --notebook"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(book, words, says):
    from reprobook.cli import main

    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr(
            "reprobook.cli._say", lambda message, code: lines.append(" ".join(message.split())) or code
        )
        assert main(["sweep", *words, "--out", str(book / "out")]) == 1
    assert len(lines) == 1
    assert says in lines[0]


def test_a_plan_is_shown_and_nothing_is_run(book, reprobook, tmp_path):
    (tmp_path / "table.yml").write_text("notebooks: [toy]\nseeds: 0:2\ntier: smoke\n")
    (tmp_path / "slurm.yml").write_text("jobs: 5\ncores: 4\nmemory: 8GB\nqueue: short\n")
    done = reprobook(
        "sweep", str(tmp_path / "table.yml"), "--dry-run", "--slurm", str(tmp_path / "slurm.yml")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "toy (smoke; num_seeds = 1)\ntoy (smoke; seed = 1, num_seeds = 1)\n2 jobs\n"
    )
    assert "SLURM is asked 5 times for:" in done.stdout
    assert "#SBATCH -p short" in done.stdout
    assert not (book / "_runs").exists()


# --------------------------------------------------------------------------- a cluster


class Cluster:
    """A scheduler and three workers, started as on a cluster: each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        quiet = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s", "PYTHONWARNINGS": "ignore"}
        self.environment = {k: v for k, v in os.environ.items() if k != "REPROBOOK_ROOT"} | quiet
        place = folder / "scheduler.json"
        words = (
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--dashboard-address",
            "127.0.0.1:0",
            "--scheduler-file",
        )
        self.scheduler = self._start("dask_scheduler", *words, str(place))
        self.address = json.loads(soon(lambda: place.exists() and place.read_text()))["address"]
        for number in range(3):
            self.add(f"w{number}")

    def add(self, name: str, *words: str) -> subprocess.Popen:
        """Start a worker; without a nanny, so that nobody starts it again."""
        own = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name, "--death-timeout", "10")
        place = ("--local-directory", str(self.folder), "--memory-limit", "0")
        worker = self._start("dask_worker", self.address, *own, *place, *words)
        self.workers.append(worker)
        return worker

    def _start(self, module: str, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *words]
        nothing = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=self.environment, stdout=nothing, stderr=nothing, cwd=self.folder
        )

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(book, tmp_path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()
    soon(lambda: not notebook_processes(book))


def test_a_cluster_runs_a_sweep_and_survives_the_death_of_a_worker(book, cluster):
    """One of three workers is killed in the middle of a job; another does that job again."""
    import threading

    sweep = Sweep(["toy"], "0:2", tier="smoke", cells=[{"trouble": "none"}, {"trouble": "wait"}], retries=1)
    out, summaries = book / "out", []
    thread = threading.Thread(
        target=lambda: summaries.append(run_sweep(sweep, out, Remote(cluster.address), show=False))
    )
    thread.start()
    soon(lambda: len(list(out.glob("toy/*.json"))) == 2 and len(waiting(out)) == 2)
    busy = soon(lambda: [w for w in cluster.workers if psutil.Process(w.pid).children(recursive=True)])
    busy[0].kill()
    soon(lambda: any(mark.read_text().startswith("1 ") for mark in waiting(out)))  # the job's second attempt
    (out / FOLDER / STOP).touch()  # enough of waiting
    thread.join(timeout=60)
    [summary] = summaries
    assert summary.finished == 2
    assert sorted(summary.failures.values()) == ["the sweep was stopped"] * 2
    assert len(list(out.glob("toy/*.ipynb"))) == 2


def test_a_lost_scheduler_is_told_and_what_is_finished_stays(book, cluster):
    out = book / "out"
    words = ("sweep", "toy", "--seeds", "0", "--tier", "smoke", "--out", str(out))
    with started(book, *words, "--grid", "trouble=none,wait", "--scheduler", cluster.address) as process:
        soon(lambda: len(list(out.glob("toy/*.json"))) == 1 and waiting(out))
        cluster.scheduler.kill()
        _, error = process.communicate(timeout=60)
    last = error.strip().splitlines()[-1]
    assert process.returncode == 1, error
    assert last.startswith(
        "reprobook: the scheduler is lost: 1 of 2 jobs finished, 1 left; start the same"
    ), error
    assert names(out) == ["smoke-num_seeds=1.ipynb", "smoke-num_seeds=1.json"]


def test_a_worker_has_to_declare_what_a_job_takes(book, cluster):
    sweep = Sweep(["toy"], "0", tier="smoke", threads=2)
    with pytest.raises(
        UserError, match=r"declares threads=2: start one with 'dask worker tcp://.*threads=2'"
    ):
        run_sweep(sweep, book / "out", Remote(cluster.address), show=False)
    cluster.add("large", "--resources", "threads=2")
    soon(lambda: _declared(cluster.address))
    done = run_sweep(sweep, book / "out", Remote(cluster.address), show=False)
    assert (done.finished, done.failures) == (1, {})


def _declared(address: str) -> bool:
    from distributed import Client

    with Client(address, timeout=10) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        return any(w["resources"].get("threads") == 2 for w in workers)


def test_a_killed_local_worker_is_replaced_and_its_job_given_up_after_its_retries(book):
    """Every attempt at the job kills its worker; the other job is none the worse."""
    import threading

    out, summaries = book / "out", []
    sweep = Sweep(["toy"], "0", tier="smoke", cells=[{"trouble": "none"}, {"trouble": "wait"}], retries=1)
    thread = threading.Thread(target=lambda: summaries.append(run_sweep(sweep, out, Local(2), show=False)))
    thread.start()
    killed = 0
    while thread.is_alive():
        for mark in waiting(out):
            with suppress(OSError, psutil.Error, IndexError):
                number = mark.read_text().split()[0]
                if "wait" in mark.name and number == str(killed) and notebook_processes(book):
                    soon((book / "chapters" / "toy" / "waiting").exists)
                    (book / "chapters" / "toy" / "waiting").unlink()
                    owner = next(p for p in notebook_processes(book) if _runs_wait(p))
                    owner.parent().kill()
                    killed += 1
        time.sleep(0.1)
    [summary] = summaries
    assert killed == 2
    assert summary.finished == 1
    assert list(summary.failures.values()) == ["its worker died, 2 times"]
    soon(lambda: not notebook_processes(book))


def _runs_wait(process: psutil.Process) -> bool:
    order = json.loads((Path(process.cmdline()[-1]) / "job.json").read_text())
    return order["parameters"].get("trouble") == "wait"


# --------------------------------------------------------------------------- what comes out


@pytest.fixture
def report(sweep_book, tmp_path) -> Path:
    """A sweep with four finished jobs and two that failed, and its report."""
    from reprobook.sweeps.reporting import write_report

    folder = tmp_path / "sweep"
    shutil.copytree(sweep_book / "failing", folder)
    assert [p.name for p in write_report(folder)] == [
        "report.ipynb",
        "report.html",
        "table.csv",
        "table.parquet",
    ]
    return folder


def test_the_table_has_a_row_for_every_job_and_claim_and_for_every_failure(report):
    import pandas

    table, same = pandas.read_parquet(report / "table.parquet"), pandas.read_csv(report / "table.csv")
    assert list(table.columns) == list(same.columns)
    assert len(table) == len(same) == 4 * 2 + 2
    for record in (read_record(p) for p in report.glob("toy/*1.ipynb")):
        rows = table[(table["stamp"] == record.stamp) & (table["claim"] == "mean-is-a-half")]
        [part] = next(c for c in record.claims if c["id"] == "mean-is-a-half")["parts"]
        assert rows["value"].tolist() == [part["value"]]
        assert rows["p.scale"].tolist() == [record.parameters["scale"]]
        assert rows["version.torch"].tolist() == [record.versions["torch"]]
        assert rows["wall_seconds"].tolist() == [record.wall_seconds]
    failed = table[table["status"] == "failed"]
    assert failed["error"].str.contains("ZeroDivisionError").all()
    assert failed["claim"].isna().all()


def test_the_report_shows_claims_over_seeds_curves_and_failures_and_needs_no_network(report):
    from bs4 import BeautifulSoup

    text = (report / "report.html").read_text()
    page = BeautifulSoup(text, "html.parser")
    words = " ".join(page.get_text().split())
    assert "2 seeds, 0 to 1" in words
    assert "2 jobs failed, 0 never ran to an end" in words
    assert "scale = 0.5: 2 seeds: 1 reproduced, 1 inconclusive" in words
    assert "smoke-num_seeds=1-trouble=fail" in words
    assert len(page.find_all("img")) == 2  # the spread, and the curve against the scale
    assert all(image["src"].startswith("data:") for image in page.find_all("img"))
    assert not re.search(r"(src|href)=.https?:", re.sub(r"arxiv", "", text))
    assert not page.find_all("script", src=True)
    assert str(report) not in text


def test_estimates_of_the_report_are_over_all_seeds(report):
    import random

    from reprobook.stats import mean
    from reprobook.sweeps.results import read_results

    results = read_results(report)
    assert results.settings == [{"scale": 0.5}, {"scale": 1.0}]
    assert results.seeds("toy", {"scale": 1.0}) == [0, 1]
    draws = [random.Random(seed).random() for seed in (0, 1)]
    pooled = results.pooled("toy", {"scale": 1.0})["mean-is-a-half"].parts[""]
    expected = mean(draws)
    assert (pooled.n, pooled.value) == (2, pytest.approx(expected.value, rel=1e-12))
    assert (pooled.low, pooled.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_stale_results_count_nowhere(report, sweep_book, tmp_path, monkeypatch):
    from reprobook.sweeps.results import read_results

    shutil.copytree(os.environ["REPROBOOK_ROOT"], tmp_path / "edited")
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path / "edited"))
    edit_cell(tmp_path / "edited" / "chapters" / "toy" / "toy.ipynb", "draw", "drawing", "painting")
    with pytest.raises(UserError, match=r"no job of the sweep in .* has finished: 2 failed, 4 are stale"):
        read_results(report)


def test_a_whole_sweep_over_seeds_is_recorded_and_another_is_not(sweep_book, report, executed_book):
    from reprobook.overview import chapters_in_book, overview
    from reprobook.sweeps.reporting import record_sweep

    with pytest.raises(UserError, match="2 jobs failed and 0 are left: only a whole sweep is recorded"):
        record_sweep(report)
    with pytest.raises(UserError, match="the sweep changed scale: only one that changes nothing but seeds"):
        record_sweep(sweep_book / "out")
    out = executed_book / "out"
    run_sweep(Sweep(["toy"], "0:4", tier="smoke", seeds_per_job=2), out, Local(2), show=False)
    [path] = record_sweep(out)
    assert path == executed_book / "chapters" / "toy" / "sweeps" / "toy-smoke.jsonl"
    [sweep] = overview("toy", chapters_in_book()["toy"]).sweeps
    assert (sweep.num_seeds, sweep.tier, sweep.stale, len(sweep.records)) == (4, "smoke", False, 2)
    assert sweep.results["all-are-small"].parts[""].n == 4
    chapter = overview("toy", chapters_in_book()["toy"])
    box = "".join(cards.verdict_box(chapter, "chapters/toy/toy", lambda page, anchor: f"{page}#{anchor}"))
    assert (
        "<a href='chapters/toy/toy#seeds-smoke'>Over 4 seeds</a>: 1 ✓ reproduced, 1 ✗ not reproduced" in box
    )
    shown = cards.recorded_sweep(chapter.sweeps[0])
    assert "id='seeds-smoke-claim-all-are-small'" in shown
    assert shown.count("<svg class='rb-strip'") == 1  # half of the draws are small in either job
    assert shown.count("<circle") == 2
    row = cards.scoreboard([chapter], lambda page, anchor: f"{page}#{anchor}")
    assert "chapters/toy/toy#seeds-smoke-claim-mean-is-a-half" in row
    assert "4 seeds · smoke" in row
    edit_cell(executed_book / "chapters" / "toy" / "toy.ipynb", "draw", "drawing", "painting")
    assert overview("toy", chapters_in_book()["toy"]).sweeps[0].stale


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "holds no sweep"), ("{", "sweep.json is broken"), ('{"jobs": [], "failures": {}}', "0 are left")],
)
def test_a_folder_without_a_sweep_is_told(book, tmp_path, reprobook, text, says):
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    done = reprobook("report", str(tmp_path))
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
