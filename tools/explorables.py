"""Make what the pictures to move by hand show: one file of precomputed numbers a chapter.

python tools/explorables.py SLUG [SLUG ...]

Each file holds ``controls`` (what a reader can move), ``data`` (what the script of the page draws) and
``start`` (the picture and the sentence that the script makes of them at first, for readers without scripts
and for paper). The last is drawn by the very script of the page, in headless Chromium.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture, leaves
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.diffusion.solvers import solve, steps
from reprobook.papers.dann.moons import Moons, rotated_moons
from reprobook.papers.dann.shallow import Shallow, accuracy, initial, members, train
from reprobook.papers.equilibrium_propagation.errors import gradients, linear_error, nudged_error
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered
from reprobook.papers.equilibrium_propagation.relaxation import relax
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.fits import best_gaussian, mass_on_left
from reprobook.papers.transformers_as_svm.descent import descend, smoothness
from reprobook.papers.transformers_as_svm.problems import Problem, random_problems
from reprobook.papers.transformers_as_svm.svm import att_svm

BOOK = Path(__file__).resolve().parents[1]
SCRIPT = BOOK / "book" / "_static" / "explorables.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def control(kind: str, name: str, label: str, values: Sequence, start: int) -> dict:
    """Return a control: a ``range`` or a ``select`` over values, with the index that it starts at."""
    shown = [f"{v:g}" if isinstance(v, int | float) else v for v in values]
    return {"kind": kind, "name": name, "label": label, "values": shown, "start": start}


def rounded(values: Tensor, digits: int) -> list:
    """Return nested lists of numbers with so many decimals, whole numbers without any."""

    def one(value):
        if isinstance(value, list):
            return [one(v) for v in value]
        value = round(value, digits)
        return int(value) if value == int(value) else value

    return one(values.tolist())


def significant(values: Tensor) -> list:
    """Return nested lists of numbers with three significant digits."""

    def one(value):
        return [one(v) for v in value] if isinstance(value, list) else float(f"{value:.3g}")

    return one(values.tolist())


# --------------------------------------------------------------------------- dann: two moons

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 6.0, 10.0, 30.0)
PASSES = (0, 1, 10, 50, 100, 250, 500)
PER_MOON, TRIALS, HIDDEN, RATE, MAIN = 75, 20, 15, 0.05, 6.0


def moons_of(seeds: Sequence[int]) -> Moons:
    """Return the smaller moons of the chapter's first experiment."""
    return rotated_moons(seeds, PER_MOON)


def compete(seeds: Sequence[int], weights: Sequence[float], passes: int) -> dict[int, Shallow]:
    """Run Algorithm 1 for every pair of a seed and λ, and return the networks after some of the passes."""
    data = moons_of(seeds)
    weight = torch.tensor(weights, dtype=torch.float64)
    epochs = train(
        initial(seeds, 2, HIDDEN),
        *data[:3],
        seeds,
        domain_weight=weight,
        learning_rate=RATE,
        epochs=passes,
    )
    return {e.k: e.state for e in epochs if e.k in PASSES}


def middle_trial() -> int:
    """Return the trial with the median accuracy on the target, λ being what the chapter takes."""
    seeds, data = range(TRIALS), moons_of(range(TRIALS))
    net = compete(seeds, [MAIN] * TRIALS, PASSES[-1])[PASSES[-1]]
    return int(accuracy(net, data.xt, data.yt).argsort(stable=True)[TRIALS // 2])


def weights_of(net: Shallow) -> list[float]:
    """Return what the page needs of one network: W, b, and the difference of the two rows of V and of c."""
    parts = net.W[0].flatten(), net.b[0], net.V[0, 1] - net.V[0, 0], (net.c[0, 1] - net.c[0, 0])[None]
    return rounded(torch.cat(parts), 3)


def dann() -> dict:
    """Two moons under several λ, after some passes."""
    seed = middle_trial()
    data = moons_of([seed])
    found = compete([seed] * len(WEIGHTS), WEIGHTS, PASSES[-1])
    nets = [[weights_of(members(found[k], [i])) for k in PASSES] for i in range(len(WEIGHTS))]
    return {
        "controls": [
            control("range", "weight", "λ, weight of the contest", WEIGHTS, WEIGHTS.index(MAIN)),
            control("range", "passes", "passes over the source", PASSES, len(PASSES) - 1),
        ],
        "data": {
            "seed": seed,
            "hidden": HIDDEN,
            "source": rounded(data.xs[0], 2),
            "sourceClasses": data.ys[0].tolist(),
            "target": rounded(data.xt[0], 2),
            "targetClasses": data.yt[0].tolist(),
            "nets": nets,
        },
    }


# --------------------------------------------------------------------------- diffusion: noise level and steps

SAMPLERS = {
    "ddim": "DDIM",
    "euler": "Euler",
    "heun": "Heun, two looks a step",
    "dpmpp_2m": "DPM-Solver++ 2M",
}
STEPS = (1, 2, 4, 8, 16, 32, 64)
NUM_POINTS, FRAMES, FINE = 90, 16, 40  # FINE: steps of the reference between two frames


def cloud() -> tuple[Mixture, Tensor]:
    """Return the five leaves of the chapter, and the noise that all samples start from."""
    drawn = torch.Generator().manual_seed(0)
    return leaves(), torch.randn(NUM_POINTS, 2, generator=drawn, dtype=torch.float64)


def exact_flow(frames: int = FRAMES, fine: int = FINE) -> tuple[Tensor, Tensor]:
    """Return times from noise to data and the samples at each, (frames + 1, NUM_POINTS, 2)."""
    target, noise = cloud()
    model = target.model(SCHEDULES["trig"], "velocity")
    grid = time_grid(SCHEDULES["trig"], frames * fine)
    with torch.no_grad():
        path = [step.x for step in steps(model, noise, grid, "rk4")]
    return grid[::fine], torch.stack(path[::fine])


def ends(solver: str, num: int) -> Tensor:
    """Return where a solver takes the noise in so many steps."""
    target, noise = cloud()
    schedule = SCHEDULES["trig"]
    return solve(target.model(schedule, "velocity"), noise, time_grid(schedule, num), solver)


def diffusion_principles() -> dict:
    """Five leaves: the cloud at a noise level, and where solvers end."""
    target, _ = cloud()
    schedule = SCHEDULES["trig"]
    times, path = exact_flow()
    owner = target.responsibilities(path[-1]).argmax(-1)
    shapes = torch.stack(
        [target.covariances[:, 0, 0], target.covariances[:, 0, 1], target.covariances[:, 1, 1]], 1
    )
    return {
        "controls": [
            control("range", "time", "time of the flow", [f"{t:.2f}" for t in times.tolist()], 11),
            control("range", "steps", "steps of the solver", STEPS, 2),
            control("select", "solver", "solver", list(SAMPLERS.values()), 0),
        ],
        "data": {
            "alpha": rounded(schedule.alpha(times), 4),
            "sigma": rounded(schedule.sigma(times), 4),
            "weights": rounded(target.weights, 4),
            "means": rounded(target.means, 4),
            "covariances": rounded(shapes, 5),
            "owner": owner.tolist(),
            "path": rounded(path.flatten(1), 2),
            "ends": [[rounded(ends(name, n).flatten(), 2) for n in STEPS] for name in SAMPLERS],
        },
    }


# --------------------------------------------------------------------------- f-distill: the best student

GAPS = tuple(k / 4 for k in range(33))


def f_distill() -> dict:
    """Two modes and the best Gaussian student under each of the six divergences."""
    gaps = torch.tensor(GAPS, dtype=torch.float64)
    fits = [best_gaussian(d, gaps) for d in DIVERGENCES.values()]
    fits = [fit._replace(mean=fit.mean.abs()) for fit in fits]  # of two mirror images the right-hand one
    titles = [d.title for d in DIVERGENCES.values()]
    return {
        "controls": [
            control("select", "divergence", "divergence", titles, 0),
            control("range", "gap", "a, half the gap between the modes", GAPS, 12),
        ],
        "data": {
            "names": list(DIVERGENCES),
            "mean": [rounded(fit.mean, 3) for fit in fits],
            "std": [rounded(fit.std, 3) for fit in fits],
            "left": [significant(mass_on_left(fit)) for fit in fits],
        },
    }


# --------------------------------------------------------------------------- attention and its margin problem

ITERATIONS = (
    0,
    1,
    2,
    3,
    5,
    7,
    10,
    14,
    20,
    30,
    40,
    55,
    75,
    100,
    140,
    200,
    300,
    450,
    700,
    1000,
    2000,
    4000,
    10000,
)
STARTS = ("from zero", "from the side", "from the opposite direction")
PACES = ("of fixed length", "plain gradient descent")


def picture() -> Problem:
    """Return the problem of the chapter's opening picture: two inputs, five tokens, two dimensions."""
    return random_problems([3], n=2, T=5, d=2)


def starting_weights(goal: Tensor) -> list[Tensor]:
    """Return zero, a matrix at a right angle to the solution, and its opposite; both of norm 2."""
    unit = goal / goal.norm()
    side = torch.stack([-unit[:, 1], unit[:, 0]], 1)
    side = side - (side * unit).sum() * unit
    return [0 * goal, 2 * side / side.norm(), -2 * unit]


def walk(problem: Problem, start: Tensor, normalised: bool, num: int = ITERATIONS[-1]) -> list[Tensor]:
    """Return W at the iterations that are shown."""
    rate = 0.1 if normalised else (1 / smoothness(problem)).reshape(-1, 1, 1)
    path = descend(problem, (start[None],), steps=num, learning_rate=rate, normalised=normalised)
    return [step.W[0] for step in path if step.k in ITERATIONS]


def transformers_as_svm() -> dict:
    """Two inputs in the plane: attention, W z, and the direction of the widest margin."""
    problem = picture()
    chosen = walk(problem, torch.zeros(2, 2, dtype=torch.float64), True)[-1]
    best = (problem.X @ (problem.z @ chosen.mT)[..., None])[..., 0].argmax(-1)
    goal = att_svm(problem, best).W[0]
    walks = [[walk(problem, w, pace == PACES[0]) for w in starting_weights(goal)] for pace in PACES]
    return {
        "controls": [
            control("range", "k", "iterations", ITERATIONS, 8),
            control("select", "start", "start", STARTS, 0),
            control("select", "pace", "steps", PACES, 0),
        ],
        "data": {
            "iterations": list(ITERATIONS),
            "tokens": rounded(problem.X[0], 6),
            "queries": rounded(problem.z[0], 6),
            "best": best[0].tolist(),
            "margin": rounded(goal.flatten(), 6),
            "walks": [[[rounded(w.flatten(), 5) for w in run] for run in runs] for runs in walks],
        },
    }


# --------------------------------------------------------------------------- eqprop: two biases

ANGLES = tuple(10.0 * k for k in range(10))
RADII = (0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.16, 0.25, 0.4, 0.63, 1.0)
POINTS = (1, 2, 4)
SIZES, QUESTIONS, NETWORKS, CHOSEN, SETTLE = (12, 10, 8, 6), 3, 5, 2, 300


def biased(angles: Sequence[float], radii: Sequence[float]) -> Tensor:
    """Return cosine, length and error of the gradient against the exact one, (radii + 1, points, angles, 3).

    One of the small networks of the chapter, with its inputs, at all angles. The first row is the limit of
    small nudges; length and error are in units of the exact gradient's length.
    """
    wiring = layered(SIZES, SIZES[-1])
    net = Layered(wiring, initial_weights(wiring, angles, [CHOSEN] * len(angles)))
    drawn = torch.Generator().manual_seed(0)
    x = torch.rand((NETWORKS, QUESTIONS, SIZES[0]), generator=drawn, dtype=torch.float64)[CHOSEN]
    x = x.repeat(len(angles), 1, 1)
    target = torch.eye(SIZES[-1]).double()[torch.arange(QUESTIONS)].expand(len(angles), -1, -1)
    settled = relax(net, x, steps=SETTLE)

    def gradient(error: list[Tensor]) -> Tensor:
        found = gradients(net, x, settled, target, error)
        return torch.cat([g.flatten(1) for name, g in found.items() if not name.startswith("readout")], 1)

    def linear(transposed: bool) -> Tensor:
        return gradient(linear_error(net, settled, target, steps=SETTLE, transposed=transposed))

    def nudged(radius: float, num: int) -> Tensor:
        error = nudged_error(net, x, settled, target, radius=radius, num_points=num, steps=SETTLE)
        return gradient(error)

    exact, limit = linear(True), linear(False)
    rows = [[limit] * len(POINTS)] + [[nudged(radius, num) for num in POINTS] for radius in radii]
    found = torch.stack([torch.stack(row) for row in rows])
    size = exact.norm(dim=-1)
    cosine = torch.cosine_similarity(found, exact, -1)
    return torch.stack([cosine, found.norm(dim=-1) / size, (found - exact).norm(dim=-1) / size], -1)


def equilibrium_propagation() -> dict:
    """The error of the estimated gradient by angle, strength of the nudge, and points on the circle."""
    grid = biased(ANGLES, RADII).movedim(2, 0)
    return {
        "controls": [
            control("range", "angle", "angle of the ways back", [f"{a:g}°" for a in ANGLES], 2),
            control("range", "radius", "strength of the nudge, |β|", RADII, 7),
        ],
        "data": {
            "angles": [int(a) for a in ANGLES],
            "radii": list(RADII),
            "points": list(POINTS),
            "cosine": rounded(grid[:, 1:, :, 0], 4),
            "length": rounded(grid[:, 1:, :, 1], 4),
            "error": significant(grid[:, 1:, :, 2]),
            "limit": significant(grid[:, 0, 0, 2]),
        },
    }


# --------------------------------------------------------------------------- the first picture, and the files

MAKERS: dict[str, Callable[[], dict]] = {
    maker.__name__: maker
    for maker in (dann, diffusion_principles, f_distill, transformers_as_svm, equilibrium_propagation)
}


def drawn(slug: str, made: dict) -> dict[str, str]:
    """Return the panels and the sentence that the script of the pages makes of the data at first."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FileNotFoundError(f"drawing needs one of {', '.join(BROWSERS)}")
    page = f"<!doctype html><meta charset='utf-8'><script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    state = {c["name"]: c["start"] for c in made["controls"]}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_content(page)
        start = tab.evaluate("([slug, made, state]) => rbDraw(slug, made, state)", [slug, made, state])
        browser.close()
    return start


def to_text(made: dict) -> str:
    """Return the file's text, a line for each entry of the data."""
    lines = [
        f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}"
        for k, v in made["data"].items()
    ]
    data = "{\n" + ",\n".join(lines) + "\n }"
    parts = [f' "controls": {json.dumps(made["controls"], ensure_ascii=False)}', f' "data": {data}']
    parts.append(f' "start": {json.dumps(made["start"], ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(slugs: Sequence[str]) -> int:
    """Run as a command and return its exit code."""
    if not slugs or set(slugs) - set(MAKERS):
        print(f"which? one or more of {', '.join(MAKERS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for slug in slugs:
        made = MAKERS[slug]()
        made["start"] = drawn(slug, made)
        file = BOOK / "chapters" / slug / "explorable.json"
        file.write_text(to_text(made), encoding="utf-8")
        print(f"{file.relative_to(BOOK)}: {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
