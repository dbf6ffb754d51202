"""Code in the pages: names lead to the reference, claims to their verdicts; folds in long cells; cards."""

import ast
import json
import re
import textwrap
from html import unescape

import pytest
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rendered import ROOT
from reprobook.sphinx_cells import LONG, fold, imported, link_claims, link_names

CHAPTERS = sorted((ROOT / "chapters").glob("*/*.ipynb"))


def coloured(code):
    return highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))


def known(name):
    """The address of everything in two modules; nothing else has one."""
    return f"api.html#{name}" if name.startswith(("reprobook.a.", "reprobook.chapter.Chapter")) else None


def links(html):
    """The links of some HTML, as pairs of words and address."""
    found = re.findall(r'<a class="rb-api" href="([^"]*)"[^>]*>(.*?)</a>', html)
    return [(re.sub("<[^>]*>", "", words), href.removeprefix("api.html#")) for href, words in found]


def words(html):
    """What a page shows of some code when every fold is open, without the words on the folds."""
    return unescape(re.sub("<[^>]*>", "", re.sub(r'<summary class="rb-more">.*?</summary>', "", html)))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_names_of_the_library_are_those_that_the_cells_import():
    cells = [
        "from reprobook.a import f, g as h\nimport torch",
        "%not python",
        "def k():\n    from reprobook.b import K",
    ]
    names = imported(cells)
    del names["chapter"]
    assert names == {"f": "reprobook.a.f", "h": "reprobook.a.g", "K": "reprobook.b.K"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f(x)", [("f", "reprobook.a.f")]),
        ("h(f)", [("h", "reprobook.a.g"), ("f", "reprobook.a.f")]),
        ("f.more(x)", [("f.more", "reprobook.a.f.more")]),
        ("x.f(2)", []),
        ("x.y.f(2)", []),
        ("x().f(2)", []),
        ("run(f=3)", []),
        ("run(f=f)", [("f", "reprobook.a.f")]),
        ("f = 3", [("f", "reprobook.a.f")]),
        ("chapter.measure(x)", [("chapter.measure", "reprobook.chapter.Chapter.measure")]),
        ("K(2)", []),
        ("unknown(f_)", []),
        ("'f' # f", []),
    ],
)
def test_a_name_leads_to_the_reference_only_where_it_means_what_was_imported(code, expected):
    names = {"f": "reprobook.a.f", "h": "reprobook.a.g", "K": "reprobook.b.K"}
    names["chapter"] = "reprobook.chapter.Chapter"
    led = link_names(coloured(code), names, known)
    assert links(led) == expected
    assert words(led) == words(coloured(code))


def test_an_attribute_without_a_page_leaves_the_link_to_the_object():
    address = {"reprobook.a.f": "api.html#reprobook.a.f"}.get
    led = link_names(coloured("f.more(1)"), {"f": "reprobook.a.f"}, address)
    assert links(led) == [("f", "reprobook.a.f")]
    assert words(led) == words(coloured("f.more(1)"))


def test_a_claim_leads_to_its_row_and_its_first_place_can_be_led_to():
    seen = set()
    code = coloured('measure("one", 1)\nmeasure("one", 2)\nprint("two", "three one")')
    led = link_claims(code, ["one", "two"], seen)
    assert re.findall(r'<a class="rb-evidence"([^>]*?) href="([^"]*)"', led) == [
        (' id="evidence-one"', "#claim-one"),
        ("", "#claim-one"),
        (' id="evidence-two"', "#claim-two"),
    ]
    assert seen == {"one", "two"}
    assert words(led) == words(code)


def test_a_short_cell_is_not_folded():
    code = coloured("x = 1\n" * LONG)
    assert fold(code) == code
    assert "rb-lines" in fold(code + "x = 1\n")


def test_lines_that_call_the_library_measure_or_comment_stay_open():
    code = "\n".join(["a = 1"] * 10 + ["b = f(1)"] + ["c = 1"] * 10 + ["# why", "d = 1"] + ["e = 1"] * 10)
    folded = fold(link_names(coloured(code), {"f": "reprobook.a.f"}, known))
    outside = words(re.sub(r"<details.*?</details>", "", folded, flags=re.S)).split("\n")
    assert outside == ["b = f(1)", "# why", ""]
    assert re.findall(r">(\d+) more lines<", folded) == ["10", "10", "11"]
    assert words(folded) == code + "\n"


def test_a_function_keeps_its_first_line_and_its_docstring():
    body = "\n".join(f"    x{n} = {n}" for n in range(LONG))
    folded = fold(coloured(f'def far(x):\n    """Say how far."""\n{body}\n'))
    outside = words(re.sub(r"<details.*?</details>", "", folded, flags=re.S))
    assert outside == 'def far(x):\n    """Say how far."""\n'


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_folds_hold_whole_statements_and_lose_no_line(path):
    names = imported(code_cells(path))
    for code in code_cells(path):
        led = link_names(coloured(code), names, lambda name: "api.html")
        folded = fold(led)
        assert words(folded) == words(led)
        for inside in re.findall(r"<details.*?</summary>(.*?)</details>", folded, re.S):
            assert ast.parse(textwrap.dedent(words(inside))).body


# --------------------------------------------------------------------------- the pages


@pytest.mark.page
def test_every_cell_of_the_pages_says_what_the_notebook_says(site, pages):
    for path in CHAPTERS:
        page = pages[site / path.relative_to(ROOT).with_suffix(".html")]
        shown = []
        for block in page.select("div.cell_input div.highlight-ipython3 pre"):
            shown.append(
                "".join(t for t in block.find_all(string=True) if not t.find_parent(class_="rb-more"))
            )
        assert [s.strip("\n") for s in shown] == [code.strip("\n") for code in code_cells(path)], path.name


@pytest.mark.page
def test_every_claim_leads_to_the_cell_that_measures_it_and_back(site, pages):
    for path in CHAPTERS:
        page = pages[site / path.relative_to(ROOT).with_suffix(".html")]
        code = "\n".join(code_cells(path))
        rows = page.select("tr[id^=claim-]")
        measured = [row["id"].removeprefix("claim-") for row in rows if f'"{row["id"][6:]}"' in code]
        assert measured, f"no claim of {path.name} is measured by name"
        for claim in measured:
            place = page.find(id=f"evidence-{claim}")
            assert place.find_parent("div", class_="cell_input") and place["href"] == f"#claim-{claim}"
            assert page.find(id=f"claim-{claim}").select_one(f"a[href='#evidence-{claim}']")


@pytest.mark.page
def test_every_chapter_leads_to_the_reference(site, pages):
    for path in CHAPTERS:
        page = pages[site / path.relative_to(ROOT).with_suffix(".html")]
        found = {a["href"].partition("#")[2] for a in page.select("a.rb-api")}
        assert {"reprobook.chapter.Chapter.begin", "reprobook.chapter.Chapter.measure"} <= found
        assert len(found) >= 10, f"{path.name} leads to {len(found)} places of the reference"


# --------------------------------------------------------------------------- in a browser


@pytest.fixture
def chapter(site, chromium):
    """A page of a chapter with equations, claims and long cells."""
    tab = chromium.new_page(viewport={"width": 1200, "height": 900})
    tab.goto((site / "chapters/equilibrium_propagation/convolution.html").as_uri())
    tab.wait_for_function("() => document.querySelector('mjx-container')")
    yield tab
    tab.close()


@pytest.mark.page
@pytest.mark.parametrize("target", ["equation-", "claim-"])
def test_what_a_link_leads_to_is_shown_beside_it(chapter, target):
    link = chapter.locator(f".bd-article a[href^='#{target}']:visible").first
    card = chapter.locator("#rb-hover")
    link.scroll_into_view_if_needed()
    link.hover()
    card.wait_for(state="visible")
    assert link.get_attribute("aria-describedby") == "rb-hover"
    wanted = {"equation-": ".math mjx-container", "claim-": ".rb-verdict"}[target]
    assert card.locator(wanted).count() == 1
    chapter.keyboard.press("Escape")
    assert card.is_hidden() and link.get_attribute("aria-describedby") is None


@pytest.mark.page
def test_the_keyboard_shows_a_card_too(chapter):
    link = chapter.locator(".bd-article a[href^='#equation-']:visible").first
    chapter.keyboard.press("Tab")  # from now on, focus is the keyboard's
    link.focus()
    chapter.locator("#rb-hover").wait_for(state="visible")
    box = chapter.locator("#rb-hover").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1200
    link.blur()
    assert chapter.locator("#rb-hover").is_hidden()


@pytest.mark.page
def test_a_fold_opens_by_keyboard(chapter):
    fold = chapter.locator("div.cell_input:visible details.rb-lines").first
    fold.locator("summary").focus()
    chapter.keyboard.press("Enter")
    assert fold.evaluate("node => node.open")


@pytest.mark.page
def test_a_copied_cell_has_the_folded_lines_and_no_words_of_the_fold(chapter):
    fold = chapter.locator("div.cell_input:visible details.rb-lines").first
    cell = fold.locator("xpath=ancestor::div[contains(@class,'highlight')][1]")
    cell.hover()
    cell.locator("button.copybtn").click()
    chapter.evaluate("document.body.append(document.createElement('textarea'))")
    paper = chapter.locator("textarea").last
    paper.focus()
    chapter.keyboard.press("Control+V")
    path = ROOT / "chapters/equilibrium_propagation/convolution.ipynb"
    assert paper.input_value().strip() in [code.strip() for code in code_cells(path)]
