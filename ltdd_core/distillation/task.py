"""What a matcher works with, put together from a configuration."""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core.config.model import Config
from ltdd_core.config.resolve import component_maker
from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.initial import features_of_classes, initial_images, initial_sampler
from ltdd_core.distillation.matcher import Distillation, Matcher
from ltdd_core.evaluation.lines import make_trainer
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.progress import Display
from ltdd_core.runs.devices import chunk_size
from ltdd_core.runs.stop import StopRequest
from ltdd_core.seeding import generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.trainer import Trainer

CALIBRATION_IMAGES = 16  # a class, for batch normalisation; DC's public code


def prepare_matcher(
    config: Config,
    data: LongTailedSet,
    device: torch.device,
    *,
    catalog: Catalog | None = None,
    display: Display | None = None,
    stop: StopRequest | None = None,
    trainer: Trainer | None = None,
) -> tuple[Matcher, Distillation]:
    """The matcher, ready for step 0, and what it works with.

    ``trainer`` trains the network by whose features coresets are chosen, and keeps it.

    Raises:
        InputError: the matcher cannot work with these data, or with its options.
    """
    task = prepare_task(config, data, device, catalog=catalog, display=display, stop=stop, trainer=trainer)
    matcher: Matcher = config.matcher.make()
    matcher.prepare(task)
    return matcher, task


def prepare_task(
    config: Config,
    data: LongTailedSet,
    device: torch.device,
    *,
    catalog: Catalog | None = None,
    display: Display | None = None,
    stop: StopRequest | None = None,
    trainer: Trainer | None = None,
) -> Distillation:
    """What a matcher works with.

    Raises:
        InputError: the network is not for such images.
    """
    seed, catalog = config.run.seed, catalog or Catalog(load_plugins())
    display, stop = display or Display(), stop or StopRequest()
    sampler: Sampler = config.sampler.make()
    sampler.prepare(data)
    augmentation = Augmentation(config.run.augment)
    trainer = trainer or make_trainer(
        config, device, data.image_shape, seed=seed, catalog=catalog, stop=stop, display=display
    )

    features = features_of_classes(config, data, trainer, catalog)

    def draw_initial() -> tuple[Tensor, Tensor]:
        images, real = initial_images(config, data, initial_sampler(config, data), augmentation, features)
        return images.to(device), real.to(device)

    def calibration(step: int) -> Tensor:
        draws = generator(seed, "calibration", step)
        own = [sampler.of_class(label, CALIBRATION_IMAGES, draws) for label in range(data.classes)]
        return data.normalisation.apply(data.train_images[torch.cat(own)].to(device))

    networks = NetworkPool(
        config.make_network,
        data.image_shape,
        data.classes,
        seed=seed,
        device=device,
        calibration=calibration,
        precision=config.compute.precision,
        compiled=config.compute.compile,
    )
    return Distillation(
        data=data.to(device),
        ipc=config.run.ipc,
        draw_initial=draw_initial,
        sampler=sampler,
        networks=networks,
        augmentation=augmentation,
        seed=seed,
        device=device,
        chunk=chunk_size(config, device, data.image_shape),
        features=features,
        component=component_maker(catalog),
        display=display,
        keep_going=stop.check,
    )
