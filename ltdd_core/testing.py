"""A tiny long-tailed set, and the contract that every component keeps, as functions to call in a test.

::

    from ltdd_core.testing import check_matcher

    def test_contract():
        check_matcher(MyMatcher)

A check that fails raises :class:`ContractError`, which says what the contract asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ltdd_core.augment import Augmentation
from ltdd_core.catalog import Catalog
from ltdd_core.config import Training, select
from ltdd_core.data import LongTailedSet, LongTailOptions, load_long_tailed
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.errors import InputError
from ltdd_core.interfaces import (
    BaseOptions,
    ClassifierHead,
    DataSource,
    Distillation,
    Features,
    Matcher,
    Network,
    Recipe,
    Sampler,
    TrainingSet,
)
from ltdd_core.networks import ConvNet, NetworkPool
from ltdd_core.plugins import load_plugins
from ltdd_core.seeding import generator
from ltdd_core.training import Trainer

COUNTS = (12, 5, 2, 1)
IPC = 3


class ContractError(AssertionError):
    """A component does not keep its contract."""


def tiny_long_tailed(counts: Sequence[int] = COUNTS, shape: tuple[int, int, int] = (3, 8, 8)) -> LongTailedSet:
    """A few easy classes, the last one with a single image: each class has a brightness of its own."""

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


def tiny_task(data: LongTailedSet, sampler: Sampler, *, seed: int = 0) -> Distillation:
    """What a matcher works with, on the tiny set, three images a class and a small ConvNet."""
    device = torch.device("cpu")
    images = torch.randn(data.classes * IPC, *data.image_shape, generator=generator(seed, "tiny initial"))
    pool = NetworkPool(
        tiny_network,
        data.image_shape,
        data.classes,
        seed=seed,
        device=device,
        calibration=lambda step: data.normalisation.apply(data.train_images),
    )
    return Distillation(
        data=data,
        ipc=IPC,
        draw_initial=lambda: (images, torch.ones(len(images), dtype=torch.bool)),
        sampler=sampler,
        networks=pool,
        augmentation=Augmentation("color_crop_cutout_flip_scale_rotate"),
        seed=seed,
        device=device,
        chunk=4,
        component=_component,
    )


def _component(kind: str, section: Mapping[str, Any]) -> Any:
    """A component by name, from what is installed."""
    return select(Catalog(load_plugins()), kind, section).make()


def tiny_network(shape: tuple[int, int, int], outputs: int) -> Network:
    """A ConvNet of depth 1 and width 4."""
    return ConvNet(shape, outputs, ConvNet.Options(depth=1, width=4))


def check_sampler(component: type[Sampler], **options: Any) -> None:
    """Indices of the right class, without repetition where promised, a function of the generator alone."""
    _check_options(component.Options)
    data = tiny_long_tailed()
    sampler = component(component.Options(**options))

    def features(label: int) -> Tensor:
        return data.train_images[data.train_labels == label].flatten(1).float()

    with _no_global_randomness(component):
        sampler.prepare(data)
        for label, count in enumerate(data.counts):
            for size in (1, 3, 50):
                for name, more in (("of_class", ()), ("representatives", (features,))):
                    draw = getattr(sampler, name)
                    first, second = (draw(label, size, generator(1, "check"), *more) for _ in range(2))
                    _must(torch.equal(first, second), component, f"{name} is a function of its generator")
                    _must(len(first) == min(size, count), component, f"{name} gives min(size, n_c) indices")
                    _must(len(first.unique()) == len(first), component, f"{name} repeats no image")
                    _must(bool((data.train_labels[first] == label).all()), component, f"{name} is of its class")
        for progress in (0.0, 0.5, 1.0):
            order = sampler.epoch(progress, generator(2, "check"))
            _must(order.dtype == torch.int64, component, "epoch gives int64 indices")
            _must(len(order) == len(data.train_labels), component, "epoch gives as many draws as there are images")
            _must(int(order.min()) >= 0 and int(order.max()) < len(order), component, "epoch gives valid indices")


def check_matcher(component: type[Matcher], *, sampler: Sampler | None = None, **options: Any) -> None:
    """Steps are functions of (state, step); a class with one image is a normal case; the loss is finite."""
    _check_options(component.Options)
    data = tiny_long_tailed()

    def prepared() -> Matcher:
        matcher = component(component.Options(**options))
        matcher.prepare(tiny_task(data, sampler or _PlainSampler(data)))
        return matcher

    if not component.iterative:
        _check_as_prepared(component, prepared)
        return
    with _no_global_randomness(component):
        whole, states = prepared(), []
        for step in range(3):
            states.append({name: tensor.detach().clone() for name, tensor in whole.state().items()})
            metrics = whole.step(step)
            _must("loss" in metrics, component, "step returns a loss")
            _must(bool(torch.isfinite(torch.as_tensor(metrics["loss"]))), component, "the loss is finite")
        resumed = prepared()
        resumed.load_state(states[1])
        for step in (1, 2):
            resumed.step(step)
    images, labels = whole.distilled()
    again, _ = resumed.distilled()
    _must(torch.equal(images, again), component, "load_state goes on with the same pixels, bit for bit")
    _must(images.dim() == 4 and len(labels) == len(images), component, "distilled gives images and their labels")
    _must(not torch.equal(images, prepared().distilled()[0]), component, "steps move the images")
    plain = all(isinstance(tensor, Tensor) for tensor in whole.state().values())
    _must(plain, component, "state holds tensors only")


def _check_as_prepared(component: type[Matcher], prepared: Callable[[], Matcher]) -> None:
    """A method that takes no steps gives the same images whenever it is prepared."""
    with _no_global_randomness(component):
        images, labels = prepared().distilled()
        again, _ = prepared().distilled()
    _must(torch.equal(images, again), component, "prepare gives the same images each time")
    _must(images.dim() == 4 and len(labels) == len(images), component, "distilled gives images and their labels")


def check_head(component: type[ClassifierHead], **options: Any) -> None:
    """Log-probabilities of every class, the same for the same seed, on hard and soft labels."""
    _check_options(component.Options)
    data = tiny_long_tailed()
    soft = torch.nn.functional.one_hot(data.train_labels, data.classes).float() * 0.9 + 0.1 / data.classes
    images = data.normalisation.apply(data.test_images)
    with _no_global_randomness(component):
        for labels in (data.train_labels, soft):
            names = ["original", *["distilled"] * (component.stages - 1)]
            sets = [TrainingSet(name, data.train_images, labels, data.normalisation, data.classes) for name in names]
            results = []
            for _ in range(2):
                fitted = component(component.Options(**options)).fit(sets, _trainer())
                with torch.no_grad():
                    results.append(fitted.log_probabilities(images))
            shape = (len(images), data.classes)
            _must(tuple(results[0].shape) == shape, component, f"log_probabilities are [n, classes] = {shape}")
            _must(not bool(results[0].isnan().any()), component, "no log-probability is NaN")
            total = results[0].exp().sum(1)
            _must(torch.allclose(total, torch.ones_like(total), atol=1e-4), component, "probabilities sum to one")
            _must(torch.equal(*results), component, "the same seed trains the same classifier")


def check_recipe(component: type[Recipe], **options: Any) -> None:
    """One of the two sets for each stage, or an InputError."""
    _check_options(component.Options)
    recipe = component(component.Options(**options))
    for stages in (1, 2, 3):
        try:
            assigned = recipe.assign(stages)
        except InputError:
            continue
        known = set(assigned) <= {"original", "distilled"}
        _must(len(assigned) == stages and known, component, "assign names original or distilled for each stage")


def check_network(component: type[Network], shape: tuple[int, int, int] = (3, 32, 32), **options: Any) -> None:
    """``embed`` gives what ``linear`` takes, gradients flow, initial weights come from torch's generator."""
    _check_options(component.Options)

    def made() -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return component(shape, 7, component.Options(**options))

    network = made().eval()
    images = torch.randn(2, *shape, generator=generator(0, "check"), requires_grad=True)
    features = network.embed(images)
    _must(tuple(features.shape) == (2, network.linear.in_features), component, "embed is [n, linear.in_features]")
    _must(tuple(network(images).shape) == (2, 7), component, "forward is [n, outputs]")
    network(images).square().sum().backward()
    _must(images.grad is not None and bool(images.grad.any()), component, "gradients reach the images")
    other = made().state_dict()
    same = all(torch.equal(value, other[name]) for name, value in network.state_dict().items())
    _must(same, component, "the same global seed gives the same weights")


def check_dataset(component: type[DataSource], **options: Any) -> None:
    """The same images each time, of one size, every class in both parts; a cut to a long tail goes through."""
    _check_options(component.Options)
    _must(issubclass(component.Options, LongTailOptions), component, "Options extend LongTailOptions")
    source = component(component.Options(**options))
    with _no_global_randomness(component):
        first, second = (source.load(generator(0, "check")) for _ in range(2))
        for part in ("train", "test"):
            table, again = getattr(first, part), getattr(second, part)
            some = torch.arange(len(table.labels))[:: max(1, len(table.labels) // 20)]
            images = table.read(some)
            _must(table.labels.dtype == torch.int64, component, f"{part} labels are int64")
            _must(images.dtype == torch.uint8 and images.dim() == 4, component, f"{part} images are uint8 [n, C, H, W]")
            _must(len(images) == len(some), component, f"read gives an image for each index of {part}")
            _must(torch.equal(table.labels, again.labels), component, f"{part} labels are the same each time")
            _must(torch.equal(images, again.read(some)), component, f"{part} images are the same each time")
            there = set(table.labels.tolist())
            _must(there == set(range(len(first.class_names))), component, f"each class has an image in {part}")
        data = load_long_tailed("checked", source)
    _must(data.train_images.shape[1:] == data.test_images.shape[1:], component, "both parts have images of one size")


class _PlainSampler(Sampler):
    """Uniform draws, so that checks need no plugin."""

    def __init__(self, data: LongTailedSet) -> None:
        super().__init__(BaseOptions())
        self.prepare(data)

    def prepare(self, data: LongTailedSet) -> None:
        self.labels = data.train_labels

    def of_class(self, label: int, size: int, generator: torch.Generator) -> Tensor:
        own = torch.nonzero(self.labels == label).flatten()
        return own[torch.randperm(len(own), generator=generator)[:size]]

    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.labels), generator=generator)

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        return self.of_class(label, ipc, generator)


class _no_global_randomness:  # noqa: N801 - reads as a statement
    """The block leaves torch's global generator as it was."""

    def __init__(self, component: Any) -> None:
        self.component = component

    def __enter__(self) -> None:
        self.before = torch.random.get_rng_state()

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            same = torch.equal(self.before, torch.random.get_rng_state())
            _must(same, self.component, "nothing is drawn from torch's global generator")


def _trainer() -> Trainer:
    training = Training.model_validate({"original": {"epochs": 2}, "distilled": {"epochs": 2}})
    options: Mapping[str, Any] = {
        "original": training.original,
        "distilled": training.distilled.with_learned({}),
    }
    make: Callable[..., Network] = tiny_network
    return Trainer(
        make,
        dict(options),
        Augmentation("none"),
        seed=0,
        device=torch.device("cpu"),
        chunk=16,
        component=_component,
    )


def _check_options(options: type[BaseOptions]) -> None:
    for name, field in options.model_fields.items():
        if not field.description:
            raise ContractError(f"option {name!r} of {options.__qualname__}: every option says what it does")


def _must(holds: bool, component: Any, what: str) -> None:
    if not holds:
        raise ContractError(f"{component.__name__} breaks its contract: {what}.")
