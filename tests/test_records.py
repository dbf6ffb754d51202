"""Records: what goes out comes back, what is broken is named, verdicts are computed anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reprobook.claims import Verdict
from reprobook.records import Record, RecordError, read_record, recorded_runs


@pytest.fixture
def notebook(executed_book: Path) -> Path:
    return executed_book / "chapters" / "toy" / "toy.ipynb"


@pytest.fixture
def record(notebook: Path) -> Record:
    return read_record(notebook)


def put_run(notebook: Path, name: str, record: Record | None) -> Path:
    """Store the executed notebook as a recorded run with another record."""
    content = json.loads(notebook.read_text())
    content["metadata"].pop("reprobook")
    if record:
        content["metadata"]["reprobook"] = record.to_data()
    path = notebook.parent / "runs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_record_survives_json(record):
    assert Record.from_data(json.loads(record.to_json())) == record


def test_the_file_of_a_record_has_sorted_keys_and_ends_with_a_newline(record):
    assert list(json.loads(record.to_json())) == sorted(record.to_data())
    assert record.to_json().endswith("}\n")


def test_a_notebook_that_was_never_run_has_no_record(toy):
    assert read_record(toy / "toy.ipynb") is None


@pytest.mark.parametrize("key", ["stamp", "claims", "error", "schema"])
def test_a_missing_key_is_named(record, key):
    data = record.to_data()
    del data[key]
    with pytest.raises(RecordError, match=f"key '{key}' is missing"):
        Record.from_data(data)


def test_an_unknown_key_is_named(record):
    with pytest.raises(RecordError, match="unknown key 'mood'"):
        Record.from_data(record.to_data() | {"mood": "good"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parameters", []),
        ("wall_seconds", "3"),
        ("wall_seconds", True),
        ("stamp", None),
        ("claims", {}),
        ("status", "fine"),
        ("schema", 2),
    ],
)
def test_a_wrong_value_is_named(record, key, value):
    with pytest.raises(RecordError, match=key):
        Record.from_data(record.to_data() | {key: value})


def test_a_broken_claim_is_named(record):
    data = json.loads(record.to_json())
    data["claims"][0]["parts"][0]["n"] = "many"
    with pytest.raises(RecordError, match=r"claim 'mean-is-a-half': part: 'n' has the wrong type"):
        Record.from_data(data)


def test_a_broken_record_in_a_notebook_names_the_file(notebook):
    content = json.loads(notebook.read_text())
    content["metadata"]["reprobook"]["stamp"] = 3
    notebook.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"toy\.ipynb: record: 'stamp' has the wrong type"):
        read_record(notebook)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    path = tmp_path / "odd.ipynb"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"odd\.ipynb is not a notebook"):
        read_record(path)


# --------------------------------------------------------------------------- verdicts


def verdicts(record: Record) -> dict[str, Verdict]:
    return {r.claim.id: r.verdict for r in record.results()}


def edit_claims(notebook: Path, old: str, new: str) -> None:
    path = notebook.parent / "claims.yml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_results_cover_every_claim_in_the_order_of_the_file(record):
    assert verdicts(record) == {
        "mean-is-a-half": Verdict.REPRODUCED,
        "all-are-small": Verdict.NOT_REPRODUCED,
        "people-like-it": Verdict.NOT_ATTEMPTED,
    }
    assert list(verdicts(record)) == ["mean-is-a-half", "all-are-small", "people-like-it"]


def test_verdicts_follow_the_claims_file_and_not_the_record(notebook, record):
    edit_claims(notebook, "mean in [-0.5, 1.5]", "mean >= 0.9")
    assert record.claims[0]["verdict"] == "reproduced"
    assert verdicts(record)["mean-is-a-half"] is Verdict.NOT_REPRODUCED


def test_a_claim_whose_criterion_asks_for_another_statistic_is_not_attempted(notebook, record):
    edit_claims(notebook, "mean in [-0.5, 1.5]", "smallest >= 0.3")
    assert verdicts(record)["mean-is-a-half"] is Verdict.NOT_ATTEMPTED


def test_a_renamed_claim_is_not_attempted_and_the_old_one_is_gone(notebook, record):
    edit_claims(notebook, "id: all-are-small", "id: everyone-is-small")
    assert "all-are-small" not in verdicts(record)
    assert verdicts(record)["everyone-is-small"] is Verdict.NOT_ATTEMPTED


# --------------------------------------------------------------------------- recorded runs


def test_recorded_runs_are_sorted_by_name_and_leave_out_failures(notebook, record):
    for name in ("paper-b.ipynb", "paper-a.ipynb", "paper-c.failed.ipynb"):
        put_run(notebook, name, replace(record, tier=name.partition(".")[0]))
    runs = recorded_runs("toy")
    assert [path.name for path, _ in runs] == ["paper-a.ipynb", "paper-b.ipynb"]
    assert [r.tier for _, r in runs] == ["paper-a", "paper-b"]


def test_a_chapter_without_recorded_runs_has_none(notebook):
    assert recorded_runs("toy") == []


def test_a_recorded_run_without_a_record_is_named(notebook):
    put_run(notebook, "paper.ipynb", None)
    with pytest.raises(RecordError, match=r"toy/runs/paper\.ipynb has no record"):
        recorded_runs("toy")
