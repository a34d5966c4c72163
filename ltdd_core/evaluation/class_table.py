"""The accuracies of more classes than a table can name: those at both ends, and a file with all of them."""

from __future__ import annotations

from collections.abc import Sequence

from ltdd_core.data.longtail import by_count
from ltdd_core.evaluation.metrics import Row
from ltdd_core.storage import csv_text

CLASSES = "classes.csv"
MOST_NAMED = 120
"""Classes of a table; of more, those at both ends are named."""
AT_AN_END = 20


def worst_and_best(accuracies: Sequence[float | None], counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The 20 classes with the lowest accuracies, and the 20 with the highest, which are no others.

    Each begins with the most extreme.  Of classes that are equally good the one with most training images is first.

    Args:
        accuracies: of each class; None for one without a test image, which is in neither list.
        counts: training images of each class.
    """
    known = {label: value for label in by_count(counts) if (value := accuracies[label]) is not None}
    worst = sorted(known, key=lambda label: known[label])[:AT_AN_END]
    others = [label for label in known if label not in set(worst)]
    return worst, sorted(others, key=lambda label: -known[label])[:AT_AN_END]


def classes_csv(
    rows: Sequence[Row],
    class_names: Sequence[str],
    counts: Sequence[int],
    groups: Sequence[Sequence[str]] | None,
) -> str:
    """Training images, the accuracy of each line and, if there is a partition, the group of every class, as CSV.

    Args:
        rows: the lines, whose accuracies are in per cent; an empty cell for a class without a test image.
        class_names: the name of each class.
        counts: training images of each class.
        groups: the class names in each group; they are numbered from 1.
    """
    group_of = {name: number for number, group in enumerate(groups or (), 1) for name in group}
    head = ["class", "training images", *(f"accuracy of {row.name}" for row in rows), *(["group"] if group_of else [])]
    body = (
        [name, counts[label], *(row.per_class[label] for row in rows), *([group_of[name]] if group_of else [])]
        for label, name in enumerate(class_names)
    )
    return csv_text([head, *body])
