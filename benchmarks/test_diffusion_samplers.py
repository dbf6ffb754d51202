r"""How fast samplers are beyond the model itself: run with ``make bench``.

Three questions. How long do 100,000 samples of an exact mixture take? How does a step grow with batch, with
dimension and components? And what does a step of our loop cost with a free model, against the same method
among the schedulers of diffusers? Those take turns with ours on one thread, and the least processor times are
compared; and both have to give the same samples. diffusers is never installed with the book. To have it::

    python -m pip install --target DIR --no-deps diffusers==0.35.2 huggingface_hub==0.36.0 safetensors \
        regex hf-xet importlib_metadata zipp
    REPROBOOK_PEERS=DIR make bench
"""

import os
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reprobook.diffusion.grids import time_grid
from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import SCHEDULES, Schedule
from reprobook.diffusion.solvers import solve

pytestmark = pytest.mark.usefixtures("one_thread")

CLOCK = time.process_time  # counts only what this process computes
VP = SCHEDULES["vp_linear"]
WANTED = 0.5  # of a scheduler's cost a step
STEPS, TURNS = 20, 15
SHAPE = (4, 3, 8, 8)


# --------------------------------------------------------------------------- samples of an exact mixture


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("data", [ring(), leaves()], ids=["ring", "leaves"])
def test_100_000_exact_samples_with_32_evaluations(data, benchmark, capsys):
    data, x = data.to(torch.float32), torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    model, grid = data.model(VP), time_grid(VP, 32, "lambda")
    end = benchmark.pedantic(solve, (model, x, grid, "dpmpp_2m"), rounds=3)
    torch.testing.assert_close(data.responsibilities(end).mean(0), data.weights, rtol=0, atol=0.02)
    with capsys.disabled():
        print(f"\n{benchmark.stats.stats.median:.2f} s of one core, where 2 s of two are wanted")


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("axis", ["num", "dim", "num_modes"])
def test_a_step_by_batch_dimension_and_components(axis, factor, benchmark):
    size = {"num": 4000, "dim": 4, "num_modes": 4}
    size[axis] *= factor
    generator = torch.Generator().manual_seed(0)
    data = Mixture.isotropic(torch.randn(size["num_modes"], size["dim"], generator=generator), 0.3)
    x, grid = torch.randn(size["num"], size["dim"], generator=generator), time_grid(VP, 8, "lambda")
    benchmark.pedantic(solve, (data.model(VP), x, grid, "dpmpp_2m"), rounds=5, warmup_rounds=1)
    benchmark.extra_info["ms a step"] = 1e3 * benchmark.stats.stats.median / 8


# --------------------------------------------------------------------------- against diffusers


def peers():
    """Return diffusers from where REPROBOOK_PEERS says, or skip."""
    if place := os.environ.get("REPROBOOK_PEERS"):
        sys.path.append(place)
    return pytest.importorskip("diffusers", reason="REPROBOOK_PEERS names no diffusers", exc_type=ImportError)


def discrete(betas_from: float = 1e-4, betas_to: float = 0.02, num: int = 1000) -> Schedule:
    """Return the schedule of Ho et al. as diffusers has it, at whole times."""
    bars = torch.cumprod(1 - torch.linspace(betas_from, betas_to, num, dtype=torch.float32), 0).double()
    alpha, sigma = bars.sqrt(), (1 - bars).sqrt()
    lam = (alpha / sigma).log()

    def at(values: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda t: values[t.round().long()]

    def nothing(t: Tensor) -> Tensor:
        raise NotImplementedError

    def time_of(value: Tensor) -> Tensor:
        return (lam[None] - value[..., None]).abs().argmin(-1).to(value.dtype)

    return Schedule("discrete", at(alpha), at(sigma), nothing, nothing, time_of, 0.0, num - 1.0)


def their_run(scheduler, times: Tensor, function: Callable, x: Tensor) -> Tensor:
    for t in times:
        x = scheduler.step(function(x, t), t, x, return_dict=False)[0]
    return x


def of_vp(diffusers, kind: str) -> dict[str, tuple[Callable, str]]:
    """Return makers of schedulers with the names of ours, for models that predict ``kind``."""
    common = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    multi = diffusers.DPMSolverMultistepScheduler
    settings = {**common, "prediction_type": "epsilon" if kind == "noise" else "sample"}
    lower = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
    return {
        "ddim": lambda: diffusers.DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=False),
        "dpmpp_2m": lambda: multi(**settings, algorithm_type="dpmsolver++", solver_order=2, **lower),
    }


def pair_of(name: str, kind: str, function: Callable) -> tuple[Callable, Callable]:
    """Return one run of ours and one of theirs from the same noise, on the same grid."""
    diffusers = peers()
    schedule = discrete()
    scheduler = of_vp(diffusers, kind)[name]()
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps
    last = times[-1] - 1000 // STEPS if name == "ddim" else torch.tensor(0)  # where the last step ends
    grid = torch.cat([times, last[None].clamp(min=0)]).double()
    model, x = Model(function, kind, schedule), torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def theirs() -> Tensor:
        scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            return their_run(scheduler, times, function, x)

    return lambda: solve(model, x, grid, name), theirs


def cheap(x: Tensor, t: Tensor) -> Tensor:
    return x


def bent(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) * (0.5 + t.double() / 2000).float()


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.filterwarnings("ignore")  # those of the rival are not ours
@pytest.mark.parametrize("kind", ["noise", "clean"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_a_step_against_the_scheduler_of_that_name(name, kind, benchmark, capsys):
    ours, theirs = pair_of(name, kind, bent)
    torch.testing.assert_close(ours(), theirs(), rtol=1e-5, atol=1e-5)
    ours, theirs = pair_of(name, kind, cheap)
    spent = []

    def let_the_rival_go() -> None:
        begin = CLOCK()
        theirs()
        spent.append((CLOCK() - begin) / STEPS)

    benchmark.pedantic(ours, setup=let_the_rival_go, rounds=TURNS, warmup_rounds=2)
    mine, other = benchmark.stats.stats.min / STEPS, min(spent)
    benchmark.extra_info |= {"µs a step": 1e6 * mine, "diffusers, µs a step": 1e6 * other}
    with capsys.disabled():
        print(f"\n{name} ({kind}): {1e6 * mine:.0f} µs a step, diffusers {1e6 * other:.0f} µs")
    assert mine <= WANTED * other
