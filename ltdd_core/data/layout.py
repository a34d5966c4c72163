"""How a folder of images is laid out: its parts and its classes, whatever they are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from ltdd_core.data.files import image_files, subfolders
from ltdd_core.data.names import composed
from ltdd_core.errors import InputError, how_to_set

T = TypeVar("T")

NAMES = {
    "train": {"train", "training", "trainval"},
    "test": {"test", "testing"},
    "val": {"val", "valid", "validation", "dev", "eval", "evaluation"},
}
"""What the folder of a part may be called, in letters of either case."""
AROUND = re.compile(r"^seg|^images?|^imgs?|(data)?set$|data$|images?$|imgs?$|[^a-z]")
"""What may stand around the name: ``seg_train``, ``TrainingSet``, ``test-images``, ``val2017``."""


@dataclass(frozen=True)
class Parts:
    """The folders of the parts, and what there is to say about them."""

    train: Path
    test: Path | None
    """None where the images of the test part have no classes, as in competitions: some are held out then."""
    val: Path | None
    notes: tuple[str, ...]


def parts_of(root: Path, *, classes_in_folders: bool = True) -> Parts | None:
    """The parts of a folder, if it has one to train and one to test or to validate with.

    Where no test part has classes, the validation part is the test part.

    Args:
        root: the folder.
        classes_in_folders: whether images without a folder have no class.

    Raises:
        InputError: ``root`` is no folder or cannot be read, or two folders are the same part.
    """
    found, others = dict[str, str](), list[str]()
    for name in subfolders(root):
        part = part_of(name)
        if part is None:
            others.append(name)
        elif part in found:
            raise InputError(f"{root} has {found[part]} and {name}: keep one folder of {_images_of(part)}.")
        else:
            found[part] = name
    if "train" not in found or len(found) == 1:
        return None
    places, notes = {part: _inside(root / name, part) for part, name in found.items()}, []
    if others:
        notes.append(f"beside the parts, {_listed(others)} {'is' if len(others) == 1 else 'are'} left out.")
    if classes_in_folders and "test" in places and not subfolders(places["test"]) and image_files(places["test"]):
        del places["test"]
        notes.append(f"{found['test']} is left out, since its images are in no folders of classes.")
    if "test" not in places and "val" in places:
        places["test"] = places.pop("val")
        notes.append(f"{found['val']} is the test part, since there is no other.")
    return Parts(places["train"], places.get("test"), places.get("val"), tuple(notes))


def class_folders(folder: Path) -> dict[str, Path]:
    """The classes and their folders, in the order of the names; names that are all numbers, in that of the numbers.

    Raises:
        InputError: fewer than two, names that are no UTF-8, or two that look the same.
    """
    names = subfolders(folder)
    if names and all(part_of(name) for name in names):
        raise InputError(f"{folder} has only {', '.join(names)}: give it both train/ and test/, or folders of classes.")
    if len(names) == 1 and len(subfolders(folder / names[0])) > 1:
        raise InputError(f"{folder}: its one folder is {names[0]!r}: try {how_to_set('root', folder / names[0])}.")
    if not names and image_files(folder):
        raise InputError(
            f"{folder}: the images are in no folders of classes: make some, or say with "
            f"{how_to_set('data.class_from', 'REGEX')} where in their names the class is."
        )
    if len(names) < 2:
        raise InputError(f"{folder}: {len(names)} class folder(s); at least two are needed, one a class.")
    found = dict[str, Path]()
    for name in names:
        shown = shown_name(folder, name)
        if shown in found:
            raise InputError(
                f"{folder}: two folders are called {shown!r}, in different forms of Unicode (NFC and NFD): "
                "put their images into one."
            )
        found[shown] = folder / name
    return in_order(found)


def in_order(found: Mapping[str, T]) -> dict[str, T]:
    """By the names of classes; names that are all numbers, in the order of the numbers."""
    numbers = all(name.isdecimal() for name in found)
    return dict(sorted(found.items(), key=lambda item: (int(item[0]) if numbers else 0, item[0])))


def folders_of_classes(folder: Path, classes: Mapping[str, Path], train: Path) -> dict[str, Path]:
    """The folders of another part by class; a name matches in either case where it is the only one that does.

    Args:
        folder: of the part.
        classes: those of the training part.
        train: the folder of the training part.

    Raises:
        InputError: a folder with images is of no class of the training part.
    """
    lower, found = _by_lower_case(classes), dict[str, Path]()
    for name in subfolders(folder):
        shown = shown_name(folder, name)
        alike = [shown] if shown in classes else lower.get(shown.casefold(), [])
        if len(alike) != 1 and not image_files(folder / name):
            continue
        if len(alike) != 1:
            raise InputError(
                f"{train}: there is no folder for class {shown!r}, which {folder.name}/ has: "
                "add it, or remove it there."
            )
        if alike[0] in found:
            raise InputError(
                f"{folder}: {found[alike[0]].name!r} and {name!r} are one class: put their images together."
            )
        found[alike[0]] = folder / name
    return found


def alike_but_for_case(classes: Iterable[str]) -> tuple[str, ...]:
    """A sentence for names such as ``Cat`` and ``cat``."""
    alike = [names for names in _by_lower_case(classes).values() if len(names) > 1]
    return tuple(f"{_listed(names)} are different classes here." for names in alike)


def _by_lower_case(classes: Iterable[str]) -> dict[str, list[str]]:
    found = dict[str, list[str]]()
    for name in classes:
        found.setdefault(name.casefold(), []).append(name)
    return found


@lru_cache(1000)  # a list asks for each of its lines
def part_of(name: str) -> str | None:
    """Which part a name stands for: ``train``, ``test`` or ``val``; None: none."""
    core, before = name.casefold(), ""
    while core != before:
        core, before = AROUND.sub("", core), core
    return next((part for part, names in NAMES.items() if core in names), None)


def _inside(folder: Path, part: str) -> Path:
    """The folder with the classes: archives often have ``seg_train/seg_train``."""
    names = subfolders(folder)
    return folder / names[0] if len(names) == 1 and part_of(names[0]) == part else folder


def shown_name(folder: Path, name: str) -> str:
    """The name of a class in the composed form of Unicode, which is the same on all systems.

    Raises:
        InputError: it is no UTF-8; names end up in JSON, which is.
    """
    try:
        return composed(os.fsencode(name).decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{folder}: the folder name {name!r} is not valid UTF-8: rename it.") from error


def _images_of(part: str) -> str:
    return {"train": "training images", "test": "test images", "val": "validation images"}[part]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
