"""The contracts of what gives images: samplers and data sources."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.sampler import Features, Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.data.source import DataSource, LongTailOptions, SourceImages
from ltdd_core.seeding import generator
from ltdd_core.testing.contract import Contract
from ltdd_core.testing.tiny import PlainSampler, devices, tiny_long_tailed, tiny_task
from ltdd_core.training.augmentation import TrainingAugmentation


def check_sampler(component: type[Sampler], **options: Any) -> None:
    """Indices of the right class, without repetition, a function of the generator alone; epochs of all images.

    Args:
        component: the class.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Sampler`.
    """
    contract, data = Contract(component), tiny_long_tailed()
    contract.options_are_described(component.Options)
    features = tiny_task(data, PlainSampler(data)).features

    def prepared() -> Sampler:
        sampler = component(component.Options(**options))
        sampler.prepare(data)
        return sampler

    with contract.without_global_randomness(Sampler):
        sampler, second = prepared(), prepared()
        for label in range(data.classes):
            for size in (1, 3, 50):
                _check_draw(contract, "of_class", data, label, size, sampler, second)
                _check_draw(contract, "representatives", data, label, size, sampler, second, features)
        for progress in (0.0, 0.5, 1.0):
            _check_epoch(contract, len(data.train_labels), progress, sampler, second)
        for label, count in enumerate(data.counts):
            for size in (1, 3, 50):
                _check_matching(contract, data, label, min(size, count), sampler, second)


def check_augmentation(component: type[TrainingAugmentation], **options: Any) -> None:
    """Images like those that go in, finite, a function of images and generator; single images too.

    Args:
        component: the class.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.TrainingAugmentation`.
    """
    contract, data, where = Contract(component), tiny_long_tailed(), TrainingAugmentation.apply
    contract.options_are_described(component.Options)
    for device in devices():
        images = data.normalisation.apply(data.train_images).to(device)
        before, made = images.clone(), component(component.Options(**options))
        for part in (images, images[:1]):
            with contract.without_global_randomness(where), contract.works(where, f"it changes images on {device}"):
                first, second = (
                    made.apply(part, generator(0, "check augmentation"), data.normalisation) for _ in range(2)
                )
            contract.must(first.shape == part.shape, where, "images keep their number and their size")
            contract.must(first.dtype == part.dtype, where, "images stay float32")
            contract.must(first.device == part.device, where, "images stay on their device")
            contract.must(bool(torch.isfinite(first).all()), where, "images stay finite")
            contract.must(torch.equal(first, second), where, "the same generator gives the same images")
        contract.must(torch.equal(images, before), where, "the images that go in stay as they are")


def _check_draw(
    contract: Contract,
    name: str,
    data: LongTailedSet,
    label: int,
    size: int,
    sampler: Sampler,
    second: Sampler,
    *more: Features,
) -> None:
    where = getattr(Sampler, name)
    count = data.counts[label]
    with contract.works(where, f"{name} draws {size} images of a class that has {count}"):
        first, repeated, of_second = (
            getattr(drawn, name)(label, size, generator(1, "check"), *more) for drawn in (sampler, sampler, second)
        )
    contract.must(first.dtype == torch.int64 and first.dim() == 1, where, f"{name} gives int64 indices")
    contract.must(torch.equal(first, repeated), where, f"{name} is a function of its arguments")
    contract.must(torch.equal(first, of_second), where, f"{name} of a second sampler in the same process is the same")
    contract.must(len(first) == min(size, count), where, f"{name} gives min(size, n_c) indices")
    contract.must(len(first.unique()) == len(first), where, f"{name} repeats no image")
    contract.must(bool((data.train_labels[first] == label).all()), where, f"{name} is of its class")


def _check_matching(
    contract: Contract, data: LongTailedSet, label: int, size: int, sampler: Sampler, second: Sampler
) -> None:
    """Images of one class for a matching step, whose features a sampler may ask for."""
    where = Sampler.for_matching

    def embed(indices: Tensor) -> Tensor:
        return data.train_images[indices].flatten(1).float()

    contract.must(sampler.interval >= 1, Sampler.for_matching, "interval is a number of steps, at least 1")
    with contract.works(where, f"for_matching draws {size} images of class {label}"):
        first, repeated, of_second = (
            drawn.for_matching(label, size, generator(3, "check"), embed) for drawn in (sampler, sampler, second)
        )
    contract.must(first.dtype == torch.int64 and first.dim() == 1, where, "for_matching gives int64 indices")
    same = torch.equal(first, repeated) and torch.equal(first, of_second)
    contract.must(same, where, "for_matching is a function of its arguments")
    contract.must(
        len(first) == size == len(first.unique()), where, "for_matching gives as many images as asked for, none twice"
    )
    contract.must(bool((data.train_labels[first] == label).all()), where, "for_matching is of its class")


def _check_epoch(contract: Contract, images: int, progress: float, sampler: Sampler, second: Sampler) -> None:
    with contract.works(Sampler.epoch, "epoch orders the images"):
        order, again = (drawn.epoch(progress, generator(2, "check")) for drawn in (sampler, second))
    contract.must(order.dtype == torch.int64, Sampler.epoch, "epoch gives int64 indices")
    contract.must(len(order) == images, Sampler.epoch, "epoch gives as many draws as there are images")
    valid = int(order.min()) >= 0 and int(order.max()) < images
    contract.must(valid, Sampler.epoch, "epoch gives valid indices")
    contract.must(torch.equal(order, again), Sampler.epoch, "epoch is a function of its arguments")


def check_data(component: type[DataSource], **options: Any) -> None:
    """The same images each time, of one size, every class to train; a cut to a long tail goes through.

    Args:
        component: the class.
        options: of the component: where the images are, for example.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.DataSource`.
    """
    contract, load = Contract(component), DataSource.load
    contract.options_are_described(component.Options)
    contract.must(issubclass(component.Options, LongTailOptions), DataSource, "Options extend LongTailOptions")
    with contract.without_global_randomness(load):
        with contract.works(load, "load finds the images"):
            first, second = (component(component.Options(**options)).load(generator(0, "check")) for _ in range(2))
        for part in ("train", "test", *(["validation"] if first.validation is not None else [])):
            _check_part(contract, part, first, second)
        with contract.works(load, "the images can be cut to a long tail"):
            data = load_long_tailed("checked", component(component.Options(**options)))
    parts = (data.train_images, data.test_images, data.validation_images)
    same = len({part.shape[1:] for part in parts if part is not None}) == 1
    contract.must(same, SourceImages, "all parts have images of one size")


def _check_part(contract: Contract, part: str, first: SourceImages, second: SourceImages) -> None:
    table, again = getattr(first, part), getattr(second, part)
    some = torch.arange(len(table.labels))[:: max(1, len(table.labels) // 20)]
    with contract.works(SourceImages, f"images of {part} can be read"):
        images = table.read(some)
    of_table = SourceImages
    contract.must(table.labels.dtype == torch.int64, of_table, f"{part} labels are int64")
    raw = images.dtype == torch.uint8 and images.dim() == 4
    contract.must(raw, of_table, f"{part} images are uint8 [n, C, H, W]")
    contract.must(len(images) == len(some), of_table, f"read gives an image for each index of {part}")
    same_labels = torch.equal(table.labels, again.labels)
    contract.must(same_labels, DataSource.load, f"{part} labels are the same each time")
    same_images = torch.equal(images, again.read(some))
    contract.must(same_images, DataSource.load, f"{part} images are the same each time")
    found, classes = set(table.labels.tolist()), set(range(len(first.class_names)))
    if part == "train":
        contract.must(found == classes, of_table, f"each class has an image in {part}")
    else:
        contract.must(found <= classes, of_table, f"each image of {part} is of one of the classes")
