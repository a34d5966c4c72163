"""The images that a method starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core.config.model import NOISE
from ltdd_core.seeding import generator
from ltdd_core.setup import Setup

REPEAT_NOISE = 0.01  # in units of the normalised colours


def initial_images(setup: Setup) -> tuple[Tensor, Tensor]:
    """Real images or noise, float32 ``[classes * ipc, C, H, W]``, and bool ``[classes * ipc]``: which are real ones.

    A class with fewer images than IPC repeats them, every repeat under an augmentation of its own and with
    a trace of noise: equal images would get equal gradients and stay equal for ever.
    """
    config, data = setup.config, setup.data
    ipc, seed = config.run.ipc, config.run.seed
    if config.run.init == NOISE:
        images = torch.randn(data.classes * ipc, *data.image_shape, generator=generator(seed, "noise"))
        return images, torch.zeros(len(images), dtype=torch.bool)
    sampler = setup.sampler if config.start is None else setup.prepared(config.start.make())
    parts, real = [], []
    for label in range(data.classes):
        draws = generator(seed, f"initial images of class {label}")
        chosen = sampler.representatives(label, ipc, draws, setup.features)
        class_images = data.normalisation.apply(data.train_images[chosen])
        parts.append(class_images)
        for copy in range(len(class_images), ipc):
            changed = setup.augmentation.draw(data.image_shape, draws)(class_images[copy % len(class_images)][None])
            parts.append(changed + REPEAT_NOISE * torch.randn(changed.shape, generator=draws))
        real += [place < len(class_images) for place in range(ipc)]
    return torch.cat(parts), torch.tensor(real)
