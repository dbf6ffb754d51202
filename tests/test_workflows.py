"""The workflows: valid, pinned, with few rights, and calling only what exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from reprobook.cli import app
from reprobook.jobs import tiers
from reprobook.paths import chapter_slugs, notebook_names

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").iterdir())
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in FILES}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = [(file, name, job) for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()]
STEPS = [(file, name, step) for file, name, job in JOBS for step in job["steps"]]
RUNS = [(file, step["run"]) for file, _, step in STEPS if "run" in step]
#: What the deployment may do beyond reading, and no other job.
RIGHTS = {("book.yml", "deploy"): {"pages": "write", "id-token": "write"}}


def triggers(name: str) -> dict:
    """Return what starts a workflow; YAML 1.1 takes the key ``on`` for a truth value."""
    return WORKFLOWS[name][True]


def job(file: str, name: str) -> dict:
    return WORKFLOWS[file]["jobs"][name]


def shell(file: str, word: str) -> str:
    """Return the one step of a workflow with a certain word."""
    (found,) = [run for name, run in RUNS if name == file and word in run]
    return found


def test_there_are_three_workflows():
    assert set(WORKFLOWS) == {"test.yml", "book.yml", "weekly.yml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_keeps_to_the_schema(file):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    words = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(file),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_one_exact_commit_with_its_version_beside_it(name):
    used = [line.strip() for line in TEXTS[name].splitlines() if re.search(r"\buses:", line)]
    assert len(used) == sum("uses" in step for file, _, step in STEPS if file == name) > 0
    exact = re.compile(r"(- )?uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in used if not exact.fullmatch(line)] == []


def test_an_action_has_the_same_commit_everywhere():
    used = {step["uses"] for _, _, step in STEPS if "uses" in step}
    names = [action.partition("@")[0] for action in used]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}


def test_a_job_has_more_rights_only_to_deploy():
    assert {(file, name): job["permissions"] for file, name, job in JOBS if "permissions" in job} == RIGHTS


def test_no_workflow_uses_secrets_or_keeps_the_token():
    assert [name for name, text in TEXTS.items() if re.search(r"secrets|pull_request_target", text)] == []
    checkouts = [step for _, _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 4
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_from_outside_is_pasted_into_a_shell():
    assert [(file, run) for file, run in RUNS if "${{" in run] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_says_what_happens_to_two_runs_at_once(name):
    assert set(WORKFLOWS[name]["concurrency"]) == {"group", "cancel-in-progress"}


def test_every_job_ends_in_time():
    assert [(f, n) for f, n, job in JOBS if not 0 < job.get("timeout-minutes", 0) <= 90] == []


# --------------------------------------------------------------------------- what they call


def test_every_target_of_make_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    called = {target for _, run in RUNS for target in re.findall(r"\bmake (\S+)", run)}
    assert {"setup", "lint", "test", "book"} == called
    assert called <= phony
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in called)


def test_every_command_of_reprobook_exists():
    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    scripts = [ROOT / path for _, run in RUNS for path in re.findall(r"\bpython (\S+\.py)", run)]
    assert scripts and all(script.is_file() for script in scripts)
    texts = [run for _, run in RUNS] + [script.read_text(encoding="utf-8") for script in scripts]
    called = {w for text in texts for w in re.findall(r"(?:\breprobook |\"reprobook\.cli\", \")(\w+)", text)}
    assert "run" in called
    assert called <= commands


@pytest.mark.parametrize(("file", "run"), RUNS, ids=[f"{file}-{n}" for n, (file, _) in enumerate(RUNS)])
def test_every_step_is_a_script_that_the_shell_understands(file, run):
    done = subprocess.run(["bash", "-n"], input=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------- what they cover


def test_the_tests_run_on_every_python_and_system_of_the_book():
    matrix = job("test.yml", "test")["strategy"]["matrix"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    allowed = SpecifierSet(next(line for line in conda if str(line).startswith("python ")).partition(" ")[2])
    assert matrix["python"] == [f"3.{n}" for n in range(30) if f"3.{n}" in allowed]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'requires-python = ">=(\S+)"', project)[1] == matrix["python"][0]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos"}
    assert set(triggers("test.yml")) >= {"push", "pull_request"}


@pytest.mark.parametrize(("file", "name"), [("test.yml", "test"), ("book.yml", "build")])
def test_what_pip_fetched_is_kept_as_long_as_the_lock_stays(file, name):
    (setup,) = [s["with"] for s in job(file, name)["steps"] if "actions/setup-python@" in s.get("uses", "")]
    assert (setup["cache"], setup["cache-dependency-path"]) == ("pip", "requirements.lock")


def test_the_book_is_published_from_main_alone():
    on = triggers("book.yml")
    assert set(on) == {"push", "workflow_dispatch"}
    assert on["push"] == {"branches": ["main"]}
    assert job("book.yml", "build")["if"] == "github.ref == 'refs/heads/main'"
    assert job("book.yml", "deploy")["needs"] == "build"
    assert job("book.yml", "deploy")["environment"]["name"] == "github-pages"


def test_the_weekly_run_starts_once_a_week_without_lock_or_cache():
    (schedule,) = triggers("weekly.yml")["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])
    steps = [step for file, _, step in STEPS if file == "weekly.yml"]
    assert not any("requirements.lock" in step.get("run", "") for step in steps)
    assert not any("cache" in step.get("with", {}) for step in steps)
    assert "--upgrade-strategy eager" in shell("weekly.yml", "pip install")


def test_the_weekly_run_finds_every_chapter_and_none_stops_another(tmp_path):
    output = tmp_path / "output"
    found = shell("weekly.yml", "GITHUB_OUTPUT")
    environment = os.environ | {"GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-e", "-c", found], cwd=ROOT, env=environment, check=True)
    name, _, value = output.read_text(encoding="utf-8").strip().partition("=")
    assert name == "slugs"
    assert json.loads(value) == chapter_slugs()
    strategy = job("weekly.yml", "rerun")["strategy"]
    assert strategy["fail-fast"] is False
    assert strategy["matrix"]["chapter"] == "${{ fromJSON(needs.chapters.outputs.slugs) }}"


def test_the_weekly_run_asks_for_tiers_that_every_notebook_has():
    words = shell("weekly.yml", ".github/weekly.py").split(">>")[0].split()
    asked = words[words.index('"$CHAPTER"') + 1 :]
    assert asked == ["smoke", "laptop"]
    missing = [
        f"{slug}/{name}: {tier}"
        for slug in chapter_slugs()
        for name in notebook_names(slug)
        for tier in asked
        if tier not in tiers(f"{slug}/{name}")
    ]
    assert missing == []


def weekly(*words: str, book: Path) -> subprocess.CompletedProcess:
    """Run the script of the weekly run in a throw-away book."""
    library = {"PYTHONPATH": str(ROOT / "lib"), "REPROBOOK_ROOT": str(book)}
    command = [sys.executable, str(ROOT / ".github" / "weekly.py"), *words]
    return subprocess.run(
        command, cwd=book, env=os.environ | library, capture_output=True, text=True, check=False
    )


def test_the_summary_has_a_line_for_every_run_and_names_what_turned(executed_book):
    toy = executed_book / "chapters" / "toy" / "toy.ipynb"
    notebook = json.loads(toy.read_text(encoding="utf-8"))
    before = weekly("toy", "laptop", book=executed_book)
    assert before.returncode == 0, before.stderr
    (laptop,) = before.stdout.splitlines()[2:]
    assert laptop.startswith("| toy/toy | laptop | ✓ ")
    assert laptop.endswith("; as in the book |")
    record = notebook["metadata"]["reprobook"]
    record["claims"] = [claim for claim in record["claims"] if claim["id"] != "mean-is-a-half"]
    toy.write_text(json.dumps(notebook), encoding="utf-8")
    (after,) = weekly("toy", "laptop", book=executed_book).stdout.splitlines()[2:]
    assert after.endswith("; **turned:** mean-is-a-half: not attempted → reproduced |")


def test_a_run_that_fails_has_its_line_and_fails_the_step(executed_book):
    (executed_book / "chapters" / "toy" / "smoke.yml").write_text("trouble: fail\n", encoding="utf-8")
    done = weekly("toy", "smoke", book=executed_book)
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == ["| toy/toy | smoke | ✗ **failed** | see the log |"]
