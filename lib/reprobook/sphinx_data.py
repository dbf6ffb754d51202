"""Sphinx extension: ``{data-sets}``, the list of all data sets, made from the catalogue."""

from __future__ import annotations

from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from reprobook import __version__
from reprobook.data import catalogue, cifar10, cifar100
from reprobook.data.catalogue import CATALOGUE, DataSet

__all__ = ["setup", "DataSets"]


class DataSets(SphinxDirective):
    """``{data-sets}``: a section a set, with what it holds, its terms, its size and its addresses."""

    def run(self) -> list[nodes.Node]:
        for module in (catalogue, cifar10, cifar100):
            self.env.note_dependency(module.__file__)
        return [_section(entry) for entry in CATALOGUE.values()]


def _section(entry: DataSet) -> nodes.section:
    """Return the section about one set."""
    title = nodes.title("", "", nodes.literal(entry.name, entry.name))
    facts = [
        ("What it holds", [nodes.Text(entry.shape)]),
        ("Here for", [nodes.Text(entry.purpose)]),
        ("Terms", [nodes.Text(entry.licence)]),
        ("To cite", [nodes.Text(entry.citation)]),
        ("Size", [nodes.Text(_size(entry))]),
        ("From", _homes(entry)),
    ]
    fields = [
        nodes.field("", nodes.field_name(name, name), nodes.field_body("", nodes.paragraph("", "", *body)))
        for name, body in facts
        if body
    ]
    parts = [title, nodes.paragraph(entry.title, entry.title), nodes.field_list("", *fields)]
    if entry.note:
        parts.append(nodes.paragraph(entry.note, entry.note))
    return nodes.section("", *parts, ids=[f"data-{entry.name.replace('_', '-')}"], names=[])


def _size(entry: DataSet) -> str:
    if not entry.editions:
        return "no files of its own"
    files = entry.to_download or entry.editions[0]
    return f"{entry.size / 1e6:.1f} MB in {len(files)} files"


def _homes(entry: DataSet) -> list[nodes.Node]:
    """Return links to the homes, named by their hosts; or what the set is made from."""
    links = [nodes.reference("", urlsplit(home).netloc, refuri=home) for home in entry.homes]
    if not links:
        return [nodes.Text(f"made from {' and '.join(entry.made_from)}")]
    return [node for link in links for node in (nodes.Text(", "), link)][1:]


def setup(app: Sphinx) -> dict:
    """Register the directive (called by Sphinx)."""
    app.add_directive("data-sets", DataSets)
    return {"version": __version__, "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
