"""The book on paper: one PDF with bookmarks and links that lead inside it, and pages with nothing cut off."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pypdf import PdfReader
from pypdf.generic import NullObject

from rendered import BROWSERS, ROOT

TOOL = ROOT / "tools" / "print_book.py"
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_spec = importlib.util.spec_from_file_location("print_book", TOOL)
print_book = importlib.util.module_from_spec(_spec)
sys.modules["print_book"] = print_book
_spec.loader.exec_module(print_book)

# --------------------------------------------------------------------------- a small book

TOC = """\
format: jb-book
root: cover
parts:
  - caption: Start
    chapters:
      - file: first
        sections:
          - file: deep/below
  - caption: Reference
    chapters:
      - glob: ref/*
"""
TALL = '<div style="height: 260mm"></div>'
BODIES = {
    "cover": '<h1>Cover</h1><p><a href="deep/below.html#far/%C3%B6ff">far</a></p>'
    '<p><a href="https://example.org/x">outside</a> <a href="ref/b.html">b</a></p>',
    "first": '<h1>First<a class="headerlink">#</a></h1><a href="#own/place">down</a>'
    f'<section id="one"><h2>One</h2>{TALL}</section><section id="two"><h2>Two</h2>'
    f'<section id="inner"><h3>Inner</h3><p id="own/place">here</p></section></section>',
    "deep/below": f'<h1>Below</h1><a href="../_sources/x.ipynb">file</a>{TALL}'
    '<section id="late"><h2>Late</h2><p id="far/öff">far off</p>'
    '<details id="fold"><summary>more</summary><p id="hidden">folded words</p></details></section>',
    "ref/a": '<h1>A</h1><a href="../deep/below.html#hidden">folded</a>',
    "ref/b": '<h1>B</h1><a href="a.html#nowhere">a</a>',
}
OUTLINE = [
    ("Cover", 0),
    ("Start", 1),
    [
        ("First", 1),
        [("One", 1), ("Two", 2), [("Inner", 2)], ("Below", 3), [("Late", 4)]],
    ],
    ("Reference", 5),
    [("A", 5), ("B", 6)],
]


def write_book(root: Path) -> Path:
    """Write a book of five pages as if it had been rendered."""
    (root / "_build").mkdir(parents=True)
    (root / "_toc.yml").write_text(TOC, encoding="utf-8")
    (root / "_config.yml").write_text("title: A Small Book\nauthor: Nobody\n", encoding="utf-8")
    for name, body in BODIES.items():
        source, page = root / f"{name}.md", root / "_build" / "html" / f"{name}.html"
        for file in (source, page):
            file.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("# Source\n", encoding="utf-8")
        text = f'<meta charset="utf-8"><title>{name}</title><article class="bd-article">{body}</article>'
        page.write_text(text, encoding="utf-8")
    return root


def call(book: Path, **environment: str) -> subprocess.CompletedProcess:
    """Print a book in a process of its own."""
    return subprocess.run(
        [sys.executable, str(TOOL), str(book)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> SimpleNamespace:
    """The small book, printed, in a folder with a space and an umlaut in its name."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip(f"no browser found: install one of {', '.join(BROWSERS)} to print the book")
    book = write_book(tmp_path_factory.mktemp("print") / "my bück")
    done = call(book)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(book=book, said=done, pdf=PdfReader(book / "_build" / print_book.PDF))


def outline(pdf: PdfReader, marks: list) -> list:
    """Return bookmarks as nested lists of a title and the index of a sheet."""
    return [
        outline(pdf, mark) if isinstance(mark, list) else (mark.title, pdf.get_destination_page_number(mark))
        for mark in marks
    ]


def flat(marks: list) -> list:
    """Return bookmarks without their order of rank."""
    return [one for mark in marks for one in (flat(mark) if isinstance(mark, list) else [mark])]


def links(pdf: PdfReader) -> Iterator[tuple[int, int | str, float | None]]:
    """Yield for each link its sheet, the sheet or address that it leads to, and the height there."""
    sheets = {sheet.indirect_reference.idnum: number for number, sheet in enumerate(pdf.pages)}
    for number, sheet in enumerate(pdf.pages):
        for note in (entry.get_object() for entry in sheet.get("/Annots", ())):
            if "/Dest" in note:
                there, top = note["/Dest"][0], note["/Dest"][3]
                height = None if isinstance(top, NullObject) else float(top)
                yield number, sheets[there.indirect_reference.idnum], height
            else:
                yield number, str(note["/A"]["/URI"]), None


@pytest.mark.page
def test_the_bookmarks_are_the_table_of_contents_with_the_sections_of_each_page(printed):
    assert outline(printed.pdf, printed.pdf.outline) == OUTLINE
    assert printed.pdf.metadata.title == "A Small Book"


@pytest.mark.page
def test_every_page_begins_a_sheet_and_the_numbers_at_the_foot_run_on(printed):
    feet = [sheet.extract_text().split() for sheet in printed.pdf.pages]
    assert len(feet) == 7
    assert [int(words[-1]) for words in feet] == list(range(1, 8))
    assert [" ".join(words).count("A Small Book ·") for words in feet] == [0] + [1] * 6
    assert "folded words" not in " ".join(feet[4])


@pytest.mark.page
def test_links_lead_inside_the_pdf_and_none_to_a_file(printed):
    found = [(sheet, there) for sheet, there, _ in links(printed.pdf)]
    assert found == [(0, 4), (0, "https://example.org/x"), (0, 6), (1, 2), (5, 4), (6, 5)]
    assert b"file://" not in (printed.book / "_build" / print_book.PDF).read_bytes()


@pytest.mark.page
def test_a_link_to_a_fragment_leads_to_its_height_and_one_into_a_fold_to_the_fold(printed):
    heights = {(sheet, there): top for sheet, there, top in links(printed.pdf)}
    marks = flat(printed.pdf.outline)
    (late,) = [mark["/Top"] for mark in marks if mark.title == "Late"]
    assert late > heights[0, 4] > heights[5, 4] > 0
    assert heights[6, 5] is None, "a fragment that is nowhere leads to its page"
    assert heights[0, 6] is None


@pytest.mark.page
def test_progress_is_a_line_a_page_and_the_end_says_how_much(printed):
    *lines, last = printed.said.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["Cover", "First", "Below", "A", "B"]
    assert re.fullmatch(rf"_build/{print_book.PDF}: 7 sheets, \d+\.\d MB", last)
    assert printed.said.stderr == ""
    assert [f.name for f in sorted((printed.book / "_build").iterdir())] == ["html", print_book.PDF]


# --------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def earlier(tmp_path) -> Path:
    """A small book that was printed before."""
    book = write_book(tmp_path / "book")
    (book / "_build" / print_book.PDF).write_text("earlier")
    return book


def untouched(book: Path) -> bool:
    """Whether the earlier PDF is still there and nothing else beside it."""
    names = sorted(file.name for file in (book / "_build").iterdir() if file.is_file())
    return names == [print_book.PDF] and (book / "_build" / print_book.PDF).read_text() == "earlier"


def test_a_book_that_is_not_rendered_is_said_in_one_line(earlier):
    (earlier / "_build" / "html" / "deep" / "below.html").unlink()
    done = call(earlier)
    line = "print book: _build/html/deep/below.html is not there; say make book first\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert untouched(earlier)


def test_a_missing_browser_is_said_in_one_line(earlier, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(print_book, "BROWSERS", ())
    where = SimpleNamespace(chromium=SimpleNamespace(executable_path=str(tmp_path / "no" / "chrome")))
    with pytest.raises(print_book.TroubleError, match="no browser found, install"):
        print_book.start(where)
    empty = str(tmp_path / "empty")
    done = call(earlier, PATH=empty, PLAYWRIGHT_BROWSERS_PATH=empty)
    assert untouched(earlier) or Path(print_book.BROWSERS[-1]).exists()
    if done.returncode:  # on a Mac, a browser is found without PATH
        assert done.stderr.startswith("print book: no browser found, install Chromium")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_what_was_there_and_nothing_half_written(earlier, error):
    def write(file) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        print_book.write_whole(SimpleNamespace(write=write), earlier / "_build" / print_book.PDF)
    assert untouched(earlier)


def test_a_full_disk_is_said_in_one_line(monkeypatch, capsys):
    def full(book: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(print_book, "print_book", full)
    assert print_book.main([]) == 1
    assert capsys.readouterr().err == "print book: [Errno 28] No space left on device\n"


# --------------------------------------------------------------------------- the real book


def test_the_pages_are_those_of_the_table_of_contents_in_its_order():
    names = [page.name for page in print_book.contents(ROOT)]
    text = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    papers = sorted(f"book/api/papers/{file.stem}" for file in (ROOT / "book/api/papers").glob("*.md"))
    wanted = re.findall(r"(?:file|glob|root): (\S+)", text)
    at = wanted.index("book/api/papers/*")
    assert names == wanted[:at] + papers + wanted[at + 1 :]
    assert len(papers) > 3


# What a printed page shows that it should not, with everything that the browser does before it prints.
PAPER = """
async () => {
  await window.MathJax?.startup?.promise;
  dispatchEvent(new Event("beforeprint"));
  const edge = document.documentElement.clientWidth;
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  const style = (e) => getComputedStyle(e);
  const name = (e) => `${e.tagName} ${e.className}: ${e.textContent.slice(0, 60)}`;
  return {
    cut: shown(".bd-article *:not(svg *, mjx-container *)")
      .filter((e) => e.getBoundingClientRect().right > edge + 1 && style(e).clipPath === "none").map(name),
    scrolled: shown(".bd-article *:not(svg *)")
      .filter((e) => style(e).overflowX !== "visible" && style(e).clipPath === "none")
      .filter((e) => e.scrollWidth > e.clientWidth + 1).map(name),
    tools: shown("button, input, select, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, "
      + ".prev-next-area, .bd-footer, .rb-launch, .headerlink").map(name),
    solved: shown(".solution > :not(.admonition-title)").map(name),
    split: shown(".bd-article :is(figure, img, .rb-claims tr)")
      .filter((e) => style(e).breakInside !== "avoid").map(name),
    theme: document.documentElement.dataset.theme,
    headings: shown("h1").length,
    said: shown(".solution .admonition-title").map((e) => getComputedStyle(e, "::after").content),
    verdicts: shown(".rb-verdict").length,
  };
}
"""
SHEET = {"width": 665, "height": 980}  # what lies between the margins of A4


@pytest.mark.page
@pytest.mark.parametrize(
    "page", ["chapters/dann/settings.html", "chapters/diffusion_principles/diffusion_principles.html"]
)
def test_on_paper_a_chapter_is_its_text_with_nothing_cut_off_and_no_tools(chromium, site, page):
    tab = chromium.new_page(viewport=SHEET, color_scheme="dark")
    tab.emulate_media(media="print")
    tab.goto((site / page).as_uri())
    seen = tab.evaluate(PAPER)
    tab.close()
    assert [seen[what] for what in ("cut", "scrolled", "tools", "solved", "split")] == [[]] * 5
    assert (seen["theme"], seen["headings"]) == ("light", 1)
    assert seen["said"] and set(seen["said"]) == {'": folded on the page"'}
    assert seen["verdicts"] > 0


@pytest.mark.page
@pytest.mark.parametrize("page", ["book/index.html", "book/scoreboard.html", "book/api/pages.html"])
def test_on_paper_a_page_runs_over_no_edge(chromium, site, page):
    tab = chromium.new_page(viewport=SHEET)
    tab.emulate_media(media="print")
    tab.goto((site / page).as_uri())
    seen = tab.evaluate(PAPER)
    tab.close()
    assert (seen["cut"], seen["scrolled"], seen["tools"]) == ([], [], [])
