"""What a matcher works with, from the setup of a run."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ltdd_core.distillation.initial import initial_images
from ltdd_core.distillation.matcher import Distillation, Matcher
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.evaluation.teachers import teacher_training
from ltdd_core.networks.store import SHARED
from ltdd_core.options import Named
from ltdd_core.setup import Setup
from ltdd_core.training.sets import TrainingSet


def task_of(setup: Setup) -> Distillation:
    """What a matcher works with; networks and initial images are made when it asks for them.

    Raises:
        InputError: the data cannot be loaded, the numbers of images per class do not fit them, or the method stores
            images in which no real one can be kept.
    """
    method = setup.config.matcher
    matcher: Matcher = method.make()
    if setup.keep_real and matcher.is_decoded(setup.data.image_shape):
        raise InputError(
            f"method {method.name!r} stores images that are decoded, so it cannot keep real ones: leave "
            f"out {how_to_set('init', 'keep')}."
        )

    def draw_initial(times: int) -> tuple[Tensor, Tensor]:
        images, real = initial_images(setup, times)
        return images.to(setup.device), real.to(setup.device)

    def original(sampler: Named) -> TrainingSet:
        data = setup.original_in_order_of(setup.prepared(setup.component("sampler", sampler)))
        return replace(data, labels=data.labels.to(setup.device))

    shared = setup.config.compute.store or SHARED
    return Distillation(
        data=setup.placed,
        ipc_of_class=setup.ipc_of_class,
        draw_initial=draw_initial,
        sampler=setup.sampler,
        networks=setup.networks,
        augmentation=setup.augmentation,
        seed=setup.config.run.seed,
        device=setup.device,
        chunk=setup.chunk,
        features=setup.features,
        component=setup.component,
        trainer=setup.trainer().changed(ledger=setup.beforehand),
        original=original,
        trained=teacher_training(setup),
        pool=lambda named: setup.pool_of(setup.network_of(named)),
        keep_real=setup.keep_real,
        shared=shared,
        display=setup.display,
        keep_going=setup.keep_going,
    )
