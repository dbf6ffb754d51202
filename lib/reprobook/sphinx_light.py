"""Sphinx extension: pages that weigh little and do not jump while they load.

Pictures are stored once more as lossless WebP, the same to the pixel and less than half as long; an animation
stays as it is. Each says how large it is, so that the text below it stays where it is when it arrives, and is
decoded while the reader reads on; one that lies folded is fetched when it is unfolded. A chapter's picture
leads to its file, to be looked at alone, and on a small screen it scrolls in its place.

What no page loads is left out: the theme's icon fonts, for which ``book.css`` has drawings, the maps for
debugging its style sheets, and markup of code and literals that changes nothing to the eye.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

from reprobook import __version__

__all__ = ["setup", "smaller", "bare"]

_PICTURE = re.compile(r"<img\b[^>]*?\bsrc=\"(?P<folder>[^\"]*_images/)(?P<name>[^\"/]+)\.png\"[^>]*>")
# names, operators, brackets and blanks of code, all in the colour of the text; the words of a literal
_PLAIN = re.compile(r'<span class="(?:n|nn|o|p|w|pre)">([^<]*)</span>')
# pieces of code in one colour, as the lines of a docstring are
_ALIKE = re.compile(r'<span class="(\w{1,2})">[^<]*</span>(?:\s*<span class="\1">[^<]*</span>)+')
_LEFT_OUT = ("vendor/fontawesome", "styles/*.map", "scripts/*.map", "scripts/*.LICENSE.txt")


def smaller(source: Path, target: Path) -> None:
    """Store a picture as lossless WebP, unless that was done since it last changed."""
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        with Image.open(source) as picture:
            picture.save(target, "WEBP", lossless=True, method=4)


def bare(body: str) -> str:
    """Return the body of a page without the markup of code and literals that gives them no look."""
    for _ in range(2):  # literals stand within names, in signatures
        body = _PLAIN.sub(r"\1", body)
    return _ALIKE.sub(
        lambda found: f'<span class="{found[1]}">{re.sub("<[^>]*>", "", found[0])}</span>', body
    )


def _moves(picture: Image.Image) -> bool:
    """Whether a picture is an animation, which stays as it is."""
    return getattr(picture, "n_frames", 1) > 1


def _dress(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Give every picture of a page its size, the name of its smaller copy and, in a chapter, a link to it."""
    sources = {name: Path(app.srcdir) / source for source, name in app.builder.images.items()}

    def dressed(found: re.Match) -> str:
        source = sources.get(f"{found['name']}.png")
        if source is None:
            return found[0]
        with Image.open(source) as picture:
            (width, height), moves = picture.size, _moves(picture)
        stored = f"{found['name']}.{'png' if moves else 'webp'}"
        tag = found[0].replace(f"{found['name']}.png", stored)
        if not re.search(r"\s(width|height)=", tag):
            tag = tag.replace("<img", f'<img width="{width}" height="{height}"', 1)
        when = 'loading="lazy"' if _folded(found.string, found.start()) else 'decoding="async"'
        tag = tag.replace("<img", f"<img {when}", 1)
        before = found.string[: found.start()].rstrip().rpartition("<")[2]
        if not page.startswith("chapters/") or before.startswith("a "):  # which is a link already
            return tag
        return f'<a class="rb-picture" href="{found["folder"]}{stored}">{tag}</a>'

    if "body" in context:
        context["body"] = _PICTURE.sub(dressed, bare(context["body"]))


def _folded(body: str, place: int) -> bool:
    """Return whether a place in a page lies within something folded."""
    return body.count("<details", 0, place) > body.count("</details", 0, place)


def _shrink(app: Sphinx, error: Exception | None) -> None:
    """Put the smaller copies in place of the pictures, and take away what no page loads."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for source in (site / "_images").glob("*.png"):
        with Image.open(source) as picture:
            moves = _moves(picture)
        if not moves:
            smaller(source, source.with_suffix(".webp"))
            source.unlink()
    for pattern in _LEFT_OUT:
        for found in list((site / "_static").glob(pattern)):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def setup(app: Sphinx) -> dict:
    """Register what happens to pages and pictures (called by Sphinx)."""
    app.connect("html-page-context", _dress)
    app.connect("build-finished", _shrink)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
