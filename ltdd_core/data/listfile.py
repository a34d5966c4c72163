"""Lists of images in files: ``path label`` on each line, or a CSV file with named columns.

Lines that are wrong are collected, so that a user learns of all of them at once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ltdd_core.data.layout import part_of
from ltdd_core.errors import InputError, how_to_set, reason_of, unknown

USUAL = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name"),
        *("image_id", "img", "img_path", "img_name", "id_code", "id"),
    ),
    "label": (
        *("label", "class", "class_name", "target", "category", "label_name", "class_id", "category_id", "diagnosis"),
        *("dx", "y"),
    ),
    "split": ("split", "subset", "set", "partition", "part", "phase"),
    "group": (),  # it changes which images test, so a user has to name it
}
"""What columns are called, in letters of either case, the likeliest first."""
TABLES = (".csv", ".tsv")
"""How the names of files end that have columns."""
DELIMITERS = ",;\t"
MOST_FAULTS, MOST_LINES = 10, 5
"""Kinds of faults in a message, and lines with each."""


@dataclass(frozen=True)
class Columns:
    """The names of columns that a user gives; None: the usual ones."""

    path: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


class Entry(NamedTuple):
    """An image of a list, as it is written there."""

    name: str
    """Its path."""
    label: str
    """Its class."""
    line: int
    """From 1."""
    part: str = ""
    """``train``, ``test`` or ``val``, where a column says so."""
    group: str = ""
    """What it belongs to, where a column says so."""


@dataclass(frozen=True)
class Listed:
    """The images of a list, or of one part of it."""

    file: Path
    entries: list[Entry]
    notes: tuple[str, ...] = ()
    """What a user should know of the list, a sentence each."""

    @property
    def has_parts(self) -> bool:
        """Whether a column says the part of each image."""
        return any(entry.part for entry in self.entries)

    def of(self, part: str) -> Listed:
        """The images of one part."""
        return Listed(self.file, [entry for entry in self.entries if entry.part == part])


class Faults:
    """Wrong lines of lists."""

    def __init__(self) -> None:
        self._lines = dict[str, list[str]]()

    def add(self, file: Path, line: int, what: str) -> None:
        """One more; ``what`` is wrong, without a full stop."""
        self._lines.setdefault(what, []).append(f"{file}:{line}")

    def refuse(self) -> None:
        """Say all of them, if there are any; lines with the same fault together.

        Raises:
            InputError: there are some.
        """
        if not self._lines:
            return
        total = sum(map(len, self._lines.values()))
        said = [f"{_first(lines, MOST_LINES)}: {what}" for what, lines in self._lines.items()]
        are = "1 line is" if total == 1 else f"{total} lines are"
        raise InputError(f"{are} wrong. {_first(said, MOST_FAULTS, '; ')}.")


def _first(texts: Sequence[str], most: int, between: str = ", ") -> str:
    more = len(texts) - most
    return between.join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def read_list(file: Path, columns: Columns, faults: Faults) -> Listed:
    """The images of a list.

    Args:
        file: a table with a header if :func:`is_table` says so; else each line is a path, a space and a
            label, and the path may have spaces.
        columns: of a table.
        faults: collects the wrong lines.

    Raises:
        InputError: it cannot be read, holds no image, or has no such columns.
    """
    text = text_of(file)
    listed = _table(file, text, columns, faults) if is_table(file) else Listed(file, list(_plain(file, text, faults)))
    if not listed.entries:
        faults.refuse()
        raise InputError(f"{file}: there is no image in this list.")
    return listed


def is_table(file: Path) -> bool:
    """Whether a list has columns with names, by the name of its file."""
    return file.suffix.lower() in TABLES


def read_class_names(file: Path) -> tuple[str, ...]:
    """The names of classes by their numbers: a name on each line, or on each line a name and its number, from 0 or 1.

    Raises:
        InputError: it cannot be read, or has a name twice.
    """
    lines = [line.strip() for line in text_of(file).split("\n") if line.strip()]
    numbered = dict[int, str]()
    for line in lines:
        name, _, number = line.rpartition(" ")
        if name and number.isdecimal():
            numbered[int(number)] = name.strip()
    first = min(numbered, default=0)
    if len(numbered) == len(lines) and first in (0, 1) and max(numbered) - first == len(lines) - 1:
        distinct = {*numbered.values()}
        lines = [numbered[number] for number in sorted(numbered)] if len(distinct) == len(lines) else lines
    seen = set[str]()
    for name in lines:
        if name in seen:
            raise InputError(f"{file}: class {name!r} is there twice.")
        seen.add(name)
    return tuple(lines)


def text_of(file: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: this is no text in UTF-8: save it as that.") from error


def _plain(file: Path, text: str, faults: Faults) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.rsplit(None, 1)
        if len(fields) == 2 and "\0" not in line:
            yield Entry(fields[0].lstrip(), fields[1], number)
        elif fields:
            faults.add(file, number, "no path, space and label (a table needs a name in .csv)")


# ---- tables ----------------------------------------------------------------------------------------


def _table(file: Path, text: str, columns: Columns, faults: Faults) -> Listed:
    first, _, _ = text.partition("\n")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(DELIMITERS, key=first.count)
    rows = _rows(file, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), faults)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    if not header:
        return Listed(file, [])
    path, label = _needed(file, header, "path", columns.path), _needed(file, header, "label", columns.label)
    split, group = _column(file, header, "split", columns.split), _column(file, header, "group", columns.group)
    whole = [row for row in rows if _is_whole(file, header, *row, faults)]
    if split is not None and columns.split is None and not all(part_of(row[split].strip()) for _, row in whole):
        split = None  # it is called like a column of parts, and is none
    entries, needed = [], [place for place in (path, label, group) if place is not None]
    for number, row in whole:
        part = "" if split is None else part_of(row[split].strip())
        empty = next((place for place in needed if not row[place].strip() or "\0" in row[place]), None)
        if empty is not None:
            faults.add(file, number, f"no value of {header[empty]!r}")
        elif part is None:
            faults.add(file, number, f"{header[split or 0]!r} is {row[split or 0]!r}, not train, test or val")
        else:
            group_of = "" if group is None else row[group].strip()
            entries.append(Entry(row[path].strip(), row[label].strip(), number, part, group_of))
    parts = "" if split is None else f", and {header[split]!r} says which part an image is in"
    said = f"{file.name}: column {header[path]!r} has the paths and {header[label]!r} the classes{parts}."
    return Listed(file, entries, (said,))


def _rows(file: Path, reader: Any, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line."""
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, row
    except csv.Error as error:
        faults.add(file, reader.line_num, f"this is no CSV ({reason_of(error)})")


def _is_whole(file: Path, header: Sequence[str], number: int, row: Sequence[str], faults: Faults) -> bool:
    if len(row) != len(header):
        faults.add(file, number, f"{len(row)} values, and there are {len(header)} columns")
    return len(row) == len(header)


def _needed(file: Path, header: Sequence[str], kind: str, named: str | None) -> int:
    """The place of a column that a list must have."""
    place = _column(file, header, kind, named)
    if place is None:
        what = {"path": "the paths", "label": "the classes"}[kind]
        raise InputError(
            f"{file}: which column has {what}? The first line has {', '.join(header) or 'no columns'}: name it with "
            f"{how_to_set(f'data.{kind}_column', 'NAME')}."
        )
    return place


def _column(file: Path, header: Sequence[str], kind: str, named: str | None) -> int | None:
    """The place of a column: the one that a user names, else the likeliest of the usual names.

    Raises:
        InputError: there is none of that name, or there are several.
    """
    if named is not None:
        if named not in header:
            raise InputError(f"{file}: {unknown('column', named, header)}")
        place = header.index(named)
    else:
        lower = [name.casefold() for name in header]
        usual = next((usual for usual in USUAL[kind] if usual in lower), None)
        if usual is None:
            return None
        place = lower.index(usual)
    if header.count(header[place]) > 1:
        raise InputError(
            f"{file}: {header.count(header[place])} columns are called {header[place]!r}: rename all but one."
        )
    return place
