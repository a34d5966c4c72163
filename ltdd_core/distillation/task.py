"""What a matcher works with, from the setup of a run."""

from __future__ import annotations

from torch import Tensor

from ltdd_core.distillation.initial import initial_images
from ltdd_core.distillation.matcher import Distillation
from ltdd_core.setup import Setup


def task_of(setup: Setup) -> Distillation:
    """What a matcher works with; networks and initial images are made when it asks for them.

    Raises:
        InputError: the data cannot be loaded.
    """

    def draw_initial() -> tuple[Tensor, Tensor]:
        images, real = initial_images(setup)
        return images.to(setup.device), real.to(setup.device)

    return Distillation(
        data=setup.data.to(setup.device),
        ipc=setup.config.run.ipc,
        draw_initial=draw_initial,
        sampler=setup.sampler,
        networks=setup.networks,
        augmentation=setup.augmentation,
        seed=setup.config.run.seed,
        device=setup.device,
        chunk=setup.chunk,
        features=setup.features,
        component=setup.component,
        display=setup.display,
        keep_going=setup.stop.check,
    )
