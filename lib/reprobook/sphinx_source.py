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

__all__ = ["setup", "line_of", "module_page"]

_FOLDER = "_modules"  # of the site
_PLAIN = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')  # names, brackets and blanks: black


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


def module_page(source: str, reference: str) -> str:
    """Return the body of a module's page.

    Args:
        source: the module.
        reference: the address of what the reference says of it.
    """
    form = HtmlFormatter(linespans="line", cssclass="highlight")
    code = _PLAIN.sub(r"\1", highlight(source, PythonLexer(), form))
    return f'<p><a href="{reference}">In the reference</a></p><div class="highlight-python">{code}</div>'


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
    """Yield the pages of those modules in the reference that changed since they were written."""
    for name, module in app.env.domains["py"].modules.items():
        file = PACKAGE.joinpath(*name.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        page = f"{_FOLDER}/{name.replace('.', '/')}"
        written = Path(app.outdir) / f"{page}.html"
        if name.split(".")[0] != PACKAGE.name or not file.is_file():
            continue
        if not written.is_file() or written.stat().st_mtime < file.stat().st_mtime:
            back = f"{app.builder.get_relative_uri(page, module.docname)}#{module.node_id}"
            body = module_page(file.read_text(encoding="utf-8"), back)
            yield page, {"title": name, "body": f"<h1>{name}</h1>{body}"}, "page.html"


def setup(app: Sphinx) -> dict:
    """Register the links and the pages (called by Sphinx)."""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _configure)
    app.connect("html-collect-pages", _pages)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
