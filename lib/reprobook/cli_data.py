"""The commands ``reprobook data ...``: which data sets there are, fetching them, checking them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reprobook.tables import show

if TYPE_CHECKING:
    from reprobook.data.catalogue import DataSet

__all__ = ["app"]

#: The command group as typer knows it.
app = typer.Typer(help="List, fetch and check data sets.")


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """List, fetch and check data sets."""
    from reprobook.data import cifar10, cifar100  # noqa: F401 - they enter themselves into the catalogue

    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_sets() -> None:
    """List the data sets.

    What each holds, its size and licence, and whether it is on this machine.
    """
    from reprobook.data.catalogue import CATALOGUE
    from reprobook.data.store import cache_folder, data_folder

    rows = [
        (entry.name, entry.shape, _megabytes(entry.size), entry.licence, _here(entry))
        for entry in CATALOGUE.values()
    ]
    show(("data set", "what it holds", "size", "licence", "here"), rows)
    print(f"\nREPROBOOK_DATA: {data_folder() or 'not set'}\ncache: {cache_folder()}")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets.")]) -> None:
    """Download data sets that are not here yet.

    Every file is checked against its published hash. A set that is made from others brings those.
    """
    from reprobook.data.catalogue import data_set
    from reprobook.data.store import fetch, find_set

    entries = [data_set(name) for name in names]
    for entry in entries:
        made = entry.made_from and not find_set(entry.name)
        for part in entry.made_from if made else (entry.name,):
            paths = list(fetch(part).values())
            print(f"{part}: {_files(len(paths))} in {', '.join(map(str, _folders(paths)))}")
        if made:
            print(f"{entry.name}: is made from {' and '.join(entry.made_from)} whenever it is loaded")


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A data set; all by default.")] = None,
) -> None:
    """Check the files that are here.

    They are compared with their published hashes. Exit code 1 if one differs, or if the set that is named is
    not complete.
    """
    from reprobook.data.catalogue import CATALOGUE, data_set

    entries = [data_set(name)] if name else [e for e in CATALOGUE.values() if e.editions]
    rows = [(entry.name, *_verified(entry)) for entry in entries]
    show(("data set", "files", "what is wrong"), rows)
    if any(state.startswith("✗") or (name and state.startswith("–")) for _, state, _ in rows):
        raise typer.Exit(1)


def _verified(entry: DataSet) -> tuple[str, str]:
    """Return how many files of a set are as published, and the names of those that are not."""
    from reprobook.data.store import find, has_published_hash

    if not entry.editions:
        return "– none of its own", f"it is made from {' and '.join(entry.made_from)}"
    found = {file: path for edition in entry.editions for file in edition if (path := find(file))}
    wrong = [str(path) for file, path in found.items() if not has_published_hash(path, file)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return f"✗ {len(wrong)} of {_files(len(found))} wrong", ", ".join(wrong[:3]) + more
    if not any(set(edition) <= set(found) for edition in entry.editions):
        return (f"– incomplete: {_files(len(found))}" if found else "– not here"), ""
    return f"✓ {_files(len(found))} as published", ""


def _here(entry: DataSet) -> str:
    """Return in a few words where the files of a set are; their hashes are not looked at."""
    from reprobook.data.catalogue import data_set
    from reprobook.data.store import cache_folder, find

    found = [[find(file) for file in edition] for edition in entry.editions]
    if complete := next((paths for paths in found if all(paths)), None):
        in_cache = [path.is_relative_to(cache_folder()) for path in complete]
        return "✓ cache" if all(in_cache) else "✓ REPROBOOK_DATA" + (" and cache" if any(in_cache) else "")
    if entry.made_from:
        parts = [_here(data_set(part)) for part in entry.made_from]
        able = all(part.startswith("✓") for part in parts)
        return f"{'✓' if able else '–'} made from {' and '.join(entry.made_from)}"
    partial = max((len([path for path in paths if path]) for paths in found), default=0)
    return f"– {partial} files of it" if partial else "– no"


def _folders(paths: list[Path]) -> list[Path]:
    """Return the folders of the files, sub-folders of one taken together."""
    folders = sorted({path.parent for path in paths})
    return folders if len(folders) == 1 else sorted({f if len(folders) < 3 else f.parent for f in folders})


def _files(num: int) -> str:
    return f"{num} file{'s' * (num != 1)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "–"
