"""What a reader can save from the page of a run: its tables as CSV, and all of them with its figures in one archive."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import Markup
from rich.filesize import decimal

from ltdd_core import csv_text
from ltdd_report.reading import RunRecord
from ltdd_report.visible import visible

ARCHIVE = "tables-and-figures.zip"
INTERVALS = {
    "accuracy_interval": ("accuracy_low", "accuracy_high"),
    "behind_best": ("behind_best", "behind_best_low", "behind_best_high"),
}
"""Of a line, and the columns of ``table.csv`` that have their numbers; the best line is behind none."""
MEDIA = {"csv": "text/csv", "yaml": "application/yaml", "zip": "application/zip"}
OLDEST = (1980, 1, 1, 0, 0, 0)
"""The date of what is in the archive: the same run gives the same bytes."""


@dataclass(frozen=True)
class Download:
    """A file within the page."""

    name: str
    """What it is called when it is saved."""
    address: Markup
    """Its content, as a ``data:`` address, which needs no escapes."""
    size: str
    """How large it is, for readers: ``1.2 kB``."""


def tables_of(run: RunRecord) -> dict[str, bytes]:
    """Every table behind the page as CSV in UTF-8, by file name.

    ``table.csv`` has the lines of the result table, ``classes.csv`` the classes, with their groups if there are any,
    ``confusion.csv`` test images by line, true class and predicted class but for pairs without any,
    ``test-distributions.csv`` the scores on them, if there are any, and
    ``steps.csv`` the loss and the seconds of each step, if there are steps.
    Numbers are not rounded, and what is not known is left empty.
    """
    names, counts, rows = run.data["classes"], run.data["counts"], run.rows
    table = [{**{key: row[key] for key in row if key not in INTERVALS}, **_intervals(row)} for row in rows]
    scores = [key for key, value in table[0].items() if not isinstance(value, list)]
    group_of = {name: number for number, group in enumerate(run.groups or (), 1) for name in group}
    by_class = (
        [counts[label], *(row["per_class"][label] for row in rows), *([group_of[names[label]]] if group_of else [])]
        for label in range(len(names))
    )
    tables = {
        "table.csv": _csv(scores, ([row.get(key) for key in scores] for row in table)),
        "classes.csv": _csv(
            [
                *("class", "training images"),
                *(f"accuracy of {row['name']}" for row in rows),
                *(["group"] if group_of else []),
            ],
            ([name, *values] for name, values in zip(names, by_class, strict=True)),
        ),
        "confusion.csv": _csv(
            ["line", "class", "predicted", "test images"],
            (
                [row["name"], name, other, count]
                for row in rows
                for name, line in zip(names, row["confusion"], strict=True)
                for other, count in zip(names, line, strict=True)
                if count  # of a thousand classes a million pairs would be left
            ),
        ),
    }
    if names_of := rows[0].get("test_distributions"):
        tables["test-distributions.csv"] = _csv(
            ["line", "test distribution", "accuracy", "calibration error"],
            (
                [
                    row["name"],
                    name,
                    *(row["test_distributions"][name][key] for key in ("accuracy", "calibration_error")),
                ]
                for row in rows
                for name in names_of
            ),
        )
    if len(run.steps):
        steps = zip_longest(run.steps.tolist(), run.losses.tolist(), run.seconds.tolist()[: len(run.steps)])
        tables["steps.csv"] = _csv(["step", "loss", "seconds"], steps)
    return tables


def _intervals(row: Mapping[str, Any]) -> dict[str, Any]:
    """The intervals of a line, one number a column; nothing for a run of an earlier version, which has none."""
    numbers: dict[str, Any] = {}
    for key, columns in INTERVALS.items():
        if key in row:
            numbers.update(zip(columns, row[key] or [None] * len(columns), strict=True))
    return numbers


def downloads(files: Mapping[str, bytes], figures: Mapping[str, bytes]) -> list[Download]:
    """The files of a page, and an archive of them with its figures.

    A figure is in the page already, so it is added compressed: apart it would double the size of the page.

    Args:
        files: content by name.
        figures: likewise; only in the archive.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, **figures}.items():
            archive.writestr(zipfile.ZipInfo(name, OLDEST), content, zipfile.ZIP_DEFLATED)
    return [_download(name, content) for name, content in {ARCHIVE: buffer.getvalue(), **files}.items()]


def _download(name: str, content: bytes) -> Download:
    media = MEDIA[name.rpartition(".")[2]]
    address = Markup(f"data:{media};base64,{base64.b64encode(content).decode()}")  # noqa: S704
    return Download(name, address, decimal(len(content)))


def _csv(heading: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A table with its heading; names as they may be shown."""
    shown = ([visible(cell) if isinstance(cell, str) else cell for cell in row] for row in (heading, *rows))
    return csv_text(shown).encode()
