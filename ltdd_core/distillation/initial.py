"""The images that a method starts from, and the features by which coresets choose them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ltdd_core.config.model import NOISE, Config
from ltdd_core.data.sampler import Features, Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.evaluation.lines import training_sets
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.seeding import generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.trainer import Trainer

REPEAT_NOISE = 0.01  # in units of the normalised colours


def initial_images(
    config: Config, data: LongTailedSet, sampler: Sampler, augmentation: Augmentation, features: Features
) -> tuple[Tensor, Tensor]:
    """Real images or noise, float32 ``[classes * ipc, C, H, W]``, and bool ``[classes * ipc]``: which are real ones.

    A class with fewer images than IPC repeats them, every repeat under an augmentation of its own and with
    a trace of noise: equal images would get equal gradients and stay equal for ever.
    """
    ipc, seed = config.run.ipc, config.run.seed
    if config.run.init == NOISE:
        images = torch.randn(data.classes * ipc, *data.image_shape, generator=generator(seed, "noise"))
        return images, torch.zeros(len(images), dtype=torch.bool)
    draws, parts, real = generator(seed, "initial images"), [], []
    for label in range(data.classes):
        chosen = sampler.representatives(label, ipc, draws, features)
        own = data.normalisation.apply(data.train_images[chosen])
        parts.append(own)
        for copy in range(len(own), ipc):
            changed = augmentation.draw(data.image_shape, draws)(own[copy % len(own)][None])
            parts.append(changed + REPEAT_NOISE * torch.randn(changed.shape, generator=draws))
        real += [place < len(own) for place in range(ipc)]
    return torch.cat(parts), torch.tensor(real)


def initial_sampler(config: Config, data: LongTailedSet) -> Sampler:
    """Who chooses the initial images: the sampler that ``init`` names, or else the run's own."""
    sampler: Sampler = (config.start or config.sampler).make()
    sampler.prepare(data)
    return sampler


def features_of_classes(config: Config, data: LongTailedSet, trainer: Trainer, catalog: Catalog) -> Features:
    """Features by the plain classifier of the long-tailed set; the first call trains it.

    A run that goes on trains it again, unless the trainer has it.
    """

    @functools.cache
    def of_all() -> Tensor:
        original = training_sets(config, data, None, catalog)["original"]
        return trainer.features(trainer.train(original, outputs=data.classes), original)

    return lambda label: of_all()[data.train_labels == label]
