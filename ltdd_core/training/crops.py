"""Crops and flips of each image, by torchvision's transforms.

They work on normalised images.  What comes in at the border is 0, the mean colour.
"""

from __future__ import annotations

import torch
from torch import Tensor
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
        size, padding = list(images.shape[2:]), self.options.padding
        change = v2.Compose([v2.RandomCrop(size, padding=padding), v2.RandomHorizontalFlip(self.options.flip)])
        with seeded_by(draws):
            return torch.stack([change(image) for image in images])


class ResizedCrop(TrainingAugmentation):
    """A part of the image, scaled to its size, and a flip half of the time (Szegedy et al. 2015)."""

    class Options(BaseOptions):
        """The part and the flip."""

        smallest: float = option(0.08, "smallest share of the area that a part has", source="torchvision", gt=0, le=1)
        ratio: float = option(4 / 3, "largest ratio of the sides of a part", source="torchvision", ge=1)
        flip: float = option(0.5, "probability that left and right are exchanged", ge=0, le=1)

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """A part of each image, perhaps flipped."""
        options, size = self.options, list(images.shape[2:])
        crop = v2.RandomResizedCrop(
            size, scale=(options.smallest, 1.0), ratio=(1 / options.ratio, options.ratio), antialias=True
        )
        change = v2.Compose([crop, v2.RandomHorizontalFlip(options.flip)])
        with seeded_by(draws):
            return torch.stack([change(image) for image in images])
