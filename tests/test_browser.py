"""The rendered book beyond what :mod:`test_pages` reads off every page: search, forms, weight, calm, access.

What would take long on every page is asked of a few that stand for all: a page of each kind.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from rendered import ROOT, barriers, shoot
from reprobook.claims import load_claims
from reprobook.jobs import declared_parameters, tiers
from reprobook.parameters import parse_value
from reprobook.paths import chapter_folder
from reprobook.running import notebooks_of_book
from test_pages import SCHEME

pytestmark = pytest.mark.page

CHAPTERS = [f"chapters/{name if '/' in name else f'{name}/{name}'}.html" for name in notebooks_of_book()]
#: A page of each kind, small ones where there is a choice.
KINDS = [
    "book/index.html",
    "book/rerun.html",
    "book/licence.html",
    "book/conversations.html",
    "book/api/pages.html",
    "chapters/dann/settings.html",
    "search.html",
]
PAGE_WEIGHT = 1.5e6
BOOK_WEIGHT = 25e6
SHIFT = 0.1

# Layout shifts that no key or click of the reader caused, as the browser itself sums them up.
WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({ type: "layout-shift", buffered: true });
"""
# A change of colours must have ended before anybody measures them.
STILL = "*, ::before, ::after { transition: none !important; animation: none !important }"
SETTLED = "() => window.MathJax?.startup?.promise"


@pytest.fixture(scope="module")
def tab(chromium) -> Iterator:
    """A window of a desktop's size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield context.new_page()
    context.close()


# --------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    """The address of the book as a web host would give it."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site)))
    Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()
    host.server_close()


def search(tab, address: str, words: str) -> list[str]:
    """Return the pages that a search finds, best first."""
    tab.goto(f"{address}/search.html?q={words}")
    tab.wait_for_selector("#search-results p.search-summary:not(:empty)")
    tab.wait_for_function("() => /finished|did not match/.test(document.body.innerText)")
    links = tab.eval_on_selector_all("#search-results li > a", "(all) => all.map((a) => a.href)")
    return [unquote(urlsplit(link).path).removeprefix(unquote(urlsplit(address).path)) for link in links]


CLAIM = "unit-norm-needs-only-n"
QUESTIONS = {
    CLAIM: "/chapters/transformers_as_svm/transformers_as_svm.html",
    "verdict_box": "/book/api/pages.html",
    "gradient reversal": "/chapters/dann/dann.html",
}


@pytest.mark.parametrize("words", QUESTIONS)
def test_search_finds_a_claim_a_symbol_and_words(tab, site, words):
    assert CLAIM in load_claims(chapter_folder("transformers_as_svm") / "claims.yml").claims
    assert QUESTIONS[words] in search(tab, site.as_uri(), words)


def test_search_works_on_a_web_host_and_finds_nothing_where_nothing_is(tab, server):
    assert QUESTIONS["verdict_box"] in search(tab, server, "verdict_box")
    assert search(tab, server, "xyzzyplugh") == []


# --------------------------------------------------------------------------- access


def test_axe_would_find_something(tab):
    tab.set_content("<html lang='en'><title>a</title><main><h1>a</h1><img src='data:,'></main></html>")
    assert [found.split(":")[0] for found in barriers(tab)] == ["image-alt"]


@pytest.mark.parametrize("page", KINDS)
def test_axe_finds_nothing_serious_in_both_schemes(tab, site, page):
    tab.goto((site / page).as_uri())
    tab.add_style_tag(content=STILL)
    found = {}
    for scheme in ("light", "dark"):
        tab.evaluate(SCHEME, scheme)
        found[scheme] = barriers(tab)
    assert found == {"light": [], "dark": []}


# --------------------------------------------------------------------------- calm and weight


@pytest.mark.parametrize("page", ["chapters/dann/dann.html", "chapters/f_distill/points.html"])
def test_a_chapter_does_not_jump_while_it_loads(chromium, site, page):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(WATCH)
    tab = context.new_page()
    tab.goto((site / page).as_uri())
    tab.evaluate(SETTLED)
    tab.wait_for_timeout(300)
    assert sum(tab.evaluate("() => window.shifts")) < SHIFT
    context.close()


def test_every_picture_says_how_large_it_is(pages, site):
    shapeless = [
        f"{file.relative_to(site)}: {image['src']}"
        for file, soup in pages.items()
        for image in soup.select(".bd-article img, .bd-article svg")
        if not (image.get("viewbox") or (image.get("width") and image.get("height")))
        and "aspect-ratio" not in image.get("style", "")
    ]
    assert shapeless == []


def weight(file: Path, soup: BeautifulSoup) -> int:
    """Return how many bytes a page loads, the bundled MathJax and what lies folded left out."""
    pictures = "img[src]:not([loading=lazy])"
    wanted = soup.select(f"script[src], link[rel=stylesheet], link[rel=preload], {pictures}")
    addresses = {urlsplit(e.get("src") or e["href"]).path for e in wanted}
    local = {(file.parent / unquote(a)).resolve() for a in addresses if a and "/mathjax/" not in a}
    return file.stat().st_size + sum(one.stat().st_size for one in local if one.is_file())


def test_on_a_phone_a_picture_keeps_its_size_and_scrolls(chromium, site):
    tab = chromium.new_page(viewport={"width": 360, "height": 740})
    tab.goto((site / "chapters/f_distill/points.html").as_uri())
    shown = tab.evaluate("""() => [...document.querySelectorAll("a.rb-picture")]
        .filter((a) => a.checkVisibility())
        .map((a) => [a.clientWidth, a.scrollWidth, a.firstChild.naturalWidth, a.firstChild.clientWidth])""")
    assert len(shown) > 5
    for box, inside, natural, width in shown:
        assert box < 360 < inside and width > 0.6 * natural
    first = tab.locator("a.rb-picture:visible").first
    first.focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("(a) => a.scrollLeft > 0", arg=first.element_handle())
    first.click()
    tab.wait_for_url("**/_images/*.webp")
    tab.close()


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_is_light(pages, site, page):
    assert weight(site / page, pages[site / page]) < PAGE_WEIGHT


def test_the_book_is_light(pages, site):
    """Everything that is published, without the bundled MathJax and what earlier builds left behind."""
    shown = {Path(unquote(one["src"])).name for page in pages.values() for one in page.select("img[src]")}
    files = [f for f in site.rglob("*") if f.is_file() and "mathjax" not in f.parts]
    kept = [f for f in files if f.parent.name != "_images" or f.name in shown]
    assert len([f for f in kept if f.parent.name == "_images"]) > 100
    assert sum(f.stat().st_size for f in kept) < BOOK_WEIGHT


# --------------------------------------------------------------------------- from the page to a run


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_offers_its_executed_notebook(pages, site, page):
    file = site / page
    (link,) = pages[file].select("a.btn-download-source-button")
    offered = (file.parent / link["href"]).resolve()
    assert offered.name == f"{file.stem}.ipynb"
    assert offered.read_bytes() == (ROOT / page).with_suffix(".ipynb").read_bytes()
    record = json.loads(offered.read_text(encoding="utf-8"))["metadata"]["reprobook"]
    assert record["status"] == "finished"


@pytest.mark.parametrize("name", notebooks_of_book())
def test_a_form_has_every_parameter_and_tier_of_its_notebook(pages, site, name):
    (box,) = pages[site / f"chapters/{name if '/' in name else f'{name}/{name}'}.html"].select(".rb-launch")
    declared = declared_parameters(name)
    controls = {e["name"] for e in box.select("input, select")}
    assert controls == {*declared, "--tier"}
    assert [e["value"] for e in box.select("select[name='--tier'] option")] == [
        "laptop", *[t for t in tiers(name) if t != "laptop"]
    ]  # fmt: skip
    first = [e["name"] for e in box.select(".rb-launch-form > .rb-fields :is(input, select)")]
    assert first == ["--tier", "seed", "num_seeds", "device"]
    commands = [pre.get_text().strip() for pre in box.select("pre")]
    path = f"chapters/{name if '/' in name else f'{name}/{name}'}.ipynb"
    assert commands == [f"$ reprobook run {name}", f"$ papermill {path} out.ipynb"]


FORM = "chapters/dann/dann.html"


def fill(tab, **values: str) -> tuple[str, str, str]:
    """Type values into the form of an open page; return what it complains of and its two commands."""
    for name, value in values.items():
        control = tab.locator(f".rb-launch [name='{name}']")
        if control.evaluate("(e) => e.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)
    ours, plain = tab.eval_on_selector_all(".rb-launch pre", "(all) => all.map((pre) => pre.textContent)")
    return tab.locator(".rb-launch-wrong").text_content(), ours, plain


@pytest.fixture
def form(tab, site: Path):
    """A chapter's page with its form unfolded by keyboard."""
    tab.goto((site / FORM).as_uri())
    tab.locator(".rb-launch > summary").focus()
    tab.keyboard.press("Enter")
    tab.locator(".rb-launch form summary").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#rb-value-noise")
    return tab


def test_the_commands_follow_what_is_typed(form):
    said, ours, plain = fill(form, seed="3", weights="0.5, 1e-6", device="cuda:1")
    shoot(form, "form")
    assert said == ""
    assert ours == "$ reprobook run dann -p seed 3 -p device cuda:1 -p weights '[0.5, 0.000001]'"
    words = "-p seed 3 -p device cuda:1 -y 'weights: [0.5, 0.000001]'"
    assert plain == f"$ papermill chapters/dann/dann.ipynb out.ipynb {words}"


def test_a_value_as_before_does_not_enter_the_commands(form):
    assert fill(form, seed="000", noise="5e-2", degrees="+35")[1] == "$ reprobook run dann"


def test_a_tier_brings_its_values_and_leaves_what_was_typed(form):
    said, ours, plain = fill(form, seed="3", **{"--tier": "smoke"})
    smoke = parse_value((chapter_folder("dann") / "dann.smoke.yml").read_text(encoding="utf-8"))
    assert form.locator("[name=num_seeds]").input_value() == str(smoke["num_seeds"])
    assert (said, ours) == ("", "$ reprobook run dann --tier smoke -p seed 3")
    assert plain == (
        "$ papermill chapters/dann/dann.ipynb out.ipynb -f chapters/dann/dann.smoke.yml -p seed 3"
    )


WRONG = {
    "seed": ("1.5", "seed takes a whole number from 0 to 2000."),
    "num_seeds": ("", "num_seeds takes a whole number from 1 to 1000."),
    "noise": ("7", "noise takes a number from 0 to 1."),
    "weights": ("1, x", "weights takes numbers from 1e-6 to 1000, with commas between them."),
    "device": ("gpu", "device takes auto, cpu, cuda, cuda:N or mps."),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_is_not_allowed_is_named_in_a_sentence_and_left_out(form, name):
    typed, sentence = WRONG[name]
    said, ours, _ = fill(form, **{name: typed})
    assert said.startswith(sentence)
    assert ours == "$ reprobook run dann"
    assert form.locator(f".rb-launch [name='{name}']").get_attribute("aria-invalid") == "true"


def test_what_is_copied_is_the_command_without_its_prompt(chromium, site):
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.goto((site / FORM).as_uri())
    tab.locator(".rb-launch > summary").click()
    fill(tab, seed="3")
    tab.locator(".rb-launch div.highlight").first.hover()
    tab.locator(".rb-launch button.copybtn").first.click()
    tab.wait_for_selector(".rb-launch button.copybtn.success")
    # the page cannot read the clipboard as a file; so it is pasted into a field
    tab.locator("[name=seed]").fill("")
    tab.locator("[name=seed]").focus()
    tab.keyboard.press("ControlOrMeta+V")
    assert tab.locator("[name=seed]").input_value() == "reprobook run dann -p seed 3"
    context.close()


def test_without_javascript_the_default_commands_stand_there(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / FORM).as_uri())
    tab.locator(".rb-launch > summary").click()
    assert not tab.locator(".rb-launch form").is_visible()
    seen = tab.locator(".rb-launch").inner_text()
    assert re.search(r"\$ reprobook run dann\s", seen)
    assert "$ papermill chapters/dann/dann.ipynb out.ipynb" in seen
    assert "Add -p NAME VALUE" in seen
    context.close()
