"""``folder``: the images of a user, one folder a class, with or without ``train``, ``test`` and ``val`` parts.

torch is imported by what needs it: that a folder is not there is said at once.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ltdd_core.data.colours import told_conversions
from ltdd_core.data.copies import same_files, told_copies
from ltdd_core.data.files import image_files, told_left_out, unreadable
from ltdd_core.data.imagefile import decode, each_file, read_header
from ltdd_core.data.layout import alike_but_for_case, class_folders, folders_of_classes, parts_of
from ltdd_core.data.source import DataSource, ImageTable, LongTailOptions, Order, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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
                unreadable(error)
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
        parts = parts_of(self.options.root)
        class_folders(self.options.root if parts is None else parts.train)

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
    parts, left_out = parts_of(root), Counter[str]()
    train = root if parts is None else parts.train
    classes = class_folders(train)
    train_paths, train_labels = _files(train, classes, classes, left_out)
    validation = None
    if parts is None or parts.test is None:
        first = same_files(train_paths)
        test = _held_out_files(first, train_labels, len(classes), test_share, test_least, generator)
        if not test.any():
            raise InputError(
                f"{root}: every class has one image only; without train/ and test/ folders some need two, one to train "
                "and one to test: add some, or make those folders."
            )
        test_paths, test_labels = _chosen(train_paths, train_labels, test)
        train_paths, train_labels = _chosen(train_paths, train_labels, ~test)
    else:
        there = folders_of_classes(parts.test, classes, train)
        test_paths, test_labels = _files(parts.test, classes, there, left_out, every_class=False)
    if parts is not None and parts.val is not None:
        there = folders_of_classes(parts.val, classes, train)
        validation = _files(parts.val, classes, there, left_out, every_class=False, may_be_empty=True)
    looks = each_file((*train_paths, *test_paths), read_header)
    sizes = Counter(look.size for look in looks)
    size = image_size or _common_size(sizes)
    grey = all(look.grey for look in looks)
    return SourceImages(
        FileTable(tuple(train_paths), train_labels, size, grey),
        FileTable(tuple(test_paths), test_labels, size, grey),
        tuple(classes),
        FileTable(tuple(validation[0]), validation[1], size, grey) if validation and validation[0] else None,
        resized=_resized(sizes, size),
        advice=(
            *(() if parts is None else parts.notes),
            *told_left_out(left_out),
            *alike_but_for_case(classes),
            *told_conversions(look.converted for look in looks),
            *told_copies(train_paths, train_labels, test_paths, test_labels),
            *_advice(sizes, size),
        ),
    )


def _files(
    folder: Path,
    classes: Iterable[str],
    there: Mapping[str, Path],
    left_out: Counter[str],
    *,
    every_class: bool = True,
    may_be_empty: bool = False,
) -> tuple[list[Path], Tensor]:
    import torch

    paths, labels = list[Path](), list[int]()
    for label, name in enumerate(classes):
        class_paths = image_files(there[name], left_out) if name in there else []
        if every_class and not class_paths:
            raise InputError(f"{there[name]}: no image in this class folder: add some or remove it.")
        paths += class_paths
        labels += [label] * len(class_paths)
    if not paths and not may_be_empty:
        raise InputError(f"{folder}: no image in the folders of the classes: add some.")
    return paths, torch.tensor(labels, dtype=torch.int64)


def _held_out_files(
    first: Sequence[int], labels: Tensor, classes: int, share: float, least: int, generator: torch.Generator
) -> Tensor:
    """As :func:`held_out`, with all copies of a file on one side; ``first`` is the place of the first one of each."""
    import torch

    originals = torch.tensor(sorted(set(first)))
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[originals] = held_out(labels[originals], classes, share, least, generator)
    return test[torch.tensor(first)]


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
