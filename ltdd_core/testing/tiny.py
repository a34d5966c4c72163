"""A tiny long-tailed set with a one-image class, and what matchers and heads work with on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.model import Training
from ltdd_core.config.resolve import component_maker, select
from ltdd_core.data.by_class import InstanceSampler
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.task import Distillation
from ltdd_core.evaluation.teachers import TeacherTraining
from ltdd_core.networks.network import MakeNetwork, Network, NetworkFactory
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.networks.store import NetworkStore
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.options import BaseOptions, Named, section_of
from ltdd_core.plugging.catalog import installed
from ltdd_core.seeding import generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.dynamics import TrainedFeatures
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import FindComponent, Trainer

COUNTS = (12, 5, 2, 1)
IPC = 3
CPU = torch.device("cpu")


def devices() -> list[torch.device]:
    """The CPU, and a GPU where there is one."""
    return [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def tiny_long_tailed(counts: Sequence[int] = COUNTS, shape: tuple[int, int, int] = (3, 8, 8)) -> LongTailedSet:
    """A few easy classes, told apart by their brightness; by default the last one has a single training image.

    Args:
        counts: training images of each class; each class has 5 test images.
        shape: ``(C, H, W)`` of the images.
    """

    def images(numbers: Sequence[int], purpose: str) -> tuple[Tensor, Tensor]:
        labels = torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
        noise = torch.randint(0, 60, (len(labels), *shape), generator=generator(0, purpose))
        level = labels * (190 // max(1, len(numbers) - 1))
        return (noise + level[:, None, None, None]).to(torch.uint8), labels

    train, train_labels = images(counts, "tiny train")
    test, test_labels = images([5] * len(counts), "tiny test")
    names = tuple(f"class {label}" for label in range(len(counts)))
    normalisation = PerChannel.of(train)
    return LongTailedSet("tiny", train, train_labels, test, test_labels, names, normalisation, tuple(counts))


def tiny_task(
    data: LongTailedSet,
    sampler: Sampler,
    *,
    seed: int = 0,
    device: torch.device = CPU,
    precision: str = "fp32",
    ipc: int | Sequence[int] = IPC,
    keep_real: bool = False,
) -> Distillation:
    """What a matcher works with, on the tiny set: three images a class and a small ConvNet.

    Args:
        data: from :func:`tiny_long_tailed`.
        sampler: draws the real images; it is prepared already.
        seed: of everything random.
        device: of images and networks.
        precision: of the networks' features: ``fp32`` or ``bf16``.
        ipc: synthetic images of every class, or of each.
        keep_real: a class with no more real images than that keeps them.
    """
    numbers = (ipc,) * data.classes if isinstance(ipc, int) else tuple(ipc)
    numbers = tuple(map(min, numbers, data.counts)) if keep_real else numbers
    original, pool = partial(_original, data), _pool(data, seed, device, precision)
    trainer = tiny_trainer(device=device, precision=precision)
    trainer.seed, trainer.augmentation = seed, Augmentation("color_crop_cutout_flip_scale_rotate")
    return Distillation(
        data=data,
        ipc_of_class=numbers,
        draw_initial=lambda times: _initial((times * sum(numbers), *data.image_shape), seed, device),
        sampler=sampler,
        networks=pool,
        augmentation=trainer.augmentation,
        seed=seed,
        device=device,
        chunk=4,
        features=TrainedFeatures(lambda: trainer, original),
        component=_component,
        trainer=trainer,
        original=original,
        trained=TeacherTraining(trainer, lambda named: original(named or "instance"), tiny_network_of, NetworkStore()),
        pool=lambda named: pool,
        keep_real=keep_real,
    )


def _initial(shape: tuple[int, ...], seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise to begin with, and that each image may change."""
    images = torch.randn(shape, generator=generator(seed, "tiny initial")).to(device)
    return images, torch.ones(len(images), dtype=torch.bool, device=device)


def _pool(data: LongTailedSet, seed: int, device: torch.device, precision: str) -> NetworkPool:
    """Random networks of the tiny kind."""
    return NetworkPool(
        tiny_network,
        data.image_shape,
        data.classes,
        seed=seed,
        device=device,
        calibration=lambda step: data.normalisation.apply(data.train_images.to(device)),
        precision=precision,
    )


def _original(data: LongTailedSet, named: Named = "instance") -> TrainingSet:
    """The long-tailed set in the order of a sampler."""
    order: Sampler = _component("sampler", named)
    order.prepare(data)
    return TrainingSet("original", data.train_images, data.train_labels, data.normalisation, data.classes, order.epoch)


def _component(kind: str, named: str | Mapping[str, Any]) -> Any:
    """A component by name, from what was installed when the first was asked for: looking takes half a second."""
    return _maker()(kind, named)


@cache
def _maker() -> FindComponent:
    return component_maker(installed())


def tiny_network(shape: tuple[int, int, int], outputs: int) -> Network:
    """A ConvNet of depth 1 and width 4.

    Args:
        shape: ``(C, H, W)`` of the images.
        outputs: number of logits.
    """
    return ConvNet(shape, outputs, ConvNet.Options(depth=1, width=4))


def tiny_network_of(named: Named) -> MakeNetwork:
    """Networks of a kind, by its name, from what is installed.

    Args:
        named: name, or name and options.
    """
    chosen = select(installed(), "network", section_of(named))
    return NetworkFactory(chosen.component, chosen.options)


class PlainSampler(InstanceSampler):
    """Uniform draws, ready for use.

    Args:
        data: what it draws from; its labels are all that it looks at.
    """

    def __init__(self, data: LongTailedSet) -> None:
        super().__init__(BaseOptions())
        self.prepare(data)


def tiny_trainer(*, device: torch.device = CPU, precision: str = "fp32") -> Trainer:
    """What a head trains with: a small ConvNet, two epochs on either set.

    Args:
        device: of networks and batches.
        precision: of the networks' features: ``fp32`` or ``bf16``.
    """
    training = Training.model_validate({"original": {"epochs": 2}, "distilled": {"epochs": 2}})
    return Trainer(
        tiny_network,
        {"original": training.original, "distilled": training.on_distilled({})},
        Augmentation("none"),
        seed=0,
        device=device,
        chunk=16,
        precision=precision,
        component=_component,
    )
