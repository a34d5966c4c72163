"""``npz``: one NumPy archive in MedMNIST's layout.

It holds ``train_images``, ``train_labels``, and perhaps ``test_images`` and ``test_labels``, ``val_images`` and
``val_labels``; further arrays are left alone.  Where there is no test part, one is held out.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ltdd_core.data.colours import Range, as_8_bits
from ltdd_core.data.folder import OwnDataOptions, held_out, name_of_place, range_of
from ltdd_core.data.imagefile import SMALLEST_SIDE
from ltdd_core.data.source import ArrayTable, DataSource, SourceImages
from ltdd_core.errors import InputError, how_to_set, reason_of
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch

DAMAGE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What zipfile and numpy raise for a damaged member, one that holds Python objects, and an encrypted one."""
MOST_PACKED = 1100
"""Bytes that deflate can make of one; it is 1032 in theory."""


class Npz(DataSource):
    """Images ``[N, H, W]`` or ``[N, H, W, C]``, labels ``[N]`` or ``[N, 1]`` from 0."""

    class Options(OwnDataOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, ".npz file with the images")
        imbalance: float | Literal["natural"] = option(
            "natural", "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
        )
        channels: int | None = option(
            None, "channels of the images, the last axis of the arrays, where they are neither 1 nor 3", ge=1, le=1024
        )

    @property
    def title(self) -> str | None:
        """The name of the file without its ending, unless the user names the data."""
        return self.options.title or (self.options.root and name_of_place(self.options.root)) or None

    def check(self) -> None:
        """See that the file is an archive."""
        if self.options.root is None:
            raise InputError(f"data source 'npz' needs {how_to_set('data.root')}: a .npz file in MedMNIST's layout.")
        with _opened(self.options.root):
            pass

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read the arrays; nothing in the file is ever executed."""
        import torch

        self.check()
        path = self.options.root
        kind = Kind(self.options.channels, range_of(self.options))
        train, test, validation = _load_tables(path, kind)
        if test is None:
            train, test = self._parted(train, generator)
        for part, table in (("test", test), ("validation", validation)):
            if table is not None and train.images.shape[1:] != table.images.shape[1:]:
                shapes = [list(images.shape[1:]) for images in (train.images, table.images)]
                raise InputError(f"{path}: training and {part} images differ in shape: {shapes[0]} and {shapes[1]}.")
        classes = _classes(train, test)
        present = torch.unique(train.labels)
        if len(present) < classes:
            missing = next(label for label in range(classes) if label not in present)
            raise InputError(
                f"{path}: train_labels have no {missing}: labels run from 0 to {classes - 1}, "
                "and every class needs an image to train."
            )
        names = tuple(str(label) for label in range(classes))
        return SourceImages(train, test, names, validation, values=kind.values)

    def _parted(self, table: ArrayTable, generator: torch.Generator) -> tuple[ArrayTable, ArrayTable]:
        """Training and test images, of images that come without a test part."""
        options = self.options
        test = held_out(table.labels, _classes(table), options.test_share, options.test_least, generator)
        if not test.any():
            raise InputError(f"{options.root}: every class has one image only, so there is none to test: add some.")
        return ArrayTable(table.images[~test], table.labels[~test]), ArrayTable(table.images[test], table.labels[test])


def _load_tables(path: Path, kind: Kind) -> tuple[ArrayTable, ArrayTable | None, ArrayTable | None]:
    with _opened(path) as archive:
        train, test, validation = _table(path, archive, "train", kind), None, None
        if "test_images" in archive or "test_labels" in archive:
            test = _table(path, archive, "test", kind)
        if "val_images" in archive and "val_labels" in archive:
            validation = _table(path, archive, "val", kind, _classes(train, test))
        return train, test, validation


def _classes(*tables: ArrayTable | None) -> int:
    return max(int(table.labels.max()) for table in tables if table is not None) + 1


@dataclass(frozen=True)
class Kind:
    """What a user says of the arrays of images."""

    channels: int | None
    values: Range | None

    def check(self, path: Path, name: str, images: np.ndarray) -> None:
        """See that an array is as it should be, so that no other axis is taken for channels, and all is not white.

        Raises:
            InputError: it is not.
        """
        own = 1 if images.ndim == 3 else images.shape[3]
        if self.channels is None and own not in (1, 3):
            raise InputError(
                f"{path}: {name} are {list(images.shape)}, not [N, H, W] or [N, H, W, 3]: if the last axis is that of "
                f"the channels, set {how_to_set('data.channels', own)}."
            )
        if self.channels is not None and own != self.channels:
            raise InputError(
                f"{path}: {name} are {list(images.shape)}, which is {own} channel(s) and not "
                f"{how_to_set('data.channels', self.channels)}."
            )
        if self.values is not None and images.dtype != np.uint8 and images.size:
            beyond = (images < min(self.values)) | (images > max(self.values))
            if beyond.mean() > 0.5:
                raise InputError(
                    f"{path}: most values of {name} lie beyond {how_to_set('data.range', list(self.values))}: they "
                    f"run from {images.min():g} to {images.max():g}."
                )


def load_images(path: Path, name: str) -> np.ndarray:
    """An array of images in an archive: numbers ``[N, H, W]`` or ``[N, H, W, C]``.

    Raises:
        InputError: the archive is damaged, or the array is missing or of another kind.
    """
    with _opened(path) as archive:
        return _images(path, archive, name)


def _images(path: Path, archive: Any, name: str, kind: Kind | None = None) -> np.ndarray:
    images = _array(path, archive, name)
    if images.dtype.kind not in "uif" or images.ndim not in (3, 4):
        raise InputError(
            f"{path}: {name} are {images.dtype} {list(images.shape)}, not numbers [N, H, W] or [N, H, W, C]."
        )
    if kind is not None:
        kind.check(path, name, images)
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        raise InputError(
            f"{path}: {name} have {images.shape[2]}x{images.shape[1]} pixels; "
            f"images need at least {SMALLEST_SIDE} a side."
        )
    return images


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open archive; whatever is wrong with it is said in one line."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{how_to_set('root', path)}: this is a pipe or a device; give the .npz file.")
        with path.open("rb") as file:
            # np.load would take a single array or a pickle as well.
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: this is not a .npz archive: write it with numpy.savez.")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except FileNotFoundError as error:
        raise InputError(f"{how_to_set('root', path)}: there is no such file.") from error
    except IsADirectoryError as error:
        raise InputError(
            f"{how_to_set('root', path)}: this is a folder; give the .npz file, or use data source 'folder'."
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: its arrays do not fit into memory.") from error
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as an archive of plain arrays ({reason_of(error)}).") from error


def _table(path: Path, archive: Any, part: str, kind: Kind, classes: int | None = None) -> ArrayTable:
    import torch

    name = f"{part}_images"
    images, labels = _images(path, archive, name, kind), _array(path, archive, f"{part}_labels")
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise InputError(f"{path}: {part}_labels have {labels.shape[1]} columns; one label an image is needed.")
    labels = labels.reshape(-1)
    if not len(images) or len(labels) != len(images):
        raise InputError(f"{path}: {len(images)} {part}_images but {len(labels)} {part}_labels; one label an image.")
    # A label past the number of images leaves some class below it empty, and might be a huge one.
    most = len(labels) if classes is None else classes
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= most:
        raise InputError(f"{path}: {part}_labels must be whole numbers from 0 to the number of classes - 1.")
    try:
        images = as_8_bits(images, kind.values)
    except InputError as error:
        how = how_to_set("data.range", "[BLACK,WHITE]")
        raise InputError(f"{path}: {name}: {error}: put it right, or set {how}.") from error
    pixels = torch.from_numpy(images).reshape(len(images), images.shape[1], images.shape[2], -1)
    return ArrayTable(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64)))


def _array(path: Path, archive: Any, name: str) -> np.ndarray:
    if name not in archive:
        raise InputError(f"{path}: array {name!r} is missing; it has {', '.join(sorted(archive)) or 'none'}.")
    _check_size(path, archive.zip, name)
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of whatever else is in the archive
        raise InputError(f"{path}: {name!r} is not a NumPy array: write the archive with numpy.savez.")
    return array


def _check_size(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an array whose header claims more than there is, before numpy makes room for it."""
    member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    with archive.open(member) as file:
        readers = {b"\1\0": np.lib.format.read_array_header_1_0, b"\2\0": np.lib.format.read_array_header_2_0}
        start = file.read(len(np.lib.format.MAGIC_PREFIX) + 2)
        reader = readers.get(start[-2:])
        if not start.startswith(np.lib.format.MAGIC_PREFIX) or reader is None:
            return  # no array that is taken here, which the caller says
        shape, _, dtype = reader(file)
    claimed, packed = math.prod(shape) * dtype.itemsize, min(member.compress_size, path.stat().st_size)
    if claimed > member.file_size or member.file_size > MOST_PACKED * (packed + 1):
        raise InputError(f"{path}: {name!r} claims {claimed} bytes, which the file cannot hold: it is damaged.")
