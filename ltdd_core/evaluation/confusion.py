"""A confusion matrix in a file: by rows, or where that takes less room by the pairs of classes that occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FROM, SHARE = 121, 0.25
"""Classes from which on a matrix may be written by pairs, and the share of its cells that may be other than 0 then."""


def stored_confusion(confusion: list[list[float]]) -> list[list[float]] | list[dict[str, float]]:
    """What a file has of a confusion matrix: itself, or of a large one with few pairs a mapping for each true class.

    Args:
        confusion: test images of each true class (row) by predicted class.
    """
    classes = len(confusion)
    if classes < FROM or sum(classes - row.count(0) for row in confusion) > SHARE * classes**2:
        return confusion
    return [{str(label): images for label, images in enumerate(row) if images} for row in confusion]


def confusion_matrix(stored: Any) -> Any:
    """The confusion matrix of a row of ``report.json`` or of ``--json``, with all pairs of classes.

    Args:
        stored: ``confusion`` of the row: the matrix, ``[classes][classes]``, which is returned as it is; or for each
            true class a mapping from the numbers of predicted classes, as texts, to test images.

    Returns:
        Lists, ``[true class][predicted class]``.

    Raises:
        ValueError: a mapping has something else than the number of a class.
    """
    if not isinstance(stored, Sequence) or not any(isinstance(row, Mapping) for row in stored):
        return stored
    return [_whole(row, len(stored)) if isinstance(row, Mapping) else row for row in stored]


def _whole(row: Mapping[str, Any], classes: int) -> list[Any]:
    whole: list[Any] = [0] * classes
    for label, images in row.items():
        if not (isinstance(label, str) and label.isascii() and label.isdecimal() and int(label) < classes):
            raise ValueError(f"{label!r} is not the number of a class")
        whole[int(label)] = images
    return whole
