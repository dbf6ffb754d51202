"""The book, rendered once, and one browser for all tests that open its pages."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
COMMAND = str(Path(sys.executable).with_name("jupyter-book"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def site() -> Path:
    """The rendered book."""
    words = [COMMAND, "build", str(ROOT), "-W", "-n", "--keep-going"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    said = (done.stdout + done.stderr).splitlines()
    complaints = [line for line in said if re.search("WARNING|ERROR", line)] or said[-3:]
    assert done.returncode == 0, "the book does not render without warnings:\n" + "\n".join(complaints)
    return SITE


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    """Every page of the book, parsed, by its file; what an earlier build left behind is not among them."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    names = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["docnames"]
    files = [site / f"{name}.html" for name in ("index", "search", *names)]
    return {file: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for file in files}


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """A headless browser."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser found: install one of {', '.join(BROWSERS)} to test the pages")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=SWITCHES)
        yield browser
        browser.close()


def barriers(tab, contrast: bool = True) -> list[str]:
    """Return what axe-core finds serious or critical on an open page.

    Contrast takes it long on a long page; :mod:`test_pages` measures that by itself.
    """
    from axe_playwright_python.sync_playwright import Axe

    rules = {"color-contrast": {"enabled": contrast}}
    options = {
        "resultTypes": ["violations"],
        "rules": rules,
        "preload": False,
    }  # no style sheet a second time
    return [
        f"{one['id']}: {len(one['nodes'])} times, first {one['nodes'][0]['html'][:120]}"
        for one in Axe().run(tab, options=options).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def shoot(tab, name: str) -> None:
    """Keep a picture of all of an open page in ``_shots``, if ``REPROBOOK_SHOTS`` is 1."""
    if os.environ.get("REPROBOOK_SHOTS") == "1":
        tab.screenshot(path=ROOT / "_shots" / f"{name}.png", full_page=True)
