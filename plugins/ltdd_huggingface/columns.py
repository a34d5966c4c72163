"""Which columns of a data set have the images and the classes, and what the classes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core import InputError, how_to_set, unknown

USUAL = "label", "labels", "class", "target", "category"
"""What columns of classes are called, in data sets that do not declare them."""

MOST_NAMED = 5


def image_column(place: str, features: Mapping[str, Any], named: str | None) -> str:
    """The column of the images: the one that is declared so, or that has the bytes of files.

    Args:
        place: what messages call the data set.
        features: the columns with their types.
        named: by the user, if at all.

    Raises:
        InputError: there is none or there are several, or the one that the user names has no images.
    """
    images = [name for name, feature in features.items() if _has_images(feature)]
    if named is not None:
        _check_there(place, named, features)
        if named not in images:
            raise InputError(f"{place}: column {named!r} has no images: its type is {features[named]}.")
        return named
    if not images:
        raise InputError(f"{place}: no column has encoded images. Its columns are {_listed(features)}.")
    return _one_of(place, "images", images, "image", "data.image_column")


def label_column(place: str, features: Mapping[str, Any], named: str | None) -> str:
    """The column of the classes: the one that is declared so, or that has a usual name, or the only one of labels.

    Raises:
        InputError: there is none or there are several, or the one that the user names has no classes.
    """
    classes = [name for name, feature in features.items() if _is_class_label(feature)]
    plain = [name for name, feature in features.items() if _is_plain(feature)]
    if named is not None:
        _check_there(place, named, features)
        if named not in [*classes, *plain]:
            raise InputError(
                f"{place}: column {named!r} has no class for each image, a number or a word: "
                f"its type is {features[named]}."
            )
        return named
    found = classes or [name for name in plain if name.lower() in USUAL] or plain
    if not found:
        raise InputError(f"{place}: no column has a class for each image. Its columns are {_listed(features)}.")
    return _one_of(place, "classes", found, "label", "data.label_column")


def encoded(place: str, name: str, split: Any, column: str) -> tuple[Callable[[int], bytes], Callable[[int], str]]:
    """The image of an index of a split as the bytes of a file, and what messages call it."""
    undecoded = split.select_columns([column]).cast_column(column, import_module("datasets").Image(decode=False))

    def called(index: int) -> str:
        return f"{place}, {name}[{index}]"

    def content(index: int) -> bytes:
        image = undecoded[index][column] or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if image.get("path") is None:
            raise InputError(f"{called(index)}: there is no image in column {column!r}: leave the row out.")
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise InputError(f"{called(index)}: {image['path']} cannot be read: {error.strerror}.") from error

    return content, called


def values_of(split: Any, column: str) -> list[Any]:
    """The values of a column; None where an image has no class."""
    # The hub marks images whose class is kept secret with -1.
    return [None if value == -1 else value for value in split.select_columns([column])[:][column]]


def groups_of(place: str, column: str, splits: Mapping[str, Any]) -> dict[str, list[str]]:
    """The group of each image by the name of the split, of those that have the column.

    Args:
        place: what messages call the data set.
        column: of the groups.
        splits: those that are used, by name; the first is that of training, which needs the column.

    Raises:
        InputError: there is no such column, or an image has no value in it.
    """
    _check_there(place, column, next(iter(splits.values())).features)
    found: dict[str, list[str]] = {}
    for name, split in splits.items():
        if column not in split.features:
            continue
        values = split.select_columns([column])[:][column]
        if None in values:
            raise InputError(
                f"{place}: {values.count(None)} of {len(values)} images of split {name!r} have no value in {column!r}: "
                "every image needs a group."
            )
        found[name] = [str(value) for value in values]
    return found


@dataclass(frozen=True)
class Classes:
    """The classes of a data set."""

    names: tuple[str, ...]
    """In the order of the labels."""
    labels: dict[str, Tensor]
    """The class of each image, int64 ``[N]``, by the name of the split."""
    unused: tuple[str, ...]
    """The names of declared classes that no image has."""

    def told_unused(self) -> list[str]:
        """A sentence about them, if there are some."""
        if not self.unused:
            return []
        which = "1 class that has" if len(self.unused) == 1 else f"{len(self.unused)} classes that have"
        return [f"{which} no image left out: {_listed(self.unused[:MOST_NAMED])}."]


def classes_of(place: str, column: str, splits: Mapping[str, Any]) -> Classes:
    """The classes and the label of each image.

    Declared classes are in their own order.  Others are sorted, as numbers where all of them are numbers.

    Args:
        place: what messages call the data set.
        column: of the classes.
        splits: those that are used, by name; the first is that of training.

    Raises:
        InputError: an image has no class, or the splits declare different classes.
    """
    features = {name: split.features.get(column) for name, split in splits.items()}
    first, *others = features
    for other in others:
        if features[other] is None:
            raise InputError(f"{place}: split {other!r} has no column {column!r}.")
        if _is_class_label(features[first]) and features[other] != features[first]:
            raise InputError(f"{place}: splits {first!r} and {other!r} declare different classes in {column!r}.")
    values = {name: values_of(split, column) for name, split in splits.items()}
    for name, found in values.items():
        if None in found:
            raise InputError(
                f"{place}: {found.count(None)} of {len(found)} images of split {name!r} have no class in {column!r} "
                "(it is missing, or -1): leave these rows out."
            )
    used = {value for found in values.values() for value in found}
    if _is_class_label(features[first]):
        declared = dict(enumerate(features[first].names))
    else:
        declared = {value: str(value) for value in _in_order(used)}
    present = [value for value in declared if value in used]
    label = {value: number for number, value in enumerate(present)}
    return Classes(
        tuple(declared[value] for value in present),
        {name: torch.tensor([label[value] for value in found], dtype=torch.int64) for name, found in values.items()},
        tuple(name for value, name in declared.items() if value not in used),
    )


def _in_order(values: set[Any]) -> list[Any]:
    numbers = all(isinstance(value, str) and value.isdecimal() for value in values)
    return sorted(values, key=(lambda value: (int(value), value)) if numbers else None)


def _one_of(place: str, what: str, found: Sequence[str], usual: str, option: str) -> str:
    if len(found) == 1:
        return found[0]
    if usual in found:
        return usual
    raise InputError(f"{place}: {_listed(found)} have {what}: say which column with {how_to_set(option, 'NAME')}.")


def _check_there(place: str, name: str, features: Mapping[str, Any]) -> None:
    if name not in features:
        raise InputError(f"{place}: {unknown('column', name, features)}")


def _has_images(feature: Any) -> bool:
    """Declared as images, or bytes of files, as files of parquet have them that some other program wrote."""
    kind = type(feature).__name__
    return kind == "Image" or (isinstance(feature, Mapping) and {"bytes", "path"} == set(feature))


def _is_class_label(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _is_plain(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return type(feature).__name__ == "Value" and (dtype.startswith(("int", "uint", "bool")) or "string" in dtype)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
