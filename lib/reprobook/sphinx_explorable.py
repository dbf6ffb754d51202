"""Sphinx extension: ``{explorable}``, a picture to move by hand, from numbers computed beforehand.

``chapters/SLUG/explorable.json`` holds the controls, the data, and the first picture with its sentence, for
readers without scripts and for paper. All of it stands in the page, so nothing has to be fetched.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from reprobook import __version__

__all__ = ["setup", "Explorable", "explorable_html"]


class Explorable(SphinxDirective):
    """``{explorable} SLUG``, with the caption as its content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        slug = self.arguments[0]
        file = Path(self.env.srcdir) / "chapters" / slug / "explorable.json"
        if not file.is_file():
            raise self.error(f"there is no chapters/{slug}/explorable.json: run tools/explorables.py {slug}")
        self.env.note_dependency(str(file))
        start, end = explorable_html(slug, json.loads(file.read_text(encoding="utf-8")))
        caption = nodes.container()
        self.state.nested_parse(StringList(self.content), self.content_offset, caption)
        return [_raw(start), *caption.children, _raw(end)]


def explorable_html(slug: str, made: dict) -> tuple[str, str]:
    """Return what stands before and after the caption.

    Args:
        slug: of the chapter, which is also the name that the script knows the picture by.
        made: what ``explorable.json`` holds.
    """
    start = made["start"]
    data = json.dumps({"controls": made["controls"], "data": made["data"]}, ensure_ascii=False)
    safe = data.replace("<", "\\u003c")
    fields = "".join(_control(f"{slug.replace('_', '-')}-{c['name']}", c) for c in made["controls"])
    opened = (
        f'<figure class="rb-explorable" data-explorable="{escape(slug)}">'
        f'<fieldset class="rb-x-controls" disabled><legend>Move this picture</legend>{fields}</fieldset>'
        f'<div class="rb-x-stage" role="img" aria-label="{escape(start["says"])}">{start["panels"]}</div>'
        f'<p class="rb-x-says" aria-live="polite">{escape(start["says"])}</p>'
        f'<script type="application/json">{safe}</script><figcaption>'
    )
    return opened, "</figcaption></figure>"


def _control(name: str, made: dict) -> str:
    """Return a labelled slider with the value that it stands at, or a labelled list to choose from."""
    values, at = [escape(v) for v in made["values"]], made["start"]
    label = f'<label for="{name}">{escape(made["label"])}</label>'
    known = f'id="{name}" data-control="{escape(made["name"])}" autocomplete="off"'
    if made["kind"] == "select":
        options = [
            f'<option value="{k}"{" selected" if k == at else ""}>{v}</option>' for k, v in enumerate(values)
        ]
        return f'<div class="rb-x-control">{label}<select {known}>{"".join(options)}</select></div>'
    slider = (
        f'<input type="range" {known} min="0" max="{len(values) - 1}" step="1" value="{at}" '
        f'aria-valuetext="{values[at]}">'
    )
    return f'<div class="rb-x-control">{label}<output for="{name}">{values[at]}</output>{slider}</div>'


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def _load(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Give script and style to the pages that have something to move, and to no others."""
    raws = doctree.findall(nodes.raw) if doctree is not None else ()
    if any("data-explorable=" in raw.astext() for raw in raws):
        app.add_css_file("explorables.css")
        app.add_js_file("explorables.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    """Register the directive (called by Sphinx)."""
    app.add_directive("explorable", Explorable)
    app.connect("html-page-context", _load)
    return {"version": __version__, "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
