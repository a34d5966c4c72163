"""The table of a grid as a document (JSON), for people (Markdown) and for spreadsheets (CSV).

All three are made of the document of :func:`table_of`, which holds nothing that depends on when or in which folder the
grid was run, and only the seconds of training depend on how fast it was.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltdd_core.bench.grid import Cell, CellLine, Grid, GridRow
from ltdd_core.bench.predictions import ScoredPrediction, StoredPredictions
from ltdd_core.evaluation.metrics import Row, average, parts_of
from ltdd_core.evaluation.shown import COSTS, amount, number
from ltdd_core.storage import json_text, write_atomically

PLACE = ("data", "imbalance", "ipc", "method", "plugins")
METRICS = (
    *("accuracy", "std", "many", "medium", "few", "head", "middle", "tail", "worst"),
    *("harmonic_mean", "geometric_mean", "group_accuracy", "calibration_error"),
)
PUBLISHED = ("accuracy", "std", "group_accuracy")
HEADINGS = {"imbalance": "IF", "ipc": "IPC", "line": "trained on", "group_accuracy": "group"}
HEADINGS |= {"images_seen": "images seen", "training_seconds": "seconds", "multiply_adds": "multiply-adds"}
DIGITS = 4  # of a CSV
Document = dict[str, Any]


def table_of(grid: Grid, kept: StoredPredictions, failures: Mapping[str, str]) -> Document:
    """What is known of every row; ``failures`` are reasons by the folder of a run or the file of a classifier."""
    return {"title": grid.title, "rows": [_row_document(row, kept, failures) for row in grid.rows]}


def write_table(out: Path, document: Document) -> None:
    """``table.json``, ``table.md`` and ``table.csv`` in the folder, each written atomically.

    Raises:
        InputError: they cannot be written.
    """
    texts = {"json": json_text(document, indent=1) + "\n", "md": markdown(document), "csv": as_csv(document)}
    for ending, text in texts.items():
        path = out / f"table.{ending}"
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text.encode())


# ---- the document --------------------------------------------------------------------------------


def _row_document(row: GridRow, kept: StoredPredictions, failures: Mapping[str, str]) -> Document:
    trained = [(cell, line, stored) for cell, line in row.members if (stored := kept.get(line)) is not None]
    scores = _scores(row.line, trained, kept)
    mean, deviation = average(scores) if scores else (None, None)
    known = ("accuracy", "std", "group_accuracy", "per_class", "source")
    return {
        **{key: getattr(row, key) for key in (*PLACE, "line")},
        "images": mean.images if mean else None,
        **_numbers(mean),
        "seeds": [cell.seed for cell, _, _ in trained],
        "deviation": _numbers(deviation),
        "classes": list(trained[0][2].class_names) if trained else [],
        "published": row.published.model_dump(include=set(known), mode="json") if row.published else None,
        "missing": [
            {"seed": cell.seed, "reason": _reason(cell, line, {**failures, **kept.damaged})}
            for cell, line in row.members
            if kept.get(line) is None
        ],
        "each": [
            {"seed": cell.seed, "run": line.run, "file": line.file, **_numbers(seed_row)}
            for (cell, line, _), seed_row in zip(trained, scores, strict=True)
        ],
    }


def _scores(
    name: str, trained: Sequence[tuple[Cell, CellLine, ScoredPrediction]], kept: StoredPredictions
) -> list[Row]:
    """A row for each seed.

    A classifier without a partition is scored under that of the first line of its cell that has one.
    """
    partitions = [
        stored.groups if stored.groups is not None else kept.groups(cell.lines) for cell, _, stored in trained
    ]
    rows = [stored.row(name, groups) for (_, _, stored), groups in zip(trained, partitions, strict=True)]
    if any(groups is None for groups in partitions):  # a mean over some of the seeds would be no mean
        rows = [replace(row, group_accuracy=None) for row in rows]
    return rows


def _numbers(row: Row | None) -> Document:
    if row is None:
        return {**dict.fromkeys((*METRICS, *COSTS)), "per_class": []}
    values = row.to_json()
    return {key: values[key] for key in (*METRICS, *COSTS, "per_class", "test_distributions") if key in values}


def _reason(cell: Cell, line: CellLine, failures: Mapping[str, str]) -> str:
    failed_run = failures.get(cell.folder) if line.run is not None else None
    return failures.get(line.file) or failed_run or "not run yet"


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(document: Document) -> str:
    """The table for people: what differs between rows, means and deviations over seeds, published values."""
    rows = document["rows"]
    sources = list(dict.fromkeys(row["published"]["source"] for row in rows if row["published"]))
    parts = [f"# {_text(document['title'])}", _caption(rows), _main_table(rows, sources)]
    parts += [f"\\[{number}\\] {_text(source)}" for number, source in enumerate(sources, start=1)]
    parts += [_distribution_table(rows, names) for names in _distributions(rows)]
    parts += [_class_table(rows, classes, sources) for classes in _class_lists(rows)]
    missing = [
        f"- {_text(row['line'])}, seed {entry['seed']}: {_text(entry['reason'])}"
        for row in rows
        for entry in row["missing"]
    ]
    if missing:
        parts += ["## Not finished", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def differing(rows: Sequence[Document]) -> list[str]:
    """Which of data, imbalance, ipc, method and plugins tell rows apart."""
    return [key for key in PLACE if len({row[key] for row in rows} - {None, ""}) > 1]


def _caption(rows: Sequence[Document]) -> str:
    same = [key for key in PLACE if key not in differing(rows)]
    values = {key: next((row[key] for row in rows if row[key] not in (None, "")), None) for key in same}
    shared = [f"{HEADINGS.get(key, key)} {_text(value)}" for key, value in values.items() if value is not None]
    return (
        f"{', '.join(shared)}. Per cent on the whole test set; mean ± deviation over seeds; *std* and *worst* are "
        "over classes."
    ).lstrip(". ")


def _main_table(rows: Sequence[Document], sources: Sequence[str]) -> str:
    places = differing(rows)
    columns = shown(rows)
    costs = COSTS if any(row.get("images_seen") is not None for row in rows) else ()
    heading = ["line", *places, "images", "seeds", *columns, *costs]
    published = [f"published {HEADINGS.get(key, key)}" for key in PUBLISHED] if sources else []
    lines = [[*(HEADINGS.get(key, key) for key in heading), *published]]
    for row in rows:
        cells = [_text(row[key]) for key in ("line", *places, "images")]
        cells += [str(len(row["seeds"])), *(spread(row, key) for key in columns), *(_cost(row, key) for key in costs)]
        lines.append(cells + ([_published(row, key, sources) for key in PUBLISHED] if sources else []))
    return _table(lines)


def shown(rows: Sequence[Document]) -> tuple[str, ...]:
    """Metrics of the table: classes by count, or by rank where some count has none."""
    return ("accuracy", "std", *parts_of(rows), "worst", "group_accuracy")


def _distributions(rows: Sequence[Document]) -> list[tuple[str, ...]]:
    """The names of test distributions that rows are scored on, each list once."""
    return list(dict.fromkeys(tuple(row["test_distributions"]) for row in rows if "test_distributions" in row))


def _distribution_table(rows: Sequence[Document], names: Sequence[str]) -> str:
    """Accuracy on each long-tailed test distribution, and beneath it the expected calibration error."""
    lines = [["accuracy on test distributions", *names]]
    for row in rows:
        if tuple(row.get("test_distributions", ())) != tuple(names):
            continue
        several, name = len(row["seeds"]) > 1, ", ".join([_text(row["line"]), *where(row, rows)])
        mean, deviation = row["test_distributions"], row["deviation"]["test_distributions"]
        for heading, key in ((name, "accuracy"), ("*ECE*", "calibration_error")):
            cells = (_spread(mean[each][key], deviation[each][key], several=several) for each in names)
            lines.append([heading, *cells])
    return _table(lines)


def _class_lists(rows: Sequence[Document]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row["classes"]) for row in rows if row["classes"]))


def _class_table(rows: Sequence[Document], classes: Sequence[str], sources: Sequence[str]) -> str:
    """The accuracy of every class, and beneath a row the published ones."""
    lines = [["accuracy of each class", *map(_text, classes)]]
    for row in rows:
        if tuple(row["classes"]) != tuple(classes):
            continue
        name = ", ".join([_text(row["line"]), *where(row, rows)])
        several = len(row["seeds"]) > 1
        pairs = zip(row["per_class"], row["deviation"]["per_class"], strict=True)
        lines.append([name, *(_spread(mean, deviation, several=several) for mean, deviation in pairs)])
        known = row["published"] and row["published"]["per_class"]
        if known and len(known) == len(classes):
            number = sources.index(row["published"]["source"]) + 1
            lines.append([f"*published* \\[{number}\\]", *(f"*{value:.1f}*" for value in known)])
    return _table(lines)


def where(row: Document, rows: Sequence[Document]) -> list[str]:
    """What tells a row apart and its name does not say: ``["IF 20", "IPC 10"]``."""
    told = [key for key in differing(rows) if row[key] not in (None, "")]
    return [
        f"{HEADINGS.get(key, key)} {_text(row[key])}"
        for key in told
        if key in ("imbalance", "ipc") or str(row[key]) not in row["line"]
    ]


def _published(row: Document, key: str, sources: Sequence[str]) -> str:
    if row["published"] is None or row["published"][key] is None:
        return ""
    return f"{row['published'][key]:.1f} \\[{sources.index(row['published']['source']) + 1}\\]"


def spread(row: Document, key: str) -> str:
    """Mean and deviation over seeds, if there are several; n/a where there is nothing."""
    return _spread(row[key], row["deviation"][key], several=len(row["seeds"]) > 1)


def _spread(mean: float | None, deviation: float | None, *, several: bool) -> str:
    if mean is None:
        return "n/a"
    return f"{mean:.1f} ± {deviation:.1f}" if several else f"{mean:.1f}"


def _cost(row: Document, key: str) -> str:
    return number(row[key]) if key == "training_seconds" else amount(row[key])


def _text(value: Any) -> str:
    """A text that cannot break a table or a list."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _table(lines: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


# ---- CSV -----------------------------------------------------------------------------------------


def as_csv(document: Document) -> str:
    """One line a row of the table, everything in columns of its own."""
    rows = document["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["classes"]))
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row if not key.startswith("class ")))
    columns += [f"class {name}{part}" for name in names for part in ("", " deviation", " published")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Document) -> Document:
    published = row["published"] or {}
    flat = {key: row[key] for key in (*PLACE, "line", "images")}
    flat["seeds"] = " ".join(map(str, row["seeds"]))
    for key in (*METRICS, *COSTS):
        flat |= {key: _rounded(row[key]), f"{key} deviation": _rounded(row["deviation"][key])}
    for name, scores in row.get("test_distributions", {}).items():
        for key, value in scores.items():
            deviation = row["deviation"]["test_distributions"][name][key]
            flat |= {f"{name} {key}": _rounded(value), f"{name} {key} deviation": _rounded(deviation)}
    flat |= {f"published {key}": published.get(key) for key in (*PUBLISHED, "source")}
    flat["missing"] = "; ".join(f"seed {entry['seed']}: {entry['reason']}" for entry in row["missing"])
    known = published.get("per_class") or [None] * len(row["classes"])
    for index, name in enumerate(row["classes"]):
        flat[f"class {name}"] = _rounded(row["per_class"][index])
        flat[f"class {name} deviation"] = _rounded(row["deviation"]["per_class"][index])
        flat[f"class {name} published"] = known[index] if len(known) == len(row["classes"]) else None
    return flat


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
