"""Sphinx extension: under the box at the top of each chapter, what takes a reader from the page to a run.

A folded form, *Rerun with your own values*, is made from the parameters that the notebook declares. Under it
stand two commands, one for ``reprobook run`` and one for plain papermill, which follow what the reader types;
without JavaScript they are the commands for the laptop tier.

The setting ``reprobook_repository`` in ``_config.yml`` names where a copy of the book is published, such as
``https://github.com/OWNER/NAME``. If it is set, links to Colab and Binder stand there too, with what Colab
must be told first, and every page gets the theme's buttons for the repository, an edit and an issue. It is
empty by default, and then no page has a trace of any of this.
"""

from __future__ import annotations

import json
import re
import shlex
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

from reprobook import __version__
from reprobook.jobs import LAPTOP, canonical_name, declared_parameters, tier_files, tier_parameters
from reprobook.parameters import Parameter
from reprobook.paths import notebook_path

__all__ = ["setup", "SETTING", "FIRST", "rerun_form", "launch_links", "value_text"]

#: The name of the setting.
SETTING = "reprobook_repository"
#: The parameters that nearly every reader wants to change, in this order; the others are folded away.
FIRST = ("seed", "num_seeds", "device")
_GITHUB = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
_BRANCH = "main"
_DEVICES = ("cpu", "cuda", "mps", "auto")


# --------------------------------------------------------------------------- the form


def value_text(value: Any) -> str:
    """Return a value as a reader would type it: ``true``, ``0.1`` or ``4, 8, 16``."""
    if isinstance(value, list):
        return ", ".join(value_text(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def rerun_form(name: str) -> list[nodes.Node]:
    """Return the folded form of a notebook, with its two commands.

    Args:
        name: ``slug`` or ``slug/notebook``.
    """
    declared = declared_parameters(name)
    main = [declared[n] for n in FIRST if n in declared]
    others = [p for n, p in declared.items() if n not in FIRST]
    folded = ""
    if others:
        fields = "".join(_field(p) for p in others)
        summary = f"All other parameters: {len(others)}"
        folded = f"<details><summary>{summary}</summary><div class='rb-fields'>{fields}</div></details>"
    path = notebook_path(name)
    notebook = f"chapters/{path.parent.name}/{path.name}"
    start = (
        "<details class='rb-fold rb-launch'><summary>Rerun with your own values</summary>"
        "<form class='rb-launch-form' aria-label='Values of the run' hidden>"
        f"<div class='rb-fields'>{_tier_field(name)}{''.join(_field(p) for p in main)}</div>{folded}"
        "<p class='rb-launch-wrong' role='status'></p></form>"
        "<noscript><p class='rb-small'>Add <code>-p NAME VALUE</code> for every value of your own.</p>"
        "</noscript>"
        "<p class='rb-eyebrow'>In the folder of the book</p>"
    )
    data = json.dumps(_data(name, notebook, declared), ensure_ascii=False).replace("<", "\\u003c")
    end = f"<script type='application/json' class='rb-launch-data'>{data}</script></details>"
    return [
        _raw(start),
        _console(f"$ reprobook run {canonical_name(path)}"),
        _raw("<p class='rb-eyebrow'>The same with papermill alone</p>"),
        _console(f"$ papermill {notebook} out.ipynb"),
        _raw(end),
    ]


def _data(name: str, notebook: str, declared: dict[str, Parameter]) -> dict[str, Any]:
    """Return what the page's script needs: limits, and every tier's values as text."""
    files = tier_files(name)
    laptop = {n: p.default for n, p in declared.items()}
    tiers = {tier: laptop | tier_parameters(name, tier) for tier in (LAPTOP, *sorted(files))}
    return {
        "name": canonical_name(notebook_path(name)),
        "notebook": notebook,
        "parameters": {n: {"type": p.type, "allowed": p.allowed} for n, p in declared.items()},
        "tiers": {tier: {n: value_text(v) for n, v in values.items()} for tier, values in tiers.items()},
        "files": {tier: f"{Path(notebook).parent.as_posix()}/{file.name}" for tier, file in files.items()},
    }


def _tier_field(name: str) -> str:
    options = _options((LAPTOP, *sorted(tier_files(name))), LAPTOP)
    hint = "<small id='rb-hint--tier'>which set of values to start from</small>"
    control = f"<select id='rb-value--tier' name='--tier' aria-describedby='rb-hint--tier'>{options}</select>"
    return f"<div class='rb-field'><label for='rb-value--tier'>tier</label>{control}{hint}</div>"


def _field(parameter: Parameter) -> str:
    """Return the label, the control and the hint of one parameter."""
    name, allowed = parameter.name, parameter.allowed or ""
    value = value_text(parameter.default)
    common = f"id='rb-value-{name}' name='{name}' aria-describedby='rb-hint-{name} rb-limits-{name}'"
    choices = ["true", "false"] if parameter.type == "bool" else allowed.split(" | ")
    more = ""
    if parameter.type in ("bool", "str") and allowed != "device" and len(choices) > 1:
        control = f"<select {common}>{_options(choices, value)}</select>"
    else:
        if allowed == "device":
            more = f" list='rb-list-{name}'"
            control = f"<datalist id='rb-list-{name}'>{_options(_DEVICES)}</datalist>"
        else:
            control = ""
        control = (
            f"<input {common} value='{escape(value)}' autocomplete='off' spellcheck='false'{more}>{control}"
        )
    limits = "" if len(choices) > 1 or allowed == "device" else allowed.replace(" ..", " to", 1)
    limits = limits.removesuffix(" to") + " or more" if limits.endswith(" to") else limits
    return (
        f"<div class='rb-field'><label for='rb-value-{name}'>{name}</label>{control}"
        f"<small id='rb-hint-{name}'>{escape(parameter.help)}</small>"
        f"<small id='rb-limits-{name}' class='rb-limits'>{escape(limits)}</small></div>"
    )


def _options(values: Any, chosen: str = "") -> str:
    return "".join(
        f"<option value='{escape(v)}'{' selected' if v == chosen else ''}>{escape(v)}</option>"
        for v in values
    )


# --------------------------------------------------------------------------- links


def launch_links(name: str, repository: str) -> list[nodes.Node]:
    """Return the links that open a notebook on Colab and on Binder, and what to paste first on Colab.

    Args:
        name: ``slug`` or ``slug/notebook``.
        repository: where the book is published, on GitHub.
    """
    path = notebook_path(name)
    notebook = quote(f"chapters/{path.parent.name}/{path.name}")
    place = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{place}/blob/{_BRANCH}/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{place}/{_BRANCH}?urlpath={quote(f'lab/tree/{notebook}', safe='')}"
    first = (
        f"!git clone --quiet --depth 1 {shlex.quote(repository)} /content/book"
        " && pip install --quiet /content/book\n%env REPROBOOK_ROOT=/content/book"
    )
    return [
        _raw(
            "<section class='rb-open' aria-label='Run this chapter elsewhere'>"
            f"<p><a href='{escape(colab)}'>Open in Colab</a> "
            f"<a href='{escape(binder)}'>Open in Binder</a></p>"
            "<details class='rb-fold'><summary>What Colab must be told first</summary>"
            "<p class='rb-small'>Colab opens the notebook without the library behind it. Put these two lines "
            "into a new cell at the top and run it. If Colab then asks for a restart, allow it, and run the "
            "second line again.</p>"
        ),
        nodes.literal_block(first, first, language="text"),
        _raw("</details></section>"),
    ]


def _check_setting(app: Sphinx, config: Config) -> None:
    """Check the address, and switch on the theme's own buttons if there is one."""
    address = config[SETTING].strip().removesuffix("/").removesuffix(".git")
    if not address:
        return
    if not _GITHUB.fullmatch(address):
        raise ConfigError(f"{SETTING} = {config[SETTING]!r} is not of the form https://github.com/OWNER/NAME")
    config[SETTING] = address
    if config.html_theme != "sphinx_book_theme":
        return
    config.html_theme_options = config.html_theme_options | {
        "repository_url": address,
        "repository_branch": _BRANCH,
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_issues_button": True,
    }


# --------------------------------------------------------------------------- where it goes


def _add(app: Sphinx, document: nodes.document) -> None:
    """Put the form, and the links if wanted, under the box at the top of a chapter."""
    place = app.env.docname.split("/")
    box = _end_of_box(document) if len(place) == 3 and place[0] == "chapters" else None
    if box is None:
        return
    name = "/".join(place[1:])
    for file in tier_files(name).values():
        app.env.note_dependency(str(file))
    made = rerun_form(name)
    if app.config[SETTING]:
        made += launch_links(name, app.config[SETTING])
    at = box.parent.index(box) + 1
    box.parent[at:at] = made


def _end_of_box(document: nodes.document) -> nodes.raw | None:
    """Return the node that ends the box of :class:`reprobook.sphinxext.VerdictBox`."""
    begun = False
    for node in document.findall(nodes.raw):
        begun = begun or node.astext().startswith("<section class='rb-box'")
        if begun and node.astext().endswith("</section>"):
            return node
    return None


def _load(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Load script and style on the pages that have a form."""
    if document is not None and "rb-launch-data" in context.get("body", ""):
        app.add_js_file("launch.js", loading_method="defer")
        app.add_css_file("launch.css")


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def _console(command: str) -> nodes.literal_block:
    return nodes.literal_block(command, command, language="console")


def setup(app: Sphinx) -> dict:
    """Register the setting and what follows from it (called by Sphinx)."""
    app.add_config_value(SETTING, "", "env", types=(str,))
    app.connect("config-inited", _check_setting)
    app.connect("doctree-read", _add)
    app.connect("html-page-context", _load)
    return {"version": __version__, "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
