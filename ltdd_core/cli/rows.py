"""Rows of text in terminals of any width, for tables that are no results; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Console

LEAST = 10
"""Characters of a column whose words are folded."""
BETWEEN = 3
"""Characters between two columns."""


def print_rows_of_text(
    console: Console,
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    box: Box | None = None,
) -> None:
    """A table; where a terminal has no room for it, a block for each row, its first cell above the others.

    No character of a cell is cut.

    Args:
        console: where it goes.
        head: the heading of each column.
        body: the cells of each row; an empty cell is left out of a block.
        title: above the table.
        box: how lines are drawn; as rich does unless given.
    """
    from rich.box import HEAVY_HEAD
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    widths = _widths(list(zip(head, *body, strict=True)), console.width - BETWEEN * len(head) - 1)
    if widths:
        table = Table(title=title, box=box or HEAVY_HEAD, pad_edge=box is None)
        for heading, width in zip(head, widths, strict=True):
            table.add_column(heading, overflow="fold", width=width)
        for cells in body:
            table.add_row(*cells)
        console.print(table)
        return
    if title is not None:
        console.print(title, markup=False)
    for first, *others in body:
        console.print(Text(first, "bold"))
        for heading, cell in zip(head[1:], others, strict=True):
            if cell:
                console.print(Padding(Text(f"{heading}: {cell}"), (0, 0, 0, 2)))


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Of each column, in characters; none where there is no room for the first column and a few letters of the others.

    What is left over after that goes to the columns that need least, as far as they need it.
    """
    from rich.cells import cell_len

    words, lines = (
        [max((cell_len(part) for cell in cells for part in split(cell)), default=0) for cells in columns]
        for split in (str.split, str.splitlines)
    )
    widths = [words[0], *(min(LEAST, longest) for longest in words[1:])]
    spare = room - sum(widths)
    if spare < 0:
        return []
    for left, place in enumerate(sorted(range(len(widths)), key=lambda place: lines[place])):
        more = min(lines[place] - widths[place], spare // (len(widths) - left))
        widths[place] += more
        spare -= more
    return widths
