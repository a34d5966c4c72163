"""Real images that a distilled set keeps as they are, whatever its method does with them."""

from __future__ import annotations

from dataclasses import replace

import torch

from ltdd_core.distillation.matcher import Synthetic
from ltdd_core.distillation.task import Distillation


def put_back(task: Distillation, made: Synthetic) -> Synthetic:
    """What a method has made, with the kept images as they were.

    Only where its images are laid out as the initial ones are: of the same shape, with the same labels in the same
    order.  Another set stays as it is.
    """
    if not task.keep_real or not _laid_out_as_the_initial_images(task, made):
        return made
    images, kept = made.images.detach().clone(), task.kept.to(made.images.device)
    images[kept] = task.kept_images.to(images)
    return replace(made, images=images)


def _laid_out_as_the_initial_images(task: Distillation, made: Synthetic) -> bool:
    same_shape = made.images.shape == (len(task.initial_labels), *task.data.image_shape)
    return same_shape and torch.equal(made.labels.cpu(), task.initial_labels.cpu())


def count_kept(task: Distillation, made: Synthetic) -> int:
    """How many of the images that the run keeps are in a set, bit for bit."""
    images, labels = made.images.detach().float().cpu(), made.labels.cpu()
    kept = zip(task.kept_images.cpu(), task.initial_labels[task.kept].tolist(), strict=True)
    return sum(any(torch.equal(image, one) for one in images[labels == label]) for image, label in kept)
