"""The interface of augmentations of training images; that of matching is :mod:`ltdd_core.training.augment`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.options import BaseOptions, Component, option
from ltdd_core.training.augment import Augmentation


class TrainingAugmentation(Component, ABC):
    """Changes each image of a training batch on its own.  Networks learn from what comes out; no gradient passes."""

    @abstractmethod
    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """Changed images, float32 ``[n, C, H, W]``, normalised, in the order of their originals, on their device.

        Everything random comes from ``draws``.  For operations of torchvision, which draw from torch's global
        generator, there is :func:`ltdd_core.seeded_by`.

        Args:
            images: normalised, float32 ``[n, C, H, W]``; n may be 1.
            draws: on the CPU.
            normalisation: turns normalised images into those in [0, 1] and back, for operations on colours.
        """


class SiameseAugmentation(TrainingAugmentation):
    """The operations of DSA, one for a batch, with a strength for each image."""

    class Options(BaseOptions):
        """The operations."""

        operations: str = option(
            "color_crop_cutout_flip_scale_rotate",
            "operations of color, crop, cutout, flip, scale and rotate, joined by _; or none",
            source="DSA, public code",
        )

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """One operation, drawn for the batch."""
        return Augmentation(self.options.operations).apply(images, draws, normalisation)
