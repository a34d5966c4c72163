"""Which images a folder has, of which parts and classes: by folders of classes, or by the paths of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltdd_core.data.files import image_files, subfolders, told_left_out
from ltdd_core.data.image_groups import matched
from ltdd_core.data.imagefile import ImageFile
from ltdd_core.data.layout import (
    alike_but_for_case,
    class_folders,
    folders_of_classes,
    in_order,
    parts_of,
    shown_name,
)
from ltdd_core.errors import InputError, how_to_set

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Files:
    """The image files of a part."""

    folder: Path
    paths: Sequence[ImageFile]
    labels: Tensor
    """The class of each, int64 ``[N]``."""
    homes: list[Path]
    """The folder of the class of each."""

    def only(self, chosen: Tensor) -> Files:
        """Some of them; ``chosen`` is bool ``[N]``."""
        taken = [index for index, take in enumerate(chosen.tolist()) if take]
        paths, homes = [self.paths[index] for index in taken], [self.homes[index] for index in taken]
        return Files(self.folder, paths, self.labels[chosen], homes)

    def without(self, refused: Mapping[ImageFile, InputError]) -> Files:
        """Those that can be used."""
        import torch

        return self.only(torch.tensor([path not in refused for path in self.paths], dtype=torch.bool))


@dataclass(frozen=True)
class Listing:
    """The image files of a folder."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None
    validation: Files | None
    notes: tuple[str, ...]
    """What a user should know, a sentence each."""
    parts: str = "train/ and test/ folders"
    """What a user makes where there is no test part."""


def listed_by_folders(root: Path) -> Listing:
    """The images under ``root``, which has a folder for each class, or parts that do.

    Raises:
        InputError: no such folder, fewer than two classes, or a class without training images.
    """
    parts, others = parts_of(root), Counter[str]()
    folder = root if parts is None else parts.train
    classes = class_folders(folder)
    found = [
        None if part is None else in_folders(part, folders_of_classes(part, classes, folder), others, classes)
        for part in ((None, None) if parts is None else (parts.test, parts.val))
    ]
    return Listing(
        tuple(classes),
        in_folders(folder, classes, others),
        found[0],
        found[1],
        (*(() if parts is None else parts.notes), *told_left_out(others), *alike_but_for_case(classes)),
    )


def listed_by_paths(root: Path, pattern: str) -> Listing:
    """The images under ``root``, or under its parts, whose paths say of which class they are.

    Args:
        root: the folder.
        pattern: a regular expression over the path below ``root`` or below the part; its first part in brackets, or
            else what it matches, is the class.

    Raises:
        InputError: no such folder, no regular expression, fewer than two classes, or a class without training images.
    """
    parts, others, unmatched = parts_of(root, classes_in_folders=False), Counter[str](), list[Path]()
    folder = root if parts is None else parts.train
    train = _by_class(folder, pattern, others, unmatched)
    if len(train) < 2:
        raise InputError(
            f"{how_to_set('data.class_from', pattern)} finds {len(train)} class(es) in the paths below {folder}; at "
            "least two are needed."
        )
    classes = in_order(train)
    found = list[Files | None]()
    for part in (None, None) if parts is None else (parts.test, parts.val):
        own = None if part is None else _by_class(part, pattern, others, unmatched)
        for name in own or ():
            if name not in classes:
                raise InputError(f"{folder}: there is no image of class {name!r}, which {part} has: add some.")
        found.append(None if part is None or own is None else _files_of(part, own, classes))
    notes = (*(() if parts is None else parts.notes), *told_left_out(others), *alike_but_for_case(classes))
    if unmatched:
        files = "1 image is" if len(unmatched) == 1 else f"{len(unmatched)} images are"
        why = f"{how_to_set('data.class_from')} does not match"
        notes = (*notes, f"{files} left out, such as {unmatched[0]}: {why}.")
    return Listing(tuple(classes), _files_of(folder, train, classes), found[0], found[1], notes)


def _by_class(folder: Path, pattern: str, others: Counter[str], unmatched: list[Path]) -> dict[str, list[Path]]:
    """The images of each class below a folder, those of runs of ltdd left out."""
    found = dict[str, list[Path]]()
    paths = [
        *image_files(folder, others, deep=False),
        *(path for name in subfolders(folder) for path in image_files(folder / name, others)),
    ]
    for path in paths:
        name = matched("data.class_from", pattern, folder, path)
        if name:
            found.setdefault(shown_name(folder, name), []).append(path)
        else:
            unmatched.append(path)
    return found


def _files_of(folder: Path, by_class: Mapping[str, list[Path]], classes: Iterable[str]) -> Files:
    import torch

    listed = [(path, label) for label, name in enumerate(classes) for path in by_class.get(name, ())]
    labels = torch.tensor([label for _, label in listed], dtype=torch.int64)
    return Files(folder, [path for path, _ in listed], labels, [folder] * len(listed))


def in_folders(
    folder: Path, there: Mapping[str, Path], others: Counter[str], classes: Iterable[str] | None = None
) -> Files:
    """The images of the classes of a part.

    Args:
        folder: of the part.
        there: the folders of the classes that it has.
        others: counts the files that are no images.
        classes: all classes, where some may be missing in this part; None: it has all, and each has images.
    """
    import torch

    paths, labels, homes = list[Path](), list[int](), list[Path]()
    for label, name in enumerate(there if classes is None else classes):
        class_paths = image_files(there[name], others) if name in there else []
        if classes is None and not class_paths:
            raise InputError(f"{there[name]}: no image in this class folder: add some or remove it.")
        paths += class_paths
        labels += [label] * len(class_paths)
        homes += [there.get(name, folder)] * len(class_paths)
    return Files(folder, paths, torch.tensor(labels, dtype=torch.int64), homes)
