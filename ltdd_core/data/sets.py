"""The long-tailed set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from html import escape

import torch
from torch import Tensor

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.data.pictures import IN_A_NOTEBOOK, in_notebook
from ltdd_core.storage import digest_of


def counts_of(labels: Tensor, classes: int) -> tuple[int, ...]:
    """How many images each class has, of labels int64 ``[N]``."""
    return tuple(torch.bincount(labels, minlength=classes).tolist())


@dataclass(frozen=True)
class LongTailedSet:
    """A long-tailed training set, its test set and perhaps a validation part, uint8 in memory or mapped from disk."""

    name: str
    """What the user or the place of the images calls it, or else the name of its data source."""
    train_images: Tensor
    """uint8 ``[N, C, H, W]``, sorted by class."""
    train_labels: Tensor
    """The class of each training image, int64 ``[N]``, from 0 to ``classes - 1``."""
    test_images: Tensor
    """uint8 ``[M, C, H, W]``."""
    test_labels: Tensor
    """The class of each test image, int64 ``[M]``; a class may be missing."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""
    normalisation: Normalisation
    """Turns the raw images into network inputs."""
    counts: tuple[int, ...]
    """Training images of each class, each at least 1."""
    validation_images: Tensor | None = None
    """uint8 ``[V, C, H, W]``, none of them a training or a test image; None where there is no validation part."""
    validation_labels: Tensor | None = None
    """The class of each validation image, int64 ``[V]``; a class may be missing."""
    found: tuple[int, ...] = ()
    """Images of each class in all parts before the cut to a long tail; empty where nobody knows."""
    resized: str = ""
    """What was done to the sizes of the images, ``48x48 to 200x120 -> 32x32``; empty where nothing was."""
    advice: tuple[str, ...] = ()
    """What a user should know of the set before a run, a sentence each."""
    values: tuple[float, float] | None = None
    """Which values became black and white, where a user has said that of images of more than 8 bits."""
    left_out: tuple[str, ...] = ()
    """The files that cannot be used and were left out, each with the reason."""
    cut: str = ""
    """How the training images were cut to a long tail, a sentence; empty where they are as they came."""
    test_digest: str | None = None
    """A digest of the test images as the source has them, before any change of size; None where it cannot tell."""

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
        """A digest of all images and labels, of every part that there is: another pixel is another set."""
        names = [f"{part}_{what}" for part in ("train", "test", "validation") for what in ("images", "labels")]
        return digest_of({name: getattr(self, name) for name in names if getattr(self, name) is not None})

    @property
    def validation_count(self) -> int:
        """How many validation images there are."""
        return 0 if self.validation_labels is None else len(self.validation_labels)

    @property
    def test_counts(self) -> tuple[int, ...]:
        """Test images of each class, of some perhaps none."""
        return counts_of(self.test_labels, self.classes)

    @property
    def validation_counts(self) -> tuple[int, ...]:
        """Validation images of each class, of some perhaps none."""
        return (
            (0,) * self.classes if self.validation_labels is None else counts_of(self.validation_labels, self.classes)
        )

    def summary(self) -> str:
        """Name and sizes in one line."""
        resized = f", {self.resized}" if self.resized else ""
        validation = f"{self.validation_count} validation images, " if self.validation_count else ""
        return (
            f"{self.name}: {len(self.train_labels)} training images, {max(self.counts)} to {min(self.counts)} a class "
            f"(imbalance factor {self.imbalance:.4g}), {validation}{len(self.test_labels)} test images{resized}"
        )

    def __repr__(self) -> str:
        return f"LongTailedSet({self.summary()}, {self.classes} classes of {'x'.join(map(str, self.image_shape))})"

    def _repr_html_(self) -> str:
        shown = torch.cat([torch.nonzero(self.train_labels == label)[:IN_A_NOTEBOOK, 0] for label in self._first()])
        images = self.train_images[shown].cpu().float() / 255
        picture = in_notebook(images, self.train_labels[shown].cpu(), self.class_names)
        return f"{escape(self.summary())}<br>{picture}"

    def _first(self) -> range:
        return range(min(self.classes, IN_A_NOTEBOOK))

    def to(self, device: torch.device) -> LongTailedSet:
        """The same with the training images on a device; the other parts, which matching never sees, stay."""
        return replace(self, train_images=self.train_images.to(device), train_labels=self.train_labels.to(device))
