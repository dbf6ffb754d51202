"""Sphinx extension: the source of the library, a page a module, to which the reference leads.

Sphinx's own extension for this, ``viewcode``, imports the whole library whenever a word of the book changes,
and keeps all of its source with every page of the reference. Here ``sphinx.ext.linkcode`` makes the links,
and a module is highlighted when it has changed.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.config import Config

from reprobook import __version__
from reprobook.stamps import PACKAGE

__all__ = ["setup", "line_of", "highlighted"]

_FOLDER = "_modules"  # of the site
_TEMPLATE = "source.html"
_DEFINITION = re.compile(r"\s*(@|(async )?def |class )")  # decorated or not


def line_of(module: str, name: str) -> int | None:
    """Return the line on which an object of the library begins; None for what has no line, as a constant.

    Args:
        module: full name of a module that has been imported.
        name: of the object in it, with dots for what is inside a class.
    """
    try:
        found = reduce(getattr, name.split("."), sys.modules[module])
        found = inspect.unwrap(found.fget if isinstance(found, property) else found)
        return inspect.getsourcelines(found)[1] if found.__module__ == module else None
    except (AttributeError, KeyError, OSError, TypeError):
        return None


def highlighted(source: str) -> str:
    """Return the source of a module as HTML, with an anchor at every definition, such as ``line-12``."""
    lines = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).split("\n")
    for place, plain in enumerate(source.splitlines()):
        if _DEFINITION.match(plain):
            lines[place] = f'<span id="line-{place + 1}">{lines[place]}</span>'
    return '<div class="highlight"><pre tabindex="0">' + "\n".join(lines) + "</pre></div>"


def _resolve_for(app: Sphinx):
    """Return what ``linkcode`` asks for the address of an object's source."""

    def resolve(domain: str, info: dict[str, str]) -> str | None:
        line = line_of(info["module"], info["fullname"]) if domain == "py" else None
        if line is None:
            return None
        page = f"{_FOLDER}/{info['module'].replace('.', '/')}"
        return f"{app.builder.get_relative_uri(app.env.docname, page)}#line-{line}"

    return resolve


def _configure(app: Sphinx, config: Config) -> None:
    config.linkcode_resolve = _resolve_for(app)


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield the pages of modules that changed, or look different, since they were written."""
    form = Path(app.srcdir) / "book" / "_templates" / _TEMPLATE
    looks = max(path.stat().st_mtime for path in (form, Path(__file__)) if path.is_file())
    for name, module in app.env.domains["py"].modules.items():
        file = PACKAGE.joinpath(*name.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        page = f"{_FOLDER}/{name.replace('.', '/')}"
        written = Path(app.outdir) / f"{page}.html"
        if name.split(".")[0] != PACKAGE.name or not file.is_file():
            continue
        if not written.is_file() or written.stat().st_mtime < max(looks, file.stat().st_mtime):
            back = f"{app.builder.get_relative_uri(page, module.docname)}#{module.node_id}"
            body = highlighted(file.read_text(encoding="utf-8"))
            yield page, {"title": name, "reference": back, "body": body}, _TEMPLATE


def setup(app: Sphinx) -> dict:
    """Register the links and the pages (called by Sphinx)."""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _configure)
    app.connect("html-collect-pages", _pages)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
