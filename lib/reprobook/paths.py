"""Where the book stands on this machine."""

import os
from pathlib import Path

from reprobook.errors import UserError

__all__ = ["book_root", "chapter_slugs", "chapter_folder", "notebook_path", "notebook_names"]


def book_root() -> Path:
    """Return the folder that holds ``_toc.yml`` and ``chapters/``.

    Looked for in the environment variable ``REPROBOOK_ROOT``, then upwards from the working folder,
    then beside the installed package (which an editable install keeps inside the checkout).

    Raises:
        UserError: if none of these is a checkout of the book.
    """
    named = os.environ.get("REPROBOOK_ROOT")
    here = Path.cwd()
    candidates = [Path(named)] if named else [here, *here.parents, Path(__file__).resolve().parents[2]]
    for folder in candidates:
        if (folder / "_toc.yml").is_file() and (folder / "chapters").is_dir():
            return folder.resolve()
    if named:
        raise UserError(
            f"REPROBOOK_ROOT={named} is not a checkout of the book: no _toc.yml and chapters/ there"
        )
    raise UserError("no checkout of the book found: run this inside one, or set REPROBOOK_ROOT to its folder")


def chapter_slugs() -> list[str]:
    """Return the slugs of all chapters in alphabetical order: the folders in ``chapters/`` with claims."""
    return sorted(p.parent.name for p in (book_root() / "chapters").glob("*/claims.yml"))


def chapter_folder(slug: str) -> Path:
    """Return the folder of a chapter.

    Raises:
        UserError: if there is no such chapter; the message lists those that exist.
    """
    if slug not in chapter_slugs():
        known = ", ".join(chapter_slugs()) or "none yet"
        raise UserError(f"unknown chapter '{slug}'; the chapters are: {known}")
    return book_root() / "chapters" / slug


def notebook_names(slug: str) -> list[str]:
    """Return the names of a chapter's notebooks (``dann`` in ``dann/dann.ipynb``), in alphabetical order."""
    return sorted(p.stem for p in chapter_folder(slug).glob("*.ipynb"))


def notebook_path(name: str) -> Path:
    """Return the file of a notebook named ``slug`` (the notebook of that name) or ``slug/notebook``.

    Raises:
        UserError: if the chapter or the notebook does not exist.
    """
    slug, _, notebook = name.partition("/")
    path = chapter_folder(slug) / f"{notebook or slug}.ipynb"
    if not path.is_file():
        allowed = ", ".join(f"{slug}/{n}" if n != slug else slug for n in notebook_names(slug))
        raise UserError(f"unknown notebook '{name}'; this chapter has: {allowed or 'none yet'}")
    return path
