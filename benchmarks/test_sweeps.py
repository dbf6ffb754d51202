"""What a sweep costs besides its jobs, and what a second worker is worth: run with ``make bench``.

A trivial job is a function in place of the notebook's run, so that scheduling, locks, marks and the wait for
results are all that is measured. Nothing else should run on the machine.
"""

import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from reprobook.execution import Limits
from reprobook.paths import book_root
from reprobook.sweeps import Local, Summary, Sweep, driving, run_sweep
from reprobook.sweeps.attempts import Order


def orders(out: Path, number: int) -> list[Order]:
    """Return orders for jobs that exist in name only."""
    names = [f"job-{i}" for i in range(number)]
    return [Order(".", str(out), "none", "smoke", {}, name, name, Limits(), retries=0) for name in names]


def drive(out: Path, number: int, work, workers: int, look=lambda client: None) -> float:
    """Drive trivial jobs through workers of this machine, and return the seconds from first to last."""
    (out / ".sweep").mkdir(exist_ok=True)
    summary = Summary(out, number)
    with pytest.MonkeyPatch.context() as patch, Local(workers).client(1, False, 0) as client:
        patch.setattr(driving, "attempt", work)
        began = time.perf_counter()
        driving._drive(client, orders(out, number), {}, summary, show=False)
        spent = time.perf_counter() - began
        look(client)
    assert summary.finished == number
    return spent


def sleeper(seconds: float):
    """Return a job that only waits; made here, so that workers get it by value."""

    def work(order):
        import time

        from reprobook.sweeps.attempts import Outcome, _alone, _Silent

        with _alone(order, _Silent(None)):
            time.sleep(seconds)
        return Outcome(order.key, True)

    work.__module__ = "__main__"
    return work


def test_overhead_of_ten_second_jobs(benchmark, tmp_path):
    spent = benchmark.pedantic(drive, args=(tmp_path, 6, sleeper(10.0), 2), rounds=1)
    overhead = spent / 30 - 1
    benchmark.extra_info["overhead, %"] = round(100 * overhead, 2)
    assert overhead < 0.05


def test_a_thousand_trivial_jobs(benchmark, tmp_path):
    seen = {}

    def look(client):
        with urlopen(client.dashboard_link) as page:
            seen["dashboard"] = page.status
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        seen["MiB"] = round(sum(p.memory_info().rss for p in family) / 2**20)

    spent = benchmark.pedantic(drive, args=(tmp_path, 1000, sleeper(0.0), 2, look), rounds=1)
    benchmark.extra_info |= seen | {"ms a job": round(spent, 2)}
    assert seen["dashboard"] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_on_a_smoke_tier(benchmark, tmp_path, workers):
    """Eight jobs of one chapter; compare the two rows."""
    sweep = Sweep(["dann"], "0:8", tier="smoke")
    assert book_root()
    done = benchmark.pedantic(
        run_sweep, args=(sweep, tmp_path, Local(workers)), kwargs={"show": False}, rounds=1
    )
    assert done.finished == 8


def test_planning_a_thousand_jobs(benchmark):
    jobs = benchmark(Sweep(["dann"], "0:1000", tier="smoke").jobs)
    assert len({job.stamp for job in jobs}) == 1000
