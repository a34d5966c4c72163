"""How numbers stand in the tables of a page, and in the texts for readers who cannot see its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltdd_report import figures
from ltdd_report.many import LISTED, shortened
from ltdd_report.terminal import cost

COLUMNS = {
    "images": "images",
    "accuracy": "accuracy",
    "std": "std",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "worst": "worst",
    "harmonic_mean": "harmonic",
    "group_accuracy": "group",
    "calibration_error": "calibration",
}
"""Of the table: the key of a row, and its heading."""


def cell(value: Any) -> str:
    """A number with one digit after the point, a count as it is, and n/a for None."""
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def known(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns that some row knows: a run may have no groups, and one of an earlier version has no costs."""
    return {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in rows)}


def cost_cell(row: Mapping[str, Any], key: str) -> str:
    """What training a line cost, by the key of its row."""
    return cost(row.get(key), key)


def cell_over_seeds(row: Mapping[str, Any], key: str) -> str:
    """A mean, with the deviation over seeds where there are several."""
    deviation = row["deviation"].get(key)
    return cell(row[key]) + (f"±{deviation:.1f}" if row["repeats"] > 1 and deviation is not None else "")


def cell_under(row: Mapping[str, Any], name: str, key: str) -> str:
    """A score on a test distribution, with the deviation over seeds where there are several."""
    deviation = row["deviation"]["test_distributions"][name][key] if row.get("repeats", 1) > 1 else None
    return cell(row["test_distributions"][name][key]) + ("" if deviation is None else f"±{deviation:.1f}")


def best_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best value of a column, but for one that all lines share.

    Several seeds are needed to say that a line is better (``ltdd compare``).
    """
    low = {"std", "calibration_error"}
    best = {}
    for key in COLUMNS:
        values = [float(row[key]) for row in rows if row.get(key) is not None]
        if key != "images" and len(set(values)) > 1:
            best[key] = (min if key in low else max)(values)
    return best


def never_right(rows: Sequence[Mapping[str, Any]], names: Sequence[str], order: Sequence[int]) -> list[tuple[str, str]]:
    """Lines with the same classes that are never right, and these classes from head to tail."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        zero = tuple(names[label] for label in order if row["per_class"][label] == 0)
        lines.setdefault(zero, []).append(str(row["name"]))
    return [("; ".join(of), shortened(zero)) for zero, of in lines.items() if zero]


def listed(heading: str, names: Sequence[str], values: Sequence[float | None], order: Sequence[int]) -> str:
    """A sentence with the value of each class, from head to tail; of many classes the first and the last."""
    numbers = [f"{value:.0f}" if isinstance(value, int) else cell(value) for value in values]
    every = [f"{names[label]} {numbers[label]}" for label in order]
    if len(every) > figures.NAMED:
        every[LISTED:-LISTED] = [f"{len(every) - 2 * LISTED} classes between"]
    listed = ", ".join(every)
    return f"{heading}: {listed}." if heading else f"{listed}."


def accuracies(rows: Sequence[Mapping[str, Any]], names: Sequence[str], order: Sequence[int]) -> str:
    """A sentence for each line, with its accuracy in per cent of each class."""
    return " ".join(listed(f"Accuracy of {row['name']}", names, row["per_class"], order) for row in rows)
