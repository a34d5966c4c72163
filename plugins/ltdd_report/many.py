"""What a page says of many classes: the worst and the best of them, and the pairs that are confused most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltdd_core import by_count, worst_and_best
from ltdd_report.figures import LABELLED, NAMED

LISTED = 20
"""Pairs, and names in a sentence."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClassLine:
    """A class in a table."""

    name: str
    count: int
    """Its training images."""
    accuracies: Sequence[float | None]
    """In per cent, of each line; None without a test image."""


@dataclass(frozen=True)
class Ends:
    """The classes at both ends of one line, where a page has too many classes to name them all."""

    line: str
    worst: Sequence[ClassLine]
    best: Sequence[ClassLine]
    between: int
    """Classes that are in neither."""


@dataclass(frozen=True)
class Pair:
    """A class, what it is taken for, and how often."""

    name: str
    predicted: str
    images: float
    """Of the class that are taken for the other one; a mean over seeds where there are several."""
    share: float
    """The same in per cent of the test images of the class."""


@dataclass(frozen=True)
class Confused:
    """The pairs of classes that a line confuses most."""

    line: str
    pairs: Sequence[Pair]


def ends_of(names: Sequence[str], counts: Sequence[int], rows: Sequence[Row]) -> Ends | None:
    """The worst and the best classes of the last line; None where the charts of a page name every class.

    Of classes that are equally good the largest is first.
    """
    if len(names) <= NAMED:
        return None
    worst, best = worst_and_best(rows[-1]["per_class"], counts)

    def line(label: int) -> ClassLine:
        return ClassLine(names[label], counts[label], [row["per_class"][label] for row in rows])

    between = len(names) - len(worst) - len(best)
    return Ends(str(rows[-1]["name"]), [line(label) for label in worst], [line(label) for label in best], between)


def confused_by(names: Sequence[str], counts: Sequence[int], rows: Sequence[Row]) -> list[Confused]:
    """The most confused pairs of each line, most images first; none where a matrix of confusion can name its classes.

    Of pairs with as many images, those come first that are a larger part of their class, and then those of larger
    classes.
    """
    return [] if len(names) <= LABELLED else [_confused(names, counts, row) for row in rows]


def _confused(names: Sequence[str], counts: Sequence[int], row: Row) -> Confused:
    table = np.array(row["confusion"], dtype=float)
    tests = table.sum(1)
    np.fill_diagonal(table, 0)
    rank = np.empty(len(names), dtype=int)
    rank[by_count(counts)] = np.arange(len(names))
    true, predicted = np.nonzero(table)
    images, shares = table[true, predicted], 100 * table[true, predicted] / tests[true]
    order = np.lexsort((rank[predicted], rank[true], -shares, -images))[:LISTED]
    pairs = [
        Pair(names[true[place]], names[predicted[place]], float(images[place]), float(shares[place])) for place in order
    ]
    return Confused(str(row["name"]), pairs)


def shortened(names: Sequence[str]) -> str:
    """Names with commas; of more than 20 the first, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
