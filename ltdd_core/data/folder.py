"""The parts may have other usual names.  Where none tests, some images of each class are held out."""

# torch is imported by what needs it, so that a folder that is not there is said at once.

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltdd_core.data.colours import Range, told_conversions
from ltdd_core.data.copies import same_files
from ltdd_core.data.files import subfolders
from ltdd_core.data.filetable import usable
from ltdd_core.data.image_groups import ALONE, Groups, group_names, numbered, told_groups, whole_groups
from ltdd_core.data.imagefile import ImageFile
from ltdd_core.data.layout import class_folders, parts_of
from ltdd_core.data.listing import Files, Listing, listed_by_folders, listed_by_paths
from ltdd_core.data.source import DataSource, LongTailOptions, Order, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ltdd_core.progress import Display

MUCH_LARGER = 4
"""How many times the size that is used the smaller side of most images may be before small things are lost."""


class OwnDataOptions(LongTailOptions):
    """What data of one's own are: as they are unless an imbalance is asked for, and with parts that are held out.

    How many images test and calibrate is said here, where the data have no part for it.
    """

    imbalance: float | Literal["natural"] = option(
        "natural", "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
    )
    range: tuple[float, float] | None = option(
        None,
        "black and white in images of more than 8 bits, as in [0, 1] or [-1000, 400]; what lies beyond becomes the "
        "nearer one; unless given, 0 and 65535 of those with 16 bits, and others are refused",
    )

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


class FileOptions(OwnDataOptions):
    """What is done with image files, and with images that are encoded as in files."""

    image_size: int | None = option(
        None,
        "side of the square images; unless given, that of all files if they agree and it is at most 64, else 32",
        ge=4,
    )
    skip_bad: bool = option(
        False,
        "leave out images that cannot be used, such as damaged ones, and say which; all are decoded before the cut",
    )


class PathOptions(FileOptions):
    """What is done with image files whose paths say something of them."""

    group: str = option(
        "none",
        "images that belong together, so that the test and validation images that are held out are of other groups "
        "than those that train: none; folder, for the folders in those of the classes; or a regular expression over "
        "the path below root, whose first part in brackets, or else whose match, is the name of the group",
        min_length=1,
    )


@dataclass(frozen=True)
class Reading:
    """How image files are read, and how many of them are held out where there is no test part, as options say it."""

    image_size: int | None = None
    values: Range | None = None
    """See :func:`range_of`."""
    test_share: float = 0.2
    test_least: int = 10
    skip_bad: bool | None = None
    """None: there is no such option."""

    @classmethod
    def of(cls, options: FileOptions) -> Reading:
        """As the options of a data source say.

        Raises:
            InputError: the range is none.
        """
        return cls(options.image_size, range_of(options), options.test_share, options.test_least, options.skip_bad)


class ImageFolder(DataSource):
    """Images in folders, one a class: ROOT/train/CLASS and ROOT/test/CLASS, perhaps ROOT/val/CLASS; or ROOT/CLASS."""

    class Options(PathOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, "folder with train/ and test/, or with the class folders")
        order: Order = option(
            "native",
            "order of the classes from head to tail: native (sorted folder names), reversed or random; unused if "
            "imbalance is natural",
        )
        class_from: str | None = option(
            None,
            "regular expression over the path of an image below root, or below train and test, whose first part in "
            "brackets, or else whose match, is the class; unless given, the folder is the class",
            min_length=1,
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
        if self.options.class_from is not None:
            subfolders(self.options.root)
            return
        parts = parts_of(self.options.root)
        class_folders(self.options.root if parts is None else parts.train)

    def load(self, generator: torch.Generator) -> SourceImages:
        """List the files, look at their headers, and hold out a test set if there is none."""
        self.check()
        options = self.options
        return load_folder(
            options.root,
            generator,
            Reading.of(options),
            group=options.group,
            class_from=options.class_from,
            display=self.display,
        )


def range_of(options: OwnDataOptions) -> Range | None:
    """Black and white in images of more than 8 bits.

    Raises:
        InputError: they are no two different numbers.
    """
    values = options.range
    if values is not None and (not all(map(math.isfinite, values)) or values[0] == values[1]):
        raise InputError(f"data.range needs two different numbers, black and white, as in [0, 1], not {list(values)}.")
    return values


def name_of_place(root: Path) -> str:
    """What a folder or a file is called, whatever way leads to it; empty for the root of a file system."""
    place = Path(os.path.abspath(root))  # noqa: PTH100 - a link is called what the user calls it, and ".." is none
    name = place.stem if os.path.isfile(place) else place.name  # noqa: PTH113 - a name that no path can have is none
    return os.fsencode(name).decode(errors="replace")


def load_folder(
    root: Path,
    generator: torch.Generator,
    how: Reading,
    *,
    group: str = ALONE,
    class_from: str | None = None,
    display: Display | None = None,
) -> SourceImages:
    """The image folder under ``root``; ``group`` and ``class_from`` are options of :class:`ImageFolder`.

    Raises:
        InputError: no such folder, fewer than two classes, a class without training images, no test image at all, or
            an unusable file.
    """
    listing = listed_by_folders(root) if class_from is None else listed_by_paths(root, class_from)
    return images_of(listing, root, generator, how, group=group, display=display)


def images_of(
    listing: Listing,
    root: Path,
    generator: torch.Generator,
    how: Reading,
    *,
    group: Groups = ALONE,
    display: Display | None = None,
) -> SourceImages:
    """What a data source gives of files, once it knows them and their classes.

    Their headers are looked at, and a test part is held out if there is none.

    Args:
        listing: the files.
        root: the folder that they are in.
        generator: draws what is held out.
        how: they are read, and how many are held out.
        group: the option of :class:`ImageFolder`, or the name of the group of each file.
        display: told how many images are decoded.

    Raises:
        InputError: a class without training images, no test image at all, or an unusable file.
    """
    train, test, validation = listing.train, listing.test, listing.validation
    deciding = [path for files in (train, test) if files is not None for path in files.paths]
    validating = validation.paths if validation else ()
    found = usable(deciding, validating, how.image_size, how.values, how.skip_bad, display)
    _check_each_class(listing.classes, train, found.refused)
    train = train.without(found.refused)
    names = group_names(group, root, train.paths, train.homes)
    if test is None:
        held_out = _held_out_files(train, names, len(listing.classes), how, generator)
        if not held_out.any():
            raise none_to_test(root, listing.parts, grouped=group != ALONE)
        train, test = train.only(~held_out), train.only(held_out)
        names = group_names(group, root, train.paths, train.homes)
    else:
        test = test.without(found.refused)
        if not test.paths:
            which = " that can be used" if found.refused else ""
            raise InputError(f"{test.folder}: no image{which} in the folders of the classes: add some.")
    validation = None if validation is None else validation.without(found.refused)
    sizes = Counter(found.headers[path].size for path in (*train.paths, *test.paths))
    return SourceImages(
        found.table(train.paths, train.labels),
        found.table(test.paths, test.labels),
        listing.classes,
        found.table(validation.paths, validation.labels) if validation and validation.paths else None,
        resized=_resized(sizes, found.size),
        advice=(
            *listing.notes,
            *told_conversions(header.converted for header in found.headers.values()),
            *(() if group == ALONE else told_groups(names, group_names(group, root, test.paths, test.homes))),
            *_advice(sizes, found.size),
        ),
        groups=None if group == ALONE else numbered(names),
        values=how.values,
        left_out=tuple(map(str, found.refused.values())),
    )


def none_to_test(root: Path, parts: str, *, grouped: bool = False) -> InputError:
    """An error where no image can be held out.

    Args:
        root: where the images are.
        parts: what a user can make, so that none needs to be held out.
        grouped: whether images are held out by groups.
    """
    if grouped:
        return InputError(
            f"{root}: no class has images of two groups, so there is none to test: add some, make {parts}, or leave "
            f"out {how_to_set('data.group')}."
        )
    return InputError(
        f"{root}: every class has one image only; without {parts} some need two, one to train and one to test: add "
        f"some, or make {parts}."
    )


def _check_each_class(classes: Sequence[str], train: Files, refused: Mapping[ImageFile, InputError]) -> None:
    """See that each class has a training image that can be used.

    Raises:
        InputError: one has none.
    """
    good = set(train.without(refused).labels.tolist())
    for label, name in enumerate(classes):
        if label not in good:
            own = [path for path, of in zip(train.paths, train.labels.tolist(), strict=True) if of == label]
            if not own:
                raise InputError(f"{train.folder}: class {name!r} has no training image: add some.")
            raise InputError(
                f"{train.folder}: none of the {len(own)} training images of class {name!r} can be used; the first one: "
                f"{refused[own[0]]}"
            )


def _held_out_files(
    files: Files, names: Sequence[str], classes: int, how: Reading, generator: torch.Generator
) -> Tensor:
    """As :func:`held_out`, with all images of a group and all copies of a file on one side."""
    groups = numbered(names, same_files(files.paths))
    return held_out(files.labels, classes, how.test_share, how.test_least, generator, groups)


def held_out(
    labels: Tensor, classes: int, share: float, least: int, generator: torch.Generator, groups: Tensor | None = None
) -> Tensor:
    """Which images test, bool ``[N]``: as many of each class as of any other, but at most half of a class.

    So a class with one image has none to test, and nor has one whose images are all in one group.

    Args:
        labels: int64 ``[N]`` of all images.
        classes: how many classes there are.
        share: of the smallest class.
        least: images of a class, where that is more than the share.
        generator: draws the images.
        groups: the number of the group of each image, int64 ``[N]``, which are held out as a whole; None: no image
            belongs to another.
    """
    import torch

    counts = torch.bincount(labels, minlength=classes).tolist()
    per_class = max(least, round(min(counts) * share))
    wanted = [min(per_class, count // 2) for count in counts]
    return whole_groups(labels, wanted, torch.arange(len(labels)) if groups is None else groups, generator)


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
