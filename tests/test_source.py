"""From the reference to the source: every link leads to the line on which the thing is defined."""

import re
from html import unescape
from urllib.parse import urldefrag

import pytest

import reprobook.cards
import reprobook.stamps
import reprobook.sweeps  # noqa: F401  (a package that only passes on names of its modules)
from rendered import ROOT
from reprobook.sphinx_source import highlighted, line_of

MODULE = "reprobook.stamps"


@pytest.mark.parametrize("name", ["stamp", "reached_modules", "is_stale"])
def test_the_line_of_a_function_is_that_of_its_definition(name):
    lines = (ROOT / "lib/reprobook/stamps.py").read_text(encoding="utf-8").splitlines()
    assert re.match(rf"def {name}\(", lines[line_of(MODULE, name) - 1])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (MODULE, "PACKAGE"),
        (MODULE, "no_such_thing"),
        ("reprobook.no_such_module", "stamp"),
        ("reprobook.sweeps", "run_sweep"),
    ],
)
def test_what_is_not_defined_there_has_no_line(module, name):
    assert line_of(module, name) is None


def test_a_module_page_has_the_source_and_an_anchor_a_definition():
    source = (
        '\n@cache\ndef f(x):\n    """Less < more."""\n    return x & 1\n\nclass A:\n    def g(self): pass\n'
    )
    page = highlighted(source)
    assert unescape(re.sub("<[^>]*>", "", page)) == source
    assert re.findall(r'id="(line-\d+)"', page) == [f"line-{n}" for n in (2, 3, 7, 8)]


@pytest.mark.page
def test_every_link_to_the_source_leads_to_the_definition(site, pages):
    from bs4 import BeautifulSoup

    read, checked = {}, 0
    for file, soup in pages.items():
        for link in soup.select("a:has(> .viewcode-link)"):
            address, line = urldefrag(link["href"])
            target = (file.parent / address).resolve()
            if target not in read:
                read[target] = BeautifulSoup(target.read_text(encoding="utf-8"), "html.parser")
            name = link.parent["id"].rpartition(".")[2]
            text = read[target].find(id=line).get_text()
            assert re.search(rf"^\s*(@|(async )?def {name}\b|class {name}\b)", text), (
                link.parent["id"],
                text,
            )
            checked += 1
    assert checked > 500
    for target, soup in read.items():
        (back,) = (a["href"] for a in soup.select("nav a") if a.get_text().endswith(" in the reference"))
        address, place = urldefrag(back)
        assert pages[(target.parent / address).resolve()].find(id=place)
