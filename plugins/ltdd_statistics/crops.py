"""Crops of real images that a teacher is sure of (RDED, CVPR 2024), for classes of any size (Uni-level, AAAI 2026).

Of each image x of class c some random crops x' are scored by log p(c | x').  In the first round every image gives its
best crop, in the second its second best, and so on.  Whole rounds are taken as long as they are needed, and of the
last one the crops with the highest scores.  Where a class has enough images that is RDED's selection: the best crop of
each image, and the best of those.  Where it has fewer, several crops of one image stand for the class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import BaseOptions, Distillation, generator, option
from ltdd_statistics.teachers import Ensemble
from ltdd_statistics.windows import OF_THE_SIZE, Windows, draw_windows, smallest_share


class CropOptions(BaseOptions):
    """The crops that a teacher chooses from."""

    candidates: int = option(
        300, "number of real images per class that are cropped, or all where a class has fewer", source="RDED", ge=1
    )
    count: int = option(
        5, "number of crops of each image, or more where a class has too few images", source="RDED", ge=1, le=1000
    )
    smallest: float | None = option(
        None,
        "smallest share of the area of an image that a crop has",
        source="torchvision: 0.08",
        unless_given=OF_THE_SIZE,
        gt=0,
        le=1,
    )


def chosen_crops(task: Distillation, teachers: Ensemble, options: CropOptions, times: int = 1) -> Tensor:
    """For each class the crops that teachers are surest of, float32 ``[n, C, H, W]``, sorted by class, on the device.

    Those of a class come round by round, and by falling score within a round.

    Args:
        task: of the method.
        teachers: score the crops.
        options: of the crops.
        times: so many times the IPC of each class.
    """
    numbers = [times * ipc for ipc in task.ipc_of_class]
    crops = torch.empty(sum(numbers), *task.data.image_shape, device=task.device)
    with task.display.work("choosing crops", len(numbers), "classes") as told:
        for label, part in enumerate(crops.split(numbers)):  # filled in class by class, since they may be large
            task.keep_going()
            part.copy_(_of_class(task, teachers, options, label, len(part)))
            told(label + 1)
    return crops


def _of_class(task: Distillation, teachers: Ensemble, options: CropOptions, label: int, number: int) -> Tensor:
    """The crops of a class, ``[number, C, H, W]``."""
    draws = generator(task.seed, "crops", label=label)
    indices = task.sampler.of_class(label, options.candidates, draws)
    real = task.data.normalisation.apply(task.data.train_images[indices].to(task.device))
    count = max(options.count, -(-number // len(real)))
    shape = task.data.image_shape
    smallest = smallest_share(options.smallest, shape)
    windows = [draw_windows(shape, len(real), draws, smallest=smallest) for _ in range(count)]
    scores = torch.stack([score(teachers, each.of(real), label) for each in windows])
    crops, images = best(scores.cpu(), number)
    every = Windows(*(torch.stack(parts) for parts in zip(*(vars(each).values() for each in windows), strict=True)))
    return every[crops, images].of(real[images])


def score(teachers: Ensemble, images: Tensor, label: int) -> Tensor:
    """The score log p(c | x) of each image, float32 ``[n]``.

    Args:
        teachers: give p.
        images: x, normalised, float32 ``[n, C, H, W]``.
        label: c.
    """
    return teachers.logits(images).log_softmax(1)[:, label]


def best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Which crops of which images are taken, int64 ``[number]`` each.

    Args:
        scores: of every crop of every image, ``[crops, images]``.
        number: of crops, at most as many as there are.
    """
    ranked, crops = scores.sort(dim=0, descending=True, stable=True)  # row r: the crop of each image for round r
    order = ranked.argsort(dim=1, descending=True, stable=True)
    taken, images = crops.gather(1, order).flatten()[:number], order.flatten()[:number]
    return taken, images
