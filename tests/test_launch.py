"""Links to Colab and Binder, and the theme's buttons: there with the setting, and without it not a trace."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from PIL import Image
from sphinx.config import Config
from sphinx.errors import ConfigError

from conftest import command_environment
from reprobook.jobs import declared_parameters
from reprobook.sphinx_launch import SETTING, _check_setting, launch_links, rerun_form, value_text
from reprobook.sphinx_light import bare, smaller
from test_sphinxext import CONFIGURATION, build, dress, html_of, page

EXTENSIONS = ', "reprobook.sphinx_launch", "reprobook.sphinx_light"]'
REPOSITORY = "https://github.com/some-body/their.book"
OUTSIDE = re.compile(r"colab|mybinder|github\.com")


def render(book: Path, repository: str | None = None, theme: str = "basic") -> str:
    """Build a throw-away book with the extensions, and return what Sphinx had to say against it."""
    dress(book)
    text = CONFIGURATION.replace('"reprobook.sphinxext"]', '"reprobook.sphinxext"' + EXTENSIONS)
    text = text.replace('"basic"', f'"{theme}"').replace("html_copy_source = False", "")
    setting = "" if repository is None else f"reprobook_repository = {repository!r}\n"
    (book / "conf.py").write_text(text + setting, encoding="utf-8")
    return build(book)


def test_without_the_setting_there_is_a_form_and_not_a_trace_of_a_launcher(executed_book):
    assert render(executed_book) == ""
    assert len(page(executed_book).select("details.rb-launch form")) == 1
    texts = [file.read_text(encoding="utf-8") for file in html_of(executed_book).rglob("*.html")]
    assert len(texts) >= 3
    assert [text for text in texts if OUTSIDE.search(text)] == []


def test_with_the_setting_every_notebook_can_be_launched_edited_and_asked_about(executed_book):
    assert render(executed_book, f"{REPOSITORY}.git", theme="sphinx_book_theme") == ""
    links = {a["href"] for a in page(executed_book).find_all("a", href=OUTSIDE)}
    notebook = "chapters/toy/toy.ipynb"
    assert f"https://colab.research.google.com/github/some-body/their.book/blob/main/{notebook}" in links
    tree = f"lab%2Ftree%2F{notebook.replace('/', '%2F')}"
    assert f"https://mybinder.org/v2/gh/some-body/their.book/main?urlpath={tree}" in links
    assert REPOSITORY in links
    assert f"{REPOSITORY}/edit/main/{notebook}" in links
    assert any(link.startswith(f"{REPOSITORY}/issues/new?title=") for link in links)
    assert not page(executed_book, "intro").select(".rb-open, .rb-launch")
    (box,) = page(executed_book).select(".rb-box")
    following = [e.get("class")[-1] for e in box.find_next_siblings(["details", "section"])[:2]]
    assert following == ["rb-launch", "rb-open"]


@pytest.mark.parametrize("wrong", ["github.com/a/b", "https://example.org/a/b", "https://github.com/a"])
def test_an_address_that_is_none_stops_the_build(wrong):
    config = Config(overrides={SETTING: wrong})
    config.add(SETTING, "", "env", (str,))
    with pytest.raises(ConfigError, match="is not of the form https://github"):
        _check_setting(None, config)


def test_what_colab_is_told_installs_a_library_that_finds_the_book(executed_book, tmp_path):
    """The two lines with words in place of git and pip that write down how they were called."""
    lines = next(n.astext() for n in launch_links("toy", REPOSITORY) if n.tagname == "literal_block")
    fetch, root = lines.splitlines()
    assert fetch.startswith("!")
    log = tmp_path / "log"
    for tool in ("git", "pip"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >>{shlex.quote(str(log))}\n')
        (tmp_path / tool).chmod(0o755)
    environment = command_environment(executed_book) | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", fetch[1:]], env=environment, check=True)
    cloned, installed = log.read_text().splitlines()
    folder = root.removeprefix("%env REPROBOOK_ROOT=")
    assert cloned.split()[-2:] == [REPOSITORY, folder]
    assert installed.split()[:2] == ["pip", "install"] and installed.split()[-1] == folder


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (3, "3"), (0.1, "0.1"), ([4, 8], "4, 8"), ("cpu", "cpu")]
)
def test_a_value_is_written_as_a_reader_would_type_it(value, text):
    assert value_text(value) == text


def test_no_value_of_a_notebook_can_end_the_script_that_holds_it(executed_book):
    toy = executed_book / "chapters" / "toy" / "toy.ipynb"
    text = toy.read_text(encoding="utf-8").replace("[none | fail", "[none | </script> | fail")
    toy.write_text(text, encoding="utf-8")
    soup = BeautifulSoup("".join(node.astext() for node in rerun_form("toy")), "html.parser")
    assert "</script> | fail" in declared_parameters("toy")["trouble"].allowed
    assert "\\u003c/script>" in soup.select_one("script").string


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '<span class="n">x</span> <span class="o">=</span> <span class="mi">2</span>',
            'x = <span class="mi">2</span>',
        ),
        ('<span class="n"><span class="pre">int</span></span>', "int"),
        (
            '<span class="sd">"""A</span>\n<span class="sd">B &lt; C</span>\n\n  <span class="sd">"""</span>',
            '<span class="sd">"""A\nB &lt; C\n\n  """</span>',
        ),
        ('<span class="k">if</span> <span class="kc">None</span>',) * 2,
        ('<span class="guilabel">A</span> <span class="guilabel">B</span>',) * 2,
        ('<span class="n"><a href="b.html">b</a></span>',) * 2,
    ],
)
def test_only_markup_without_a_look_is_left_out(before, after):
    assert bare(before) == after


def test_a_smaller_picture_is_the_same_to_the_pixel(tmp_path):
    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB")
    picture.save(tmp_path / "one.png")
    smaller(tmp_path / "one.png", tmp_path / "one.webp")
    with Image.open(tmp_path / "one.webp") as small:
        assert small.format == "WEBP"
        assert small.convert("RGB").tobytes() == picture.tobytes()
