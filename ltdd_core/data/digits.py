"""These are the 1,797 digits of scikit-learn, of 8x8 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ltdd_core.data.source import ArrayTable, DataSource, LongTailOptions, SourceImages
from ltdd_core.options import option

if TYPE_CHECKING:  # the name of a run's data is said before torch is imported
    import torch


class Digits(DataSource):
    """Handwritten digits that need no download, cut to a long tail after a balanced test set is held out."""

    class Options(LongTailOptions):
        """IF 50 leaves two images of the rarest digit."""

        imbalance: float | Literal["natural"] = option(
            50.0, "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
        )
        test_per_class: int = option(50, "test images a class, held out before the cut", ge=1, le=150)

    # A digit is not the same digit mirrored; the rest keeps the whole job under 90 s on two cores.
    suggested: ClassVar[Mapping[str, Any]] = {
        "augment": "color_crop_cutout_scale_rotate",
        "iterations": 300,
        "training": {"original": {"epochs": 300}, "distilled": {"epochs": 300}},
    }

    def load(self, generator: torch.Generator) -> SourceImages:
        """Grey values 0 to 16 become 0 to 255."""
        import torch
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        order = torch.randperm(len(labels), generator=generator)
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(10):
            held_out[order[labels[order] == label][: self.options.test_per_class]] = True
        return SourceImages(
            train=ArrayTable(images[~held_out], labels[~held_out]),
            test=ArrayTable(images[held_out], labels[held_out]),
            class_names=tuple(str(digit) for digit in range(10)),
        )
