"""CIFAR, SVHN and Fashion-MNIST through torchvision, or as plain image folders."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ltdd_core.data.folder import Reading, load_folder
from ltdd_core.data.layout import parts_of
from ltdd_core.data.source import ArrayTable, DataSource, LongTailOptions, SourceImages, SourceSizes
from ltdd_core.data.strong_training import STRONG_TRAINING
from ltdd_core.errors import InputError, how_to_set, reason_of
from ltdd_core.options import option

if TYPE_CHECKING:  # the name of a run's data is said before torch is imported
    import torch

SILENCE = 30.0
"""Seconds without an answer after which a download is given up."""
MISSING_OR_DAMAGED = (RuntimeError, OSError, EOFError, ValueError, KeyError, AssertionError, pickle.UnpicklingError)
"""What torchvision raises where a file is not there, or is not what its name says."""


class VisionSource(DataSource):
    """What the data sources of torchvision share; a subclass names the data set."""

    class Options(LongTailOptions):
        """IF 100, as most of the literature reports."""

        root: Path | None = option(
            None, "folder of the files, or of train/ and test/ folders of images; unless given, the user's cache folder"
        )
        image_size: int | None = option(None, "side of the images where root is an image folder", ge=4)

    dataset: ClassVar[str]
    """The class in ``torchvision.datasets``."""
    files: ClassVar[str]
    """What to put under root on a machine without network."""
    split_argument: ClassVar[Literal["train", "split"]] = "train"
    published: ClassVar[SourceSizes]
    """What the files have."""

    def sizes(self) -> SourceSizes | None:
        """As published; nothing where root is an image folder."""
        root = self.options.root
        is_folder = root is not None and root.is_dir() and parts_of(root) is not None
        return None if is_folder else self.published

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read what is under root; download it first where there is a network."""
        root = self.options.root
        if root is not None and parts_of(root) is not None:
            return load_folder(root, generator, Reading(self.options.image_size))
        root = root or _cache_folder()
        train, test = self._open(root, train=True), self._open(root, train=False)
        names = getattr(train, "classes", None) or [str(label) for label in range(10)]
        return SourceImages(_table(root, train), _table(root, test), tuple(names))

    def _open(self, root: Path, *, train: bool) -> Any:
        import torchvision

        part: Any = train if self.split_argument == "train" else ("train" if train else "test")
        make = partial(getattr(torchvision.datasets, self.dataset), root=str(root), **{self.split_argument: part})
        with contextlib.suppress(*MISSING_OR_DAMAGED):
            return make(download=False)
        try:
            with _download_into(root, root / self.dataset / "raw"):
                with contextlib.suppress(*MISSING_OR_DAMAGED):
                    return make(download=False)  # another process may have been faster
                return make(download=True)  # checks what is there, and gets the rest
        except (*MISSING_OR_DAMAGED, HTTPException) as error:
            reason = reason_of(error)
            raise InputError(
                f"{self.dataset} under {root} is missing or damaged, and cannot be downloaded ({reason}). "
                f"Put {self.files} there, or give {how_to_set('data.root')} a folder with train/ and test/, one "
                "folder of images a class."
            ) from error


class Cifar10(VisionSource):
    """CIFAR-10 (Krizhevsky, 2009) cut to a long tail: 12,406 images with IF 100, as in the literature."""

    class Options(VisionSource.Options):
        """IF 100 and all images of the largest class."""

        n_max: int | None = option(5000, "images of the largest class", source="Cui et al. 2019", ge=1)

    dataset = "CIFAR10"
    files = "the folder cifar-10-batches-py of cifar-10-python.tar.gz"
    published = SourceSizes((5000,) * 10, (3, 32, 32), 10000)
    # More images want fewer epochs and less decay.
    suggested: ClassVar[Mapping[str, Any]] = {
        "training": {"original": {**STRONG_TRAINING, "epochs": 60, "weight_decay": 0.001}}
    }


class Cifar10Thousand(Cifar10):
    """CIFAR-10 with n_max 1000: the 2,478 images of the two-stage paper.  Not comparable with n_max 5000."""

    class Options(Cifar10.Options):
        """As in Zheng et al., ICMSSP 2024."""

        n_max: int | None = option(1000, "images of the largest class", source="Zheng et al. 2024", ge=1)

    # So few images are learnt by heart unless they are mixed and weights decay fast: docs/results/hundred-images.md.
    suggested: ClassVar[Mapping[str, Any]] = {"training": {"original": STRONG_TRAINING}}


class Cifar100(VisionSource):
    """CIFAR-100 (Krizhevsky, 2009) cut to a long tail."""

    class Options(VisionSource.Options):
        """IF 100 and all images of the largest class."""

        n_max: int | None = option(500, "images of the largest class", source="Cui et al. 2019", ge=1)

    dataset = "CIFAR100"
    files = "the folder cifar-100-python of cifar-100-python.tar.gz"
    published = SourceSizes((500,) * 100, (3, 32, 32), 10000)


class Svhn(VisionSource):
    """Street View House Numbers (Netzer et al., 2011) cut to a long tail."""

    dataset = "SVHN"
    files = "train_32x32.mat and test_32x32.mat"
    published = SourceSizes((4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659), (3, 32, 32), 26032)
    split_argument = "split"
    # A digit is not the same digit mirrored.
    suggested: ClassVar[Mapping[str, Any]] = {"augment": "color_crop_cutout_scale_rotate"}


class FashionMnist(VisionSource):
    """Fashion-MNIST (Xiao et al., 2017) cut to a long tail."""

    dataset = "FashionMNIST"
    files = "FashionMNIST/raw with the four idx files"
    published = SourceSizes((6000,) * 10, (1, 28, 28), 10000)


def _cache_folder() -> Path:
    """The user's cache folder.

    Raises:
        InputError: the user has no home.
    """
    from ltdd_core.storage import cache_folder

    folder = cache_folder()
    if folder is None:
        raise InputError(f"this user has no home folder for the data: name a folder with {how_to_set('data.root')}.")
    return folder


@contextlib.contextmanager
def _download_into(root: Path, raw: Path) -> Iterator[None]:
    """Nothing on stdout, no endless wait, and no empty folders where the download fails."""
    from ltdd_core.locking import locked

    new, lock = [folder for folder in (raw, *raw.parents) if not folder.exists()], root / ".download.lock"
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision sets none: a firewall that drops packets would hang it
    try:
        root.mkdir(parents=True, exist_ok=True)
        # torchvision writes to the final name, so two downloads at once would damage each other.
        with locked(lock, wait=True), contextlib.redirect_stdout(io.StringIO()):
            yield
    except BaseException:
        lock.unlink(missing_ok=True)
        for folder in new:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise
    finally:
        socket.setdefaulttimeout(timeout)


def _table(root: Path, dataset: Any) -> ArrayTable:
    """Torchvision keeps HWC or HW arrays and SVHN CHW; ours are CHW."""
    import torch

    pixels = torch.as_tensor(np.asarray(dataset.data))
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels)).long()
    if len(labels) != len(pixels):
        raise InputError(f"{root}: {len(pixels)} images but {len(labels)} labels: replace the damaged files.")
    return ArrayTable(pixels.contiguous(), labels)
