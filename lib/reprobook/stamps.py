"""Stamps: whether stored outputs still follow from the code that stands beside them.

A stamp is one hash over everything that an executed notebook depends on: its code cells, the values of
its parameters (not how their cell is written), the modules of this package that its code reaches, its
claims, and the versions in the lock file of the packages that all this imports. It is the same on every
machine that installed the lock file, and neither an edit of prose, nor a rerun, nor a package that another
chapter needs, nor a claim of another notebook changes it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from reprobook.errors import UserError
from reprobook.parameters import parameters_cell, read_parameters
from reprobook.paths import book_root, notebook_path
from reprobook.records import read_record

__all__ = [
    "stamp",
    "stamper",
    "is_stale",
    "reached_modules",
    "reached_pins",
    "code_of",
    "parameter_values",
    "PACKAGE",
]

#: The folder of this package.
PACKAGE = Path(__file__).resolve().parent

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
_MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)


def stamp(notebook: Path | str, parameters: Mapping[str, Any] | None = None, package: Path = PACKAGE) -> str:
    """Return the stamp of a notebook run with these parameters.

    Args:
        notebook: a chapter's notebook, beside its ``claims.yml``.
        parameters: values that override the notebook's own.
        package: the folder of the package ``reprobook``.

    Raises:
        UserError: if the notebook, or a module that it reaches, is not valid Python.
    """
    return stamper(notebook, package)(parameters or {})


def stamper(notebook: Path | str, package: Path = PACKAGE) -> Callable[[Mapping[str, Any]], str]:
    """Return a function from parameters to the notebook's stamp; the files are read once.

    Args and errors are those of :func:`stamp`.
    """
    path = Path(notebook)
    content = json.loads(path.read_text(encoding="utf-8"))
    code = code_of(content)
    modules = {f.relative_to(package).as_posix(): _text(f) for f in reached_modules("\n".join(code), package)}
    parts = {
        "code": code,
        "modules": modules,
        "claims": _claims_of(path),
        "requirements": reached_pins([*code, *modules.values()]),
    }

    def of(parameters: Mapping[str, Any]) -> str:
        everything = parts | {"parameters": parameter_values(content, parameters)}
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    return of


def _claims_of(notebook: Path) -> Any:
    """Return what the claims file says that concerns a notebook; its text if it is not a claims file."""
    text = _text(notebook.parent / "claims.yml")
    try:
        claims = yaml.load(text, Loader=_LOADER)["claims"]
        return [claim for claim in claims if claim.get("notebook") in (None, notebook.stem)]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return text


def is_stale(executed: Path | str, package: Path = PACKAGE) -> bool:
    """Return whether a notebook's stored outputs no longer follow from the book as it stands.

    Args:
        executed: a chapter's notebook, or a recorded run, which is compared with the chapter's notebook.
        package: the folder of the package ``reprobook``.

    Returns:
        True also for a notebook that was never run, and for one whose run failed.
    """
    record = read_record(executed)
    if record is None or record.status != "finished":
        return True
    notebook = notebook_path(record.chapter)
    own = Path(executed).resolve() == notebook.resolve()  # has to follow from the defaults as they are now
    return record.stamp != stamp(notebook, {} if own else record.parameters, package)


def code_of(notebook: Mapping[str, Any]) -> list[str]:
    """Return the sources of a notebook's code cells, without those that only set parameters."""
    setting = {"parameters", "injected-parameters"}
    return [
        "".join(cell["source"]).replace("\r\n", "\n")
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not setting & set(cell["metadata"].get("tags", []))
    ]


def parameter_values(notebook: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a notebook: its own values, overridden by the given ones."""
    declared = read_parameters(parameters_cell(notebook))
    return {name: p.default for name, p in declared.items()} | dict(given)


def reached_modules(source: str, package: Path = PACKAGE) -> list[Path]:
    """Return the files of this package that code reaches by import statements, directly or through others.

    Imports inside functions count, and so do the ``__init__`` files of the packages on the way. A module
    that is only named in a string is not seen.

    Args:
        source: Python, also with lines of IPython magic.
        package: the folder of the package.

    Raises:
        UserError: if the source, or a module that it reaches, is not valid Python.
    """
    found: set[Path] = set()
    waiting = [("the notebook", _MAGIC.sub(r"\1pass", source), "")]
    while waiting:
        label, text, parent = waiting.pop()
        try:
            names = _imported(text, parent)
        except SyntaxError as error:
            raise UserError(f"{label} is not valid Python: {error.msg} (line {error.lineno})") from None
        for name in names:
            for path in _files(name, package):
                if path not in found:
                    found.add(path)
                    relative = path.relative_to(package.parent)
                    waiting.append((relative.as_posix(), _text(path), ".".join(relative.parent.parts)))
    return sorted(found)


def reached_pins(sources: Iterable[str]) -> list[str]:
    """Return the lines of the lock file for the packages that code imports, and for all that those need.

    Args:
        sources: valid Python, also with lines of IPython magic.
    """
    plain = (_MAGIC.sub(r"\1pass", source) for source in sources)
    names = {name.partition(".")[0] for source in plain for name in _imported(source, "")}
    names -= {PACKAGE.name}  # needs whatever any chapter needs
    waiting = [name for module in names for name in _distributions().get(module, [module])]
    found: set[str] = set()
    while waiting:
        name = _plain(waiting.pop())
        if name not in found:
            found.add(name)
            waiting += _needs(name)
    lines = _text(book_root() / "requirements.lock").splitlines()
    return [line for line in lines if _plain(line.partition("==")[0]) in found]


_distributions = cache(metadata.packages_distributions)


@cache
def _needs(distribution: str) -> list[str]:
    """Return what a distribution requires on any system, without extras; nothing if it is missing."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    return [re.match(r"[\w.-]+", line)[0] for line in required if not re.search(r"\bextra *==", line)]


def _plain(name: str) -> str:
    """Return a distribution's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@cache
def _imported(source: str, parent: str) -> list[str]:
    """Return every dotted name that a module's import statements may load.

    Args:
        source: the module.
        parent: the dotted name of the package that the module stands in, for relative imports.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _files(name: str, package: Path) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs; none for a name outside the package."""
    first, *rest = name.split(".")
    if first != package.name:
        return
    for depth in range(len(rest) + 1):
        folder = package.joinpath(*rest[:depth])
        candidates = [folder / "__init__.py", *([folder.with_suffix(".py")] if depth else [])]
        yield from (file for file in candidates if file.is_file())


def _text(path: Path) -> str:
    """Return a file's text with plain newlines; nothing for a file that is not there."""
    return path.read_text(encoding="utf-8").replace("\r\n", "\n") if path.is_file() else ""
