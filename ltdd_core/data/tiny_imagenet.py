"""``tiny-imagenet-lt``: the folder of Tiny-ImageNet as it comes, cut to a long tail."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ltdd_core.data.folder import Reading, images_of
from ltdd_core.data.layout import class_folders, folders_of_classes
from ltdd_core.data.listfile import Faults, text_of
from ltdd_core.data.listing import Files, Listing, in_folders
from ltdd_core.data.source import DataSource, LongTailOptions, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch

FOLDER, ANNOTATIONS = "tiny-imagenet-200", "val/val_annotations.txt"


class TinyImageNet(DataSource):
    """Tiny-ImageNet (Stanford CS231n), 200 classes of 64x64 pixels, cut to a long tail: 21,549 images with IF 100.

    ROOT is the folder tiny-imagenet-200 of http://cs231n.stanford.edu/tiny-imagenet-200.zip, or the folder that it lies
    in.  The 10,000 images of its folder val test, since those of its folder test have no classes.  They are sorted by
    val/val_annotations.txt, or lie in folders of classes.  Classes are in the order of the names of their folders.
    """

    class Options(LongTailOptions):
        """IF 100 and all images of the largest class."""

        root: Path | None = option(None, "folder tiny-imagenet-200, or the folder that it lies in")
        n_max: int | None = option(500, "images of the largest class", source="LAD, public code", ge=1)
        image_size: int | None = option(64, "side of the square images", ge=4)

    @property
    def root(self) -> Path:
        """The folder with ``train`` and ``val``."""
        root = Path(self.options.root)
        return root / FOLDER if os.path.isdir(root / FOLDER / "train") else root  # noqa: PTH112

    def check(self) -> None:
        """See that the folder is there."""
        if self.options.root is None:
            raise InputError(f"data source 'tiny-imagenet-lt' needs {how_to_set('data.root')}: the folder {FOLDER}.")
        for part in ("train", "val"):
            if not os.path.isdir(self.root / part):  # noqa: PTH112 - a name that no path can have is none
                raise InputError(
                    f"{how_to_set('data.root', self.options.root)}: there is no folder {part} in it; give the folder "
                    f"{FOLDER} of {FOLDER}.zip."
                )

    def load(self, generator: torch.Generator) -> SourceImages:
        """List the files, and look at their headers."""
        self.check()
        root, others = self.root, Counter[str]()
        folders = class_folders(root / "train")
        train = in_folders(root / "train", folders, others)
        if os.path.isfile(root / ANNOTATIONS):  # noqa: PTH113
            test = _annotated(root / ANNOTATIONS, [*folders])
        else:
            there = folders_of_classes(root / "val", folders, root / "train")
            test = in_folders(root / "val", there, others, folders)
        listing = Listing(tuple(folders), train, test, None, ())
        return images_of(listing, root, generator, Reading(self.options.image_size), display=self.display)


def _annotated(file: Path, classes: Sequence[str]) -> Files:
    """The test images, each with its class: lines of a name, a class and a box, with tabs between them."""
    import torch

    numbers = {name: label for label, name in enumerate(classes)}
    folder, paths, labels, faults = file.parent / "images", list[Path](), list[int](), Faults()
    for number, line in enumerate(text_of(file).splitlines(), 1):
        name, of_class = (*line.split("\t"), "")[:2]
        if of_class in numbers:
            paths.append(folder / name)
            labels.append(numbers[of_class])
        else:
            faults.add(file, number, f"class {of_class!r} has no folder of training images")
    faults.refuse()
    return Files(folder, paths, torch.tensor(labels, dtype=torch.int64), [folder] * len(paths))
