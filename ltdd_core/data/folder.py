"""``folder``: the images of a user, one folder a class, with or without ``train``, ``test`` and ``val`` parts.

torch is imported by what needs it: that a folder is not there is said at once.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np

from ltdd_core.data.imagefile import GREY_MODES, decode, each_file, read_header
from ltdd_core.data.source import DataSource, ImageTable, LongTailOptions, Order, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VALIDATION = ("val", "valid", "validation")
"""Names of the folder of validation images."""
PARTS = {"train", "test", *VALIDATION}
USUAL_SIZE = 32
MUCH_LARGER = 4
"""How many times the size that is used the smaller side of most images may be before small things are lost."""


@dataclass(frozen=True)
class FileTable(ImageTable):
    """Image files, decoded to one size and number of channels."""

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    grey: bool

    def read(self, indices: Tensor) -> Tensor:
        """Decode; the shorter side becomes ``size`` and the middle is cut out."""
        import torch

        mode = "L" if self.grey else "RGB"

        def pixels(path: Path) -> Tensor:
            array = np.array(decode(path, mode, self.size, self.size))
            return torch.from_numpy(array).view(self.size, self.size, -1).permute(2, 0, 1)

        return torch.stack(each_file([self.paths[index] for index in indices.tolist()], pixels)).contiguous()

    def digest(self) -> str:
        """Of the files, so it is the same for any size that they are decoded to."""
        digest = hashlib.blake2b(repr(self.labels.tolist()).encode(), digest_size=16)
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            except OSError as error:
                _unreadable(error)
        return digest.hexdigest()


class HeldOutOptions(LongTailOptions):
    """How many images test and calibrate, where data of one's own have no part for it."""

    validation: float | None = option(
        None,
        "share of the long-tailed training images that become validation images, as many of each class as of any other "
        "but at most half of a class; 0: none, unless the data come with some; unless given, a tenth of the smallest "
        "class, of each class, if that makes 20 images in all",
        ge=0,
        le=0.5,
    )

    test_share: float = option(
        0.2,
        "share of the smallest class that is held out of every class for testing where there is no test part; "
        "test_least may ask for more, and a class gives at most half of its images",
        gt=0,
        lt=1,
    )
    test_least: int = option(
        10,
        "images that every class gives at least for testing where there is no test part, but at most half of its "
        "images",
        ge=1,
    )


class ImageFolder(DataSource):
    """``root/train/<class>/*`` and ``root/test/<class>/*``, perhaps ``root/val/<class>/*``; or ``root/<class>/*``."""

    class Options(HeldOutOptions):
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

    @property
    def title(self) -> str | None:
        """The name of the folder, unless the user names the data."""
        return self.options.title or (self.options.root and name_of_place(self.options.root)) or None

    def check(self) -> None:
        """See that there are folders of classes."""
        if self.options.root is None:
            root = how_to_set("data.root")
            raise InputError(f"data source 'folder' needs {root}: a folder with train/ and test/, one folder a class.")
        _class_folders(self.options.root / "train" if has_split(self.options.root) else self.options.root)

    def load(self, generator: torch.Generator) -> SourceImages:
        """List the files, look at their headers, and hold out a test set if there is none."""
        self.check()
        options = self.options
        return load_folder(options.root, options.image_size, options.test_share, options.test_least, generator)


def name_of_place(root: Path) -> str:
    """What a folder or a file is called, whatever way leads to it; empty for the root of a file system."""
    place = Path(os.path.abspath(root))  # noqa: PTH100 - a link is called what the user calls it, and ".." is none
    name = place.stem if os.path.isfile(place) else place.name  # noqa: PTH113 - a name that no path can have is none
    return os.fsencode(name).decode(errors="replace")


def load_folder(
    root: Path, image_size: int | None, test_share: float, test_least: int, generator: torch.Generator
) -> SourceImages:
    """The image folder under ``root``.

    Raises:
        InputError: no such folder, fewer than two classes, a class without training images, no test image at all, or
            an unusable file.
    """
    validation = None
    if has_split(root):
        classes = _class_folders(root / "train")
        _check_no_other_classes(root, classes)
        train_paths, train_labels = _files(root / "train", classes)
        test_paths, test_labels = _files(root / "test", classes, every_class=False)
        validation = _validation_files(root, classes)
    else:
        classes = _class_folders(root)
        paths, labels = _files(root, classes)
        test = held_out(labels, len(classes), test_share, test_least, generator)
        if not test.any():
            raise InputError(
                f"{root}: every class has one image only; without train/ and test/ folders some need two, one to train "
                "and one to test: add some, or make those folders."
            )
        train_paths, train_labels = _chosen(paths, labels, ~test)
        test_paths, test_labels = _chosen(paths, labels, test)
    looks = each_file((*train_paths, *test_paths), read_header)
    sizes = Counter(size for size, _ in looks)
    size = image_size or _common_size(sizes)
    grey = {mode for _, mode in looks} <= GREY_MODES
    return SourceImages(
        FileTable(tuple(train_paths), train_labels, size, grey),
        FileTable(tuple(test_paths), test_labels, size, grey),
        tuple(os.fsencode(name).decode() for name in classes),  # in any locale a name is what its bytes say in UTF-8
        None if validation is None else FileTable(tuple(validation[0]), validation[1], size, grey),
        resized=_resized(sizes, size),
        advice=_advice(sizes, size),
    )


def _validation_files(root: Path, classes: list[str]) -> tuple[list[Path], Tensor] | None:
    """The validation images and their classes, some of which may have none; None where there is no such image."""
    import torch

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


def _check_no_other_classes(root: Path, train: list[str]) -> None:
    """A class without training images cannot be learnt; one without test images is normal."""
    if missing := set(_subfolders(root / "test")) - set(train):
        raise InputError(
            f"{root / 'train'}: there is no folder for class {min(missing)!r}, which test/ has: "
            "add it, or remove it there."
        )


def _files(folder: Path, classes: list[str], *, every_class: bool = True) -> tuple[list[Path], Tensor]:
    import torch

    paths, labels = list[Path](), list[int]()
    for label, name in enumerate(classes):
        class_paths = image_files(folder / name) if every_class or (folder / name).is_dir() else []
        if every_class and not class_paths:
            raise InputError(f"{folder / name}: no image in this class folder: add some or remove it.")
        paths += class_paths
        labels += [label] * len(class_paths)
    if not paths:
        raise InputError(f"{folder}: no image in the folders of the classes: add some.")
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


def held_out(labels: Tensor, classes: int, share: float, least: int, generator: torch.Generator) -> Tensor:
    """Which images test, bool ``[N]``: as many of each class as of any other, but at most half of a class.

    So a class with one image has none to test.

    Args:
        labels: int64 ``[N]`` of all images.
        classes: how many classes there are.
        share: of the smallest class.
        least: images of a class, where that is more than the share.
        generator: draws the images.
    """
    import torch

    counts = torch.bincount(labels, minlength=classes).tolist()
    per_class = max(least, round(min(counts) * share))
    order = torch.randperm(len(labels), generator=generator)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        test[order[labels[order] == label][: min(per_class, count // 2)]] = True
    return test


def _resized(sizes: Counter[tuple[int, int]], size: int) -> str:
    """What becomes of the images, ``48x48 to 200x120 -> 32x32``; empty where they stay as they are."""
    smallest, largest = (choose(sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
    if set(sizes) == {(size, size)}:
        return ""
    found = " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in (smallest, largest)))
    return f"{found} -> {size}x{size}"


def _advice(sizes: Counter[tuple[int, int]], size: int) -> tuple[str, ...]:
    larger = sum(often for found, often in sizes.items() if min(found) > MUCH_LARGER * size)
    if 2 * larger <= sizes.total():
        return ()
    return (
        f"most images are more than {MUCH_LARGER} times as large as the {size}x{size} pixels that networks see, so "
        f"small things may be lost: try --image-size {2 * size}.",
    )


def _chosen(paths: list[Path], labels: Tensor, chosen: Tensor) -> tuple[list[Path], Tensor]:
    return [path for path, take in zip(paths, chosen.tolist(), strict=True) if take], labels[chosen]


def _common_size(sizes: Counter[tuple[int, int]]) -> int:
    (width, height) = next(iter(sizes))
    if len(sizes) == 1 and width == height and width <= 2 * USUAL_SIZE:
        return width
    return USUAL_SIZE
