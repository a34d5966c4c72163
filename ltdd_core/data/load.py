"""Load a long-tailed set: from a data source, cut to its long tail, with its normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.copies import Part, told_copies
from ltdd_core.data.longtail import balanced_part, cut, spared_part
from ltdd_core.data.normalisation import ZCA, Normalisation, PerChannel
from ltdd_core.data.reading import read_parts
from ltdd_core.data.sets import LongTailedSet, counts_of
from ltdd_core.data.source import ArrayTable, DataSource, ImageTable, LongTailOptions, SourceImages
from ltdd_core.errors import InputError, how_to_set, some_of
from ltdd_core.progress import Display
from ltdd_core.seeding import generator

FEW_TESTS = 10
"""Test images of a class below which its accuracy is a rough number."""
MOST_NAMED = 5
"""Classes that a warning names."""


def load_long_tailed(name: str, source: DataSource, display: Display | None = None) -> LongTailedSet:
    """Load a data source and cut its training images to the long tail that its options ask for.

    The validation part is that of the data source, or else taken from the images of the long tail.

    Args:
        name: of the data source, which is that of the set where nothing gives it a title.
        source: the data source; its options say how long the tail is.
        display: told how many images are decoded, and what a user should know of the set.

    Raises:
        InputError: the images are missing or cannot be used, the cut is impossible, or there can be no validation
            part as it is asked for.
    """
    options, name = source.options, source.title or name
    if options.imbalance != "natural" and options.imbalance < 1:
        raise InputError(f"data.imbalance is n_max / n_min, at least 1, not {options.imbalance:g}.")
    source.display = display
    images = source.load(generator(options.seed, "hold out"))
    _check_classes(name, images.class_names, images.train.labels, images.test.labels)
    kept, validating = _validation_part(name, images, kept_images(images, options), options)
    chosen = {"training": (images.train, kept), "test": (images.test, torch.arange(len(images.test.labels)))}
    if validating is not None:
        chosen["validation"] = validating
    read = read_parts(name, chosen, display)
    parts = {what: _part(what, *chosen[what], read[what]) for what in chosen}
    train, test, validation = parts["training"], parts["test"], parts.get("validation")
    labels, classes = train.labels, len(images.class_names)
    spared = validation if options.validation is None and images.validation is None else None
    advice = (
        *images.advice,
        *_about_left_out(images.left_out),
        *_about_subset(images, options),
        *told_copies([part for part in (train, validation, test) if part is not None]),
        *_about_tests(images),
        *_about_spared(spared, len(labels)),
    )
    if display is not None:
        for sentence in advice:
            display.advise(f"{name}: {sentence}")
    return LongTailedSet(
        name,
        train.images,
        labels,
        test.images,
        test.labels,
        images.class_names,
        _normalisation(options, train.images),
        counts_of(labels, classes),
        None if validation is None else validation.images,
        None if validation is None else validation.labels,
        found=tuple(map(sum, zip(*(counts_of(part, classes) for part in _labels(images)), strict=True))),
        resized=images.resized,
        advice=advice,
        values=images.values,
        left_out=images.left_out,
        cut=_about_cut(options),
        test_digest=images.test.digest(),
    )


def kept_images(images: SourceImages, options: Any) -> Tensor:
    """Indices of the training images that the cut to the long tail keeps, int64 ``[N]``."""
    return cut(
        images.train.labels,
        images.class_names,
        imbalance=options.imbalance,
        n_max=options.n_max,
        order=options.order,
        profile=options.profile,
        subset=options.subset,
        generator=generator(options.seed, "long tail"),
    )


def _labels(images: SourceImages) -> list[Tensor]:
    """The labels of each part that there is."""
    return [part.labels for part in (images.train, images.test, images.validation) if part is not None]


FALLS = {"exp": "exponentially", "step": "in one step, after half of the classes"}
DRAWN_BY = {"ldam": "LDAM-DRW", "lad": "LAD"}


def _about_cut(options: Any) -> str:
    """How the long tail was made, in a sentence."""
    if options.imbalance == "natural":
        return ""
    whose = f"the public code of {DRAWN_BY[options.subset]}" if options.subset != "own" else f"data.seed {options.seed}"
    return f"The class counts fall {FALLS[options.profile]}; {whose} decides which images of a class stay."


def _about_subset(images: SourceImages, options: Any) -> Iterator[str]:
    """Whether a published subset may not be that, in a sentence."""
    draws = options.imbalance != "natural" or options.n_max is not None
    if draws and options.subset != "own" and not isinstance(images.train, ArrayTable):
        yield (
            f"data.subset {options.subset} draws from the images in the order of the files here: those that stay are "
            f"the published ones only if the code of {DRAWN_BY[options.subset]} has all images in that order."
        )


def _about_tests(images: SourceImages) -> Iterator[str]:
    """Whether the classes have enough test images for their accuracies to mean something, a sentence each."""
    named = list(zip(images.class_names, counts_of(images.test.labels, len(images.class_names)), strict=True))
    few = [f"{name} {count}" for name, count in named if 0 < count < FEW_TESTS]
    none = [name for name, count in named if not count]
    for classes, lack, becomes in (
        (few, f"fewer than {FEW_TESTS} test images", "rough."),
        (none, "no test image", "n/a, and metrics are over the other classes."),
    ):
        if classes:
            have, are = ("has", "its accuracy is") if len(classes) == 1 else ("have", "their accuracies are")
            yield (
                f"{len(classes)} of {len(named)} classes {have} {lack} ({some_of(classes, MOST_NAMED)}): "
                f"{are} {becomes}"
            )


def _about_spared(spared: Part | None, trained: int) -> Iterator[str]:
    """That training images were taken unasked, in a sentence."""
    if spared is not None:
        often = sorted(set(spared.labels.bincount().tolist()))
        each = str(often[0]) if len(often) == 1 else f"{often[0]} to {often[-1]}"
        yield (
            f"{len(spared.labels)} of {len(spared.labels) + trained} training images, {each} of each class, are kept "
            f"to calibrate probabilities with; {how_to_set('data.validation', 0)} trains on all."
        )


def _about_left_out(left_out: Sequence[str]) -> Iterator[str]:
    """How many files cannot be used, in a sentence."""
    if len(left_out) == 1:
        yield f"1 image is left out, since it cannot be used: {left_out[0]}"
    elif left_out:
        yield (
            f"{len(left_out)} images are left out, since they cannot be used; 'ltdd data show --json' lists all. "
            f"The first one: {left_out[0]}"
        )


def _part(what: str, table: ImageTable, indices: Tensor, images: Tensor) -> Part:
    """Images of a table with their labels and names."""
    numbers = indices.tolist()
    return Part(what, images, table.labels[indices], lambda index: table.name(numbers[index]))


def _validation_part(
    name: str, images: SourceImages, kept: Tensor, options: LongTailOptions
) -> tuple[Tensor, tuple[ImageTable, Tensor] | None]:
    """Which of the images that are kept stay for training; and the table of the validation images, and which."""
    own = images.validation
    if own is not None and len(own.labels):
        if options.validation:
            raise InputError(
                f"data {name!r} comes with validation images of its own: leave out {how_to_set('data.validation')}."
            )
        _check_range(name, "validation", own.labels, len(images.class_names))
        return kept, (own, torch.arange(len(own.labels)))
    labels, classes, draws = images.train.labels[kept], len(images.class_names), generator(options.seed, "validation")
    groups = None if images.groups is None else images.groups[kept]
    if options.validation is None:
        chosen = spared_part(labels, classes, draws, groups)
    elif options.validation:
        chosen = balanced_part(labels, classes, options.validation, draws, groups)
    else:
        return kept, None
    if not chosen.any():
        if options.validation is None:
            return kept, None
        few = "two training images" if groups is None else "training images of two groups"
        raise InputError(
            f"data {name!r}: no class has {few}, so none can give one to {how_to_set('data.validation')}: leave it out."
        )
    return kept[~chosen], (images.train, kept[chosen])


def _check_classes(name: str, class_names: Sequence[str], train: Tensor, test: Tensor) -> None:
    if len(class_names) < 2:
        raise InputError(f"data {name!r} has {len(class_names)} class; a classifier needs at least two.")
    for part, labels in (("training", train), ("test", test)):
        _check_range(name, part, labels, len(class_names))
    empty = [class_names[label] for label, count in enumerate(counts_of(train, len(class_names))) if not count]
    if empty:
        raise InputError(f"data {name!r}: no training image of {some_of(empty, MOST_NAMED)}; every class needs one.")
    if not len(test):
        raise InputError(f"data {name!r}: there is no test image; some class needs one.")


def _check_range(name: str, part: str, labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"data {name!r}: {part} labels run from {int(labels.min())} to {int(labels.max())}; "
            f"with {classes} classes they must lie in 0 to {classes - 1}."
        )


def _normalisation(options: Any, train: Tensor) -> Normalisation:
    if (options.mean is None) != (options.std is None):
        raise InputError("data.mean and data.std go together: give both or none.")
    if options.normalisation == "zca":
        if options.mean is not None:
            raise InputError("data.mean and data.std are for data.normalisation=per-channel; ZCA has its own.")
        return ZCA.of(train, options.zca_eps)
    if options.mean is None:
        return PerChannel.of(train)
    channels = train.shape[1]
    fits = len(options.mean) == channels == len(options.std)
    if not fits or not all(0 <= m <= 1 for m in options.mean) or not all(0 < s <= 1 for s in options.std):
        raise InputError(
            f"data.mean and data.std need {channels} value(s) each, for images in [0, 1]: means in [0, 1] and "
            f"deviations above 0 and at most 1, not {options.mean} and {options.std}."
        )
    return PerChannel(options.mean, options.std)
