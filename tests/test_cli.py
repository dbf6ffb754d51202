"""The command line: what it prints, its exit codes, and one clear line for every mistake."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import add_second, command_environment, edit_cell, toy_cells, write_notebook
from reprobook import __version__
from reprobook.cli import main
from reprobook.progress import Bars, Channel, Lines, Progress, display_for


def lines(text: str) -> list[list[str]]:
    """Return the cells of a plain table, row by row."""
    return [re.split(r"\s{2,}", line) for line in text.splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --------------------------------------------------------------------------- help


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"reprobook {__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_names_every_command(capsys, words):
    assert main(words) == 0
    out = capsys.readouterr().out
    commands = re.findall(r"^  (\w+) {2,}[A-Z]", out.partition("Commands:")[2], re.MULTILINE)
    assert commands == ["list", "run", "parameters", "claims", "refresh", "sweep", "report", "data", "course"]
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", ["--tier", "--parameter", "--out", "--record", "--force", "--strict", "--params-help"]),
        ("parameters", ["--tier"]),
        ("claims", ["--verdict"]),
        ("refresh", ["--all"]),
        ("list", []),
    ],
)
def test_help_of_a_command_explains_every_option(capsys, command, options):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    explained = re.findall(r"^  (?:-\w, )?(--[a-z-]+)(?: [A-Z ]+?)? {2,}\S", out, re.MULTILINE)
    assert explained == [*options, "--help"]


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "tou"], 1, "unknown chapter 'tou'; the chapters are: toy"),
        (["run", "toy/extra"], 1, "unknown notebook 'toy/extra'; this chapter has: toy"),
        (["run", "toy", "--tier", "huge"], 1, "toy has no tier 'huge'; it has: laptop, paper, smoke"),
        (["run", "toy", "-p", "typo", "1"], 1, "unknown parameter 'typo' (this chapter has: seed, num_seeds"),
        (["run", "toy", "-p", "num_sed", "1"], 1, "unknown parameter 'num_sed'; did you mean 'num_seeds'?"),
        (
            ["run", "toy", "-p", "num_seeds", "0"],
            1,
            "num_seeds = 0 is not allowed; allowed: 1 .. 1000 (draws",
        ),
        (["run", "toy", "-p", "seed", "-3"], 1, "seed = -3 is not allowed; allowed: 0 .. (the first seed)"),
        (
            ["run", "toy", "-p", "num_seeds", "many"],
            1,
            "num_seeds = 'many' has the wrong type: int is needed",
        ),
        (["run", "toy", "-p", "num_seeds", "2.5"], 1, "num_seeds = 2.5 has the wrong type: int is needed"),
        (["run", "toy", "-p", "num_seeds", "[3]"], 1, "num_seeds = [3] has the wrong type: int is needed"),
        (["run", "toy", "-p", "scale", ".inf"], 1, "scale = inf is not a finite number"),
        (["run", "toy", "-p", "device", "gpu"], 1, "device = 'gpu' is not allowed; allowed: auto, cpu, cuda"),
        (
            ["run", "toy", "-p", "device", "cuda:9"],
            1,
            "device 'cuda:9' is not to be had: this machine has cpu",
        ),
        (["run", "toy", "--record"], 1, "the laptop tier is stored in the notebook itself"),
        (
            ["run", "toy", "--out", "/dev/null/x"],
            1,
            "cannot write to the folder /dev/null/x: Not a directory",
        ),
        (["claims", "tou"], 1, "unknown chapter 'tou'"),
        (
            ["claims", "--verdict", "fine"],
            1,
            "unknown verdict 'fine'; the verdicts are: reproduced, partly, not",
        ),
        (["refresh", "tou"], 1, "unknown chapter 'tou'"),
        (["parameters", "tou"], 1, "unknown chapter 'tou'"),
        (["run"], 2, "Missing argument 'SLUG' (see reprobook run --help)"),
        (["run", "toy", "-p", "seed"], 2, "Invalid value: -p takes a name and a value, got only 'seed'"),
        (["run", "toy", "-p", "seed", "1", "-p", "seed", "2"], 2, "Invalid value: -p sets 'seed' twice"),
        (["run", "toy", "--teir", "smoke"], 2, "No such option: --teir"),
        (["jump"], 2, "No such command 'jump'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_run(executed_book, capsys, monkeypatch, words, code, message):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    before = files(executed_book)
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"reprobook: {message}")
    assert err.count("\n") == 1
    assert files(executed_book) == before


def test_a_mistake_in_a_file_is_one_line_that_names_it(toy, capsys):
    (toy / "smoke.yml").write_text("num_sedes: 5\n")
    assert main(["run", "toy", "--tier", "smoke"]) == 1
    assert capsys.readouterr().err.startswith(
        "reprobook: toy/smoke.yml: unknown parameter 'num_sedes'; did you"
    )
    (toy / "claims.yml").write_text("paper: {}\n")
    assert main(["list"]) == 1
    assert capsys.readouterr().err.startswith("reprobook: toy/claims.yml: ")
    (toy / "toy.ipynb").write_text("{}")
    assert main(["run", "toy"]) == 1
    assert capsys.readouterr().err == "reprobook: toy: toy.ipynb is not a notebook\n"


def test_outside_of_a_book_the_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path))
    assert main(["list"]) == 1
    assert capsys.readouterr().err.startswith(f"reprobook: REPROBOOK_ROOT={tmp_path} is not a checkout")


# --------------------------------------------------------------------------- list, claims, parameters


def test_list_of_a_book_that_was_never_run(book, capsys):
    assert main(["list"]) == 0
    header, row = lines(capsys.readouterr().out)
    assert header == ["chapter", "title", "notebooks", "claims", "laptop", "state", "recorded runs"]
    assert row == ["toy", "A Toy Paper", "toy", "3 not attempted", "–", "never run", "none"]


def test_list_counts_verdicts_and_tells_what_is_stale(executed_book, capsys):
    notebook = executed_book / "chapters" / "toy" / "toy.ipynb"
    main(["list"])
    (_, row) = lines(capsys.readouterr().out)
    assert row[3] == "1 reproduced, 1 not reproduced, 1 not attempted"
    assert re.fullmatch(r"\d+(\.\d)? s", row[4])
    assert row[5:] == ["up to date", "none"]
    runs = notebook.parent / "runs"
    runs.mkdir()
    (runs / "paper.ipynb").write_bytes(notebook.read_bytes())
    edit_cell(notebook, "draw", "drawing", "painting")
    main(["list"])
    assert lines(capsys.readouterr().out)[1][5:] == ["stale", "paper (stale)"]


def test_a_chapter_without_a_notebook_is_not_listed_yet(book, capsys):
    other = book / "chapters" / "other"
    other.mkdir()
    (other / "claims.yml").write_bytes((book / "chapters" / "toy" / "claims.yml").read_bytes())
    assert main(["list"]) == 0
    assert [row[0] for row in lines(capsys.readouterr().out)] == ["chapter", "toy"]
    assert main(["claims", "other"]) == 1
    assert capsys.readouterr().err == "reprobook: chapter 'other' has no notebook yet\n"


def test_claims_shows_every_claim_of_every_run(executed_book, capsys):
    notebook = executed_book / "chapters" / "toy" / "toy.ipynb"
    (notebook.parent / "runs").mkdir()
    (notebook.parent / "runs" / "paper.ipynb").write_bytes(notebook.read_bytes())
    assert main(["claims"]) == 0
    rows = lines(capsys.readouterr().out)
    assert rows[0] == ["chapter", "run", "claim", "verdict", "measured", "criterion"]
    assert [row[:4] for row in rows[1:]] == [
        ["toy", run, claim, verdict]
        for run in ("laptop", "paper")
        for claim, verdict in (
            ("mean-is-a-half", "✓ reproduced"),
            ("all-are-small", "✗ not reproduced"),
            ("people-like-it", "– not attempted"),
        )
    ]
    assert rows[1][4:] == ["0.474 [0.397, 0.551] (n=50)", "mean in [-0.5, 1.5]"]
    assert rows[2][4:] == ["26 of 50 (n=50)", "every trial"]
    assert rows[3][4:] == ["There are no people here.", "–"]


def test_list_of_a_chapter_with_two_notebooks(pair, capsys):
    main(["list"])
    (_, row) = lines(capsys.readouterr().out)
    assert row[2] == "second, toy"
    assert row[3] == "3 reproduced, 1 not reproduced, 1 not attempted (1 from recorded runs)"
    assert row[5:] == ["up to date", "second-paper-many"]
    edit_cell(pair / "chapters" / "toy" / "second.ipynb", "draw", "drawing", "painting")
    main(["list"])
    assert lines(capsys.readouterr().out)[1][5:] == ["second stale", "second-paper-many (stale)"]
    (pair / "chapters" / "toy" / "runs" / "second-paper-many.ipynb").unlink()
    main(["list"])
    assert lines(capsys.readouterr().out)[1][3] == "2 reproduced, 1 not reproduced, 2 not attempted"


def test_what_only_a_recorded_run_tests_stands_there_alone_in_the_list_of_claims(pair, capsys):
    assert main(["claims"]) == 0
    rows = [row[1:4] for row in lines(capsys.readouterr().out)[1:]]
    assert [row for row in rows if row[1] in ("none-is-negative", "many-agree")] == [
        ["laptop", "none-is-negative", "✓ reproduced"],
        ["second-paper-many", "none-is-negative", "✓ reproduced"],
        ["second-paper-many", "many-agree", "✓ reproduced"],
    ]
    assert main(["claims", "toy/second"]) == 0
    assert [row[1:4] for row in lines(capsys.readouterr().out)[1:]] == rows[3:]
    assert main(["claims", "toy/toy", "--verdict", "reproduced"]) == 0
    assert [row[2] for row in lines(capsys.readouterr().out)[1:]] == ["mean-is-a-half"]
    assert main(["claims", "toy/third"]) == 1
    assert capsys.readouterr().err.startswith("reprobook: unknown notebook 'toy/third'; this chapter has: ")


def test_what_no_run_has_measured_yet_is_shown_as_not_attempted(pair, capsys):
    (pair / "chapters" / "toy" / "runs" / "second-paper-many.ipynb").unlink()
    assert main(["claims", "--verdict", "not attempted"]) == 0
    rows = lines(capsys.readouterr().out)[1:]
    assert [row[1:3] for row in rows] == [["laptop", "people-like-it"], ["laptop", "many-agree"]]


def test_parameters_are_those_of_the_notebook_at_its_own_tier(pair, capsys):
    assert main(["parameters", "toy/second", "--tier", "paper-many"]) == 0
    assert lines(capsys.readouterr().out)[2][:3] == ["num_seeds", "int", "300"]
    assert main(["parameters", "toy", "--tier", "paper-many"]) == 1
    assert (
        capsys.readouterr().err == "reprobook: toy has no tier 'paper-many'; it has: laptop, paper, smoke\n"
    )


def test_claims_can_be_filtered_by_verdict(executed_book, capsys):
    assert main(["claims", "toy", "--verdict", "not reproduced"]) == 0
    assert [row[2] for row in lines(capsys.readouterr().out)] == ["claim", "all-are-small"]
    assert main(["claims", "toy", "--verdict", "partly"]) == 0
    assert capsys.readouterr().out == "nothing to show\n"


@pytest.mark.parametrize("words", [["parameters", "toy"], ["run", "toy", "--params-help"]])
def test_parameters_are_explained_with_their_values_at_a_tier(book, capsys, words):
    assert main([*words, "--tier", "paper"]) == 0
    rows = lines(capsys.readouterr().out)
    assert rows[:4] == [
        ["parameter", "type", "paper", "allowed", "meaning"],
        ["seed", "int", "0", "0 ..", "the first seed"],
        ["num_seeds", "int", "200", "1 .. 1000", "draws, one per seed"],
        ["scale", "float", "1.5", "0.1 .. 10", "factor on every draw"],
    ]
    assert rows[4] == ["device", "str", "'cpu'", "auto, cpu, cuda, cuda:N, mps", "where to compute"]


# --------------------------------------------------------------------------- run and refresh


def test_run_prints_the_verdicts_and_where_the_files_are(book, reprobook):
    done = reprobook("run", "toy", "--tier", "smoke", "-p", "seed", "3", "-p", "num_seeds=6")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "toy (smoke; seed = 3, num_seeds = 6): started"
    assert "\x1b" not in done.stdout
    table, _, rest = done.stdout.partition("\n\n")
    assert [row[:2] for row in lines(table)[1:]] == [
        ["mean-is-a-half", "✓ reproduced"],
        ["all-are-small", "✗ not reproduced"],
        ["people-like-it", "– not attempted"],
    ]
    stem = book / "_runs" / "toy" / "smoke-num_seeds=6-seed=3"
    assert rest.splitlines()[1:] == [f"notebook: {stem}.ipynb", f"record:   {stem}.json"]
    record = json.loads(Path(f"{stem}.json").read_text())
    assert (record["parameters"]["seed"], record["parameters"]["num_seeds"]) == (3, 6)
    again = reprobook("run", "toy", "--tier", "smoke", "-p", "seed", "3", "-p", "num_seeds", "6")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"{table}\n\nalready finished; --force runs it anew\n{rest.partition(chr(10))[2]}"


def test_a_claim_not_reproduced_fails_only_where_strictness_is_asked_for_and_the_tier_tests_it(
    executed_book, capsys
):
    assert main(["run", "toy"]) == 0
    assert main(["run", "toy", "--strict"]) == 3
    assert capsys.readouterr().err.endswith("reprobook: --strict: not reproduced: all-are-small\n")
    assert main(["run", "toy", "--strict", "--tier", "smoke"]) == 0


def test_strictness_asks_for_the_claims_that_name_exactly_the_tier_that_ran(book, reprobook):
    add_second(book)
    claims, small = book / "chapters" / "toy" / "claims.yml", "mean in [7, 8]"
    claims.write_text(claims.read_text().replace("mean in [0.4, 0.6]", small))
    (claims.parent / "second.paper-long.yml").write_text("num_seeds: 400\n")
    codes = [reprobook("run", "toy/second", "--strict", "--tier", t) for t in ("paper-many", "paper-long")]
    assert [done.returncode for done in codes] == [3, 0]
    assert codes[0].stderr.endswith("reprobook: --strict: not reproduced: many-agree\n")


def test_a_failed_run_is_one_line_and_exit_code_1(book, reprobook):
    done = reprobook("run", "toy", "-p", "trouble", "fail")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [
        "reprobook: toy (laptop; trouble = fail): cell 3 (The experiment): ZeroDivisionError: the middle "
        f"cell fails; what it did is kept in {book}/_runs/toy/laptop-trouble=fail.failed.ipynb"
    ]


def test_refresh_does_nothing_twice(executed_book, capsys):
    second = [dict(c, source=[s.replace('"toy"', '"toy/second"') for s in c["source"]]) for c in toy_cells()]
    write_notebook(executed_book / "chapters" / "toy" / "second.ipynb", second)
    assert main(["refresh", "toy"]) == 0
    assert capsys.readouterr().out.startswith("toy/second: refreshed in ")
    assert main(["refresh"]) == 0
    assert capsys.readouterr().out == "every stored output is up to date\n"


# --------------------------------------------------------------------------- terminals


def test_on_a_terminal_there_are_bars_and_a_framed_table(book):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "reprobook.cli", "run", "toy", "--tier", "smoke"]
    environment = command_environment(book) | {"TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = read_all(ours)
    assert process.wait(timeout=30) == 0, shown
    assert "toy (smoke) · cell 3 (The experiment)" in shown
    assert "━" in shown
    assert "│ mean-is-a-half" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def read_all(terminal: int) -> str:
    """Return everything that is written to a pseudo-terminal until it is closed."""
    parts, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux says so when the other side is closed
                part = b""
            if not part:
                break
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode(errors="replace")


def test_without_a_terminal_there_is_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("reprobook.progress.time.monotonic", lambda: now[0])
    display = Lines(sys.stdout, pause=10.0)
    display.start("toy (laptop)")
    for now[0] in (1.0, 9.0, 11.0, 12.0, 22.0):
        display.update(Progress(6, "draw", 2, "cell 3 (The experiment)", "waiting", 5, 600))
    assert capsys.readouterr().out.splitlines() == [
        "toy (laptop): started",
        "toy (laptop): 2 of 6 cells done, now cell 3 (The experiment), waiting 5 of 600, 11 s",
        "toy (laptop): 2 of 6 cells done, now cell 3 (The experiment), waiting 5 of 600, 22 s",
    ]


def test_the_display_suits_the_stream(monkeypatch, tmp_path):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, (tmp_path / "log").open("w") as log:
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(display_for(terminal), Bars)
        assert isinstance(display_for(log), Lines)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(display_for(terminal), Lines)
    os.close(ours)


def test_progress_is_read_as_it_grows_and_a_broken_note_is_passed_over(tmp_path):
    path = tmp_path / "progress.jsonl"
    channel = Channel(path, {"a": "cell 1", "b": "cell 2 (Work)"})
    assert channel.update() == Progress(total=2)
    with path.open("a") as file:
        file.write('{"cell": "b"}\nnonsense\n{"label": "steps", "done": 3, "total": null}\n{"label": "hal')
    assert channel.update() == Progress(2, "b", 1, "cell 2 (Work)", "steps", 3, None)
    with path.open("a") as file:
        file.write('f", "done": 4, "total": 9}\n{"cell": "injected"}\n')
    assert channel.update() == Progress(2, "b", 1, "cell 2 (Work)", "half", 4, 9)
    path.write_text(path.read_text() + '{"cell": "a"}\n')
    assert channel.update() == Progress(2, "a", 0, "cell 1", None, 4, 9)
