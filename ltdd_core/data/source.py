"""Sources of labelled images: the interface, and the tables in which a source hands its images over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ltdd_core.data.longtail import Order
from ltdd_core.options import BaseOptions, Component, option


@dataclass(frozen=True)
class SourceImages:
    """All images of a source, before the cut to a long tail.

    Both tables give uint8 ``[n, C, H, W]`` of one size and int64 labels, and every class has an image in both.
    """

    train: ImageTable
    test: ImageTable
    class_names: tuple[str, ...]


class DataSource(Component, ABC):
    """Labelled images from somewhere; the core cuts the training part to a long tail.

    Its ``Options`` extend :class:`ltdd_core.LongTailOptions`, which say how.
    """

    suggested: ClassVar[Mapping[str, Any]] = {}
    """Configuration that suits this source, below presets: ``{"iterations": 300}``."""

    @abstractmethod
    def load(self, generator: torch.Generator) -> SourceImages:
        """Find the images, the same each time; what is random comes from ``generator`` alone.

        Decoding them can wait until the cut is made (:class:`ImageTable`).

        Raises:
            InputError: they are not where the options say, or cannot be used.
        """


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
    order: Order = option("native", "order of the classes from head to tail: native, reversed or random")
    seed: int = option(0, "seed of the cut to the long tail, the same for every --seed of a run", ge=0)
    normalisation: Literal["per-channel", "zca"] = option(
        "per-channel",
        "normalisation of the images: mean and deviation of each channel, or ZCA whitening over all pixels",
    )
    zca_eps: float = option(0.1, "number that ZCA adds to the variances", source="MTT, public code", gt=0)
    mean: tuple[float, ...] | None = option(None, "channel means in [0, 1]; unless given, those of the training images")
    std: tuple[float, ...] | None = option(None, "channel deviations; unless given, those of the training images")
