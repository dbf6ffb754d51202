"""Print the rendered book as one PDF, with bookmarks, page numbers and links that lead inside it.

python tools/print_book.py [BOOK]

Headless Chromium prints page after page, in the order of ``_toc.yml``. To make the numbers at the foot run
on, a page is printed behind as many empty sheets as lie before it, and these are left out. Chromium writes
down where an element lies only if something on the same page links to it; so every page gets an invisible
link to each.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml
from playwright.sync_api import Browser, Error, Playwright, sync_playwright
from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    DictionaryObject,
    Fit,
    FloatObject,
    NameObject,
    NullObject,
    TextStringObject,
)
from sphinx_external_toc.parsing import FileItem, GlobItem, SiteMap, parse_toc_yaml

BOOK = Path(__file__).resolve().parents[1]
PDF = "papers-you-can-rerun.pdf"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
SWITCHES = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MARGINS = {"top": "16mm", "right": "17mm", "bottom": "19mm", "left": "17mm"}  # as in print.css
FOOTER = (
    "<div style='width: 100%; margin: 0 17mm; display: flex; justify-content: space-between; color: #43494d;"
    " font: 8px sans-serif'><span>{title}</span><span class='pageNumber'></span></div>"
)

# Makes a page ready for paper and tells what its bookmarks say. What lies folded is found where its fold is.
PREPARE = """
async (sheetsBefore) => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const article = document.querySelector(".bd-article");
  const seen = [...article.querySelectorAll("img")].filter((image) => image.checkVisibility());
  await Promise.all(seen.map((image) => image.decode().catch(() => null)));
  const places = {};
  const links = document.createElement("div");
  links.hidden = true;
  const known = [article, ...article.querySelectorAll("[id]")];
  for (const element of known) {
    let shown = element;
    while (shown !== article && !(shown.id && shown.checkVisibility())) shown = shown.parentElement;
    if (shown === article) continue;
    places[element.id] = shown.id;
    links.append(Object.assign(document.createElement("a"), { href: "#" + encodeURIComponent(shown.id) }));
  }
  document.body.append(links);
  const text = (heading) => {
    const copy = heading.cloneNode(true);
    copy.querySelectorAll(".headerlink, mjx-container").forEach((part) => part.remove());
    return copy.textContent.replace(/\\s+/g, " ").trim();
  };
  const headings = [...article.querySelectorAll("h2, h3")].filter((h) => h.checkVisibility());
  const sections = headings.map((h) => [Number(h.tagName[1]), text(h), h.closest("section, [id]")?.id ?? ""]);
  const empty = document.createElement("div");
  empty.style.cssText = "height: 1px; break-after: page";
  for (let sheet = 0; sheet < sheetsBefore; sheet += 1) document.body.prepend(empty.cloneNode());
  return { title: text(article.querySelector("h1")), sections, places };
}
"""


class TroubleError(Exception):
    """What keeps the book from being printed, in one line."""


@dataclass
class Page:
    """A page of the book.

    Attributes:
        name: its path in the book, without a suffix.
        part: the caption that it stands under; empty for the cover.
        depth: 0, or more for a page that stands under another.
        title: its heading.
        sections: level (2 or 3), text and id of each section.
        first: the index of its first sheet.
        places: the sheet and the height of every id.
    """

    name: str
    part: str = ""
    depth: int = 0
    title: str = ""
    sections: list[tuple[int, str, str]] = field(default_factory=list)
    first: int = 0
    places: dict[str, tuple[int, float]] = field(default_factory=dict)


def contents(book: Path) -> list[Page]:
    """Return all pages of the table of contents, in its order."""
    site_map = parse_toc_yaml(book / "_toc.yml")
    return [Page(site_map.root.docname), *_below(book, site_map, site_map.root.docname, "", 0)]


def _below(book: Path, site_map: SiteMap, name: str, part: str, depth: int) -> Iterator[Page]:
    """Yield the pages that stand under a page."""
    for tree in site_map[name].subtrees if name in site_map else ():
        for item in tree.items:
            names = []
            if isinstance(item, GlobItem):
                files = [f for f in book.glob(f"{item}.*") if f.suffix in (".md", ".ipynb", ".rst")]
                names = sorted(f.relative_to(book).with_suffix("").as_posix() for f in files)
            elif isinstance(item, FileItem):
                names = [str(item)]
            for found in names:
                under = tree.caption or part
                yield Page(found, under, depth)
                yield from _below(book, site_map, found, under, depth + 1)


def start(play: Playwright) -> Browser:
    """Start the first browser found, or Playwright's own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), play.chromium.executable_path)
    if not Path(found).exists():
        raise TroubleError("no browser found, install Chromium or say .venv/bin/playwright install chromium")
    return play.chromium.launch(executable_path=found, args=SWITCHES)


def print_page(browser: Browser, site: Path, page: Page, book_title: str) -> PdfReader:
    """Print a page, and fill in its title, sections and places."""
    tab = browser.new_page(color_scheme="light", viewport={"width": 1000, "height": 1400})
    tab.set_default_timeout(300_000)
    tab.emulate_media(media="print")
    tab.goto((site / f"{page.name}.html").as_uri())
    seen = tab.evaluate(PREPARE, page.first)
    page.title = seen["title"]
    page.sections = [tuple(section) for section in seen["sections"]]
    foot = f"{book_title} · {page.title}" if page.first else ""
    printed = tab.pdf(
        format="A4",
        margin=MARGINS,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER.format(title=escape(foot)),
        page_ranges=f"{page.first + 1}-",
    )
    tab.close()
    reader = PdfReader(BytesIO(printed))
    found = {unquote(n.removeprefix("/")): place for n, place in reader.named_destinations.items()}
    for name, shown in seen["places"].items():
        if shown in found:
            sheet = reader.get_destination_page_number(found[shown])
            page.places[name] = (page.first + sheet, float(found[shown].top or 0))
    return reader


# --------------------------------------------------------------------------- putting together


def target_of(note: DictionaryObject, page: Page, pages: dict[str, Page]) -> tuple[int, float | None] | None:
    """Return the sheet and height that a link leads to; None for one that leaves the book."""
    if "/Dest" in note:
        return page.places.get(unquote(str(note["/Dest"]).removeprefix("/")), (page.first, None))
    address, fragment = urldefrag(str(note["/A"]["/URI"]))
    there = pages.get(unquote(address))
    return there and there.places.get(unquote(fragment), (there.first, None))


def lead_inside(writer: PdfWriter, sheet: PageObject, page: Page, pages: dict[str, Page]) -> None:
    """Make the links of a sheet lead inside the PDF; those to other files of the book become plain text."""
    kept = ArrayObject()
    for entry in sheet.get("/Annots", ()):
        note = entry.get_object()
        place = target_of(note, page, pages) if note.get("/Subtype") == "/Link" else None
        if place:
            number, top = place
            note.pop("/A", None)
            there = writer.pages[number].indirect_reference
            where = NullObject(), NullObject() if top is None else FloatObject(top), NullObject()
            note[NameObject("/Dest")] = ArrayObject([there, NameObject("/XYZ"), *where])
        if place or not str(note.get("/A", {}).get("/URI", "")).startswith("file:"):
            kept.append(entry)
    sheet[NameObject("/Annots")] = kept


def add_bookmarks(writer: PdfWriter, pages: list[Page]) -> None:
    """Add the outline: parts, in them pages with the pages below, and in each page its sections."""
    part, above, caption = None, {}, ""
    for page in pages:
        if page.part != caption:
            caption = page.part
            part = writer.add_outline_item(title=caption, page_number=page.first, bold=True)
        parent = above.get(page.depth - 1, part)
        above = {d: mark for d, mark in above.items() if d < page.depth}
        at = above[page.depth] = writer.add_outline_item(
            title=page.title, page_number=page.first, parent=parent, is_open=False
        )
        section = at
        for level, title, name in page.sections:
            sheet, top = page.places.get(name, (page.first, 0.0))
            fit = Fit.xyz(top=top) if top else Fit.fit()
            under = at if level == 2 else section
            mark = writer.add_outline_item(
                title=title, page_number=sheet, parent=under, fit=fit, is_open=False
            )
            section = mark if level == 2 else section


def assemble(book: Path, pages: list[Page], printed: list[PdfReader]) -> PdfWriter:
    """Put the printed pages together into one PDF."""
    site = book / "_build" / "html"
    by_address = {(site / f"{page.name}.html").as_uri(): page for page in pages}
    by_address = {unquote(address): page for address, page in by_address.items()}
    writer = PdfWriter()
    for reader in printed:
        for sheet in reader.pages:
            writer.add_page(sheet)
    ends = [page.first for page in pages[1:]] + [len(writer.pages)]
    for page, end in zip(pages, ends, strict=True):
        for number in range(page.first, end):
            lead_inside(writer, writer.pages[number], page, by_address)
    add_bookmarks(writer, pages)
    said = settings(book)
    writer.add_metadata({"/Title": said.get("title", ""), "/Author": said.get("author", "")})
    writer.page_mode = "/UseOutlines"
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    return writer


def settings(book: Path) -> dict:
    """Return what ``_config.yml`` says."""
    return yaml.safe_load((book / "_config.yml").read_text(encoding="utf-8"))


def write_whole(writer: PdfWriter, target: Path) -> None:
    """Write a file that is either all there or not there at all."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".pdf.part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            writer.write(file)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def print_book(book: Path) -> Path:
    """Print a rendered book and return the file.

    Raises:
        TroubleError: if the book is not rendered, or there is no browser.
    """
    pages, site = contents(book), book / "_build" / "html"
    missing = [page.name for page in pages if not (site / f"{page.name}.html").is_file()]
    if missing:
        raise TroubleError(f"_build/html/{missing[0]}.html is not there; say make book first")
    printed, title = [], settings(book).get("title", "")
    with sync_playwright() as play:
        browser = start(play)
        for count, page in enumerate(pages, 1):
            page.first = sum(len(reader.pages) for reader in printed)
            printed.append(print_page(browser, site, page, title))
            print(f"{count:3} of {len(pages)}, {len(printed[-1].pages):3} sheets: {page.title}", flush=True)
        browser.close()
    target = book / "_build" / PDF
    write_whole(assemble(book, pages, printed), target)
    sheets = sum(len(reader.pages) for reader in printed)
    print(f"_build/{PDF}: {sheets} sheets, {target.stat().st_size / 1e6:.1f} MB")
    return target


def main(arguments: list[str]) -> int:
    """Run as a command and return its exit code."""
    try:
        print_book(Path(arguments[0]).resolve() if arguments else BOOK)
    except KeyboardInterrupt:
        return 130
    except (TroubleError, OSError, Error) as error:
        print(f"print book: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
