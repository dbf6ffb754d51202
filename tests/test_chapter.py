"""A notebook's side of the contract, without a kernel: parameters, measurements, progress, sources."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reprobook import stats
from reprobook.chapter import CLAIMS_MIME, PROGRESS_VARIABLE, Chapter
from reprobook.claims import Verdict
from reprobook.parameters import ParameterError

OWN = {"seed": 0, "num_seeds": 50, "scale": 1.0, "device": "cpu", "trouble": "none"}


@pytest.fixture
def chapter(book) -> Chapter:
    return Chapter.begin("toy", dict(OWN))


@pytest.fixture
def displayed() -> Iterator[Callable[[], list[tuple[dict, dict]]]]:
    """A function that lists what IPython was asked to display: MIME bundles with their metadata."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output(stdout=False, stderr=False) as captured:
        yield lambda: [(o.data, o.metadata) for o in captured.outputs]
    InteractiveShell.clear_instance()


# --------------------------------------------------------------------------- begin


def test_begin_takes_the_parameters_from_the_namespace(book):
    chapter = Chapter.begin("toy", OWN | {"num_seeds": 7, "unrelated": object()})
    assert chapter.name == "toy"
    assert chapter.parameters == OWN | {"num_seeds": 7}
    assert list(chapter.claims) == ["mean-is-a-half", "all-are-small", "people-like-it"]


def test_begin_puts_values_back_in_their_declared_types(book):
    namespace = OWN | {"scale": 2}
    Chapter.begin("toy", namespace)
    assert namespace["scale"] == 2.0
    assert type(namespace["scale"]) is float


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_seeds", 0, "num_seeds = 0 is not allowed; allowed: 1 .. 1000"),
        ("num_seeds", "7", "num_seeds = '7' has the wrong type: int is needed"),
        ("num_seeds", True, "num_seeds = True has the wrong type"),
        ("device", "gpu", "device = 'gpu' is not allowed"),
        ("trouble", "much", "trouble = 'much' is not allowed; allowed: none, fail, wait, die"),
    ],
)
def test_begin_refuses_a_wrong_value(book, name, value, message):
    with pytest.raises(ParameterError) as error:
        Chapter.begin("toy", OWN | {name: value})
    assert str(error.value).startswith(message)


def test_begin_refuses_a_name_that_papermill_injected_and_the_chapter_lacks(book):
    history = ["", "seed: int = 0", "# Parameters\nnum_sedes = 3\nseed = 1\n", "other = 3"]
    with pytest.raises(ParameterError, match=r"unknown parameter 'num_sedes'; did you mean 'num_seeds'\?"):
        Chapter.begin("toy", OWN | {"In": history, "num_sedes": 3, "other": 3})


def test_begin_accepts_injected_names_that_the_chapter_has(book):
    history = ["", "# Parameters\nseed = 4\n"]
    assert Chapter.begin("toy", OWN | {"In": history, "seed": 4}).parameters["seed"] == 4


# --------------------------------------------------------------------------- measure


def test_a_measured_claim_is_judged_and_the_others_are_not_attempted(chapter):
    chapter.measure("mean-is-a-half", [0.49, 0.5, 0.51])
    assert [r.verdict for r in chapter.all_results()] == [
        Verdict.REPRODUCED,
        Verdict.NOT_ATTEMPTED,
        Verdict.NOT_ATTEMPTED,
    ]


def test_a_claim_is_measured_once(chapter):
    chapter.measure("all-are-small", [True])
    with pytest.raises(ValueError, match="'all-are-small' was measured already"):
        chapter.measure("all-are-small", [False])
    assert chapter.results["all-are-small"].verdict is Verdict.REPRODUCED


def test_an_unknown_claim_lists_those_that_exist(chapter):
    with pytest.raises(KeyError, match="no claim 'mean' in the claims file; it has: mean-is-a-half, all-are"):
        chapter.measure("mean", [1.0])


def test_the_verdicts_are_printed_a_line_a_claim(chapter, capsys):
    chapter.measure("all-are-small", [True, False])
    chapter.verdicts()
    assert capsys.readouterr().out == (
        "– mean-is-a-half  not attempted\n✗ all-are-small   not reproduced\n– people-like-it  not attempted\n"
    )


# --------------------------------------------------------------------------- display


def test_the_claims_table_carries_its_data(chapter, displayed):
    chapter.measure("mean-is-a-half", [0.49, 0.5, 0.51])
    chapter.claims_table()
    ((data, _),) = displayed()
    assert set(data) == {"text/html", "text/plain", CLAIMS_MIME}
    assert [(c["id"], c["verdict"]) for c in data[CLAIMS_MIME]] == [
        ("mean-is-a-half", "reproduced"),
        ("all-are-small", "not attempted"),
        ("people-like-it", "not attempted"),
    ]
    assert json.loads(json.dumps(data)) == data


def test_a_number_for_the_text_is_a_plain_float_whatever_it_was(chapter, displayed):
    import numpy as np

    chapter.number(gap=np.float32(0.25))
    ((data, metadata),) = displayed()
    assert data == {"application/papermill.record/text/plain": "0.25"}
    assert metadata["scrapbook"]["name"] == "gap"


def test_a_source_is_shown_as_it_stands_in_the_library(chapter):
    shown = chapter.source(stats.largest, stats.Estimate)
    library = Path(stats.__file__).read_text(encoding="utf-8")
    first, second = repr(shown).split("\n\n@dataclass")
    assert first.startswith("def largest(")
    assert first in library
    assert "@dataclass" + second in library
    assert shown._repr_markdown_() == f"```python\n{shown!r}\n```"


def test_a_method_is_shown_from_the_left_edge(chapter):
    assert repr(chapter.source(stats.Estimate.__str__)).startswith("def __str__(self)")


# --------------------------------------------------------------------------- progress


def test_track_yields_every_step_and_notes_its_progress(chapter, tmp_path, monkeypatch):
    channel = tmp_path / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(channel))
    clock = iter(range(100, 200))
    monkeypatch.setattr("reprobook.chapter.time.monotonic", lambda: float(next(clock)))
    assert list(chapter.track("abc", "letters")) == ["a", "b", "c"]
    notes = [json.loads(line) for line in channel.read_text().splitlines()]
    assert notes == [{"label": "letters", "done": i, "total": 3} for i in range(3)]


def test_track_writes_seldom(chapter, tmp_path, monkeypatch):
    channel = tmp_path / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(channel))
    monkeypatch.setattr("reprobook.chapter.time.monotonic", lambda: 1000.0)
    assert sum(chapter.track(iter(range(1000)), "numbers", total=1000)) == 499_500
    assert len(channel.read_text().splitlines()) == 1


def test_track_is_silent_where_nobody_listens(chapter, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(chapter.track(range(3), "numbers")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["book"]
