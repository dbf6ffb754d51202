"""Sphinx extension: what search engines and messengers show of a page.

Every page gets a description, its own first sentences. Where the configuration says at which address the book
stands (``html_baseurl``), a link that somebody shares gets a card: title, description and the book's picture.
"""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx.application import Sphinx

from reprobook import __version__

__all__ = ["setup", "describe", "LONGEST"]

LONGEST = 200  # characters; more is cut off where it is shown
PICTURE = "social.png"  # 1200 by 630 points, in the book's static files
_ALT = "Papers You Can Rerun: three claims of a paper, each with its measured interval and its verdict"


def describe(document: nodes.document) -> str:
    """Return the first sentences of a page that fit into a description; nothing if it has no text.

    Args:
        document: the page. Text in boxes, lists, figures and margins does not count.
    """
    for paragraph in document.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        stands = paragraph.parent
        if len(text) < 40 or not (
            isinstance(stands, nodes.document | nodes.section) or "rb-lede" in stands["classes"]
        ):
            continue
        if len(text) <= LONGEST:
            return text
        whole, dot, _ = text[:LONGEST].rpartition(". ")
        return whole + "." if dot and len(whole) > 40 else text[: LONGEST - 1].rsplit(" ", 1)[0] + "…"
    return ""


def _preview(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Add the tags to a page's head."""
    if document is None:
        return
    words = describe(document)
    tags = [f'<meta name="description" content="{escape(words)}">'] if words else []
    address = app.config.html_baseurl.rstrip("/")
    if address:
        title = nodes.unescape(app.env.titles[page].astext())
        card = {
            "og:type": "article",
            "og:site_name": app.config.html_title or app.config.project,
            "og:title": title,
            "og:description": words or title,
            "og:url": f"{address}/{app.builder.get_target_uri(page)}",
            "og:image": f"{address}/_static/{PICTURE}",
            "og:image:alt": _ALT,
        }
        tags += [f'<meta property="{name}" content="{escape(text)}">' for name, text in card.items()]
        tags.append('<meta name="twitter:card" content="summary_large_image">')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app: Sphinx) -> dict:
    """Register what goes into the head of pages (called by Sphinx)."""
    app.connect("html-page-context", _preview)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
