"""The pictures to move by hand: their numbers follow from the library, and they move in a browser.

The pages are those of a small book of their own, with the style sheets and the script of this one, which
takes a moment to render.
"""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.dann.shallow import accuracy, members
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.fits import best_gaussian
from reprobook.papers.transformers_as_svm.problems import best_token
from reprobook.papers.transformers_as_svm.svm import att_svm
from reprobook.paths import chapter_slugs

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LARGEST_FILE, LARGEST_SCRIPT = 120_000, 25_000  # bytes
PAGE = """\
# A page

:::{container} bd-article
```{explorable} SLUG
What *it* shows.
```
:::
"""

_spec = importlib.util.spec_from_file_location("explorables", ROOT / "tools" / "explorables.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)
SLUGS = sorted(tool.MAKERS)


def made(slug: str) -> dict:
    """Return what the file of a chapter holds."""
    return json.loads((ROOT / "chapters" / slug / "explorable.json").read_text(encoding="utf-8"))


def close(found: torch.Tensor, stored: list, tolerance: float) -> bool:
    """Return whether numbers are those of a file, as far as it was rounded."""
    return np.allclose(found.detach().numpy(), np.array(stored), rtol=0, atol=tolerance)


# --------------------------------------------------------------------------- numbers against the library


def test_every_chapter_has_one_and_shows_it():
    assert sorted(chapter_slugs()) == SLUGS
    for slug in SLUGS:
        notebook = json.loads((ROOT / "chapters" / slug / f"{slug}.ipynb").read_text(encoding="utf-8"))
        texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
        assert sum(f"```{{explorable}} {slug}\n" in text for text in texts) == 1, slug


@pytest.mark.parametrize("slug", SLUGS)
def test_a_file_is_small_and_its_controls_stand_somewhere(slug):
    assert (ROOT / "chapters" / slug / "explorable.json").stat().st_size <= LARGEST_FILE
    assert made(slug)["controls"]
    for control in made(slug)["controls"]:
        assert control["kind"] in ("range", "select")
        assert 0 <= control["start"] < len(control["values"]) > 1
        assert len(set(control["values"])) == len(control["values"])


def test_the_script_is_small():
    assert (STATIC / "explorables.js").stat().st_size <= LARGEST_SCRIPT


def test_moons_and_networks_are_those_of_the_library():
    data, early = made("dann")["data"], [k for k in tool.PASSES if k <= 10]
    moons = tool.moons_of([data["seed"]])
    assert close(moons.xs[0], data["source"], 0.006)
    assert close(moons.xt[0], data["target"], 0.006)
    assert (moons.ys[0].tolist(), moons.yt[0].tolist()) == (data["sourceClasses"], data["targetClasses"])
    chosen = [0, tool.WEIGHTS.index(tool.MAIN)]
    found = tool.compete([data["seed"]] * 2, [tool.WEIGHTS[i] for i in chosen], early[-1])
    for place, i in enumerate(chosen):
        for row, k in enumerate(early):
            assert close(
                torch.tensor(tool.weights_of(members(found[k], [place]))), data["nets"][i][row], 0.002
            )


def test_the_networks_of_the_file_do_what_the_sentence_says():
    """The stored weights, put back into the library's network, are right as often as the page says."""
    stored = made("dann")
    data = stored["data"]
    flat = torch.tensor(data["nets"][stored["controls"][0]["start"]][-1], dtype=torch.float64)
    W, b, v, c = flat.split([2 * data["hidden"], data["hidden"], data["hidden"], 1])
    zero = torch.zeros_like(v)
    net = tool.Shallow(
        W.reshape(1, -1, 2),
        b[None],
        torch.stack([zero, v])[None],
        torch.cat([0 * c, c])[None],
        zero[None],
        0 * c,
    )
    moons = tool.moons_of([data["seed"]])
    shares = [accuracy(net, moons.xs, moons.ys), accuracy(net, moons.xt, moons.yt)]
    said = [int(n) for n in re.findall(r"(\d+)\u202f%", stored["start"]["says"])]
    assert [round(100 * float(share)) for share in shares] == said[:2]


def test_solvers_end_where_the_file_says():
    data = made("diffusion_principles")["data"]
    for name, num in (("ddim", 4), ("euler", 1), ("heun", 2), ("dpmpp_2m", 16)):
        stored = data["ends"][list(tool.SAMPLERS).index(name)][tool.STEPS.index(num)]
        assert close(tool.ends(name, num).flatten(), stored, 0.006)


def test_the_exact_flow_and_the_clouds_are_those_of_the_library():
    data, (target, noise) = made("diffusion_principles")["data"], tool.cloud()
    times, path = tool.exact_flow(fine=10)
    assert close(noise.flatten(), data["path"][0], 0.006)
    assert close(path.flatten(1), data["path"], 0.02)
    assert target.responsibilities(path[-1]).argmax(-1).tolist() == data["owner"]
    assert close(SCHEDULES["trig"].alpha(times), data["alpha"], 1e-4)
    assert close(target.means, data["means"], 1e-4)


def test_students_are_the_best_of_the_library():
    data = made("f_distill")["data"]
    assert data["names"] == list(DIVERGENCES)
    places = [4, 12, 24]
    gaps = torch.tensor([tool.GAPS[k] for k in places], dtype=torch.float64)
    for row, name in enumerate(DIVERGENCES):
        fit = best_gaussian(DIVERGENCES[name], gaps)
        assert close(fit.mean.abs(), [data["mean"][row][k] for k in places], 0.002), name
        assert close(fit.std, [data["std"][row][k] for k in places], 0.002), name


def test_attention_walks_as_the_library_does():
    data, problem = made("transformers_as_svm")["data"], tool.picture()
    goal = att_svm(problem, best_token(problem)).W[0]
    assert data["best"] == best_token(problem)[0].tolist()
    assert close(goal.flatten(), data["margin"], 1e-4)
    early = [k for k in data["iterations"] if k <= 200]
    for pace in (0, 1):
        for start, weights in enumerate(tool.starting_weights(goal)):
            found = torch.stack(tool.walk(problem, weights, pace == 0, early[-1])).flatten(1)
            assert close(found, data["walks"][pace][start][: len(early)], 1e-3)


def test_gradients_err_as_the_library_says():
    data, angles, radius = made("equilibrium_propagation")["data"], [0.0, 90.0], 0.25
    found = tool.biased(angles, [radius])
    for place, angle in enumerate(angles):
        row, column = data["angles"].index(angle), data["radii"].index(radius)
        assert close(found[1, :, place, 0], data["cosine"][row][column], 1e-3)
        assert close(found[1, :, place, 1], data["length"][row][column], 1e-3)
        assert np.allclose(found[1, :, place, 2], data["error"][row][column], rtol=0.01)
        assert np.allclose(found[0, 0, place, 2], data["limit"][row], rtol=0.01, atol=1e-8)


# --------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A small book: a page for each explorable, and one without."""
    book = tmp_path_factory.mktemp("explorables")
    shutil.copytree(STATIC, book / "_static")
    (book / "index.md").write_text("# Nothing to move\n\n```{toctree}\n:glob:\nchapters/*/*\n```\n")
    for slug in SLUGS:
        folder = book / "chapters" / slug
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "chapters" / slug / "explorable.json", folder)
        (folder / f"{slug}.md").write_text(PAGE.replace("SLUG", slug))
    settings = {
        "extensions": ["myst_parser", "reprobook.sphinx_explorable"],
        "html_static_path": ["_static"],
        "html_css_files": ["book.css", "results.css"],
        "html_theme": "basic",
        "html_theme_options": {"body_min_width": 0, "nosidebar": True},
        "myst_enable_extensions": ["colon_fence"],
    }
    app = Sphinx(
        book, None, book / "site", book / "trees", "html", settings, status=None, warningiserror=True
    )
    app.build()
    return book / "site"


def file_of(site: Path, slug: str) -> Path:
    return site / "chapters" / slug / f"{slug}.html"


@pytest.fixture
def opened(chromium, site: Path, request) -> Iterator:
    """The page of a slug in a window of a width, with what it complains about."""
    slug, width, theme = request.param
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    tab.complaints = []
    tab.on("console", lambda m: tab.complaints.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.goto(file_of(site, slug).as_uri())
    tab.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
    yield tab
    tab.close()


# The same picture as the browser would write it down.
AS_PARSED = """(html) => {
  const box = document.createElement("div");
  box.innerHTML = html;
  return box.innerHTML;
}"""


def seen(tab) -> tuple[str, str]:
    """Return the picture and the sentence."""
    return tab.inner_html(".rb-x-stage"), tab.inner_text(".rb-x-says")


def test_only_pages_with_something_to_move_load_the_script(site):
    def loads(file: Path) -> bool:
        return "explorables.js" in file.read_text(encoding="utf-8")

    assert not loads(site / "index.html")
    assert all(loads(file_of(site, slug)) for slug in SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_page_holds_everything_before_a_script_runs(site, slug):
    figure = BeautifulSoup(file_of(site, slug).read_text(encoding="utf-8"), "html.parser").figure
    stored = made(slug)
    assert json.loads(figure.script.string) == {k: stored[k] for k in ("controls", "data")}
    assert len(figure.select(".rb-x-stage svg path")) >= 5
    assert figure.select_one(".rb-x-stage")["aria-label"] == figure.select_one(".rb-x-says").text != ""
    assert figure.figcaption.em.text == "it"
    labelled = {label["for"] for label in figure.select("label")}
    assert labelled == {field["id"] for field in figure.select("input, select")}


@pytest.mark.parametrize("opened", [(s, 1280, "light") for s in SLUGS], indirect=True, ids=SLUGS)
def test_mouse_and_keyboard_move_it(opened):
    tab = opened
    slug = tab.get_attribute("figure", "data-explorable")
    start = made(slug)["start"]
    assert seen(tab)[1] == start["says"]
    stored = tab.evaluate(AS_PARSED, start["panels"])
    assert seen(tab)[0] == stored, "the stored picture is not what the script draws"
    for control in made(slug)["controls"]:
        field, before = tab.locator(f"[data-control={control['name']}]"), seen(tab)
        if control["kind"] == "select":
            field.select_option(index=1)
        else:
            field.focus()
            tab.keyboard.press("ArrowRight" if control["start"] == 0 else "ArrowLeft")
        after = seen(tab)
        assert before[0] != after[0] and before[1] != after[1], control["name"]
        if control["kind"] == "range":
            shown = tab.locator(f"output[for={field.get_attribute('id')}]")
            assert shown.inner_text() == field.get_attribute("aria-valuetext") in control["values"]
            box = field.bounding_box()
            tab.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + box["height"] / 2)
            assert seen(tab)[0] != after[0], control["name"]
    assert tab.complaints == []


# Every position of every control: what is drawn has to be made of numbers, in words too.
EVERYWHERE = """() => {
  const figure = document.querySelector("figure");
  const made = JSON.parse(figure.querySelector("script").textContent);
  const wrong = [];
  const walk = (i, state) => {
    if (i < made.controls.length) {
      const c = made.controls[i];
      return c.values.forEach((_, k) => walk(i + 1, { ...state, [c.name]: k }));
    }
    const drawn = rbDraw(figure.dataset.explorable, made, state);
    if (/NaN|undefined|Infinity/.test(drawn.panels + drawn.says)) wrong.push(JSON.stringify(state));
  };
  walk(0, {});
  return wrong;
}"""


@pytest.mark.parametrize("opened", [(s, 360, "dark") for s in SLUGS], indirect=True, ids=SLUGS)
def test_on_a_dark_telephone_it_fits_and_draws_numbers_everywhere(opened):
    tab = opened
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
    assert tab.evaluate(EVERYWHERE) == []
    assert tab.complaints == []
    ink = "() => getComputedStyle(document.querySelector('.rb-x-panel text, .rb-x-title')).color"
    dark = tab.evaluate(ink)
    tab.evaluate("() => document.documentElement.dataset.theme = 'light'")
    assert tab.evaluate(ink) != dark


@pytest.mark.parametrize("slug", SLUGS)
def test_without_scripts_the_picture_shows_and_nothing_jumps_when_they_come(chromium, site, slug):
    still = chromium.new_context(java_script_enabled=False, viewport={"width": 800, "height": 900}).new_page()
    still.goto(file_of(site, slug).as_uri())
    assert still.locator(".rb-x-stage svg").first.bounding_box()["height"] > 100
    assert still.locator(".rb-x-says").is_visible()
    assert not still.locator(".rb-x-controls").is_visible()
    still.context.close()
    size = "() => document.querySelector('figure').getBoundingClientRect().height"
    tab = chromium.new_page(viewport={"width": 800, "height": 900})
    tab.route("**/explorables.js*", lambda route: route.abort())
    tab.goto(file_of(site, slug).as_uri())
    before = tab.evaluate(size)
    tab.add_script_tag(path=STATIC / "explorables.js")
    assert tab.is_enabled("fieldset") and tab.evaluate(size) == before
    tab.close()
