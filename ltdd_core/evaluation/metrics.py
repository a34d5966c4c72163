"""How good a classifier is on every class, in per cent; docs/metrics.md says why each number is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.longtail import by_count, shot_groups
from ltdd_core.evaluation.confusion import stored_confusion
from ltdd_core.evaluation.label_shift import shares_of_classes
from ltdd_core.evaluation.shown import COSTS, HEADINGS, NumberTable, cost_cells, number
from ltdd_core.training.cost import TrainingCost

RECALL_FLOOR = 0.1
"""Per cent.  Harmonic and geometric mean count a class that is never right as if it were right this often; without
a floor they would be 0 as soon as one class is."""
BINS = 15
"""Of the calibration error, as in Guo et al. (ICML 2017)."""


@dataclass(frozen=True)
class Row:
    """One line of a result table.  Accuracies, and what is made of them, are in per cent."""

    name: str
    """The classifier, as the table calls it."""
    images: int
    """Training images of the classifier, over all its stages."""
    accuracy: float
    """Share of the test images whose predicted class is right."""
    std: float
    """Standard deviation (population) of the per-class accuracies: the paper's *Acc Std*."""
    many: float | None
    """Mean accuracy of the classes with over 100 training images; None where there is none."""
    medium: float | None
    """Mean accuracy of the classes with 20 to 100 training images; None where there is none."""
    few: float | None
    """Mean accuracy of the classes with fewer than 20 training images; None where there is none."""
    head: float | None
    """Mean accuracy of the third of the classes with the most training images; None where none of them is tested."""
    middle: float | None
    """Mean accuracy of the next third; None where there are fewer than two classes."""
    tail: float | None
    """Mean accuracy of the third with the fewest training images; None where there are fewer than three classes."""
    worst: float
    """The accuracy of the worst class."""
    harmonic_mean: float
    """Harmonic mean of the accuracies of the classes, each at least 0.1."""
    geometric_mean: float
    """Geometric mean of the accuracies of the classes, each at least 0.1."""
    group_accuracy: float | None
    """How often the predicted class lies in the right group, when there is a partition."""
    calibration_error: float
    """How far confidence and accuracy are apart (expected calibration error)."""
    per_class: list[float | None]
    """The accuracy of each class; None for a class without a test image, which counts in no mean."""
    confusion: list[list[float]]
    """Test images of each true class (row) by predicted class (column)."""
    images_seen: float | None = None
    """Epochs times images of the training, over all of its networks but teachers; None where that is not known."""
    training_seconds: float | None = field(default=None, compare=False)
    """Seconds of the training, measured where each network was trained; None where that is not known."""
    multiply_adds: float | None = None
    """Of the convolutions and matrix products of the training; None where that is not known."""
    test_distributions: dict[str, dict[str, float]] | None = None
    """``accuracy`` and ``calibration_error`` on long-tailed test distributions, by their names; None if none was asked
    for."""

    def to_json(self) -> dict[str, Any]:
        """The row as the command line prints it with ``--json``; test distributions where there are some.

        Lists are those of the row, not copies.  The confusion matrix of more than 120 classes, with a million numbers
        for a thousand, is written by the pairs that occur: see :func:`ltdd_core.confusion_matrix`.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["confusion"] = stored_confusion(self.confusion)
        if self.test_distributions is None:
            del values["test_distributions"]
        return values

    @staticmethod
    def table(rows: Sequence[Row]) -> NumberTable:
        """Several lines, one below another."""
        grouped = any(row.group_accuracy is not None for row in rows)
        columns = ("accuracy", "std", *parts_of(rows), "worst", "harmonic_mean", *["group_accuracy"] * grouped)
        costs = costs_of(rows)
        head = ["trained on", "images", *(HEADINGS.get(column, column) for column in (*columns, *costs))]
        body = [
            [row.name, str(row.images), *(number(getattr(row, column)) for column in columns), *cost_cells(row, costs)]
            for row in rows
        ]
        title = "per cent; std, worst and harmonic mean are over classes"
        return NumberTable(title, ["name", "images", *columns, *costs], head, body)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {number(getattr(self, part))}" for part in parts_of([self]))
        return f"Row({self.name!r}: accuracy {self.accuracy:.1f} %, std {self.std:.1f}, {parts})"

    def _repr_html_(self) -> str:
        return Row.table([self]).html()


class WithRows:
    """How something with a table of rows is written: in one line, and in a notebook with the table."""

    rows: Sequence[Row]

    def _title(self) -> str:
        """What it is, in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{row.name} {row.accuracy:.1f} %" for row in self.rows)
        return f"{type(self).__name__}({self._title()}: {accuracies})"

    def _repr_html_(self) -> str:
        return f"{escape(self._title())}{Row.table(self.rows).html()}"


def row(
    name: str,
    images: int,
    log_probabilities: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    groups: Tensor | None = None,
    cost: TrainingCost | None = None,
    test_imbalances: Sequence[float] = (),
) -> Row:
    """Score what a classifier says; the likeliest class is its prediction.

    Args:
        name: of the line.
        images: how many images trained the classifier.
        log_probabilities: float32 ``[N, classes]``; -inf where a class is ruled out.
        labels: int64 ``[N]``.
        counts: training images of each class of the long-tailed set.
        groups: int64 ``[classes]``.
        cost: of training the classifier, where it is known.
        test_imbalances: imbalance factors of the long-tailed test distributions that it is scored on, too.
    """
    predicted = log_probabilities.argmax(1)
    classes = len(counts)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    recall = confusion.diagonal().double() / confusion.sum(1) * 100
    right = predicted == labels
    tested = recall[~recall.isnan()]
    per_class = [None if math.isnan(value) else value for value in recall.tolist()]
    return Row(
        name=name,
        images=images,
        accuracy=float(right.double().mean() * 100),
        std=float(tested.std(correction=0)),
        **_means(recall, shot_groups(counts)),
        **_means(recall, thirds(counts)),
        worst=float(tested.min()),
        harmonic_mean=float(1 / (1 / tested.clamp(min=RECALL_FLOOR)).mean()),
        geometric_mean=geometric_mean(per_class),
        group_accuracy=None if groups is None else group_accuracy(confusion, groups),
        calibration_error=calibration_error(log_probabilities, right),
        per_class=per_class,
        confusion=confusion.tolist(),
        images_seen=None if cost is None else cost.images_seen,
        training_seconds=None if cost is None else cost.seconds,
        multiply_adds=None if cost is None else cost.multiply_adds,
        test_distributions=(
            {
                name: _under(shares, recall, log_probabilities, labels)
                for name, shares in shares_of_classes(counts, test_imbalances).items()
            }
            if test_imbalances
            else None
        ),
    )


def _under(shares: Tensor, recall: Tensor, log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and calibration error where classes have these shares of the test images; see :mod:`label_shift`.

    Args:
        shares: float64 ``[classes]``; those of classes without a test image are passed over.
        recall: per cent right of each class, NaN for one without a test image, float64 ``[classes]``.
        log_probabilities: ``[N, classes]``.
        labels: int64 ``[N]``.
    """
    tested = ~recall.isnan()
    weights = torch.where(tested, shares, 0.0) / shares[tested].sum()
    of_images = (weights / torch.bincount(labels, minlength=len(shares)))[labels]
    right = log_probabilities.argmax(1) == labels
    return {
        "accuracy": float(weights[tested] @ recall[tested]),
        "calibration_error": reliability(log_probabilities, right, of_images).error,
    }


def geometric_mean(per_class: Sequence[float | None]) -> float:
    """Geometric mean of the accuracies of the classes that have a test image, in per cent, each at least 0.1."""
    tested = torch.tensor([value for value in per_class if value is not None], dtype=torch.float64)
    return float(tested.clamp(min=RECALL_FLOOR).log().mean().exp())


def group_accuracy(confusion: Tensor, groups: Tensor) -> float:
    """How often the predicted class lies in the right group, in per cent.

    Args:
        confusion: test images of each true class (row) by predicted class, ``[classes, classes]``.
        groups: the group of each class, int64 ``[classes]``.
    """
    same = groups[:, None] == groups
    return float(confusion[same].sum() / confusion.sum().double() * 100)


def thirds(counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by rank, most images first, in three parts; the first ones are larger where three does not divide.

    Unlike many, medium and few, which are by count, none is empty where there are three classes.
    """
    ranked = torch.tensor(by_count(counts))
    return {name: part.tolist() for name, part in zip(("head", "middle", "tail"), ranked.tensor_split(3), strict=True)}


@dataclass(frozen=True)
class Reliability:
    """How often a classifier is right where it is this confident: 15 equal bins of confidence.

    Bin m holds the images with a confidence from over (m - 1) / 15 to m / 15.
    """

    images: Tensor
    """How many images are in each bin, or the sum of their weights, float64 ``[15]``."""
    confidence: Tensor
    """Their mean confidence, from 0 to 1, float64 ``[15]``; NaN in a bin without images."""
    accuracy: Tensor
    """The share of them that is right, from 0 to 1, float64 ``[15]``; NaN in a bin without images."""

    @property
    def error(self) -> float:
        """Expected calibration error in per cent (Guo et al., ICML 2017, equation 3)."""
        gaps = (self.images * (self.accuracy - self.confidence).abs()).nansum()
        return float(gaps / self.images.sum() * 100)


def reliability(log_probabilities: Tensor, right: Tensor, weights: Tensor | None = None) -> Reliability:
    """Confidence and accuracy of a classifier, bin by bin.

    Args:
        log_probabilities: ``[N, classes]``, with at least one image.
        right: bool ``[N]``, whether the likeliest class is the true one.
        weights: what each image counts for, float64 ``[N]``; 1 unless given.
    """
    confidence = log_probabilities.double().max(1).values.exp()
    bins = torch.bucketize(confidence, torch.arange(1, BINS, dtype=torch.float64) / BINS)

    each = torch.ones_like(confidence) if weights is None else weights

    def total(values: Tensor) -> Tensor:
        return torch.bincount(bins, weights=each * values, minlength=BINS)

    images = total(torch.ones_like(confidence))
    return Reliability(images, total(confidence) / images, total(right) / images)


def calibration_error(log_probabilities: Tensor, right: Tensor) -> float:
    """The expected calibration error in per cent; the arguments are those of :func:`reliability`."""
    return reliability(log_probabilities, right).error


BY_COUNT, BY_RANK = ("many", "medium", "few"), ("head", "middle", "tail")


def parts_of(rows: Sequence[Any]) -> tuple[str, ...]:
    """Which parts of the classes a table of rows, or of their JSON, shows: by rank where one by count is empty."""
    values = [row if isinstance(row, dict) else row.to_json() for row in rows]
    known = [row for row in values if row["accuracy"] is not None]
    return BY_RANK if any(row[part] is None for row in known for part in BY_COUNT) else BY_COUNT


def costs_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns of what training costs; none where nothing is known of it."""
    return COSTS if any(row.images_seen is not None for row in rows) else ()


def average(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Mean and population standard deviation over repeats of one line, field by field."""
    return _combine(rows, lambda values: values.mean(0)), _combine(rows, lambda values: values.std(0, correction=0))


def _means(recall: Tensor, groups: dict[str, list[int]]) -> dict[str, Any]:
    """Means over the classes of each group that have a test image; None where there is none."""
    tested = {name: recall[members][~recall[members].isnan()] for name, members in groups.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in tested.items()}


def _combine(rows: Sequence[Row], how: Any) -> Row:
    combined: dict[str, Any] = {"name": rows[0].name, "images": rows[0].images}
    for column in (each.name for each in fields(Row)):
        values = [getattr(row, column) for row in rows]
        if column not in combined:
            if column == "per_class":
                values = [[math.nan if value is None else value for value in row.per_class] for row in rows]
            known = all(value is not None for value in values)
            if column == "test_distributions":
                combined[column] = _combine_distributions(values, how) if known else None
            else:
                combined[column] = how(torch.tensor(values, dtype=torch.float64)).tolist() if known else None
    combined["per_class"] = _or_none(combined["per_class"])
    return Row(**combined)


def _combine_distributions(values: Sequence[dict[str, dict[str, float]]], how: Any) -> dict[str, dict[str, float]]:
    return {
        name: {
            key: float(how(torch.tensor([value[name][key] for value in values], dtype=torch.float64))) for key in first
        }
        for name, first in values[0].items()
    }


def _or_none(values: Sequence[float]) -> list[float | None]:
    """Accuracies of classes, None for NaN: for a class without a test image."""
    return [None if math.isnan(value) else value for value in values]
