"""Stamps: whether stored outputs still follow from the code that stands beside them.

A stamp is one hash over everything that an executed notebook depends on: its code cells, the values of
its parameters, the modules of this package that its code reaches, the chapter's claims file and the lock
file. It is computed from text alone, so it is the same on every machine, and neither an edit of prose nor
a rerun changes it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reprobook.errors import UserError
from reprobook.parameters import parameters_cell, read_parameters
from reprobook.paths import book_root, notebook_path
from reprobook.records import read_record

__all__ = ["stamp", "is_stale", "reached_modules", "code_of", "parameter_values", "PACKAGE"]

#: The folder of this package.
PACKAGE = Path(__file__).resolve().parent

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
    path = Path(notebook)
    content = json.loads(path.read_text(encoding="utf-8"))
    code = code_of(content)
    parts = {
        "code": code,
        "parameters": parameter_values(content, parameters or {}),
        "modules": {
            f.relative_to(package).as_posix(): _text(f) for f in reached_modules("\n".join(code), package)
        },
        "claims": _text(path.parent / "claims.yml"),
        "requirements": _text(book_root() / "requirements.lock"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
    return record.stamp != stamp(notebook_path(record.chapter), record.parameters, package)


def code_of(notebook: Mapping[str, Any]) -> list[str]:
    """Return the sources of a notebook's code cells, without the cell that papermill injects."""
    return [
        "".join(cell["source"]).replace("\r\n", "\n")
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", [])
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
            tree = ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"{label} is not valid Python: {error.msg} (line {error.lineno})") from None
        for name in _imported(tree, parent):
            for path in _files(name, package):
                if path not in found:
                    found.add(path)
                    relative = path.relative_to(package.parent)
                    waiting.append((relative.as_posix(), _text(path), ".".join(relative.parent.parts)))
    return sorted(found)


def _imported(tree: ast.AST, parent: str) -> Iterator[str]:
    """Yield every dotted name that a module's import statements may load.

    Args:
        tree: the parsed module.
        parent: the dotted name of the package that the module stands in, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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
