"""What a sweep is: seeds, grids, cells and files, and the jobs that follow from them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobook.claims import load_claims
from reprobook.errors import UserError
from reprobook.jobs import plan
from reprobook.stats import STATISTICS, Estimate, estimate
from reprobook.sweeps import Local, Slurm, Sweep, read_sweep
from reprobook.sweeps.design import parse_grid, parse_seeds
from reprobook.sweeps.engines import cores
from reprobook.sweeps.pooling import pool, pooled_results


def seeds_of(jobs) -> list[tuple[int, int]]:
    return [(job.parameters["seed"], job.parameters["num_seeds"]) for job in jobs]


# --------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:3", [0, 1, 2]), ("4:5", [4]), ("7", [7]), (3, [3]), ("5,0, 9", [5, 0, 9])]
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3:", ":3", "-1:2", "1.5", "0:4:2", "1,,2"])
def test_what_are_no_seeds_is_refused_with_an_example(text):
    with pytest.raises(UserError, match="are no seeds: write 0:20"):
        parse_seeds(text)


def test_an_empty_range_of_seeds_is_refused():
    with pytest.raises(UserError, match="'5:5' holds no seed"):
        parse_seeds("5:5")


def test_a_grid_holds_numbers_words_and_lists():
    grid = parse_grid(["lam=0.1,1e-3,1", "kind=none,fail", "hidden=[4, 8],[15]"])
    assert grid == {"lam": [0.1, 0.001, 1], "kind": ["none", "fail"], "hidden": [[4, 8], [15]]}


@pytest.mark.parametrize("entry", ["lam", "lam=", "=1"])
def test_a_grid_without_name_or_values_is_refused(entry):
    with pytest.raises(UserError, match="--grid takes a name and values"):
        parse_grid([entry])


def test_a_grid_with_a_parameter_twice_is_refused():
    with pytest.raises(UserError, match="sets 'lam' twice"):
        parse_grid(["lam=1", "lam=2"])


# --------------------------------------------------------------------------- jobs


def test_jobs_are_the_product_of_cells_grid_and_seeds(book):
    cells = [{"trouble": "none"}, {"trouble": "fail"}]
    jobs = Sweep(["toy"], "0:3", grid={"scale": [0.5, 2.0]}, cells=cells).jobs()
    found = [(j.parameters["trouble"], j.parameters["scale"], j.parameters["seed"]) for j in jobs]
    assert found == [(t, s, seed) for t in ("none", "fail") for s in (0.5, 2.0) for seed in range(3)]
    assert len({job.name for job in jobs}) == len({job.stamp for job in jobs}) == 12


def test_a_job_of_a_sweep_is_the_job_of_a_run_with_its_parameters(book):
    job = Sweep(["toy"], "4", tier="smoke", parameters={"scale": 2.0}).jobs()[0]
    assert job == plan("toy", "smoke", {"seed": 4, "num_seeds": 1, "scale": 2.0})


@pytest.mark.parametrize(
    ("per_job", "blocks"),
    [
        (None, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]),
        (3, [(0, 3), (3, 3), (6, 1)]),
        (50, [(0, 7)]),
        ("tier", [(0, 5), (5, 2)]),  # five is what the smoke tier runs
    ],
)
def test_seeds_are_divided_into_jobs(book, per_job, blocks):
    assert seeds_of(Sweep(["toy"], "0:7", tier="smoke", seeds_per_job=per_job).jobs()) == blocks


def test_a_notebook_that_needs_several_seeds_gets_as_few_as_it_takes(book, toy):
    text = (toy / "toy.ipynb").read_text()
    (toy / "toy.ipynb").write_text(text.replace("[1 .. 1000]", "[2 .. 1000]"))
    assert seeds_of(Sweep(["toy"], "0:6").jobs()) == [(0, 2), (2, 2), (4, 2)]
    with pytest.raises(UserError, match="at least 2 seeds a job, and 5 seeds in jobs of 2 leave 1 over"):
        Sweep(["toy"], "0:5").jobs()
    with pytest.raises(UserError, match=r"2 consecutive seeds a job, which \[1, 3\] are not"):
        Sweep(["toy"], "1,3").jobs()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": "0,0"}, "seeds must be different"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [-1]}, "whole numbers from 0"),
        ({"notebooks": []}, "at least one name"),
        ({"threads": 0}, "threads must be a whole number from 1, not 0"),
        ({"retries": -1}, "retries must be a whole number from 0, not -1"),
        ({"retries": True}, "retries must be a whole number"),
        ({"seeds_per_job": 0}, "seeds_per_job must be a whole number from 1"),
        ({"seeds_per_job": "all"}, "seeds_per_job must be"),
        ({"time_limit": 0}, "time_limit must be a number above 0, not 0"),
        ({"memory_limit": -5}, "memory_limit must be a number above 0, not -5"),
        ({"grid": {"scale": []}}, "needs a list with at least one value"),
        ({"grid": {"scale": [1, 1]}}, "a value of 'scale' twice"),
        ({"grid": {"scale": [1]}, "parameters": {"scale": 2}}, "'scale' is set twice"),
        ({"grid": {"seed": [1]}}, "'seed' follows from seeds"),
        ({"parameters": {"num_seeds": 3}}, "'num_seeds' follows from seeds"),
        ({"cells": ["scale"]}, "every cell must be a mapping"),
    ],
)
def test_a_mistake_in_a_sweep_is_named(change, says):
    with pytest.raises(UserError, match=says):
        Sweep(**({"notebooks": ["toy"], "seeds": "0:2"} | change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"notebooks": ["toi"]}, "unknown chapter 'toi'"),
        ({"notebooks": ["toy/other"]}, "unknown notebook 'toy/other'"),
        ({"tier": "huge"}, "no tier 'huge'"),
        ({"grid": {"scales": [1]}}, "unknown parameter 'scales'; did you mean 'scale'"),
        ({"grid": {"scale": [99]}}, "scale"),
        ({"parameters": {"device": "cuda:77"}}, "cuda"),
    ],
)
def test_a_sweep_of_what_the_book_does_not_have_is_refused_before_anything_runs(book, change, says):
    with pytest.raises(UserError, match=says):
        Sweep(**({"notebooks": ["toy"], "seeds": "0:2"} | change)).jobs()


def test_another_machine_may_have_the_device_that_this_one_lacks(book):
    jobs = Sweep(["toy"], "0:2", parameters={"device": "cuda:77"}).jobs(elsewhere=True)
    assert {job.parameters["device"] for job in jobs} == {"cuda:77"}


# --------------------------------------------------------------------------- files


def test_a_file_says_the_same_as_the_arguments(book, tmp_path):
    (tmp_path / "table.yml").write_text(
        "notebooks: [toy]\nseeds: 0:2\ntier: smoke\ngrid: {scale: [0.5, 1e0]}\nretries: 3\n"
    )
    assert read_sweep(tmp_path / "table.yml") == Sweep(
        ["toy"], "0:2", tier="smoke", grid={"scale": [0.5, 1.0]}, retries=3
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a list", "must be YAML with the keys notebooks, seeds"),
        ("notebooks: [toy", "must be YAML with the keys"),
        ("notebooks: [toy]", "key 'seeds' is missing"),
        ("notebooks: [toy]\nseeds: 0:2\nseed: 1", "unknown key 'seed'"),
        ("notebooks: toy\nseeds: 0:2", "'notebooks' must be a list"),
        ("notebooks: [toy]\nseeds: 0:2\ngrid: 3", "'grid' must be a mapping"),
        ("notebooks: [toy]\nseeds: 0:2\nretries: x", "retries must be a whole number"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "table.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        read_sweep(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"table.yml: cannot be read"):
        read_sweep(tmp_path / "table.yml")


# --------------------------------------------------------------------------- machines


def test_workers_never_share_a_core():
    here = cores()
    assert Local().count(1, gpu=False) == here
    assert Local().count(here, gpu=False) == 1
    with pytest.raises(UserError, match=f"{here + 1} workers of 1 thread are more than this machine's"):
        Local(here + 1).count(1, gpu=False)
    with pytest.raises(UserError, match=r"2 workers of .* are more than this machine's"):
        Local(2).count(here, gpu=False)
    with pytest.raises(UserError, match="--workers must be at least 1"):
        Local(0).count(1, gpu=False)


SLURM = {"jobs": 3, "cores": 8, "memory": "16GB", "queue": "normal", "walltime": "02:00:00"}


def script(options, threads: int, gpu: bool) -> str:
    with Slurm(options).cluster(threads, gpu) as cluster:
        return cluster.job_script()


def test_slurm_is_asked_for_the_cores_and_runs_one_job_a_process():
    text = script(SLURM | {"account": "physics"}, threads=2, gpu=False)
    for line in ("-p normal", "-A physics", "--cpus-per-task=8", "-t 02:00:00", "--mem=15G"):
        assert f"#SBATCH {line}\n" in text
    command = text.strip().splitlines()[-1]
    assert "--nthreads 1 " in command
    assert "--nworkers 4 " in command
    assert command.endswith("--resources threads=2")


def test_slurm_gives_every_process_a_gpu():
    text = script(SLURM | {"gpus": 2}, threads=2, gpu=True)
    assert "#SBATCH --gres=gpu:2\n" in text
    assert "--nworkers 2 " in text
    assert text.strip().endswith("--resources threads=2,GPU=1")


def test_slurm_jobs_too_small_for_a_job_are_refused():
    with pytest.raises(UserError, match="8 cores and 0 GPUs cannot run a job"):
        Slurm(SLURM).cluster(16, False)
    with pytest.raises(UserError, match="8 cores and 0 GPUs cannot run a job"):
        Slurm(SLURM).cluster(1, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be YAML with the keys jobs, cores"),
        ("cores: 8\nmemory: 8GB", "'jobs' must be a whole number from 1"),
        ("jobs: 0\ncores: 8\nmemory: 8GB", "'jobs' must be a whole number from 1"),
        ("jobs: 1\ncores: 8", "'memory' is missing"),
        ("jobs: 1\ncores: 8\nmemory: 8GB\npartition: x", "unknown key 'partition'; allowed are jobs"),
    ],
)
def test_a_broken_slurm_file_is_named_with_what_is_wrong(tmp_path, text, says):
    (tmp_path / "slurm.yml").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Slurm.read(tmp_path / "slurm.yml")
    assert "slurm.yml" in str(caught.value)


def test_a_machine_without_slurm_says_so(book, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no command 'sbatch'"), Slurm(SLURM).client(1, False, 1):
        pass


# --------------------------------------------------------------------------- pooling


def close(a: Estimate, b: Estimate) -> bool:
    numbers = zip((a.value, a.low, a.high), (b.value, b.low, b.high), strict=True)
    return (a.statistic, a.n) == (b.statistic, b.n) and all(
        x == y or math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9) for x, y in numbers
    )


@given(
    st.sampled_from(sorted(STATISTICS)),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(0, 10**6),
)
def test_pooled_estimates_are_those_of_all_values_together(statistic, sizes, seed):
    chance = random.Random(seed)
    hits = statistic in ("fraction", "every")
    values = [[chance.random() < 0.7 if hits else chance.gauss(3, 2) for _ in range(n)] for n in sizes]
    together = pool([estimate(statistic, v) for v in values])
    assert close(together, estimate(statistic, [x for v in values for x in v]))


def test_a_mean_that_no_seed_changes_is_counted_once():
    again = estimate("mean", [1.0, 2.0, 3.0])
    assert pool([again] * 7) == again
    assert pool([estimate("mean", [2.0])] * 3) == Estimate("mean", 2.0, 2.0, 2.0, 3)
    assert pool([estimate("every", [True])] * 3).n == 3


def test_different_statistics_are_not_pooled():
    with pytest.raises(ValueError, match="cannot pool"):
        pool([estimate("mean", [1.0]), estimate("largest", [1.0])])
    with pytest.raises(ValueError, match="exactly one is needed"):
        pool([])


def test_jobs_together_say_what_one_run_over_all_seeds_says(finished_blocks, toy_sheet):
    records, whole = finished_blocks
    pooled = pooled_results(records, toy_sheet)
    alone = {r.claim.id: r for r in whole.results() if r.parts}
    assert list(pooled) == list(alone) == ["mean-is-a-half", "all-are-small"]
    for claim, result in pooled.items():
        assert close(result.parts[""], alone[claim].parts[""])
        assert result.verdict is alone[claim].verdict


@pytest.fixture
def toy_sheet(book):
    return load_claims(book / "chapters" / "toy" / "claims.yml")


@pytest.fixture
def finished_blocks(book, toy_sheet):
    """Records of three jobs of 2, 4 and 1 seeds, and of one job of all seven; measured without a kernel."""
    from dataclasses import replace

    from reprobook.claims import judge, results_to_data
    from reprobook.records import SCHEMA, Record

    def record(seed: int, n: int) -> Record:
        draws = [random.Random(s).random() for s in range(seed, seed + n)]
        measured = {"mean-is-a-half": draws, "all-are-small": [d < 0.5 for d in draws]}
        claims = results_to_data([judge(toy_sheet.claims[i], v) for i, v in measured.items()])
        job = plan("toy", "smoke", {"seed": seed, "num_seeds": n})
        empty = dict.fromkeys(("started", "machine", "device", "commit", "error"), "")
        words = {"status": "finished", "wall_seconds": 0.0, "peak_memory_mib": 0.0, "versions": {}}
        kept = {"chapter": job.chapter, "tier": job.tier, "parameters": job.parameters, "stamp": job.stamp}
        return replace(Record(SCHEMA, **kept, **words, **empty, claims=claims), error=None)

    return [record(0, 2), record(2, 4), record(6, 1)], record(0, 7)


def test_a_parameter_given_twice_is_refused(book, capsys):
    from reprobook.cli import main

    words = ["sweep", "toy", "--seeds", "0:2", "-p", "scale", "1", "-p", "scale", "2", "--dry-run"]
    assert main(words) == 2
    assert "-p sets 'scale' twice" in capsys.readouterr().err
