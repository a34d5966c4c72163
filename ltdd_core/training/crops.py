"""Crops and flips of each image, drawn as torchvision's transforms draw them and applied to a batch at once.

They work on normalised images.  What comes in at the border is 0, the mean colour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.options import BaseOptions, option
from ltdd_core.seeding import seeded_by
from ltdd_core.training.augmentation import TrainingAugmentation


class CropFlip(TrainingAugmentation):
    """A shift by a few pixels, and a flip half of the time: what networks on CIFAR are usually trained with."""

    class Options(BaseOptions):
        """The shift and the flip."""

        padding: int = option(4, "number of pixels by which an image is shifted at most", source="He et al. 2016", ge=0)
        flip: float = option(0.5, "probability that left and right are exchanged", ge=0, le=1)

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """A shift and perhaps a flip of each image."""
        (height, width), padding = images.shape[2:], self.options.padding
        parts = _drawn(v2.RandomCrop((height, width), padding=padding), images, self.options.flip, draws)
        rows = torch.arange(height) + parts.top[:, None]
        columns = _flipped(torch.arange(width) + parts.left[:, None], parts.flip)
        count, channels = (torch.arange(size, device=images.device) for size in images.shape[:2])
        return pad(images, [padding] * 4)[
            count[:, None, None, None],
            channels[:, None, None],
            rows.to(images.device)[:, None, :, None],
            columns.to(images.device)[:, None, None, :],
        ]


class ResizedCrop(TrainingAugmentation):
    """A part of the image, scaled to its size, and a flip half of the time (Szegedy et al. 2015)."""

    class Options(BaseOptions):
        """The part and the flip."""

        smallest: float = option(0.08, "smallest share of the area that a part has", source="torchvision", gt=0, le=1)
        ratio: float = option(4 / 3, "largest ratio of the sides of a part", source="torchvision", ge=1)
        flip: float = option(0.5, "probability that left and right are exchanged", ge=0, le=1)

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """A part of each image, perhaps flipped."""
        options, (height, width) = self.options, images.shape[2:]
        ratios = (1 / options.ratio, options.ratio)
        crop = v2.RandomResizedCrop((height, width), scale=(options.smallest, 1.0), ratio=ratios)
        parts = _drawn(crop, images, options.flip, draws)
        rows = _scaled(parts.top, parts.height, height)
        columns = _flipped(_scaled(parts.left, parts.width, width), parts.flip)
        by_rows, by_columns = _bilinear(rows, height).to(images), _bilinear(columns, width).to(images)
        return by_rows[:, None] @ images @ by_columns[:, None].mT


class _Parts(NamedTuple):
    """A part of each image, in pixels, int64 ``[n]``; and whether it is flipped, bool ``[n]``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


def _drawn(crop: Any, images: Tensor, flip: float, draws: torch.Generator) -> _Parts:
    """What torchvision's ``crop``, and a flip after it, would do to one image after another."""
    parts, flips = [], []
    with seeded_by(draws):
        for image in images:
            part = crop.make_params([image])
            parts.append([part["top"], part["left"], part["height"], part["width"]])
            flips.append(bool(torch.rand(1) < flip))
    top, left, height, width = torch.tensor(parts).unbind(1)
    return _Parts(top, left, height, width, torch.tensor(flips))


def _flipped(columns: Tensor, flip: Tensor) -> Tensor:
    """Columns ``[n, W]``, of some images from right to left."""
    return torch.where(flip[:, None], columns.flip(1), columns)


def _scaled(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where ``size`` pixels lie along a part of each image, in pixels, float64 ``[n, size]``."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * length[:, None] / size - 0.5
    return start[:, None] + places.clamp(min=0).minimum(length[:, None] - 1.0)


def _bilinear(places: Tensor, size: int) -> Tensor:
    """How much of each of ``size`` pixels goes into what is at each place, float64 ``[n, places, size]``."""
    return (1 - (places[:, :, None] - torch.arange(size)).abs()).clamp(min=0)
