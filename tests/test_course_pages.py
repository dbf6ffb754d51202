"""The pages for teachers and students name commands that exist, and tell what the assignments are."""

import re
import shlex

import pytest
import typer

from reprobook import cli
from reprobook.paths import book_root

PAGES = {p: (book_root() / "book" / f"{p}.md").read_text(encoding="utf-8") for p in ("teach", "students")}
COMMANDS = [
    (page, line)
    for page, text in PAGES.items()
    for line in re.findall(r"^\$ (?:\S*/)?reprobook (.+)$", text, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_on_a_page_is_one_that_the_program_takes(page, line):
    words = cli._join_pairs(shlex.split(line))
    command = typer.main.get_command(cli.app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words, parent=context)


def test_the_pages_show_every_command_of_the_course():
    course = typer.main.get_command(cli.app).commands["course"]
    for name in course.commands:
        assert f"reprobook course {name}" in "".join(PAGES.values())


def test_the_page_for_teachers_lists_every_assignment():
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGES["teach"], re.MULTILINE))
    assert listed == {p.parent.name for p in (book_root() / "assignments").glob("source/*/*.ipynb")}


def test_what_the_pages_quote_is_what_the_program_says():
    """Sentences in the students' table of what may go wrong stand in the code, up to names."""
    code = "\n".join(p.read_text("utf-8") for p in (book_root() / "lib/reprobook/course").glob("*.py"))
    for said in (
        "has not been written yet",
        "there is no '",
        "an object of the class",
        "changes its argument",
        "it took longer than",
    ):
        assert said in code
        assert said in PAGES["students"]
