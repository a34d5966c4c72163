"""What a matcher works with, from the setup of a run."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ltdd_core.distillation.initial import initial_images
from ltdd_core.distillation.matcher import Distillation
from ltdd_core.evaluation.teachers import teacher_training
from ltdd_core.networks.store import SHARED
from ltdd_core.options import Named
from ltdd_core.setup import Setup
from ltdd_core.training.sets import TrainingSet


def task_of(setup: Setup) -> Distillation:
    """What a matcher works with; networks and initial images are made when it asks for them.

    Raises:
        InputError: the data cannot be loaded.
    """

    def draw_initial() -> tuple[Tensor, Tensor]:
        images, real = initial_images(setup)
        return images.to(setup.device), real.to(setup.device)

    def original(sampler: Named) -> TrainingSet:
        data = setup.original_in_order_of(setup.prepared(setup.component("sampler", sampler)))
        return replace(data, images=data.images.to(setup.device), labels=data.labels.to(setup.device))

    shared = setup.config.compute.store or SHARED
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
        trainer=setup.trainer(),
        original=original,
        trained=teacher_training(setup),
        pool=lambda named: setup.pool_of(setup.network_of(named)),
        shared=shared,
        display=setup.display,
        keep_going=setup.stop.check,
    )
