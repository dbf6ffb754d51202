"""The parts of pages that are made from executed notebooks, in a small book built by Sphinx itself."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag

from conftest import SECOND_CLAIMS, command_environment, edit_cell
from reprobook.cards import day, duration, memory
from reprobook.overview import Shown, chapters_in_book, files_behind, overview
from reprobook.paths import notebook_path
from reprobook.records import METADATA_KEY, read_record
from reprobook.stamps import PACKAGE, stamp

CONFIGURATION = """\
extensions = ["myst_nb", "sphinx_external_toc", "reprobook.sphinxext"]
exclude_patterns = ["_runs", "chapters/*/runs"]
nb_execution_mode = "off"
html_theme = "basic"
html_copy_source = False
html_static_path = ["style"]
myst_enable_extensions = ["dollarmath"]
"""
PIXEL = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )
).decode()
PAGE = "chapters/toy/toy"


def dress(book: Path) -> Path:
    """Give the throw-away book a cover, a scoreboard two folders deep, and a chapter with directives."""
    (book / "conf.py").write_text(CONFIGURATION)
    (book / "pages" / "deep").mkdir(parents=True)
    (book / "style").mkdir()
    (book / "style" / "book.css").write_text("p { color: black }")
    (book / "intro.md").write_text("# Cover\n\n```{chapter-cards}\n```\n\n```{verdict-legend}\n```\n")
    (book / "pages" / "deep" / "scores.md").write_text("# Scores\n\n```{scoreboard}\n```\n")
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: chapters/toy/toy\n- file: pages/deep/scores\n"
    )
    toy = book / "chapters" / "toy" / "toy.ipynb"
    edit_cell(toy, "title", "It draws numbers.", "```{verdict-box}\n```\n")
    edit_cell(toy, "verdicts", "## Claims", "```{recorded-runs}\n```\n\n## Claims")
    return book


def record_run(book: Path, name: str = "paper", **changes) -> Path:
    """Store the executed notebook once more as a recorded run, with one figure, and its record changed."""
    source = notebook_path("toy")
    notebook = json.loads(source.read_text(encoding="utf-8"))
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL}}
    cell = next(c for c in notebook["cells"] if c["id"] == "draw")
    cell["outputs"].append(picture)
    cell["metadata"]["mystnb"] = {"image": {"alt": "A dot"}, "figure": {"caption": "A dot in $d=2$"}}
    record = notebook["metadata"][METADATA_KEY]
    parameters = record["parameters"] | {"num_seeds": 200}
    record |= {"tier": "paper", "parameters": parameters, "stamp": stamp(source, parameters)} | changes
    target = source.parent / "runs" / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    return target


def html_of(book: Path) -> Path:
    """Return the folder of the built pages, outside the book, where Sphinx does not take them for sources."""
    return book.parent / "pages" / "html"


def build(book: Path) -> str:
    """Build the pages with warnings as errors and return what Sphinx had to say against them."""
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-n", str(book), str(html_of(book))]
    done = subprocess.run(
        words,
        # the book being built is meant, wherever the build is started and whatever the variable says
        env=command_environment(book) | {"REPROBOOK_ROOT": str(book.parent / "elsewhere")},
        cwd=book.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr or "failed"


def page(book: Path, name: str = PAGE) -> BeautifulSoup:
    """Return a built page."""
    return BeautifulSoup((html_of(book) / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def text_of(element: Tag) -> str:
    """Return what a reader reads, with single spaces."""
    return " ".join(element.get_text(" ").split())


def broken_links(site: Path) -> Iterator[str]:
    """Yield the links of a site whose file or whose place in it does not exist."""
    pages = {f: BeautifulSoup(f.read_text(encoding="utf-8"), "html.parser") for f in site.rglob("*.html")}
    for file, soup in pages.items():
        for link in soup.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                yield f"{file.relative_to(site)}: {link['href']} (no such file)"
            elif parts.fragment and target in pages and not pages[target].find(id=unquote(parts.fragment)):
                yield f"{file.relative_to(site)}: {link['href']} (no such place)"


@pytest.fixture(scope="module")
def built(refreshed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A built book with an executed chapter and two recorded runs, one of them stale; not to be changed."""
    book = tmp_path_factory.mktemp("built") / "book"
    shutil.copytree(refreshed, book)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_ROOT", str(book))
        dress(book)
        record_run(book)
        record_run(book, "paper-old", tier="paper-old", stamp="0" * 64)
        assert build(book) == ""
        yield book


def test_the_box_names_the_paper_and_counts_every_verdict(built):
    box = page(built).select_one(".rb-box")
    assert "A Toy Paper" in text_of(box) and "2020" in text_of(box)
    assert box.find("a", href="https://arxiv.org/abs/2001.00001")
    counts = [text_of(item) for item in box.select(".rb-tally li")]
    assert counts == [
        "1 ✓ reproduced",
        "0 ◐ partly",
        "1 ✗ not reproduced",
        "0 ? inconclusive",
        "1 – not attempted",
    ]


def test_the_box_tells_cost_date_and_command_of_the_executed_notebook(built):
    box, record = page(built).select_one(".rb-box"), read_record(built / f"{PAGE}.ipynb")
    facts = {text_of(row.dt): text_of(row.dd) for row in box.select(".rb-facts div")}
    assert facts == {
        "Executed": day(record.started),
        "Took": duration(record.wall_seconds),
        "Memory": memory(record.peak_memory_mib),
        "Machine": record.machine,
    }
    assert "$ reprobook run toy" in text_of(box)
    assert not box.select(".rb-stale")


def test_a_count_leads_to_the_first_claim_of_its_verdict(built):
    links = {text_of(a): a["href"] for a in page(built).select(".rb-tally a")}
    assert links == {
        "1 ✓ reproduced": "#claim-mean-is-a-half",
        "1 ✗ not reproduced": "#claim-all-are-small",
        "1 – not attempted": "#claim-people-like-it",
    }


def test_every_link_of_every_page_leads_to_a_place_that_exists(built):
    assert list(broken_links(html_of(built))) == []
    assert page(built, "pages/deep/scores").find("a", href="../../chapters/toy/toy.html#claim-all-are-small")


def test_a_card_tells_counts_and_time_in_words(built):
    card = page(built, "intro").select_one(".rb-card")
    said, seconds = text_of(card), read_record(built / f"{PAGE}.ipynb").wall_seconds
    assert "A toy chapter" in said and "A Toy Paper" in said
    assert "1 ✓ reproduced 1 ✗ not reproduced 1 – not attempted" in said
    assert f"3 claims · runs in {duration(seconds)}" in said
    assert card.a["href"] == "chapters/toy/toy.html"


def test_the_scoreboard_has_a_row_for_every_claim_and_totals_on_top(built):
    board = page(built, "pages/deep/scores")
    totals = [text_of(choice) for choice in board.select(".rb-choice")]
    assert totals[0] == "3 all claims" and "1 ✗ not reproduced" in totals
    rows = [[text_of(cell) for cell in row.find_all("td")] for row in board.select("tbody tr")]
    assert [row[0] for row in rows] == [
        "Uniform numbers are a half on average. Section 1",
        "Every uniform number is below one half. Section 2",
        "People like uniform numbers. Section 3",
    ]
    assert rows[1][1].startswith("✗ not reproduced n=50 · ")
    assert (
        rows[1][3].startswith("✗ not reproduced paper-old · n=50 · ")
        and "✗ not reproduced paper · n=50" in rows[1][3]
    )
    assert rows[2][1].startswith("– not attempted untested · ") and rows[2][2:] == ["none", "none"]


def test_the_scoreboard_links_each_tier_to_its_own_row(built):
    row = page(built, "pages/deep/scores").select("tbody tr")[0]
    assert [a["href"] for a in row.find_all("a")] == [
        "../../chapters/toy/toy.html#claim-mean-is-a-half",
        "../../chapters/toy/toy.html#paper-old-claim-mean-is-a-half",
        "../../chapters/toy/toy.html#paper-claim-mean-is-a-half",
    ]


@pytest.mark.parametrize("name", ["intro", PAGE, "pages/deep/scores"])
def test_ids_are_unique_on_a_page(built, name):
    ids = [element["id"] for element in page(built, name).find_all(id=True)]
    assert sorted(ids) == sorted(set(ids))


def test_only_the_recorded_run_whose_code_changed_is_marked_stale(built):
    runs = {run["id"]: run for run in page(built).select(".rb-run")}
    assert set(runs) == {"run-paper", "run-paper-old"}
    assert not runs["run-paper"].select(".rb-stale")
    assert text_of(runs["run-paper-old"].select_one(".rb-stale")).startswith("Stale.")


def test_a_recorded_run_marks_the_parameters_that_differ_from_the_laptop_tier(built):
    run = page(built).find(id="run-paper")
    assert "Parameters: 1 of 5 differ" in text_of(run)
    assert [text_of(item) for item in run.select(".rb-changed")] == ["num_seeds = 200"]


def test_a_recorded_run_shows_its_figures_with_alternative_text_and_typeset_caption(built):
    run = page(built).find(id="run-paper")
    image = run.img
    assert image["alt"] == "A dot"
    shown = (html_of(built) / f"{PAGE}.html").parent / image["src"]
    assert shown.read_bytes() == base64.b64decode(PIXEL)
    caption = run.select_one(".rb-caption")
    assert "A dot in" in text_of(caption) and caption.select_one(".math")


def test_the_executed_notebook_of_a_recorded_run_can_be_downloaded(built):
    link = page(built).find(id="run-paper").select_one("a.download")
    offered = (html_of(built) / f"{PAGE}.html").parent / link["href"]
    assert offered.read_bytes() == (built / "chapters/toy/runs/paper.ipynb").read_bytes()


# --------------------------------------------------------------------------- a chapter with two notebooks

SECOND = "chapters/toy/second"
ONLY_RECORDED = "second-paper-many-claim-many-agree"


def dress_pair(book: Path) -> Path:
    """Give the book with two notebooks its pages."""
    contents = (book / "_toc.yml").read_text()
    dress(book)
    (book / "_toc.yml").write_text(f"{contents}- file: pages/deep/scores\n")
    second = book / "chapters" / "toy" / "second.ipynb"
    edit_cell(second, "title", "It draws numbers.", "```{verdict-box}\n```\n")
    edit_cell(second, "title", "# A toy chapter", "# The second notebook")
    edit_cell(second, "verdicts", "## Claims", "```{recorded-runs}\n```\n\n## Claims")
    return book


@pytest.fixture(scope="module")
def built_pair(refreshed_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A built book with two executed notebooks and a recorded run of each; not to be changed."""
    book = tmp_path_factory.mktemp("built") / "pair"
    shutil.copytree(refreshed_pair, book)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_ROOT", str(book))
        record_run(dress_pair(book))
        assert build(book) == ""
        yield book


def test_each_notebooks_box_counts_its_own_claims_and_names_its_own_command(built_pair):
    boxes = [page(built_pair, name).select_one(".rb-box") for name in (PAGE, SECOND)]
    counts = [[text_of(item) for item in box.select(".rb-tally li:not(.rb-none)")] for box in boxes]
    assert counts == [["1 ✓ reproduced", "1 ✗ not reproduced", "1 – not attempted"], ["2 ✓ reproduced"]]
    assert "$ reprobook run toy\n" in boxes[0].get_text() + "\n"
    assert "$ reprobook run toy/second" in text_of(boxes[1])


def test_each_notebook_shows_its_own_recorded_runs(built_pair):
    assert [run["id"] for run in page(built_pair).select(".rb-run")] == ["run-paper"]
    assert [run["id"] for run in page(built_pair, SECOND).select(".rb-run")] == ["run-second-paper-many"]
    assert list(broken_links(html_of(built_pair))) == []


def test_a_recorded_runs_table_leaves_out_what_is_tested_at_other_tiers_alone(executed_book):
    claims = executed_book / "chapters" / "toy" / "claims.yml"
    claims.write_text(claims.read_text() + SECOND_CLAIMS.replace("    notebook: second\n", ""))
    record_run(dress(executed_book), tier="paper")
    assert build(executed_book) == ""
    run = page(executed_book).find(id="run-paper")
    rows = [row["id"].removeprefix("paper-claim-") for row in run.select("tbody tr")]
    assert rows == ["mean-is-a-half", "all-are-small", "people-like-it", "many-agree"]
    assert "Claims at this tier: 4" in text_of(run)


def test_what_only_a_recorded_run_tests_has_that_runs_verdict_and_says_so(built_pair):
    box = page(built_pair, SECOND).select_one(".rb-box")
    said = "1 of these verdicts is of the recorded run second-paper-many"
    assert said in text_of(box)
    assert box.find("a", href="#run-second-paper-many")
    card = text_of(page(built_pair, "intro").select_one(".rb-card"))
    assert "3 ✓ reproduced 1 ✗ not reproduced 1 – not attempted" in card and said in card
    assert said not in text_of(page(built_pair).select_one(".rb-box"))
    board = page(built_pair, "pages/deep/scores")
    assert [text_of(c) for c in board.select(".rb-choice")][:2] == ["5 all claims", "3 ✓ reproduced"]
    row = board.select("tbody tr")[-1]
    assert "rb-reproduced" in row["class"]
    assert [text_of(cell) for cell in row.find_all("td")][1] == "tested only at paper-many, paper"
    assert text_of(row.find_all("td")[3]).startswith("✓ reproduced paper-many · n=300 · ")
    assert [a["href"] for a in row.find_all("a")] == [f"../../{SECOND}.html#{ONLY_RECORDED}"]


def test_a_count_leads_to_the_recorded_run_where_only_that_has_the_verdict(pair):
    claims = pair / "chapters" / "toy" / "claims.yml"
    claims.write_text(claims.read_text().replace("mean in [0.4, 0.6]", "mean in [7, 8]"))
    assert build(dress_pair(pair)) == ""
    box = page(pair, SECOND).select_one(".rb-box")
    assert {text_of(a): a["href"] for a in box.select(".rb-tally a")} == {
        "1 ✓ reproduced": "#claim-none-is-negative",
        "1 ✗ not reproduced": f"#{ONLY_RECORDED}",
    }
    assert "recorded run second-paper-many (stale)" in text_of(box)  # the claims file has changed


def test_without_a_run_that_measured_it_a_claim_of_other_tiers_is_not_attempted(pair):
    (pair / "chapters" / "toy" / "runs" / "second-paper-many.ipynb").unlink()
    assert build(dress_pair(pair)) == ""
    row = page(pair, "pages/deep/scores").select("tbody tr")[-1]
    assert text_of(row.find_all("td")[1]).startswith("– not attempted tested only at paper-many, paper · ")
    assert "of the recorded run" not in text_of(page(pair, SECOND)) + text_of(page(pair, "pages/deep/scores"))


def shown_with(tiers: str) -> Shown:
    """Return what the book shows of the toy's first claim if it is tested at these tiers."""
    file = notebook_path("toy").with_name("claims.yml")
    file.write_text(re.sub(r"tiers: \[.*\]", f"tiers: [{tiers}]", file.read_text(), count=1))
    return overview("toy", [PAGE]).shown["mean-is-a-half"]


def test_the_laptop_tier_goes_before_recorded_runs(executed_book):
    record_run(executed_book)
    assert shown_with("smoke, laptop, paper").recorded is None
    assert shown_with("paper").recorded is None  # it was measured all the same


def test_recorded_runs_answer_in_the_order_of_the_claims_tiers(executed_book):
    for tier in ("paper-a", "paper-b"):
        record_run(executed_book, tier, tier=tier)
    notebook = json.loads(notebook_path("toy").read_text())
    notebook["metadata"][METADATA_KEY]["claims"] = []  # a laptop run that measured nothing
    notebook_path("toy").write_text(json.dumps(notebook))
    found = {
        tiers: run.name if (run := shown_with(tiers).recorded) else None
        for tiers in ("paper-a, paper-b", "paper-b, paper-a", "paper", "paper-b, laptop")
    }
    assert found == {
        "paper-a, paper-b": "paper-a",
        "paper-b, paper-a": "paper-b",
        "paper": None,
        "paper-b, laptop": None,
    }


# --------------------------------------------------------------------------- what changes or is missing


def test_a_chapter_that_was_never_executed_says_so_on_every_page(book):
    dress(book)
    assert build(book) == ""
    box = page(book).select_one(".rb-box")
    assert "Not executed yet." in text_of(box) and not box.select(".rb-tally")
    assert "Not executed yet." in text_of(page(book, "intro").select_one(".rb-card"))
    rows = page(book, "pages/deep/scores").select("tbody tr")
    assert len(rows) == 3
    assert all("– not attempted not executed yet" in text_of(row) for row in rows)
    assert "No run at another tier has been recorded yet." in text_of(page(book))
    assert list(broken_links(html_of(book))) == []


def test_an_edit_of_the_code_marks_every_page_that_shows_the_chapter_as_stale(executed_book):
    dress(executed_book)
    assert build(executed_book) == ""
    assert not page(executed_book).select(".rb-stale")
    edit_cell(notebook_path("toy"), "measure", "d < 0.5", "d < 0.4")
    assert build(executed_book) == ""
    assert page(executed_book).select(".rb-box .rb-stale")
    assert "stale" in text_of(page(executed_book, "pages/deep/scores").tbody)


def test_a_new_criterion_changes_the_verdict_on_pages_whose_own_file_did_not_change(executed_book):
    dress(executed_book)
    assert build(executed_book) == ""
    claims = executed_book / "chapters" / "toy" / "claims.yml"
    text, changed = re.subn(r"criterion: mean in .*", "criterion: mean in [7, 8]", claims.read_text())
    assert changed == 1
    claims.write_text(text)
    assert build(executed_book) == ""
    assert "2 ✗ not reproduced" in text_of(page(executed_book, "intro").select_one(".rb-card"))
    assert "2 ✗ not reproduced" in text_of(page(executed_book, "pages/deep/scores"))


def test_a_recorded_run_appears_and_goes_without_a_clean_build(executed_book):
    dress(executed_book)
    assert build(executed_book) == ""
    run = record_run(executed_book)
    assert build(executed_book) == ""
    assert page(executed_book).find(id="run-paper")
    assert "paper · n=50" in text_of(page(executed_book, "pages/deep/scores"))
    run.unlink()
    assert build(executed_book) == ""
    assert not page(executed_book).select(".rb-run")
    assert "paper · n=50" not in text_of(page(executed_book, "pages/deep/scores"))


def test_an_edited_style_sheet_reaches_pages_that_are_up_to_date(executed_book):
    dress(executed_book)
    assert build(executed_book) == ""
    (executed_book / "style" / "book.css").write_text("p { color: navy }")
    assert build(executed_book) == ""
    assert "navy" in (html_of(executed_book) / "_static" / "book.css").read_text()


def test_a_broken_record_fails_the_build_with_one_line_that_names_it(executed_book):
    dress(executed_book)
    record_run(executed_book, status="splendid")
    said = build(executed_book)
    assert "paper.ipynb: record: status 'splendid' is not 'finished' or 'failed'" in said
    assert "Traceback" not in said


def test_a_box_outside_a_chapter_fails_the_build_and_says_where_it_belongs(executed_book):
    dress(executed_book)
    (executed_book / "intro.md").write_text("# Cover\n\n```{verdict-box}\n```\n")
    assert "'verdict-box' belongs into a chapter's notebook, not into intro" in build(executed_book)


def test_chapters_stand_in_the_order_of_the_table_of_contents(book):
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nparts:\n- chapters:\n  - file: chapters/zoo/zoo\n  - file: pages/x\n"
        "- chapters:\n  - file: chapters/toy/toy.ipynb\n  - file: chapters/zoo/more\n"
    )
    assert chapters_in_book() == {
        "zoo": ["chapters/zoo/zoo", "chapters/zoo/more"],
        "toy": ["chapters/toy/toy"],
    }


def test_pages_depend_on_the_library_modules_that_a_chapter_reaches(book):
    behind = files_behind("toy")
    assert {PACKAGE / "stats.py", PACKAGE / "chapter.py"} <= set(behind)
    assert PACKAGE / "device.py" not in behind
    assert {book / "_toc.yml", book / "requirements.lock", book / "chapters/toy/claims.yml"} <= set(behind)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (9.6, "10 s"), (59.6, "1 min 0 s"), (130.2, "2 min 10 s"), (3900, "1 h 5 min")],
)
def test_a_duration_reads_as_a_person_would_say_it(seconds, words):
    assert duration(seconds) == words


def test_memory_and_dates_read_as_a_person_would_say_them():
    assert (memory(812.4), memory(2048)) == ("812 MiB", "2.0 GiB")
    assert day("2026-01-09T23:59:59+00:00") == "9 January 2026"


@pytest.mark.parametrize(
    ("written", "rendered"),
    [
        ("the mean of |x - y|.", "the mean of \\|x - y\\|."),
        ("``a | b`` and `|c|` stay", "``a | b`` and `|c|` stay"),
        ("E[||Z_1 - Z_0||^2]", "E[\\|\\|Z_1 - Z_0\\|\\|^2]"),
        ("already \\|x\\| so", "already \\|x\\| so"),
    ],
)
def test_bars_in_docstrings_are_bars(written, rendered):
    from reprobook.sphinxext import _keep_bars

    lines = [written]
    _keep_bars(None, "function", "f", None, None, lines)
    assert lines == [rendered]


@pytest.mark.parametrize(
    ("written", "rendered"),
    [
        ("variance ``gain``²/n", "variance ``gain``\\ ²/n"),
        ("``a``s and ``b``, ``c``.", "``a``\\ s and ``b``, ``c``."),
        ("``(B, D)`` alone", "``(B, D)`` alone"),
    ],
)
def test_a_literal_may_be_followed_by_any_letter(written, rendered):
    from reprobook.sphinxext import _end_literals

    lines = [written]
    _end_literals(None, "function", "f", None, None, lines)
    assert lines == [rendered]
