"""AutoAugment (Cubuk et al., CVPR 2019) and TrivialAugment (Müller & Hutter, ICCV 2021), by torchvision.

Their operations work on colours of 8 bits, so images are turned into those and back.  A crop and a flip come before,
and a cutout (DeVries & Taylor 2017) comes after, as both papers do on CIFAR.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from ltdd_core import CropFlip, Normalisation, TrainingAugmentation, option, seeded_by


class _Policy(TrainingAugmentation):
    """A policy between a crop with a flip and a cutout."""

    class Options(CropFlip.Options):
        """What comes before and after the policy."""

        cutout: float = option(
            0.5, "side of the square that is cut out, as a share of the image's; 0: none", ge=0, le=1
        )

    def policy(self) -> nn.Module:
        """A function of an image of 8 bits."""
        raise NotImplementedError

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """Crop, policy and cutout of each image."""
        images = CropFlip(CropFlip.Options(padding=self.options.padding, flip=self.options.flip)).apply(
            images, draws, normalisation
        )
        policy, plain = self.policy(), (normalisation.invert(images) * 255).round().to(torch.uint8)
        with seeded_by(draws):
            changed = normalisation.apply(torch.stack([policy(image) for image in plain]))
            return torch.stack([_cut(image, self.options.cutout) for image in changed])


class AutoAugmentation(_Policy):
    """A policy of two operations that was learned on a data set."""

    class Options(_Policy.Options):
        """The data set of the policy."""

        learned_on: Literal["cifar10", "imagenet", "svhn"] = option(
            "cifar10", "data set on which the policy was learned", source="Cubuk et al. 2019"
        )

    def policy(self) -> nn.Module:
        """The policy of the data set."""
        return v2.AutoAugment(v2.AutoAugmentPolicy(self.options.learned_on))


class TrivialAugmentation(_Policy):
    """One operation, drawn for each image, with a strength that is drawn as well."""

    def policy(self) -> nn.Module:
        """The wide set of operations."""
        return v2.TrivialAugmentWide()


def _cut(image: Tensor, side: float) -> Tensor:
    """A square of mean colour around a random pixel; parts of it may lie outside."""
    _, height, width = image.shape
    tall, wide = round(height * side), round(width * side)
    top, left = int(torch.randint(height, ())) - tall // 2, int(torch.randint(width, ())) - wide // 2
    cut = image.clone()
    cut[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = 0
    return cut
