"""``folder``: the images of a user, one folder a class, with or without ``train``, ``test`` and ``val`` parts."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from ltdd_core.data.imagefile import GREY_MODES, decode, read_header
from ltdd_core.data.longtail import Order
from ltdd_core.data.source import DataSource, ImageTable, LongTailOptions, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VALIDATION = ("val", "valid", "validation")
"""Names of the folder of validation images."""
PARTS = {"train", "test", *VALIDATION}
USUAL_SIZE = 32


@dataclass(frozen=True)
class FileTable(ImageTable):
    """Image files, decoded to one size and number of channels."""

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    grey: bool

    def read(self, indices: Tensor) -> Tensor:
        """Decode; the shorter side becomes ``size`` and the middle is cut out."""
        mode = "L" if self.grey else "RGB"
        arrays = []
        for index in indices.tolist():
            pixels = np.asarray(decode(self.paths[index], mode, self.size, self.size))
            arrays.append(torch.from_numpy(pixels.copy()).view(self.size, self.size, -1).permute(2, 0, 1))
        return torch.stack(arrays).contiguous()


class ImageFolder(DataSource):
    """``root/train/<class>/*`` and ``root/test/<class>/*``, perhaps ``root/val/<class>/*``; or ``root/<class>/*``."""

    class Options(LongTailOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, "folder with train/ and test/, or with the class folders")
        imbalance: float | Literal["natural"] = option(
            "natural", "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
        )
        order: Order = option(
            "native",
            "order of the classes from head to tail: native (sorted folder names), reversed or random; unused if "
            "imbalance is natural",
        )
        image_size: int | None = option(
            None,
            "side of the square images; unless given, that of all files if they agree and it is at most 64, else 32",
            ge=4,
        )
        test_share: float = option(
            0.2,
            "share of the smallest class that is held out of every class for testing where there is no test folder",
            gt=0,
            lt=1,
        )

    def load(self, generator: torch.Generator) -> SourceImages:
        """List the files, look at their headers, and hold out a test set if there is none."""
        if self.options.root is None:
            root = how_to_set("data.root")
            raise InputError(f"data source 'folder' needs {root}: a folder with train/ and test/, one folder a class.")
        return load_folder(self.options.root, self.options.image_size, self.options.test_share, generator)


def load_folder(root: Path, image_size: int | None, test_share: float, generator: torch.Generator) -> SourceImages:
    """The image folder under ``root``.

    Raises:
        InputError: no such folder, fewer than two classes, an empty class, or an unusable file.
    """
    validation = None
    if has_split(root):
        classes = _class_folders(root / "train")
        _check_same_classes(root, classes)
        train_paths, train_labels = _files(root / "train", classes)
        test_paths, test_labels = _files(root / "test", classes)
        validation = _validation_files(root, classes)
    else:
        classes = _class_folders(root)
        paths, labels = _files(root, classes)
        _check_two_each(root, classes, labels)
        test = _held_out(labels, len(classes), test_share, generator)
        train_paths, train_labels = _chosen(paths, labels, ~test)
        test_paths, test_labels = _chosen(paths, labels, test)
    looks = [read_header(path) for path in (*train_paths, *test_paths)]
    size = image_size or _common_size(Counter(size for size, _ in looks))
    grey = {mode for _, mode in looks} <= GREY_MODES
    return SourceImages(
        FileTable(tuple(train_paths), train_labels, size, grey),
        FileTable(tuple(test_paths), test_labels, size, grey),
        tuple(os.fsencode(name).decode() for name in classes),  # in any locale a name is what its bytes say in UTF-8
        None if validation is None else FileTable(tuple(validation[0]), validation[1], size, grey),
    )


def _validation_files(root: Path, classes: list[str]) -> tuple[list[Path], Tensor] | None:
    """The validation images and their classes, some of which may have none; None where there is no such image."""
    parts = [name for name in VALIDATION if name in _subfolders(root)]
    if len(parts) > 1:
        raise InputError(f"{root} has {' and '.join(parts)}: keep one folder of validation images.")
    paths, labels = list[Path](), list[int]()
    for name in _subfolders(root / parts[0]) if parts else []:
        found = image_files(root / parts[0] / name)
        if found and name not in classes:
            raise InputError(
                f"{root / 'train'}: there is no folder for class {name!r}, which {parts[0]}/ has: add it, "
                "or remove it there."
            )
        paths += found
        labels += [classes.index(name)] * len(found) if found else []
    return (paths, torch.tensor(labels)) if paths else None


def has_split(root: Path) -> bool:
    """Whether there are ``train`` and ``test`` folders.

    Raises:
        InputError: ``root`` is no folder, or cannot be read.
    """
    return {"train", "test"} <= set(_subfolders(root))


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders inside, sorted; hidden ones do not count."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise InputError(f"{how_to_set('root', folder)}: there is no such folder.") from error
    except NotADirectoryError as error:
        raise InputError(
            f"{how_to_set('root', folder)}: this is a file; give the folder that holds the images."
        ) from error
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}.") from error


def _class_folders(folder: Path) -> list[str]:
    names = _subfolders(folder)
    if names and set(names) <= PARTS:
        raise InputError(f"{folder} has only {', '.join(names)}: give it both train/ and test/, or folders of classes.")
    if len(names) < 2:
        raise InputError(f"{folder}: {len(names)} class folder(s); at least two are needed, one a class.")
    for name in names:
        try:
            os.fsencode(name).decode()  # names end up in JSON, which is UTF-8
        except UnicodeDecodeError as error:
            raise InputError(f"{folder}: the folder name {name!r} is not valid UTF-8: rename it.") from error
    return names


def _check_same_classes(root: Path, train: list[str]) -> None:
    test = _subfolders(root / "test")
    for part, counterpart, missing in (
        ("train", "test", set(test) - set(train)),
        ("test", "train", set(train) - set(test)),
    ):
        if missing:
            raise InputError(
                f"{root / part}: there is no folder for class {min(missing)!r}, which {counterpart}/ has: "
                "add it, or remove it there."
            )


def _check_two_each(root: Path, classes: list[str], labels: Tensor) -> None:
    for name, count in zip(classes, torch.bincount(labels).tolist(), strict=True):
        if count < 2:
            raise InputError(
                f"{root / name}: one image only; without train/ and test/ folders every class needs two, "
                "one to train and one to test: add one, or make those folders."
            )


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        class_paths = image_files(folder / name)
        if not class_paths:
            raise InputError(f"{folder / name}: no image in this class folder: add some or remove it.")
        paths += class_paths
        labels += [label] * len(class_paths)
    return paths, torch.tensor(labels)


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and the folders inside it, sorted; hidden ones do not count.

    Raises:
        InputError: a folder cannot be read.
    """
    image_paths = []
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        image_paths += [path for path in paths if path.suffix.lower() in SUFFIXES]
    return sorted(image_paths)


def _held_out(labels: Tensor, classes: int, share: float, generator: torch.Generator) -> Tensor:
    """Which images test: equally many of every class, and at least one of each stays for training."""
    smallest = int(torch.bincount(labels, minlength=classes).min())
    per_class = max(1, min(smallest - 1, round(smallest * share)))
    order = torch.randperm(len(labels), generator=generator)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        test[order[labels[order] == label][:per_class]] = True
    return test


def _chosen(paths: list[Path], labels: Tensor, chosen: Tensor) -> tuple[list[Path], Tensor]:
    return [path for path, take in zip(paths, chosen.tolist(), strict=True) if take], labels[chosen]


def _common_size(sizes: Counter[tuple[int, int]]) -> int:
    (width, height) = next(iter(sizes))
    if len(sizes) == 1 and width == height and width <= 2 * USUAL_SIZE:
        return width
    return USUAL_SIZE
