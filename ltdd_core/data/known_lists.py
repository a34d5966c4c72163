"""Long-tailed sets of the literature that come as lists of images, one list a part, with the usual names of the lists.

``--root`` names the folder that the paths in the lists start from.  The lists lie in it, or in a folder in it that is
called as in the usual repositories; ``--train``, ``--test`` and ``--val`` name other lists.  The class counts are
those of the lists.  The images become squares of ``--image-size``, and a smaller size needs less of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ltdd_core.data.lists import ImageList
from ltdd_core.data.source import SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch

SOURCE = "Liu et al. 2019, public lists"


class KnownList(ImageList):
    """What these sets share; a subclass names the set and its lists."""

    class Options(ImageList.Options):
        """The lists as they are."""

        root: Path | None = option(None, "folder that the paths in the lists start from, and that the lists lie in")
        image_size: int | None = option(224, "side of the square images", source="the usual size", ge=4)
        validation: float | None = option(
            0.0,
            "share of the training images that become validation images, as many of each class as of any other but at "
            "most half of a class; 0: none, unless there is a list of them",
            ge=0,
            le=0.5,
        )

    name: ClassVar[str]
    """Of the data source."""
    published: ClassVar[tuple[int, int]]
    """Training images and classes of the published lists."""

    @property
    def title(self) -> str | None:
        """None, unless the user names the data: that of the data source."""
        title: str | None = self.options.title
        return title

    def check(self) -> None:
        """See that the folder and the lists are there."""
        if self.options.root is None:
            raise InputError(
                f"data source {self.name!r} needs {how_to_set('data.root')}: a folder with images and lists.{self.hint}"
            )
        super().check()

    def load(self, generator: torch.Generator) -> SourceImages:
        """The same, with a line if the lists are not the published ones."""
        images = super().load(generator)
        return replace(images, advice=(*images.advice, *self._about_counts(images)))

    def _about_counts(self, images: SourceImages) -> Iterator[str]:
        found = len(images.train.labels), len(images.class_names)
        if found != self.published:
            yield (
                f"the list has {found[0]} training images of {found[1]} classes, and the published one "
                f"{self.published[0]} of {self.published[1]}: results cannot be compared."
            )


class ImageNetLT(KnownList):
    """ImageNet-LT (Liu et al., CVPR 2019): 115,846 images of 1,000 classes, 1,280 to 5 a class.

    The images are those of ImageNet (ILSVRC 2012): https://image-net.org.  The lists ImageNet_LT_train.txt,
    ImageNet_LT_val.txt and ImageNet_LT_test.txt are in the folder data/ImageNet_LT of
    https://github.com/facebookresearch/classifier-balancing.

    ``ROOT/train/n01440764/*.JPEG`` and ``ROOT/val/n01440764/*.JPEG`` are the images.  ROOT or ROOT/ImageNet_LT has the
    lists.
    The 50,000 images of ROOT/val test; the archive of ImageNet has them in one folder, and they have to be sorted into
    folders of classes.  All parts need 28 GB of memory in the size 224, and 2.3 GB with --image-size 64.
    """

    class Options(KnownList.Options):
        """The names that the lists have."""

        train: Path | None = option(Path("ImageNet_LT_train.txt"), "list of the training images", source=SOURCE)
        test: Path | None = option(Path("ImageNet_LT_test.txt"), "list of the test images", source=SOURCE)
        val: Path | None = option(Path("ImageNet_LT_val.txt"), "list of the validation images", source=SOURCE)

    name = "imagenet-lt"
    hint = " 'ltdd describe data imagenet-lt' says what it needs."
    places = ("", "ImageNet_LT", "data_txt", "data_txt/ImageNet_LT")
    published = (115_846, 1000)


class PlacesLT(KnownList):
    """Places-LT (Liu et al., CVPR 2019): 62,500 images of 365 classes, 4,980 to 5 a class.

    The images are those of Places365, in the size 256x256 with folders of classes (places365standard_easyformat.tar):
    http://places2.csail.mit.edu/download.html.  The lists Places_LT_train.txt, Places_LT_val.txt and Places_LT_test.txt
    are in the folder data/Places_LT of https://github.com/facebookresearch/classifier-balancing.

    ``ROOT/train/airfield/*.jpg`` and ``ROOT/val/airfield/*.jpg`` are the images.  ROOT or ROOT/Places_LT has the lists.
    Lists from elsewhere may have ``data_256/a/airfield/*.jpg``: their first lines show which folders they expect.  All
    parts need 16 GB of memory in the size 224, and 1.3 GB with --image-size 64.
    """

    class Options(KnownList.Options):
        """The names that the lists have."""

        train: Path | None = option(Path("Places_LT_train.txt"), "list of the training images", source=SOURCE)
        test: Path | None = option(Path("Places_LT_test.txt"), "list of the test images", source=SOURCE)
        val: Path | None = option(Path("Places_LT_val.txt"), "list of the validation images", source=SOURCE)

    name = "places-lt"
    hint = " 'ltdd describe data places-lt' says what it needs."
    places = ("", "Places_LT", "Places_LT_v2", "data_txt", "data_txt/Places_LT", "data_txt/Places_LT_v2")
    published = (62_500, 365)


class INaturalist2018(KnownList):
    """iNaturalist 2018 (Van Horn et al., CVPR 2018): 437,513 images of 8,142 classes, 1,000 to 2 a class.

    The images are those of https://github.com/visipedia/inat_comp/tree/master/2018.  The lists iNaturalist18_train.txt
    and iNaturalist18_val.txt are in the folder data/iNaturalist18 of
    https://github.com/facebookresearch/classifier-balancing.

    ``ROOT/train_val2018/Plantae/7477/*.jpg`` are the images.  ROOT or ROOT/iNaturalist18 has the lists.  The 24,426
    validation images test, as in the literature: the classes of the test images are not published.  Both parts need
    70 GB of memory in the size 224, and 5.7 GB with --image-size 64.
    """

    class Options(KnownList.Options):
        """The names that the lists have."""

        train: Path | None = option(Path("iNaturalist18_train.txt"), "list of the training images", source=SOURCE)
        test: Path | None = option(
            Path("iNaturalist18_val.txt"), "list of the test images, which are those to validate with", source=SOURCE
        )

    name = "inat2018"
    hint = " 'ltdd describe data inat2018' says what it needs."
    places = ("", "iNaturalist18", "data_txt", "data_txt/iNaturalist18")
    published = (437_513, 8142)
