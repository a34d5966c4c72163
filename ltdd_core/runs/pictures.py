"""The picture of a distilled set: one row a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltdd_core.data.pictures import class_sheet
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.storage import write_atomically


def save_picture(path: Path, distilled: DistilledSet, counts: Sequence[int] | None = None) -> None:
    """Write a PNG with a row for each class, at most 20 images and 50 classes, as :func:`class_sheet` makes it.

    Args:
        path: of the file, which is replaced where there is one.
        distilled: the set, decoded.
        counts: training images of each class, which give the rows their order, from head to tail.

    Raises:
        InputError: it cannot be written.
    """
    images = distilled.normalisation.invert(distilled.images)
    write_atomically(path, class_sheet(images, distilled.labels, distilled.class_names, counts))
