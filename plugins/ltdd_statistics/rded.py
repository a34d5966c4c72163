"""RDED (Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024): no image is optimised.

Of the crops of each class those are kept that a teacher is surest of, equation 6 of the paper; see
:mod:`ltdd_statistics.crops`.  With a factor N, N x N of them are shrunk to the tiles of one image, equation 7, and that
image is what a network sees: nothing is decoded.  The teacher labels the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ltdd_core import (
    BaseOptions,
    Distillation,
    InputError,
    Labelling,
    Matcher,
    Synthetic,
    TeacherOptions,
    ViewLabels,
    option,
    tiled,
)
from ltdd_statistics.crops import CropOptions, chosen_crops
from ltdd_statistics.students import batch_of
from ltdd_statistics.teachers import TEACHER, trained
from ltdd_statistics.windows import mirrored


class CropMatcher(Matcher):
    """Keep the crops of each class that a teacher is surest of, and what it says of them."""

    citation = """@inproceedings{sun2024rded,
  title = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},
  author = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024}
}"""
    iterative = False

    class Options(BaseOptions):
        """The teacher, the crops and the tiles."""

        factor: int = option(
            1, "crops beside and below each other in an image", source="RDED: 1 for CIFAR, 2 for ImageNet", ge=1
        )
        crops: CropOptions = option(CropOptions(), "the crops to choose from")
        teacher: TeacherOptions = option(TEACHER, "the teachers")

    def prepare(self, task: Distillation) -> None:
        """Train the teachers, or find them; then choose, and label.

        Raises:
            InputError: the tiles do not fit, or the teachers cannot be had.
            RunFailed: the training of a teacher diverged.
        """
        self.task, factor = task, self.options.factor
        _, height, width = task.data.image_shape
        if factor > min(height, width):
            raise InputError(
                f"matcher.factor: {factor} x {factor} tiles do not fit into images of {height}x{width} pixels."
            )
        teachers = trained(task, self.options.teacher, [self.options.teacher.network])
        self.images: Tensor = tiled(chosen_crops(task, teachers, self.options.crops, factor**2), factor)
        self.images[task.kept] = task.kept_images
        self.soft_labels = teachers.soft_labels(self.images)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """None: the networks of this method are its teachers."""
        return 0

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Never called."""
        return {"loss": 0.0}

    def distilled(self) -> Synthetic:
        """The crops, and what the teachers say of them."""
        return Synthetic(self.images, self.task.initial_labels, self.soft_labels)

    def teacher(self, task: Labelling) -> ViewLabels:
        """The teachers."""
        return trained(task, self.options.teacher, [self.options.teacher.network]).soft_labels

    def recipe(self) -> Mapping[str, Any]:
        """The paper's, in smaller batches; tiles are seen one by one too, mirrored where the run mirrors images.

        Its learning rate falls to half of what it was; here it falls to 0.
        """
        found: dict[str, Any] = {
            "epochs": 300,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": batch_of(len(self.images)),
            "schedule": "cosine",
            "cutmix": 1.0,
            "soft_loss": "kl",
            "temperature": 20.0,
        }
        if self.options.factor > 1:
            part = {"smallest": 1 / self.options.factor, "flip": mirrored(self.task)}
            found["augment"] = {"name": "resized-crop", **part}
        return found
