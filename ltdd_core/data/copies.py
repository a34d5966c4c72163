"""Files that are there more than once: in the test part as well as in training, or under two classes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ltdd_core.data.files import unreadable

if TYPE_CHECKING:
    from torch import Tensor


def same_files(paths: Sequence[Path]) -> list[int]:
    """For each file the place of the first one with the same bytes; only files of the same length are read.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        lengths = [path.stat().st_size for path in paths]
        often = Counter(lengths)
        first = dict[object, int]()
        return [
            first.setdefault(_digest(path) if often[length] > 1 else place, place)
            for place, (path, length) in enumerate(zip(paths, lengths, strict=True))
        ]
    except OSError as error:
        unreadable(error)


def told_copies(train: Sequence[Path], train_labels: Tensor, test: Sequence[Path], labels: Tensor) -> tuple[str, ...]:
    """Sentences about copies, each with an example.

    Args:
        train: the files of the training images.
        train_labels: their classes, int64 ``[N]``.
        test: the files of the test images.
        labels: their classes.

    Raises:
        InputError: a file cannot be read.
    """
    paths, classes = [*train, *test], [*train_labels.tolist(), *labels.tolist()]
    first = same_files(paths)
    leaked = [place for place in range(len(train), len(paths)) if first[place] < len(train)]
    doubtful = [place for place, one in enumerate(first) if classes[place] != classes[one]]
    return (
        *_told(leaked, first, paths, "test image is a training image too", "test images are training images too"),
        *_told(doubtful, first, paths, "image is in another class too", "images are in another class too"),
    )


def _told(
    places: Sequence[int], first: Sequence[int], paths: Sequence[Path], one: str, several: str
) -> tuple[str, ...]:
    if not places:
        return ()
    what = one if len(places) == 1 else several
    return (f"{len(places)} {what}, such as {paths[places[0]]}, which is {paths[first[places[0]]]}.",)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
