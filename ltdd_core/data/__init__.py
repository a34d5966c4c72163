"""Long-tailed sets: where images come from, how they are cut to a long tail, how they are normalised."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ltdd_core.data.longtail import Order, cut
from ltdd_core.data.normalisation import ZCA, Normalisation, PerChannel
from ltdd_core.errors import InputError
from ltdd_core.interfaces import DataSource
from ltdd_core.options import BaseOptions, option
from ltdd_core.seeding import generator


class ImageTable(ABC):
    """Labelled images that are decoded when they are asked for."""

    labels: Tensor
    """int64 ``[N]``."""

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]``.

        Raises:
            InputError: an image cannot be used; the message names its file.
        """


@dataclass(frozen=True)
class ArrayTable(ImageTable):
    """Images that are in memory already."""

    images: Tensor
    labels: Tensor

    def read(self, indices: Tensor) -> Tensor:
        """The rows asked for."""
        return self.images[indices]


class LongTailOptions(BaseOptions):
    """What every data source lets a user choose about the long tail."""

    imbalance: float | Literal["natural"] = option(
        100.0, "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
    )
    n_max: int | None = option(
        None, "images of the largest class; unless given, as many as the smallest has before the cut", ge=1
    )
    order: Order = option("native", "which class is the head: native, reversed or random")
    seed: int = option(0, "which images stay; the same for every --seed of a run", ge=0)
    normalisation: Literal["per-channel", "zca"] = option(
        "per-channel", "of images: mean and deviation of each channel, or ZCA whitening over all pixels"
    )
    zca_eps: float = option(0.1, "what ZCA adds to the variances", source="MTT, public code", gt=0)
    mean: tuple[float, ...] | None = option(None, "fixed channel means in [0, 1]; else from the training images")
    std: tuple[float, ...] | None = option(None, "fixed channel deviations; else from the training images")


@dataclass(frozen=True)
class LongTailedSet:
    """A long-tailed training set and its test set, uint8 in memory."""

    name: str
    train_images: Tensor
    """uint8 ``[N, C, H, W]``, sorted by class."""
    train_labels: Tensor
    """int64 ``[N]``."""
    test_images: Tensor
    """uint8 ``[M, C, H, W]``."""
    test_labels: Tensor
    """int64 ``[M]``."""
    class_names: tuple[str, ...]
    normalisation: Normalisation
    counts: tuple[int, ...]
    """Training images of each class."""

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.train_images.shape[1:]
        return int(channels), int(height), int(width)

    @property
    def imbalance(self) -> float:
        """The imbalance factor n_max / n_min as it came out."""
        return max(self.counts) / min(self.counts)

    def to(self, device: torch.device) -> LongTailedSet:
        """The same with the training images on a device; the test images, which matching never sees, stay."""
        return replace(self, train_images=self.train_images.to(device), train_labels=self.train_labels.to(device))


def load_long_tailed(name: str, source: DataSource) -> LongTailedSet:
    """Load a source and cut its training images to the long tail its options ask for.

    Raises:
        InputError: the images are missing or cannot be used, or the cut is impossible.
    """
    options = source.options
    if options.imbalance != "natural" and not 1 <= options.imbalance < math.inf:  # nan is refused too
        raise InputError(f"data.imbalance is n_max / n_min, finite and at least 1, not {options.imbalance:g}.")
    images = source.load(generator(options.seed, "hold out"))
    _check_classes(name, images.class_names, images.train.labels, images.test.labels)
    kept = cut(
        images.train.labels,
        images.class_names,
        imbalance=options.imbalance,
        n_max=options.n_max,
        order=options.order,
        generator=generator(options.seed, "long tail"),
    )
    train = images.train.read(kept)
    labels = images.train.labels[kept]
    return LongTailedSet(
        name,
        train,
        labels,
        images.test.read(torch.arange(len(images.test.labels))),
        images.test.labels,
        images.class_names,
        _normalisation(options, train),
        tuple(torch.bincount(labels, minlength=len(images.class_names)).tolist()),
    )


def _check_classes(name: str, class_names: Sequence[str], train: Tensor, test: Tensor) -> None:
    if len(class_names) < 2:
        raise InputError(f"data {name!r} has {len(class_names)} class; a classifier needs at least two.")
    for part, labels in (("training", train), ("test", test)):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
            raise InputError(
                f"data {name!r}: {part} labels run from {int(labels.min())} to {int(labels.max())}; "
                f"with {len(class_names)} classes they must lie in 0 to {len(class_names) - 1}."
            )
        counts = torch.bincount(labels, minlength=len(class_names))
        empty = [class_names[c] for c in torch.nonzero(counts == 0).flatten().tolist()]
        if empty:
            raise InputError(f"data {name!r}: no {part} image of {', '.join(empty)}; every class needs one.")


def _normalisation(options: Any, train: Tensor) -> Normalisation:
    if (options.mean is None) != (options.std is None):
        raise InputError("data.mean and data.std go together: give both or none.")
    if options.normalisation == "zca":
        if options.mean is not None:
            raise InputError("data.mean and data.std are for data.normalisation=per-channel; ZCA has its own.")
        return ZCA.of(train, options.zca_eps)
    if options.mean is None:
        return PerChannel.of(train)
    channels = train.shape[1]
    fits = len(options.mean) == channels == len(options.std)
    if not fits or not all(0 <= m <= 1 for m in options.mean) or not all(0 < s <= 1 for s in options.std):
        raise InputError(
            f"data.mean and data.std need {channels} value(s) each, for images in [0, 1]: means in [0, 1] and "
            f"deviations above 0 and at most 1, not {options.mean} and {options.std}."
        )
    return PerChannel(options.mean, options.std)
