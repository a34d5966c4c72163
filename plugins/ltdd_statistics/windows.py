"""Windows of images at the size of the image: each image its own, differentiable, and the same on every device.

Scaling a window up is linear and separable: with a matrix R for the rows and a matrix C for the columns, it is
``R @ image @ C.T``.  So gradients are products of matrices too, and deterministic on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ltdd_core import Distillation

RATIO = 4 / 3  # largest ratio of the sides; torchvision's random resized crop
USUAL_SHARE, FEWEST_PIXELS = 0.08, 64
"""The smallest share of the area that a part has, and the fewest pixels, 8x8: 0.08 of an 8x8 image are five pixels, in
which no digit is left."""
OF_THE_SIZE = "0.08, or more where a part would have fewer than 8x8 pixels: the whole of an 8x8 image"
"""The same in words."""


@dataclass(frozen=True)
class Windows:
    """A window of each of n images, in pixels; int64 ``[n]`` each, on the CPU."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flipped: Tensor
    """Which are mirrored, bool ``[n]``."""

    def __getitem__(self, chosen: Any) -> Windows:
        """Some of the windows, chosen as from a tensor."""
        return Windows(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def of(self, images: Tensor) -> Tensor:
        """The windows, bilinearly scaled to the size of the images.

        Args:
            images: floating point ``[n, C, H, W]``, on any device.

        Returns:
            ``[n, C, H, W]``.
        """
        rows = _scaling(self.top, self.height, images.shape[2])
        columns = _scaling(self.left, self.width, images.shape[3])
        columns = torch.where(self.flipped[:, None, None], columns.flip(1), columns)
        return rows[:, None].to(images) @ images @ columns.mT[:, None].to(images)


def draw_windows(
    shape: tuple[int, int, int], count: int, draws: torch.Generator, *, smallest: float, flip: float = 0.0
) -> Windows:
    """Random windows, as those of torchvision's ``RandomResizedCrop``: a share of the area, and a ratio of the sides.

    A side that would be longer than the image's is as long as that.

    Args:
        shape: ``(C, H, W)`` of the images.
        count: number of windows.
        draws: on the CPU.
        smallest: least share of the area, above 0.  With 1 every window is the whole image.
        flip: probability that a window is mirrored.
    """
    _, height, width = shape
    share, ratio, down, right, mirror = torch.rand(5, count, generator=draws, dtype=torch.float64)
    area = (smallest + (1 - smallest) * share) * height * width
    stretch = torch.exp((2 * ratio - 1) * math.log(RATIO)) if smallest < 1 else height / width
    tall = (area * stretch).sqrt().round().clamp(1, height)
    wide = (area / stretch).sqrt().round().clamp(1, width)
    top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
    return Windows(top.long(), left.long(), tall.long(), wide.long(), mirror < flip)


def smallest_share(given: float | None, shape: tuple[int, int, int]) -> float:
    """The smallest share of the area of an image that a part has, above 0 and at most 1.

    Args:
        given: by the user; None: nothing was said.
        shape: ``(C, H, W)`` of the images.
    """
    _, height, width = shape
    return min(1.0, max(USUAL_SHARE, FEWEST_PIXELS / (height * width))) if given is None else given


def mirrored(task: Distillation) -> float:
    """The probability that a view is mirrored: a half where the run's augmentation mirrors images, else 0."""
    return 0.5 if "flip" in task.augmentation.name.split("_") else 0.0


def _scaling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """The weights of all pixels of a side in each pixel of the scaled window, float64 ``[n, size, size]``."""
    at = torch.arange(size, dtype=torch.float64)
    inside = (at + 0.5) * length[:, None] / size - 0.5  # centres of the new pixels in the window
    place = start[:, None] + torch.minimum(inside.clamp(min=0), length[:, None] - 1.0)
    return (1 - (place[:, :, None] - at).abs()).clamp(min=0)
