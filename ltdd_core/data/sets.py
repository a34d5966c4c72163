"""The long-tailed set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.storage import digest_of


@dataclass(frozen=True)
class LongTailedSet:
    """A long-tailed training set and its test set, uint8 in memory."""

    name: str
    """The name of its data source."""
    train_images: Tensor
    """uint8 ``[N, C, H, W]``, sorted by class."""
    train_labels: Tensor
    """The class of each training image, int64 ``[N]``, from 0 to ``classes - 1``."""
    test_images: Tensor
    """uint8 ``[M, C, H, W]``."""
    test_labels: Tensor
    """The class of each test image, int64 ``[M]``; every class occurs."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""
    normalisation: Normalisation
    """Turns the raw images into network inputs."""
    counts: tuple[int, ...]
    """Training images of each class, each at least 1."""

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

    @cached_property
    def digest(self) -> str:
        """A digest of all images and labels, both parts: another pixel is another set."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return digest_of({name: getattr(self, name) for name in names})

    def summary(self) -> str:
        """Name and sizes in one line."""
        return (
            f"{self.name}: {len(self.train_labels)} training images, {max(self.counts)} to {min(self.counts)} a class "
            f"(imbalance factor {self.imbalance:.4g}), {len(self.test_labels)} test images"
        )

    def to(self, device: torch.device) -> LongTailedSet:
        """The same with the training images on a device; the test images, which matching never sees, stay."""
        return replace(self, train_images=self.train_images.to(device), train_labels=self.train_labels.to(device))
