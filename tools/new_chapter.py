"""Start a chapter: copy the files of the template, with the chapter's slug in their names and texts.

python tools/new_chapter.py SLUG [BOOK]
"""

import keyword
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
TEMPLATE = HERE / "templates" / "chapter"
NAME = "my_paper"


def new_chapter(slug: str, book: Path) -> list[Path]:
    """Write the files of a new chapter into a book and return them.

    Raises:
        ValueError: if the slug is not a name for a Python module, or one of the files is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug) or keyword.iskeyword(slug):
        raise ValueError(f"'{slug}' is not a slug: lower-case words joined by underscores, such as {NAME}")
    sources = sorted(f for f in TEMPLATE.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    targets = [book / f.relative_to(TEMPLATE).as_posix().replace(NAME, slug) for f in sources]
    if there := [t for t in targets if t.exists()]:
        raise ValueError(f"{there[0].relative_to(book)} is there already; nothing was written")
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        text = text.replace(NAME, slug).replace(NAME.replace("_", "-"), slug.replace("_", "-"))
        target.write_text(text, encoding="utf-8")
    return targets


def main(arguments: list[str]) -> int:
    """Run as a command and return its exit code."""
    slug = arguments[0] if arguments else ""
    book = Path(arguments[1] if len(arguments) > 1 else HERE).resolve()
    try:
        written = new_chapter(slug, book)
    except ValueError as error:
        print(f"new chapter: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(path.relative_to(book)) for path in written))
    print(f"Now add this line to _toc.yml, and see CONTRIBUTING.md:\n      - file: chapters/{slug}/{slug}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
