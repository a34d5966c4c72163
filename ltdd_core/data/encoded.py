"""Images that are encoded as in files, PNG or JPEG say, but lie elsewhere: in a table, a database, an archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltdd_core.data.folder import FileOptions, Reading, images_of
from ltdd_core.data.image_groups import ALONE, Groups
from ltdd_core.data.imagefile import EncodedImage
from ltdd_core.data.listing import Files, Listing
from ltdd_core.data.source import SourceImages
from ltdd_core.progress import Display

if TYPE_CHECKING:
    import torch
    from torch import Tensor


A_TEST_PART = "a test part"
"""What a user makes where there is none."""


@dataclass(frozen=True)
class EncodedImages:
    """The images of a part, training say, each as the bytes of a file."""

    labels: Tensor
    """The class of each image, int64 ``[N]``, from 0 to ``classes - 1``, on the CPU."""
    encoded: Callable[[int], bytes]
    """The image of an index, 0 to ``N - 1``, as PNG, JPEG or another usual format."""
    name: Callable[[int], str]
    """What messages call the image of an index."""
    groups: Sequence[str] | None = None
    """The name of what each image belongs to, such as its patient; None: each stands alone."""

    def image(self, index: int) -> EncodedImage:
        """The image of an index, which is not read yet."""
        return EncodedImage(self.name(index), lambda: self.encoded(index))


def encoded_images(
    class_names: Sequence[str],
    train: EncodedImages,
    test: EncodedImages | None,
    validation: EncodedImages | None,
    options: FileOptions,
    generator: torch.Generator,
    *,
    advice: Sequence[str] = (),
    display: Display | None = None,
) -> SourceImages:
    """What a data source gives whose images are encoded: decoded as the files of a folder are, when they are asked for.

    Args:
        class_names: the name of each class, in the order of the labels.
        train: the training images; where they have groups, none of these is both among the images that train and among
            the test and validation images that are held out.
        test: the test images; None: as many of the training images of each class as ``options`` say are held out, all
            copies of an image or none.
        validation: the validation images, if there are some.
        options: of the data source.
        generator: that of :meth:`ltdd_core.DataSource.load`, which draws what is held out.
        advice: what a user should know of the images, a sentence each.
        display: that of the data source, told how many images are decoded where bad ones are left out.

    Raises:
        InputError: an image cannot be used, a class has no training image, or none can be held out.
    """
    listing = Listing(
        tuple(class_names),
        _files("training", train),
        None if test is None else _files("test", test),
        None if validation is None else _files("validation", validation),
        tuple(advice),
        A_TEST_PART,
    )
    how, root = Reading.of(options), Path("the images")
    return images_of(listing, root, generator, how, group=_groups(listing, train, test), display=display)


def _groups(listing: Listing, train: EncodedImages, test: EncodedImages | None) -> Groups:
    """The group of each image that trains or tests."""
    if train.groups is None:
        return ALONE
    found = dict(zip(listing.train.paths, train.groups, strict=True))
    if test is not None and listing.test is not None:
        paths = listing.test.paths
        found |= zip(paths, map(str, paths) if test.groups is None else test.groups, strict=True)
    return found


def _files(what: str, part: EncodedImages) -> Files:
    images = [part.image(index) for index in range(len(part.labels))]
    return Files(Path(f"the {what} images"), images, part.labels, [Path()] * len(images))
