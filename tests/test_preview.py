"""What a search engine and a shared link show: a page's own words, and a card where one is due."""

import pytest
from docutils.core import publish_doctree
from PIL import Image

from rendered import ROOT
from reprobook.sphinx_preview import LONGEST, PICTURE, describe
from test_sphinxext import CONFIGURATION, build, dress, page

SENTENCE = "This sentence is long enough to describe a whole page."


def described(text):
    return describe(publish_doctree(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Title\n=====\n\n{SENTENCE}\n\nAnother.\n\nB\n-\n\nx", SENTENCE),
        (
            f"A\n=\n\nToo short.\n\n.. note:: {SENTENCE} Boxed.\n\n- {SENTENCE} Listed.\n\n{SENTENCE}",
            SENTENCE,
        ),
        (
            "A\n=\n\n" + " ".join([SENTENCE] * 5),
            " ".join([SENTENCE] * 3),
        ),
        ("A\n=\n\nB\n-\n\n" + "word " * 100, "word " * 38 + "word…"),
        ("A\n=\n\nB\n-\n\nToo short.", ""),
    ],
)
def test_a_page_is_described_by_its_first_whole_sentences(text, expected):
    assert described(text) == expected
    assert len(expected) <= LONGEST


def head(executed_book, address):
    dress(executed_book)
    text = CONFIGURATION.replace(
        '"reprobook.sphinxext"]', '"reprobook.sphinxext", "reprobook.sphinx_preview"]'
    )
    (executed_book / "conf.py").write_text(f"{text}\nhtml_baseurl = {address!r}\n", encoding="utf-8")
    assert build(executed_book) == ""
    return {
        tag.get("property") or tag["name"]: tag["content"]
        for tag in page(executed_book).select("meta[content]")
        if tag.get("property") or tag.get("name")
    }


def test_without_an_address_no_card_points_nowhere(executed_book):
    tags = head(executed_book, "")
    assert not [name for name in tags if name.startswith(("og:", "twitter:"))]


def test_with_an_address_a_shared_link_shows_a_card(executed_book):
    tags = head(executed_book, "https://example.org/book/")
    assert tags["og:url"] == "https://example.org/book/chapters/toy/toy.html"
    assert tags["og:image"] == f"https://example.org/book/_static/{PICTURE}"
    assert tags["og:title"] and tags["og:description"] and tags["twitter:card"] == "summary_large_image"


def test_the_picture_of_the_card_has_the_usual_size():
    with Image.open(ROOT / "book" / "_static" / PICTURE) as picture:
        assert picture.size == (1200, 630)


@pytest.mark.page
def test_every_chapter_has_a_description_of_its_own(site, pages: dict):
    texts = []
    for file, soup in pages.items():
        if "chapters" in file.parts:
            tags = soup.select("meta[name=description]")
            texts += [tag["content"] for tag in tags]
            assert len(tags) == 1, file.name
    assert len(texts) >= 19 and len(set(texts)) == len(texts)
    assert all(40 <= len(text) <= LONGEST for text in texts)
