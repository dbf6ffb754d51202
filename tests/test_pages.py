"""The rendered book as a reader meets it: every page opened in Chromium, wide and narrow, light and dark.

The book is rendered first, with warnings as errors, which takes seconds where little has changed. Pages are
opened as files, as a reader does who has just said ``make book``; each page is visited once a width, and what
was seen there is what the tests judge.
"""

import importlib
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import reprobook
from rendered import barriers, shoot

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = {"a desktop": (1280, 900, "light"), "a phone": (360, 740, "dark")}

# What is read off a page: a list of sentences for everything that is wrong, and two counts.
LOOK = """
async () => {
  await window.MathJax?.startup?.promise;
  const article = document.querySelector(".bd-article");
  const images = [...article.querySelectorAll("img")];
  images.forEach((image) => { image.loading = "eager"; }); // those that lie folded too
  await Promise.all(images.map((image) => image.decode().catch(() => null)));
  const formulas = [...article.querySelectorAll(".math")];
  const raw = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const dollars = [];
  for (let node = raw.nextNode(); node; node = raw.nextNode()) {
    const source = node.parentElement.closest("pre, code, script, mjx-container");
    if (!source && /\\$\\$|\\\\\\(|\\\\\\[/.test(node.data)) dollars.push(node.data);
  }
  return {
    images: images.filter((image) => !image.naturalWidth).map((image) => `${image.src} does not load`),
    nameless: images.filter((image) => !image.alt.trim()).map((image) => `${image.src} has no alt text`),
    formulas: formulas.length,
    bare: formulas.filter((m) => !m.querySelector("mjx-container")).map((m) => m.textContent),
    failed: [...article.querySelectorAll("mjx-merror")].map((m) => m.textContent),
    dollars,
    wordless: [...article.querySelectorAll(".rb-verdict")]
      .filter((chip) => !/^[✓◐✗?–] [a-z]/.test(chip.textContent)).map((chip) => chip.outerHTML),
  };
}
"""

# Contrast of text with what lies behind it, as WCAG defines it. Colours are read by painting them.
CONTRAST = """
() => {
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  const wanted = ".rb-verdict, .rb-words span, .rb-tally *, .rb-choice *, .rb-stale *, figcaption, summary, "
    + ".bd-article :is(p, li, td, th, dt, a:not(.headerlink))";
  for (const element of document.querySelectorAll(wanted)) {
    if (!element.checkVisibility() || !element.textContent.trim()) continue;
    const behind = [];
    for (let box = element; box; box = box.parentElement) {
      behind.unshift(getComputedStyle(box).backgroundColor);
    }
    const back = paint(["white", ...behind]);
    const ink = paint(["white", ...behind, getComputedStyle(element).color]);
    const [low, high] = [light(back), light(ink)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)}: ${element.outerHTML.slice(0, 90)}`);
  }
  return faint;
}
"""
WIDTH = "() => document.documentElement.scrollWidth"
SCHEME = "(scheme) => { document.documentElement.dataset.theme = scheme }"


@dataclass
class Visit:
    """What was seen of one page in one window.

    Attributes:
        page: its path in the site.
        window: a key of :data:`WINDOWS`.
        seen: what :data:`LOOK` read off it.
        faint: texts with too little contrast, by colour scheme.
        widths: how wide it was laid out, by colour scheme.
        complaints: errors in the console and uncaught exceptions.
        barriers: what axe-core has against the page with all folds open, contrast aside; on a desktop alone.
        outside: addresses of other hosts that it asked for.
        unanswered: requests that failed.
    """

    page: str
    window: str
    seen: dict = field(default_factory=dict)
    faint: dict[str, list[str]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    barriers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def visits(chromium, pages: dict[Path, BeautifulSoup], site: Path) -> list[Visit]:
    """A visit to every page with an article in every window."""
    made = []
    for window, (width, height, scheme) in WINDOWS.items():
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        for file, soup in pages.items():
            if soup.select_one(".bd-article"):
                made.append(visit(context, Visit(file.relative_to(site).as_posix(), window), file))
        context.close()
    return made


def visit(context, report: Visit, file: Path) -> Visit:
    """Open a page, look at it in both colour schemes, and report."""
    tab = context.new_page()
    tab.on("console", lambda m: report.complaints.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: report.complaints.append(str(error)))
    tab.on("requestfailed", lambda request: report.unanswered.append(request.url))
    tab.on("request", lambda request: report.outside.append(request.url) if is_outside(request.url) else None)
    tab.goto(file.as_uri())
    report.seen = tab.evaluate(LOOK)
    for scheme in ("light", "dark"):
        tab.evaluate(SCHEME, scheme)
        report.widths[scheme] = tab.evaluate(WIDTH)
        report.faint[scheme] = tab.evaluate(CONTRAST)
        name = report.page.removesuffix(".html").replace("/", "-")
        shoot(tab, f"{name}, {report.window}, {scheme}")
    if report.window == "a desktop":
        tab.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true }")
        report.barriers = barriers(tab, contrast=False)
    tab.close()
    return report


def is_outside(address: str) -> bool:
    """Return whether an address is neither a file nor data of the page itself."""
    return not address.startswith(("file:", "data:", "blob:"))


def told(visits: list[Visit], name: str) -> list[str]:
    """Return what is wrong on any page, with the page and the window."""
    return [
        f"{v.page} on {v.window}: {what}"
        for v in visits
        for what in (getattr(v, name) if hasattr(v, name) else v.seen[name])
    ]


pytestmark = pytest.mark.page


def test_every_page_was_opened_in_every_window(visits):
    assert {v.window for v in visits} == set(WINDOWS)
    assert len(visits) >= 2 * 15
    assert {"book/index.html", "book/scoreboard.html"} <= {v.page for v in visits}


def test_no_page_reports_an_error_in_the_console(visits):
    assert told(visits, "complaints") == []


def test_no_page_asks_anything_of_another_host(visits):
    assert told(visits, "outside") == []


def test_no_request_fails(visits):
    assert told(visits, "unanswered") == []


def test_axe_finds_nothing_serious_on_any_page(visits):
    assert told(visits, "barriers") == []


def test_all_mathematics_is_typeset(visits):
    assert told(visits, "bare") == []
    assert told(visits, "failed") == []
    assert told(visits, "dollars") == []
    assert sum(v.seen["formulas"] for v in visits) > 100


def test_images_load(visits):
    assert told(visits, "images") == []


def test_images_have_alternative_text(visits):
    assert told(visits, "nameless") == []


def test_a_verdict_is_always_a_sign_and_a_word(visits):
    assert told(visits, "wordless") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(visits, scheme):
    assert [f"{v.page} on {v.window}: {what}" for v in visits for what in v.faint[scheme]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways(visits, scheme):
    wide = [
        f"{v.page} on {v.window}: {v.widths[scheme]}"
        for v in visits
        if v.widths[scheme] > WINDOWS[v.window][0]
    ]
    assert wide == []


def test_a_long_default_value_wraps(chromium, site):
    tab = chromium.new_page(viewport={"width": 360, "height": 740})
    tab.goto((site / "book" / "api" / "running.html").as_uri())
    tab.locator("dl.py > dt .default_value").first.evaluate("(e) => e.textContent = 'x'.repeat(200)")
    assert tab.evaluate(WIDTH) == 360
    tab.close()


def test_no_page_tells_where_it_was_rendered(pages):
    assert [file.name for file, soup in pages.items() if str(ROOT) in str(soup)] == []


def test_the_keyboard_shows_where_it_is(chromium, site):
    tab = chromium.new_page()
    tab.goto((site / "book" / "index.html").as_uri())
    for link in tab.query_selector_all(".bd-article a[href]:not(.headerlink)"):
        link.focus()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Shift+Tab")
        outline = "() => getComputedStyle(document.activeElement).outlineStyle"
        assert tab.evaluate(outline) != "none", link.inner_text()
    tab.close()


def test_choosing_a_verdict_leaves_only_its_claims(chromium, site):
    tab = chromium.new_page()
    tab.goto((site / "book" / "scoreboard.html").as_uri())
    rows = """() => [...document.querySelectorAll(".rb-row")]
        .filter((row) => row.checkVisibility()).map((row) => row.className)"""
    everything = tab.evaluate('[...document.querySelectorAll(".rb-row")].map((row) => row.className)')
    assert tab.evaluate(rows) == []  # folded, under the titles of their notebooks
    for verdict in ("rb-not-attempted", "rb-not-reproduced"):
        tab.check(f"input[value={verdict}]", force=True)
        assert tab.evaluate(rows) == [row for row in everything if verdict in row] != []
        parts = tab.locator(".rb-board-part:visible")
        assert all(parts.nth(k).locator(f".{verdict}:visible").count() for k in range(parts.count()))
    tab.check("input[value=rb-all]", force=True)
    assert tab.evaluate(rows) == []
    first = tab.locator(".rb-board-part summary").first
    first.focus()
    tab.keyboard.press("Enter")
    held = tab.locator(".rb-board-part").first.locator(".rb-row").count()
    assert len(tab.evaluate(rows)) == held > 0
    tab.close()


def test_a_link_to_a_folded_claim_unfolds_it(chromium, pages, site):
    folded = [
        (file, row["id"]) for file, soup in pages.items() for row in soup.select("details.rb-fold tr[id]")
    ]
    if not folded:
        pytest.skip("no chapter has a recorded run yet")
    file, name = folded[-1]
    tab = chromium.new_page()
    tab.goto(file.as_uri())
    shown = "(name) => document.getElementById(name).checkVisibility()"
    assert not tab.evaluate(shown, name)
    # the address changes behind the browser's back: Chromium unfolds by itself, others leave it to the page
    tab.evaluate("(name) => history.pushState(null, '', '#' + name)", name)
    tab.evaluate("() => dispatchEvent(new HashChangeEvent('hashchange'))")
    assert tab.evaluate(shown, name)
    tab.close()


def test_a_dark_page_is_printed_light_and_is_dark_again_afterwards(chromium, site):
    tab = chromium.new_page(color_scheme="dark")
    tab.goto((site / "book" / "index.html").as_uri())
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(ground)
    tab.emulate_media(media="print")
    tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    tab.emulate_media(media="screen")
    tab.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(ground) == dark != "rgb(255, 255, 255)"
    tab.close()


def test_every_internal_link_leads_to_a_place_that_exists(pages, site):
    ids = {file: {e["id"] for e in soup.find_all(id=True)} for file, soup in pages.items()}
    broken = []
    for file, soup in pages.items():
        for link in soup.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            place = unquote(parts.fragment)
            if not target.is_file() or (place and target in ids and place not in ids[target]):
                broken.append(f"{file.relative_to(site)}: {link['href']}")
    assert broken == []


def test_pages_load_nothing_from_another_host_even_if_asked_later(pages, site):
    """What a page could fetch by itself, not what a reader may follow."""
    loaded = [
        f"{file.relative_to(site)}: {address}"
        for file, soup in pages.items()
        for element in soup.select("script[src], img[src], iframe[src], link[href]:not([rel=canonical])")
        if urlsplit(address := element.get("src") or element["href"]).netloc
    ]
    inline = [
        f"{file.relative_to(site)}: {script.string.strip()[:80]}"
        for file, soup in pages.items()
        for script in soup.select("script:not([src])")
        if re.search(r"https?://", script.string or "")
    ]
    assert loaded + inline == []


def test_no_link_points_at_a_repository_or_a_launcher(pages, site):
    words = re.compile(r"executablebooks|mybinder|colab\.|/edit/|/issues/new")
    found = [
        f"{f.relative_to(site)}: {a['href']}" for f, s in pages.items() for a in s.find_all("a", href=words)
    ]
    assert found == []


def test_every_public_module_has_a_place_in_the_reference():
    modules = {m.name for m in pkgutil.walk_packages(reprobook.__path__, "reprobook.")}
    public = {m for m in modules if not m.rpartition(".")[2].startswith("_")}
    with_content = {m for m in public if getattr(importlib.import_module(m), "__all__", None)}
    listed = [
        name
        for page in sorted((ROOT / "book" / "api").rglob("*.md"))
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    ]
    assert sorted(listed) == sorted(set(listed)), "a module stands there twice"
    assert with_content - set(listed) == set(), "give it a page in book/api/papers, or a place in book/api"
    assert set(listed) <= public
