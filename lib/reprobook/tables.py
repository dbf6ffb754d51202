"""Tables on the command line: framed on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["show"]


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: framed and fitted on a terminal; elsewhere plain lines of full width.

    Args:
        columns: the headings.
        rows: the cells. One that starts with a verdict's sign and a space gets the colour of that sign.
    """
    if not rows:
        print("nothing to show")
    elif sys.stdout.isatty():
        _show_framed(columns, rows)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


def _show_framed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"✓": "green", "✗": "red", "◐": "yellow", "?": "yellow", "–": "dim"}
    table = Table(show_lines=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(c, style=colours.get(c.partition(" ")[0], "")) for c in row))
    Console().print(table)
