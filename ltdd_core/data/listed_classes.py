"""The classes of listed images: labels are numbers, or the names of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ltdd_core.data.listfile import Faults, Listed
from ltdd_core.data.names import composed

NUMBER = re.compile(r"(-?[0-9]+)(\.0*)?")
"""A label that is a number; pandas writes ``3.0`` where a column has gaps."""


@dataclass(frozen=True)
class Classes:
    """The classes of lists."""

    names: tuple[str, ...]
    """In the order of the labels."""
    numbers: Mapping[str, int]
    """The class of each label as it is written."""
    notes: tuple[str, ...] = ()
    """What a user should know of them, a sentence each."""

    def of(self, listed: Listed) -> list[int]:
        """The class of each image of a list."""
        return [self.numbers[entry.label] for entry in listed.entries]


def classes_of(lists: Mapping[str, Listed], names: Sequence[str] | None, faults: Faults) -> Classes:
    """The classes of lists: those of ``names``, or else those that have training images.

    Numbers are in their own order, and names are sorted.  Where there are names, numbers count them from 0; or from 1,
    where there is no 0 and the largest is the number of names.

    Args:
        lists: of each part; there is one of ``train``.
        names: of all classes; None: the labels are the names.
        faults: collects the lines whose class is none.
    """
    labels = {entry.label for listed in lists.values() for entry in listed.entries}
    by_name = names is not None and {composed(label) for label in labels} <= set(names)
    matches = {} if by_name else {label: NUMBER.fullmatch(label) for label in labels}
    if not by_name and all(matches.values()):
        values = {label: int(match[1]) for label, match in matches.items() if match}
        classes = _numbered({values[entry.label] for entry in lists["train"].entries}, values, names)
    else:
        known = sorted({composed(entry.label) for entry in lists["train"].entries}) if names is None else names
        places = {name: place for place, name in enumerate(known)}
        numbers = {label: places[composed(label)] for label in labels if composed(label) in places}
        classes = Classes(tuple(known), numbers)
    what = "has no training image" if names is None else "has no name in the file of class names"
    for listed in lists.values():
        for entry in listed.entries:
            if entry.label not in classes.numbers:
                negative = entry.label in matches and matches[entry.label] and entry.label.startswith("-")
                fault = "is below 0" if negative else what
                faults.add(listed.file, entry.line, f"class {entry.label!r} {fault}")
    return classes


def _numbered(training: set[int], values: Mapping[str, int], names: Sequence[str] | None) -> Classes:
    """Classes by numbers.

    Args:
        training: the numbers that have training images.
        values: the number of each label as it is written.
        names: of all classes, if they have some.
    """
    if names is not None:
        first = 1 if min(values.values()) == 1 and max(values.values()) == len(names) else 0
        numbers = {label: value - first for label, value in values.items() if 0 <= value - first < len(names)}
        return Classes(tuple(names), numbers)
    used = sorted(value for value in training if value >= 0)
    places = {value: place for place, value in enumerate(used)}
    numbers = {label: places[value] for label, value in values.items() if value in places}
    absent = used[-1] - used[0] + 1 - len(used) if used else 0
    note = (
        f"no image has {absent} of the numbers from {used[0]} to {used[-1]}, so they are no classes." if absent else ""
    )
    return Classes(tuple(map(str, used)), numbers, (note,) if note else ())
