"""What the page on sweeps says is so: its commands, its files, its Python."""

import re
import shlex
from pathlib import Path

import pytest

from reprobook.cli import main
from reprobook.sweeps import Slurm, Sweep, read_sweep

PAGE = (Path(__file__).resolve().parents[1] / "book" / "sweeps.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
FILES = {text.partition("\n")[0][2:]: text for kind, text in BLOCKS if kind == "yaml"}
SWEEPS = [c for c in COMMANDS if c.startswith("reprobook sweep")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROBOOK_ROOT", str(Path(__file__).resolve().parents[1]))
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


def test_the_page_has_commands_and_files():
    assert len(SWEEPS) >= 6
    assert sorted(FILES) == ["reviews.yml", "slurm.yml"]


@pytest.mark.parametrize("command", dict.fromkeys(SWEEPS))
def test_a_command_of_the_page_plans_its_jobs(files, capsys, command):
    words = [w for w in shlex.split(command)[1:] if w != "--dry-run"]
    assert main([*words, "--dry-run"]) == 0
    assert re.search(r"^\d+ jobs$", capsys.readouterr().out, re.MULTILINE)


def test_the_files_of_the_page_are_read(files):
    assert len(read_sweep("reviews.yml").settings()) == 4
    with Slurm.read("slurm.yml").cluster(1, False) as cluster:
        script = cluster.job_script()
    for line in ("-p normal", "-A my-account", "--cpus-per-task=8", "-t 04:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "--nworkers 8 " in script


def test_the_python_of_the_page_runs_to_where_the_jobs_would_start(files, monkeypatch):
    [source] = [text for kind, text in BLOCKS if kind == "python"]
    seen = []

    def stop(sweep: Sweep, out, engine):
        seen.append(sweep.jobs())
        raise KeyboardInterrupt

    monkeypatch.setattr("reprobook.sweeps.run_sweep", stop)
    with pytest.raises(KeyboardInterrupt):
        exec(compile(source, "page", "exec"), {"__name__": "__main__"})
    assert len(seen[0]) == 8


def test_every_option_of_the_command_is_on_the_page():
    import inspect

    from reprobook.cli_sweep import sweep

    words = " ".join(str(p.annotation) for p in inspect.signature(sweep).parameters.values())
    options = re.findall(r"(?<=['\"])--[a-z-]+(?=['\"])", words)
    missing = [o for o in options if o not in PAGE and o != "--parameter"]  # which is -p there
    assert missing == []
    assert len(options) > 10
