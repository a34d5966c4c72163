"""Images as a picture, one row a class: those of a distilled set, and a few of a long-tailed one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ltdd_core.data.drawing import spread_out
from ltdd_core.data.longtail import by_count
from ltdd_core.data.pictures import MOST_ROWS, class_sheet
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.storage import write_atomically

SAMPLES = 8
"""Images of a class in the picture of a long-tailed set."""


def save_picture(path: Path, distilled: DistilledSet, counts: Sequence[int] | None = None) -> None:
    """Write a PNG with a row for each class, at most 20 images and 50 classes, as :func:`class_sheet` makes it.

    Args:
        path: of the file, which is replaced where there is one.
        distilled: the set, decoded.
        counts: training images of each class, which give the rows their order, from head to tail.

    Raises:
        InputError: it cannot be written.
    """
    every = range(len(distilled.class_names)) if counts is None else by_count(counts)
    drawn = torch.isin(distilled.labels, torch.tensor(spread_out(every, MOST_ROWS)))  # of the others no copy is made
    images = distilled.normalisation.invert(distilled.images[drawn])
    write_atomically(path, class_sheet(images, distilled.labels[drawn], distilled.class_names, counts))


def save_data_picture(path: Path, data: LongTailedSet) -> None:
    """Write a PNG with a few training images of each class, in the size and colours that networks see.

    A normalisation, which only shifts the colours, is not applied.

    Args:
        path: of the file, which is replaced where there is one.
        data: at most 50 of its classes are drawn: of more, some of all parts of the tail.

    Raises:
        InputError: it cannot be written.
    """
    drawn = spread_out(by_count(data.counts), MOST_ROWS)
    few = torch.cat([(data.train_labels == label).nonzero().flatten()[:SAMPLES] for label in drawn])
    images = data.train_images[few].float() / 255
    write_atomically(path, class_sheet(images, data.train_labels[few], data.class_names, data.counts))
