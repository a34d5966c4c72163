"""The interface of data sources, and the tables in which a data source hands its images over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ltdd_core.options import BaseOptions, Component, option

if TYPE_CHECKING:  # a data source can refuse what is not there before torch is imported
    import torch
    from torch import Tensor

    from ltdd_core.progress import Display

Order = Literal["native", "reversed", "random"]
"""Of the classes, from head to tail."""
Profile = Literal["exp", "step"]
"""How the class counts of a cut fall from head to tail."""
Subset = Literal["own", "ldam", "lad"]
"""Whose draw of the images of each class a cut keeps."""


@dataclass(frozen=True)
class SourceImages:
    """All images of a data source, before the cut to a long tail.

    All tables give uint8 ``[n, C, H, W]`` of one size and int64 labels.  Every class has an image to train; some may
    have none to test.
    """

    train: ImageTable
    """The images that the cut to a long tail chooses from."""
    test: ImageTable
    """The test images, none of which is cut away."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""
    validation: ImageTable | None = None
    """The validation images, none of which is cut away, if the data come with some; a class may be missing."""
    resized: str = ""
    """What was done to the sizes of the images, ``48x48 to 200x120 -> 32x32``; empty where nothing was."""
    advice: tuple[str, ...] = ()
    """What a user should know of these images before a run, a sentence each."""
    groups: Tensor | None = None
    """The number of the group of each training image, int64 ``[N]``, where no group may both train and validate."""
    values: tuple[float, float] | None = None
    """Which values became black and white, where a user has said that of images of more than 8 bits."""
    left_out: tuple[str, ...] = ()
    """The files that cannot be used, each with the reason, where a user wants them left out."""


@dataclass(frozen=True)
class SourceSizes:
    """How much a data source has, before the cut to a long tail."""

    counts: tuple[int, ...]
    """Training images of each class."""
    image_shape: tuple[int, int, int]
    """``(C, H, W)``."""
    tests: int
    """How many test images there are."""


class DataSource(Component, ABC):
    """Labelled images from somewhere; the core cuts the training part to a long tail.

    Its ``Options`` extend :class:`ltdd_core.LongTailOptions`, which say how.
    """

    suggested: ClassVar[Mapping[str, Any]] = {}
    """Configuration that suits this data source, below presets: ``{"iterations": 300}``."""

    display: Display | None = None
    """Told how far a slow ``load`` is; None: nobody looks."""

    @property
    def title(self) -> str | None:
        """What tables and run folders call these data; None: the name of the data source."""
        title: str | None = self.options.title
        return title

    def check(self) -> None:
        """Refuse at once what can be seen to be missing; nothing is read.

        A command calls it before it does anything else, so a module that defers its ``import torch`` answers at once.

        Raises:
            InputError: the images are not where the options say.
        """

    def sizes(self) -> SourceSizes | None:
        """What everybody knows of the images, for a plan of a run where they are not there; nothing is read.

        None, unless it is overridden: then a plan looks at the images.
        """
        return None

    @abstractmethod
    def load(self, generator: torch.Generator) -> SourceImages:
        """Find the images, the same each time; what is random comes from ``generator`` alone.

        Decoding them can wait until the cut is made (:class:`ImageTable`).

        Args:
            generator: on the CPU; its seed is that of the cut, ``data.seed``.

        Raises:
            InputError: they are not where the options say, or cannot be used.
        """


class ImageTable(ABC):
    """Labelled images that are decoded when they are asked for."""

    labels: Tensor
    """The class of each image, int64 ``[N]``, from 0 to ``classes - 1``, on the CPU."""

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """The images of some indices, uint8 ``[n, C, H, W]`` on the CPU.

        Args:
            indices: int64 ``[n]``, from 0 to ``N - 1``, in any order.

        Raises:
            InputError: an image cannot be used; the message names its file.
        """

    def name(self, index: int) -> str | None:
        """What a user calls the image of an index, such as the path of its file; None: it has no name.

        Args:
            index: from 0 to ``N - 1``.
        """
        return None

    def digest(self) -> str | None:
        """A digest of all images as the source has them, before any change of size, and of their labels.

        None where that cannot be told.  Runs with the same digest of test images were scored on the same images,
        whatever size they were made.
        """
        return None

    def kept_as(self, indices: Tensor) -> str | None:
        """A digest under which what :meth:`read` makes of some images is kept on the disk, to be decoded once.

        It is found without decoding, and changes whenever one of the images does.  None: they are decoded each time.

        Args:
            indices: int64 ``[n]``, from 0 to ``N - 1``, in any order.
        """
        return None


@dataclass(frozen=True)
class ArrayTable(ImageTable):
    """Images that are in memory already."""

    images: Tensor
    """uint8 ``[N, C, H, W]`` on the CPU."""
    labels: Tensor
    """The class of each image, int64 ``[N]``, on the CPU."""

    def read(self, indices: Tensor) -> Tensor:
        """The rows asked for."""
        return self.images[indices]

    def digest(self) -> str | None:
        """Of the pixels, which are all that there is."""
        from ltdd_core.storage import digest_of

        return digest_of({"images": self.images, "labels": self.labels})


class LongTailOptions(BaseOptions):
    """What every data source lets a user choose about the long tail, and what the data are called."""

    title: str | None = option(
        None,
        "name of the data in tables, reports and names of run folders; unless given, that of the folder or file of the "
        "user's own images, else that of the data source",
        min_length=1,
        max_length=100,
    )
    imbalance: float | Literal["natural"] = option(
        100.0, "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
    )
    n_max: int | None = option(
        None,
        "images of the largest class; unless given, as many as the smallest has before the cut, or all if imbalance is "
        "natural",
        ge=1,
    )
    order: Order = option(
        "native",
        "order of the classes from head to tail: native, reversed or random; unused if imbalance is natural",
    )
    profile: Profile = option(
        "exp",
        "profile of the class counts from head to tail: exp, which falls exponentially; step, where the first half of "
        "the classes has n_max images each and the other half n_max / IF; unused if imbalance is natural",
        source="Cui et al. 2019; step: Cao et al. 2019",
    )
    subset: Subset = option(
        "own",
        "choice of the images of a class that stay: own, drawn with data.seed; ldam and lad, those of the public code "
        "of LDAM-DRW and of LAD, which are the published subsets where the source has its images in the order of "
        "CIFAR's own files",
        source="LDAM-DRW and LAD, public code",
    )
    validation: float | None = option(
        0.0,
        "share of the long-tailed training images that become validation images, as many of each class as of any other "
        "but at most half of a class; 0: none, unless the data come with some; null: a tenth of the smallest class, of "
        "each class, if that makes 20 images in all",
        ge=0,
        le=0.5,
    )
    seed: int = option(0, "seed of the cut to the long tail, the same for every --seed of a run", ge=0)
    normalisation: Literal["per-channel", "zca"] = option(
        "per-channel",
        "normalisation of the images: mean and deviation of each channel, or ZCA whitening over all pixels",
    )
    zca_eps: float = option(0.1, "number that ZCA adds to the variances", source="MTT, public code", gt=0)
    mean: tuple[float, ...] | None = option(None, "channel means in [0, 1]; unless given, those of the training images")
    std: tuple[float, ...] | None = option(None, "channel deviations; unless given, those of the training images")
