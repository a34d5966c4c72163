"""The images that a method starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core.config.model import NOISE
from ltdd_core.seeding import generator
from ltdd_core.setup import Setup

REPEAT_NOISE = 0.01  # in units of the normalised colours


def initial_images(setup: Setup, times: int = 1) -> tuple[Tensor, Tensor]:
    """Real images or noise, float32 ``[n, C, H, W]``, sorted by class, and bool ``[n]``: which are real ones.

    A class with fewer images than IPC repeats them, every repeat under an augmentation of its own and with
    a trace of noise: equal images would get equal gradients and stay equal for ever.

    Args:
        setup: of the run.
        times: so many times the IPC of each class.

    Raises:
        Interrupted: a signal has come.
    """
    config, data, seed = setup.config, setup.data, setup.config.run.seed
    numbers = [times * ipc for ipc in setup.ipc_of_class]
    if config.run.init == NOISE:
        noise = [
            torch.randn(number, *data.image_shape, generator=generator(seed, "noise", label=label))
            for label, number in enumerate(numbers)
        ]
        return torch.cat(noise), torch.zeros(sum(numbers), dtype=torch.bool)
    sampler = setup.sampler if config.start is None else setup.prepared(config.start.make())
    parts, real = [], []
    with setup.display.work("choosing initial images", len(numbers), "classes") as told:
        for label, number in enumerate(numbers):
            setup.keep_going()
            draws = generator(seed, "initial images", label=label)
            chosen = sampler.representatives(label, number, draws, setup.features)
            class_images = data.normalisation.apply(data.train_images[chosen])
            parts.append(class_images)
            for copy in range(len(class_images), number):
                setup.keep_going()  # there may be millions, and memory grows
                changed = setup.augmentation.draw(data.image_shape, draws)(class_images[copy % len(class_images)][None])
                parts.append(changed + REPEAT_NOISE * torch.randn(changed.shape, generator=draws))
            real += [place < len(class_images) for place in range(number)]
            told(label + 1)
    return torch.cat(parts), torch.tensor(real)
