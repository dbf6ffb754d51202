"""What a sweep is: notebooks, seeds and settings, from which follows a list of jobs.

The jobs are the product of seeds, grid and cells. A grid crosses its parameters; cells are settings that
belong together, one a cell of a paper's table. A job runs as few consecutive seeds as its notebook allows,
so that as many jobs as possible can run side by side and the spread over seeds is seen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from reprobook.errors import UserError
from reprobook.jobs import LAPTOP, Job, declared_parameters, plans, tier_parameters
from reprobook.parameters import Parameter, ParameterError, parse_value

__all__ = ["Sweep", "read_sweep", "parse_seeds", "parse_grid"]

_SEEDS = re.compile(r"(\d+):(\d+)|\d+(,\d+)*")


@dataclass(frozen=True)
class Sweep:
    """Notebooks to run over seeds and settings.

    Attributes:
        notebooks: names, ``slug`` or ``slug/notebook``.
        seeds: every seed once; a text is read by :func:`parse_seeds`.
        tier: the tier whose parameters everything else changes.
        seeds_per_job: how many consecutive seeds a job runs; None for as few as the notebook allows, "tier"
            for as many as the tier does.
        grid: values by parameter; every combination is run.
        cells: settings that belong together, each combined with the grid.
        parameters: values for all jobs.
        threads: processor threads of a job, which are its share of the machine.
        retries: how many times a job is tried again that fails or dies.
        time_limit: seconds after which a job is stopped, and has failed; None for no limit.
        memory_limit: MiB above which a job is stopped, and has failed; None for no limit.

    Raises:
        UserError: for a number out of its range, or a setting that stands twice.
    """

    notebooks: Sequence[str]
    seeds: Sequence[int] | str
    tier: str = LAPTOP
    seeds_per_job: int | str | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    cells: Sequence[Mapping[str, Any]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    retries: int = 1
    time_limit: float | None = None
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        seeds = parse_seeds(self.seeds) if isinstance(self.seeds, (str, int)) else list(self.seeds)
        object.__setattr__(self, "seeds", seeds)
        for name, least in (("threads", 1), ("retries", 0), ("seeds_per_job", 1)):
            value = getattr(self, name)
            word = name == "seeds_per_job" and value in (None, "tier")
            if not word and (type(value) is not int or value < least):
                raise UserError(f"sweep: {name} must be a whole number from {least}, not {value!r}")
        for name in ("time_limit", "memory_limit"):
            value = getattr(self, name)
            if value is not None and (type(value) not in (int, float) or not value > 0):
                raise UserError(f"sweep: {name} must be a number above 0, not {value!r}")
        if not self.notebooks or isinstance(self.notebooks, str):
            raise UserError("sweep: notebooks must be a list with at least one name")
        if not seeds or len(set(seeds)) < len(seeds) or any(type(s) is not int or s < 0 for s in seeds):
            raise UserError("sweep: seeds must be different whole numbers from 0, at least one")
        _check_settings(self)

    def jobs(self, *, elsewhere: bool = False) -> list[Job]:
        """Return the jobs, notebook by notebook, setting by setting, seed by seed.

        Args:
            elsewhere: they will run on other machines, whose devices are not looked at.

        Raises:
            UserError: if a notebook, tier or parameter does not exist, a value is not allowed, or the seeds
                do not divide into jobs.
        """
        return [job for name in dict.fromkeys(self.notebooks) for job in self._jobs_of(name, elsewhere)]

    def _jobs_of(self, name: str, elsewhere: bool) -> list[Job]:
        declared = declared_parameters(name)
        smallest = _smallest(declared["num_seeds"])
        at_once = self.seeds_per_job or smallest
        if at_once == "tier":
            at_once = tier_parameters(name, self.tier).get("num_seeds", declared["num_seeds"].default)
        blocks = list(_blocks(list(self.seeds), at_once, smallest, name))
        several = []
        for setting, (seed, num_seeds) in itertools.product(self.settings(), blocks):
            several.append({**self.parameters, **setting, "seed": seed, "num_seeds": num_seeds})
        return plans(name, self.tier, several, elsewhere=elsewhere)

    def settings(self) -> list[dict[str, Any]]:
        """Return the combinations of cells and grid, without seeds."""
        crossed = [
            dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())
        ]
        return [{**cell, **point} for cell in self.cells or [{}] for point in crossed]

    def to_data(self) -> dict[str, Any]:
        """Return the sweep as plain JSON data."""
        return asdict(self)


def _check_settings(sweep: Sweep) -> None:
    """Raise UserError unless grid, cells and parameters are well formed and set different parameters."""
    if not all(isinstance(v, (list, tuple)) and v for v in sweep.grid.values()):
        raise UserError("sweep: every parameter of the grid needs a list with at least one value")
    if not all(isinstance(cell, Mapping) for cell in sweep.cells):
        raise UserError("sweep: every cell must be a mapping of parameters to values")
    names = [*sweep.grid, *dict.fromkeys(k for cell in sweep.cells for k in cell), *sweep.parameters]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"sweep: '{twice}' is set twice, by two of grid, cells and parameters")
    if own := next((n for n in names if n in ("seed", "num_seeds")), None):
        raise UserError(f"sweep: '{own}' follows from seeds and seeds_per_job")
    for name, values in sweep.grid.items():
        if any(values[i] == values[j] for i in range(len(values)) for j in range(i)):
            raise UserError(f"sweep: the grid has a value of '{name}' twice")


def _smallest(num_seeds: Parameter) -> int:
    """Return the smallest number of seeds that a notebook takes."""
    for n in range(1, num_seeds.default + 1):
        try:
            return num_seeds.check(n)
        except ParameterError:
            continue
    return num_seeds.default


def _blocks(seeds: Sequence[int], at_once: int, smallest: int, name: str) -> Iterator[tuple[int, int]]:
    """Cut seeds into runs of consecutive ones; yield first seed and number of each.

    Raises:
        UserError: if a job would be left with fewer seeds than the notebook takes, or with gaps.
    """
    for start in range(0, len(seeds), at_once):
        block = seeds[start : start + at_once]
        if block != list(range(block[0], block[0] + len(block))):
            raise UserError(f"{name} runs {at_once} consecutive seeds a job, which {block} are not")
        if len(block) < smallest:
            raise UserError(
                f"{name} runs at least {smallest} seeds a job, and {len(seeds)} seeds in jobs of {at_once} "
                f"leave {len(block)} over: change their number, or the seeds per job"
            )
        yield block[0], len(block)


def parse_seeds(text: str | int) -> list[int]:
    """Read seeds: ``0:20`` for 0 to 19, ``0,3,7`` for these, ``5`` for one.

    Raises:
        UserError: for anything else, and for an empty range.
    """
    text = str(text).replace(" ", "")
    if not _SEEDS.fullmatch(text):
        raise UserError(f"'{text}' are no seeds: write 0:20 for 0 to 19, or 0,3,7")
    first, colon, end = text.partition(":")
    seeds = list(range(int(first), int(end))) if colon else [int(seed) for seed in text.split(",")]
    if not seeds:
        raise UserError(f"'{text}' holds no seed: the end, which is not run, must be above the start")
    return seeds


def parse_grid(entries: Sequence[str]) -> dict[str, list[Any]]:
    """Read ``name=value,value,...`` entries; values are written as after ``-p``, lists in brackets.

    Raises:
        UserError: for an entry of another form, or a name that stands twice.
    """
    grid: dict[str, list[Any]] = {}
    for entry in entries:
        name, sign, values = entry.partition("=")
        if not (sign and name and values):
            raise UserError(f"--grid takes a name and values, as in lam=0.1,0.3, got '{entry}'")
        if name in grid:
            raise UserError(f"--grid sets '{name}' twice")
        found = parse_value(f"[{values}]")
        if not isinstance(found, list):
            raise UserError(f"--grid {name}: cannot read the values '{values}'")
        grid[name] = found
    return grid


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep from a YAML file whose keys are the attributes of :class:`Sweep`.

    Raises:
        UserError: if it cannot be read, or has an unknown, missing or wrong key; the message names the file.
    """
    path = Path(path)
    try:
        data = parse_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8") from None
    known = {f.name: f for f in fields(Sweep)}
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be YAML with the keys {', '.join(known)}")
    if unknown := [key for key in data if key not in known]:
        raise UserError(f"{path}: unknown key '{unknown[0]}'; allowed are {', '.join(known)}")
    if missing := [key for key in ("notebooks", "seeds") if key not in data]:
        raise UserError(f"{path}: key '{missing[0]}' is missing")
    forms = {dict: "mapping", list: "list", str: "word"}
    for key, kind in (
        ("grid", dict),
        ("cells", list),
        ("parameters", dict),
        ("notebooks", list),
        ("tier", str),
    ):
        if not isinstance(data.get(key, kind()), kind):
            raise UserError(f"{path}: '{key}' must be a {forms[kind]}")
    try:
        return Sweep(**data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
