"""pyproject.toml, requirements.lock and environment.yml agree, and the other house papers are in order."""

import importlib.metadata as metadata
import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import reprobook

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK_LINES = [
    line
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
LOCK = [Requirement(line) for line in LOCK_LINES]
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = (("Linux", "linux", "x86_64"), ("Linux", "linux", "aarch64"), ("Darwin", "darwin", "arm64"))
WANTED = [
    Requirement(text)
    for text in [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
]


def environment(python: str, system: tuple[str, str, str]) -> dict[str, str]:
    """Return what markers are evaluated in on another machine."""
    return default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_system": system[0],
        "sys_platform": system[1],
        "platform_machine": system[2],
        "extra": "",
    }


def holds(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


def pins(where: dict[str, str]) -> dict[str, Version]:
    """Return the pinned versions that apply in an environment."""
    chosen = [r for r in LOCK if holds(r, where)]
    assert len({canonicalize_name(r.name) for r in chosen}) == len(chosen), "a package is pinned twice"
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in chosen}


def needs_of(name: str, extras: set[str], where: dict[str, str]) -> list[Requirement]:
    """Return what a package needs in an environment; nothing for one that is not installed here."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    needs = [Requirement(text) for text in texts]
    return [n for n in needs if any(holds(n, where | {"extra": extra}) for extra in extras | {""})]


def reached(where: dict[str, str]) -> dict[str, list[Requirement]]:
    """Return everything that the book needs, directly or not, with all that is asked of each package."""
    asked: dict[str, list[Requirement]] = {}
    waiting = [r for r in WANTED if holds(r, where)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        seen = asked.setdefault(name, [])
        if str(requirement) not in map(str, seen):
            seen.append(requirement)
            waiting += needs_of(name, requirement.extras, where)
    return asked


def only_for_gpus(name: str) -> bool:
    """Whether a package belongs to GPU builds of torch, which bring their own; see the head of the lock."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


# --------------------------------------------------------------------------- the lock


@pytest.mark.parametrize("line", LOCK_LINES)
def test_a_line_of_the_lock_is_one_exact_public_version(line):
    requirement = Requirement(line)
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    assert Version(specifier.version).local is None, "a pin with a build, such as +cpu, excludes all others"
    assert not specifier.version.endswith(".*")
    assert requirement.url is None


def test_the_lock_is_in_alphabetical_order_and_does_not_name_the_book_itself():
    names = [canonicalize_name(r.name) for r in LOCK]
    assert names == sorted(names)
    assert "reprobook" not in names


@pytest.mark.parametrize(("python", "system"), list(itertools.product(PYTHONS, SYSTEMS)))
def test_all_that_is_needed_is_pinned_at_a_version_that_fits(python, system):
    where = environment(python, system)
    pinned = pins(where)
    for name, requirements in reached(where).items():
        if not only_for_gpus(name):
            assert name in pinned, f"{name} is needed and not in requirements.lock"
            for requirement in requirements:
                assert requirement.specifier.contains(pinned[name], prereleases=True), (
                    f"{requirement}: {pinned[name]}"
                )


def test_nothing_is_pinned_that_nothing_needs():
    needed = {n for p, s in itertools.product(PYTHONS, SYSTEMS) for n in reached(environment(p, s))}
    elsewhere = {
        canonicalize_name(r.name) for r in LOCK if r.marker and 'python_version == "3.12"' in str(r.marker)
    }
    here = default_environment()["python_version"]
    assert {canonicalize_name(r.name) for r in LOCK} - needed <= (set() if here == "3.12" else elsewhere)


def test_every_pinned_version_runs_on_every_python_of_the_book():
    for requirement in LOCK:
        try:
            runs_on = metadata.metadata(requirement.name).get("Requires-Python")
        except metadata.PackageNotFoundError:
            continue
        for python in ("3.11.0", "3.12.0", "3.13.0"):
            assert runs_on is None or SpecifierSet(runs_on).contains(python), (
                f"{requirement} needs Python {runs_on}"
            )


def test_what_is_installed_is_what_the_lock_says():
    installed = {name: metadata.version(name) for name in pins(default_environment() | {"extra": ""})}
    wanted = pins(default_environment() | {"extra": ""})
    assert {n: v for n, v in installed.items() if Version(v).public != str(wanted[n])} == {}


# --------------------------------------------------------------------------- pyproject.toml, environment.yml


def test_conda_installs_the_lock_and_the_book_on_the_same_pythons():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, pip = conda["dependencies"]
    python = next(p for p in packages if p.startswith("python "))
    assert sorted(p.split()[0] for p in packages) == ["make", "pip", "python"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert conda["channels"] == ["conda-forge"]
    allowed, ours = (
        SpecifierSet(python.removeprefix("python ")),
        SpecifierSet(PROJECT["project"]["requires-python"]),
    )
    every = [f"3.{minor}" for minor in range(8, 20)]
    assert [v for v in every if allowed.contains(v)] == list(PYTHONS)
    assert all(ours.contains(v) for v in PYTHONS)


def test_the_book_installs_only_its_own_package_and_command():
    installed = metadata.distribution("reprobook")
    commands = {e.name: e.value for e in installed.entry_points if e.group == "console_scripts"}
    assert commands == {"reprobook": "reprobook.cli:main"}
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["where"] == ["lib"]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert reprobook.__version__ == PROJECT["project"]["version"] == citation["version"]


# --------------------------------------------------------------------------- licences, citation, workflows


def test_both_licences_are_there_in_full():
    code, text = ((ROOT / name).read_text(encoding="utf-8") for name in PROJECT["project"]["license-files"])
    assert code.startswith("MIT License\n")
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in code
    assert "Creative Commons Attribution 4.0 International Public License" in text
    assert all(f"\nSection {n} -- " in text for n in range(1, 9))
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text


def test_the_citation_has_what_the_format_asks_for_and_invents_no_address():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["authors"] == [{"name": "The Papers You Can Rerun contributors"}]
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    assert not {"doi", "url", "repository-code", "identifiers"} & set(citation)


def test_the_tests_run_on_every_system_and_python_that_the_lock_is_for():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": list(PYTHONS)}


def test_the_readmes_test_command_is_what_continuous_integration_runs():
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert last == "exec make test"
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", [".ci/run", "tools/make-venv"])
def test_a_script_is_executable_and_has_no_syntax_error(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    shell = path.read_text(encoding="utf-8").splitlines()[0].split("/")[-1].removeprefix("env ")
    subprocess.run([shell, "-n", str(path)], check=True)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_and_targets_that_a_document_names_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.S))):
        assert f"\n{target}:" in makefile, f"there is no target {target}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), f"{link} is not there"
