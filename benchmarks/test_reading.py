"""What a reader waits for: pages opened over HTTP from this machine, in a browser with an empty cache.

Run with ``make bench``, after ``make book``. A page's numbers stand in the JSON under ``extra_info``:
milliseconds to the first and to the largest paint, kilobytes and requests until the page rests, the sum of
layout shifts. The bundled MathJax is in them.
"""

import shutil
import statistics
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = [
    "book/index.html",
    "book/scoreboard.html",
    "chapters/dann/dann.html",
    "chapters/diffusion_principles/flow_maps.html",
    "chapters/transformers_as_svm/transformers_as_svm.html",
]
WATCH = """
window.seen = { largest: 0, first: 0, shift: 0 };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) seen.largest = entry.startTime;
}).observe({ type: "largest-contentful-paint", buffered: true });
new PerformanceObserver((list) => {
  seen.first = list.getEntriesByName("first-contentful-paint")[0]?.startTime ?? seen.first;
}).observe({ type: "paint", buffered: true });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) seen.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
READ = """
() => {
  const loads = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
  const bytes = loads.reduce((sum, one) => sum + one.transferSize, 0);
  return { ...window.seen, requests: loads.length, bytes };
}
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address():
    """The rendered book on a port of this machine."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the book is not rendered: make book")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SITE)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """A headless browser."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser found")
    with driver.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def visit(browser, address: str) -> dict:
    """Open a page as somebody who was never here, and return what the browser measured."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(WATCH)
    tab.goto(address, wait_until="networkidle")
    seen = tab.evaluate(READ)
    context.close()
    return seen


@pytest.mark.parametrize("page", PAGES)
def test_opening_a_page(benchmark, browser, address, page):
    seen = []
    benchmark.pedantic(lambda: seen.append(visit(browser, f"{address}/{page}")), rounds=3, warmup_rounds=1)
    middle = {name: statistics.median(one[name] for one in seen[1:]) for name in seen[0]}
    benchmark.extra_info |= {
        "first paint, ms": round(middle["first"]),
        "largest paint, ms": round(middle["largest"]),
        "layout shift": round(middle["shift"], 4),
        "requests": middle["requests"],
        "kB": round(middle["bytes"] / 1000),
    }
    assert middle["largest"] < 2500
