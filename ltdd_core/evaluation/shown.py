"""Tables of numbers: what stands in them, and how a notebook shows them; the terminal has its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

HEADINGS = {"harmonic_mean": "harm.", "group_accuracy": "group", "accuracy": "acc.", "medium": "med.", "middle": "mid."}
HEADINGS |= {"images_seen": "seen", "training_seconds": "seconds", "multiply_adds": "mult.-adds"}
MEANINGS = {
    "tail": "head, mid., tail: thirds of the classes by count",
    "harmonic_mean": "harm.: harmonic mean",
    "group_accuracy": "group: class in the right group",
    "images_seen": "seen: epochs times images",
    "multiply_adds": "mult.-adds: multiply-adds",
}
"""What a line below a table says of columns whose headings nobody can guess."""
COSTS = ("images_seen", "training_seconds", "multiply_adds")
"""Columns of what the training of a classifier costs."""
THOUSANDS = ("", "k", "M", "G", "T", "P", "E")


def number(value: float | None) -> str:
    """One decimal, or n/a."""
    return "n/a" if value is None else f"{value:.1f}"


def amount(value: float | None) -> str:
    """A large number in three digits, with k, M, G, T, P or E for thousands of thousands; or n/a."""
    if value is None:
        return "n/a"
    places = 0
    while value >= 999.5 and places + 1 < len(THOUSANDS):
        value, places = value / 1000, places + 1
    return f"{value:.3g}{THOUSANDS[places]}"


def cost_cells(row: Any, columns: Sequence[str]) -> list[str]:
    """The cells of some of the columns :data:`COSTS`, of a row of a table."""
    return [(number if name == "training_seconds" else amount)(getattr(row, name)) for name in columns]


@dataclass(frozen=True)
class NumberTable:
    """Numbers as text, with a name before each row."""

    title: str
    keys: Sequence[str]
    """What each column is; the name is the first."""
    head: Sequence[str]
    """The heading of each column."""
    body: Sequence[Sequence[str]]
    """The cells of each row."""

    def html(self) -> str:
        """The table for a notebook."""
        head = "".join(f"<th>{escape(heading)}</th>" for heading in self.head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in self.body)
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{rows}</table>"


T = TypeVar("T")


class Table(list[T]):
    """A list that a notebook shows as a table: of what has ``table(several)``, which gives a :class:`NumberTable`."""

    def _repr_html_(self) -> str | None:
        if not self:
            return None
        shown: Any = type(self[0])
        return str(shown.table(self).html())
