"""Sphinx extension: code that leads somewhere.

In the cells of a chapter, a name of the library leads to its page in the reference, and a claim's name leads
to its verdict, whose row in the claims table leads back to the cell that measures it. Of a long cell the key
lines stay open, those that call the library, measure a claim or say what a function is for; whole statements
between them unfold at a click. All of it happens to the page; the notebook stays as it is.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable
from html import escape, unescape
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from reprobook import __version__

__all__ = ["setup", "imported", "link_names", "link_claims", "fold"]

LONG = 24  # lines of code, from which on a cell is folded
_GAP = 4  # fewer lines than this stay open: folding them would save nothing
_CELL = re.compile(
    r'(<div class="highlight-(?:ipython3|python) notranslate"><div class="highlight"><pre>)(.*?)(</pre>)',
    re.S,
)
_NAME = re.compile(
    r'(?P<dot><span class="o">\.</span>)?<span class="(?:n|nn|nc|nf)">(?P<name>[\w.]+)</span>'
    r'(?:<span class="o">\.</span><span class="n">(?P<attribute>\w+)</span>)?'
    r'(?P<keyword><span class="o">=</span>)?'
)
_TEXT = re.compile(r'<span class="s[12]">(?:&quot;|"|&#39;|\')(?P<text>[\w-]+)(?:&quot;|"|&#39;|\')</span>')
_ROW = re.compile(r"(<p class=[\"']rb-note[\"']><code>([\w-]+)</code>[^<]*)(?=</p>)")
_KEY = re.compile(r'class="(?:rb-api|rb-evidence|c1)\b')

Address = Callable[[str], str | None]


def imported(sources: Iterable[str]) -> dict[str, str]:
    """Return what the names of some cells stand for, as far as the library is concerned.

    Args:
        sources: code of the cells; what does not parse is passed over.

    Returns:
        by name, the full name in the library. ``chapter`` is the :class:`reprobook.chapter.Chapter`.
    """
    names = {"chapter": "reprobook.chapter.Chapter"}
    for source in sources:
        try:
            statements = ast.walk(ast.parse(source))
        except SyntaxError:
            continue
        for found in statements:
            if isinstance(found, ast.ImportFrom) and (found.module or "").startswith("reprobook"):
                names |= {a.asname or a.name: f"{found.module}.{a.name}" for a in found.names}
    return names


def link_names(code: str, names: dict[str, str], address: Address) -> str:
    """Let the library's names in highlighted code lead to the reference.

    Attributes of other objects and names of arguments are left alone, even where they are spelt alike.

    Args:
        code: highlighted code, as Pygments writes it.
        names: see :func:`imported`.
        address: the address of what has this full name, or None if the reference does not know it.
    """

    def linked(found: re.Match) -> str:
        full = names.get(found["name"], found["name"])
        inner = f"{full}.{found['attribute']}" if found["attribute"] else full
        if found["dot"] or (found["keyword"] and not found["attribute"]):
            return found[0]
        for known in (inner, full):
            href = address(known)
            if href:
                tail = found["keyword"] or ""
                shown = found[0].removesuffix(tail)
                if known == full and found["attribute"]:
                    shown, rest = shown.split("</span>", 1)
                    shown, tail = f"{shown}</span>", rest + tail
                return f'<a class="rb-api" href="{escape(href)}">{shown}</a>{tail}'
        return found[0]

    return _NAME.sub(linked, code)


def link_claims(code: str, claims: Iterable[str], seen: set[str]) -> str:
    """Let a claim's name in highlighted code lead to its row in the page's claims table.

    Args:
        code: highlighted code.
        claims: the claims of the page, by name.
        seen: claims that have a place in the page already; those found here are added. The first place gets
            an anchor.
    """
    known = set(claims)

    def linked(found: re.Match) -> str:
        claim = found["text"]
        if claim not in known:
            return found[0]
        anchor = "" if claim in seen else f' id="evidence-{claim}"'
        seen.add(claim)
        return f'<a class="rb-evidence"{anchor} href="#claim-{claim}" title="to the verdict">{found[0]}</a>'

    return _TEXT.sub(linked, code)


def fold(code: str, longest: int = LONG) -> str:
    """Fold statements of a long cell that neither call the library nor measure a claim nor have a comment.

    A function that does none of it keeps its first line and its docstring. The text, read or copied from the
    page, stays the same but for the words on the folds, which are of class ``rb-more``.

    Args:
        code: highlighted code, its names and claims linked.
        longest: lines that a cell may have without being folded.
    """
    lines = code.split("\n")
    if len(lines) - 1 <= longest:
        return code
    source = unescape(re.sub(r"<[^>]*>", "", code))
    quiet = _quiet(ast.parse(source).body, {n for n, line in enumerate(lines, 1) if _KEY.search(line)})
    made = []
    for is_quiet, run in groupby(range(len(lines)), lambda n: n + 1 in quiet):
        part = "\n".join(lines[n] for n in run) + "\n"
        count = part.count("\n")
        if is_quiet and count >= _GAP:
            words = f'<summary class="rb-more">{count} more lines</summary>'
            part = f'<details class="rb-lines">{words}{part}</details>'
        made.append(part)
    return "".join(made).removesuffix("\n")


def _quiet(body: list[ast.stmt], keys: set[int]) -> set[int]:
    """Return the lines of whole statements without a key line, with what lies between two of them."""
    quiet: set[int] = set()
    before = 0  # where the statement before ends, if it is quiet itself
    for found in body:
        start, end = found.lineno, found.end_lineno
        if isinstance(found, ast.FunctionDef | ast.ClassDef):
            quiet |= _quiet(found.body[ast.get_docstring(found) is not None :], keys)
            before = 0
        elif keys.isdisjoint(range(start, end + 1)):
            joined = before and keys.isdisjoint(range(before, start))
            quiet |= set(range(before + 1 if joined else start, end + 1))
            before = end
        else:
            before = 0
    return quiet


def _lead(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Give the cells of a chapter's page their links and folds."""
    notebook = Path(app.srcdir) / f"{page}.ipynb"
    if document is None or not page.startswith("chapters/") or not notebook.is_file():
        return
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names = imported("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    objects = app.env.domains["py"].objects
    body, seen = context["body"], set()
    claims = re.findall(r"<tr id=[\"']claim-([\w-]+)[\"']", body)

    def address(name: str) -> str | None:
        found = objects.get(name)
        if found is None:
            return None
        return f"{app.builder.get_relative_uri(page, found.docname)}#{found.node_id}"

    def led(found: re.Match) -> str:
        start, code, end = found.groups()
        code = link_claims(link_names(code, names, address), claims, seen)
        is_cell = 'class="highlight-ipython3' in start and not _hidden(body, found.start())
        return f"{start}{fold(code) if is_cell else code}{end}"

    def told(found: re.Match) -> str:
        if found[2] not in seen:
            return found[0]
        return f'{found[1]} · <a href="#evidence-{found[2]}">where it is measured</a>'

    context["body"] = _ROW.sub(told, _CELL.sub(led, body))


def _hidden(body: str, place: int) -> bool:
    """Return whether a place in a page lies within something folded."""
    return body.count("<details", 0, place) > body.count("</details", 0, place)


def setup(app: Sphinx) -> dict:
    """Register what happens to the cells (called by Sphinx)."""
    app.connect("html-page-context", _lead, priority=400)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
