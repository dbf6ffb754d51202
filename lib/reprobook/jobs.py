"""From what somebody asks for to a job: a notebook with all its parameters, checked before anything runs.

A tier is a file of parameters in the chapter's folder, as papermill reads it, and no more: ``TIER.yml`` for
all notebooks of the chapter, ``NOTEBOOK.TIER.yml`` for one of them, which goes before. ``laptop`` is the tier
without a file: the notebook's own parameters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprobook.errors import UserError
from reprobook.parameters import Parameter, ParameterError, check_parameters, parameters_cell, read_parameters
from reprobook.paths import chapter_folder, notebook_path
from reprobook.stamps import stamper

__all__ = [
    "Job",
    "plan",
    "plans",
    "tiers",
    "tier_files",
    "tier_parameters",
    "declared_parameters",
    "canonical_name",
    "LAPTOP",
]

#: The tier without a parameter file.
LAPTOP = "laptop"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Job:
    """One notebook to be run with certain parameters.

    Attributes:
        chapter: ``slug``, or ``slug/notebook`` where a chapter has several notebooks.
        tier: the tier that was asked for.
        given: parameters that differ from that tier's.
        injected: parameters that differ from the notebook's own.
        parameters: all parameters.
        path: the notebook.
        text: what stood in that file when the job was planned.
        stamp: the stamp of the notebook with these parameters.
    """

    chapter: str
    tier: str
    given: dict[str, Any]
    injected: dict[str, Any]
    parameters: dict[str, Any]
    path: Path
    text: str
    stamp: str

    @property
    def slug(self) -> str:
        """The chapter's slug."""
        return self.chapter.partition("/")[0]

    @property
    def title(self) -> str:
        """What to call the job on a screen."""
        changed = ", ".join(f"{k} = {v}" for k, v in self.given.items())
        return f"{self.chapter} ({self.tier}{'; ' if changed else ''}{changed})"

    @property
    def name(self) -> str:
        """The name of its files, made from notebook, tier and changed parameters; safe on any disk."""
        notebook = "" if self.path.stem == self.slug else f"{self.path.stem}-"
        changed = "".join(f"-{k}={v}" for k, v in sorted(self.given.items()))
        wanted = f"{notebook}{self.tier}{changed}"
        safe = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", wanted)
        if safe == wanted and len(safe) <= _LONGEST_NAME and not re.search("[A-Z]", changed):
            return safe
        digest = hashlib.sha256(json.dumps([self.chapter, self.tier, self.given], sort_keys=True).encode())
        return f"{safe[: _LONGEST_NAME - 9]}-{digest.hexdigest()[:8]}"


def plan(name: str, tier: str = LAPTOP, given: Mapping[str, Any] | None = None) -> Job:
    """Return the job of running a notebook at a tier, some of its parameters changed.

    Args:
        name: ``slug`` or ``slug/notebook``.
        tier: see :func:`tiers`.
        given: parameters that override the tier's.

    Raises:
        UserError: if the chapter, the notebook, the tier or a parameter does not exist, or a value is not
            allowed, or the device is not to be had.
    """
    return plans(name, tier, [given or {}])[0]


def plans(
    name: str, tier: str, several: Iterable[Mapping[str, Any]], *, elsewhere: bool = False
) -> list[Job]:
    """Return a job for each of several sets of parameters; the notebook and its library are read once.

    Args:
        name: ``slug`` or ``slug/notebook``.
        tier: see :func:`tiers`.
        several: parameters that override the tier's, a mapping a job.
        elsewhere: leave it to another machine whether it has the device.

    Raises:
        UserError: as :func:`plan`.
    """
    path = notebook_path(name)
    text = path.read_text(encoding="utf-8")
    declared = declared_parameters(name)
    own = {k: p.default for k, p in declared.items()}
    of_tier = own | tier_parameters(name, tier)
    stamp_of = stamper(path)
    jobs = []
    for given in several:
        values = of_tier | check_parameters(declared, given)
        if not elsewhere:
            _check_devices(declared, values)
        jobs.append(
            Job(
                chapter=canonical_name(path),
                tier=tier,
                given={k: v for k, v in values.items() if v != of_tier[k]},
                injected={k: v for k, v in values.items() if v != own[k]},
                parameters=values,
                path=path,
                text=text,
                stamp=stamp_of(values),
            )
        )
    return jobs


def tiers(name: str) -> list[str]:
    """Return the tiers of a notebook: ``laptop``, and one for every parameter file that applies to it.

    Args:
        name: ``slug`` or ``slug/notebook``.
    """
    return sorted({LAPTOP, *tier_files(name)})


def tier_files(name: str) -> dict[str, Path]:
    """Return the parameter files that apply to a notebook, by tier.

    ``NOTEBOOK.TIER.yml`` is the notebook's own; where there is none, the chapter's ``TIER.yml`` holds.

    Args:
        name: ``slug`` or ``slug/notebook``.
    """
    slug, _, notebook = name.partition("/")
    files = {f.stem: f for f in chapter_folder(slug).glob("*.yml") if f.name != "claims.yml"}
    own = f"{notebook or slug}."
    return {stem: f for stem, f in files.items() if "." not in stem} | {
        stem.removeprefix(own): f for stem, f in files.items() if stem.startswith(own)
    }


def tier_parameters(name: str, tier: str) -> dict[str, Any]:
    """Return the parameters that a tier sets, checked against the notebook.

    Raises:
        UserError: if there is no such tier, or its file is broken, or holds an unknown parameter or a
            value that is not allowed; the message names the file.
    """
    name = canonical_name(notebook_path(name))
    if tier not in tiers(name):
        raise UserError(f"{name} has no tier '{tier}'; it has: {', '.join(tiers(name))}")
    if tier == LAPTOP:
        return {}
    path = tier_files(name)[tier]
    label = f"{path.parent.name}/{path.name}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{label}: not valid YAML: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(values, dict):
        raise UserError(f"{label}: must be a mapping of parameters to values")
    try:
        return check_parameters(declared_parameters(name), values)
    except ParameterError as error:
        raise UserError(f"{label}: {error}") from None


def declared_parameters(name: str) -> dict[str, Parameter]:
    """Return the parameters of a notebook, by name.

    Raises:
        UserError: if there is no such notebook, the file is not one, or its parameters cell is broken.
    """
    path = notebook_path(name)
    try:
        return read_parameters(parameters_cell(json.loads(path.read_text(encoding="utf-8"))))
    except ParameterError as error:
        raise UserError(f"{canonical_name(path)}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{canonical_name(path)}: {path.name} is not a notebook") from None


def canonical_name(path: Path) -> str:
    """Return the name of a chapter's notebook by its path: ``slug``, or ``slug/notebook``."""
    slug = path.parent.name
    return slug if path.stem == slug else f"{slug}/{path.stem}"


def _check_devices(declared: Mapping[str, Parameter], values: Mapping[str, Any]) -> None:
    """Raise UserError if this machine lacks a device. The CPU needs no look, which would import torch."""
    wanted = {values[k] for k, p in declared.items() if p.allowed == "device"} - {"cpu", "auto"}
    for device in wanted:
        from reprobook.device import resolve_device

        resolve_device(device)
