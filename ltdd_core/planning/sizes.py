"""How many images a run has, and of what shape: as the data source knows, as its files say, or as a user tells."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltdd_core.config.model import Selection
from ltdd_core.data.load import kept_images
from ltdd_core.data.longtail import COUNTS
from ltdd_core.data.source import ArrayTable, DataSource, SourceImages, SourceSizes
from ltdd_core.errors import InputError
from ltdd_core.seeding import generator

LOOKED_AT = 32
"""Images that are decoded to see how long that takes."""
USUAL_SIDE, USUAL_TESTS = 32, 50
"""Pixels of a side, and test images of a class, where nobody says how many."""
MOST = 10**9
"""Images; a plan of more would not fit into the memory of the machine that makes it."""


@dataclass(frozen=True)
class DataSizes:
    """How much data a run has, after the cut to a long tail."""

    title: str
    """What the data are called."""
    counts: tuple[int, ...]
    """Training images of each class."""
    image_shape: tuple[int, int, int]
    """``(C, H, W)``."""
    tests: int
    """Test images."""
    class_names: tuple[str, ...] = ()
    """Of the classes; empty where they are not known."""
    decoding: float | None = None
    """Seconds that an image takes to be decoded, as measured; 0 where nothing is decoded; None where nobody knows."""

    @property
    def images(self) -> int:
        """Training images."""
        return sum(self.counts)


def sizes_of(data: Selection) -> DataSizes:
    """How much a data source has; its files are looked at only where it does not know without.

    Raises:
        InputError: they are not there, or cannot be used, or the cut is impossible.
    """
    source: DataSource = data.make()
    known = source.sizes()
    if known is not None:
        return DataSizes(data.title, _cut(known, source), known.image_shape, known.tests, decoding=0.0)
    source.check()
    images = source.load(generator(source.options.seed, "hold out"))
    kept = kept_images(images, source.options)
    counts = torch.bincount(images.train.labels[kept], minlength=len(images.class_names)).tolist()
    began = time.perf_counter()
    looked_at = images.train.read(kept[torch.randperm(len(kept), generator=generator(0, "look"))[:LOOKED_AT]])
    seconds = (time.perf_counter() - began) / len(looked_at)
    _, channels, height, width = looked_at.shape
    decoding = 0.0 if isinstance(images.train, ArrayTable) else seconds
    tests = len(images.test.labels)
    return DataSizes(data.title, tuple(counts), (channels, height, width), tests, images.class_names, decoding)


def sizes_told(
    data: Selection,
    *,
    counts: Sequence[int] | None = None,
    classes: int | None = None,
    images: int | None = None,
    tests: int | None = None,
) -> DataSizes:
    """How much data there is, as a user tells it; nothing is read.

    Args:
        data: its options say the size of the images, the imbalance factor and the profile.
        counts: training images of each class; or else the two that follow.
        classes: how many there are.
        images: training images in all, which fall from class to class as the options of the data say.
        tests: test images; 50 a class unless given.

    Raises:
        InputError: something is missing, or cannot be.
    """
    options = data.options
    if counts is None:
        if classes is None or images is None:
            raise InputError("tell both --classes and --images, or --counts FILE with a number for each class.")
        counts = _falling(classes, images, options)
    if len(counts) < 2 or min(counts) < 1 or sum(counts) > MOST:  # the profile gives each class an image
        raise InputError(f"there must be 2 classes or more, 1 image or more of each, and at most {MOST} images.")
    side = getattr(options, "image_size", None) or USUAL_SIDE
    tests = USUAL_TESTS * len(counts) if tests is None else tests
    title = options.title or f"{sum(counts)} images of {len(counts)} classes"
    return DataSizes(title, tuple(counts), (3, side, side), tests)


def counts_in(path: Path) -> tuple[int, ...]:
    """The numbers in a file, one for each class, on lines of their own or with spaces or commas between.

    Raises:
        InputError: it cannot be read, or has something else.
    """
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--counts {path}: it cannot be read as text.") from error
    wrong = next((word for word in words if not (word.isascii() and word.isdecimal())), None)
    if wrong is not None or not words:
        raise InputError(f"--counts {path}: a number of images is expected for each class, not {wrong or 'nothing'!r}.")
    return tuple(map(int, words))


def _cut(known: SourceSizes, source: DataSource) -> tuple[int, ...]:
    """Training images of each class after the cut."""
    classes = len(known.counts)
    labels = torch.arange(classes).repeat_interleave(torch.tensor(known.counts))
    table = ArrayTable(labels[:, None], labels)
    images = SourceImages(table, table, tuple(map(str, range(classes))))
    kept = labels[kept_images(images, source.options)]
    return tuple(torch.bincount(kept, minlength=classes).tolist())


def _falling(classes: int, images: int, options: Any) -> tuple[int, ...]:
    """Counts of a profile with an imbalance factor that come to a total; equal ones where the factor is natural."""
    imbalance = options.imbalance
    if imbalance == "natural":
        return tuple((images + place) // classes for place in range(classes))[::-1]
    profile = COUNTS[options.profile]

    def total(n_max: int) -> int:
        return sum(profile(classes, n_max, imbalance))

    n_max = 1 + bisect_left(range(1, images + 1), images, key=total)
    over = total(n_max) - images  # fewer than there are classes
    return tuple(count - (place < over and count > 1) for place, count in enumerate(profile(classes, n_max, imbalance)))
