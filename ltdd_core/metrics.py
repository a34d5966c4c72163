"""How good a classifier is on every class, in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.longtail import shot_groups

RECALL_FLOOR = 0.1
"""Per cent.  The harmonic mean counts a class that is never right as if it were right this often; without a
floor it would be 0 as soon as one class is."""


@dataclass(frozen=True)
class Row:
    """One line of a result table.  Everything but ``images`` is in per cent."""

    name: str
    images: int
    """Training images of the classifier, over all its stages."""
    accuracy: float
    std: float
    """Standard deviation (population) of the per-class accuracies: the paper's *Acc Std*."""
    many: float | None
    """Mean accuracy of the classes with over 100 training images; None where there is none."""
    medium: float | None
    few: float | None
    worst: float
    harmonic_mean: float
    group_accuracy: float | None
    """How often the predicted class lies in the right group, when there is a partition."""
    per_class: list[float]

    def to_json(self) -> dict[str, Any]:
        """The row as the command line prints it with ``--json``."""
        return asdict(self)


def row(
    name: str,
    images: int,
    predicted: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    groups: Tensor | None = None,
) -> Row:
    """Score predictions.

    Args:
        name: of the line.
        images: how many images trained the classifier.
        predicted: int64 ``[N]``.
        labels: int64 ``[N]``; every class occurs.
        counts: training images of each class of the long-tailed set.
        groups: int64 ``[classes]``.
    """
    right = (predicted == labels).double()
    total = torch.bincount(labels, minlength=len(counts))
    recall = torch.bincount(labels, weights=right, minlength=len(counts)) / total * 100
    shots = {shot: float(recall[members].mean()) if members else None for shot, members in shot_groups(counts).items()}
    in_group = None if groups is None else float((groups[predicted] == groups[labels]).double().mean() * 100)
    return Row(
        name=name,
        images=images,
        accuracy=float(right.mean() * 100),
        std=float(recall.std(correction=0)),
        worst=float(recall.min()),
        harmonic_mean=float(1 / (1 / recall.clamp(min=RECALL_FLOOR)).mean()),
        group_accuracy=in_group,
        per_class=recall.tolist(),
        **shots,
    )


def average(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Mean and population standard deviation over repeats of one line, field by field."""
    return _combine(rows, lambda values: values.mean(0)), _combine(rows, lambda values: values.std(0, correction=0))


def _combine(rows: Sequence[Row], how: Any) -> Row:
    fields: dict[str, Any] = {"name": rows[0].name, "images": rows[0].images}
    for field in asdict(rows[0]):
        values = [getattr(one, field) for one in rows]
        if field not in fields:
            fields[field] = None if values[0] is None else how(torch.tensor(values, dtype=torch.float64)).tolist()
    return Row(**fields)
