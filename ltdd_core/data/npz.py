"""The archive holds ``train_images``, ``train_labels``, and perhaps arrays of a test and a validation part.

Those are ``test_images`` and ``test_labels``, ``val_images`` and ``val_labels``; further arrays are left alone.  Where
there is no test part, the validation part tests; where there is none either, some images are held out.  Images that get
another size are read a few at a time, so that they need not fit into memory as they are.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ltdd_core.data.colours import Range, as_8_bits
from ltdd_core.data.files import no_such
from ltdd_core.data.folder import OwnDataOptions, held_out, name_of_place, none_to_test, range_of
from ltdd_core.data.imagefile import SMALLEST_SIDE, fitted
from ltdd_core.data.medmnist import check_is_for_classes, class_names
from ltdd_core.data.source import ArrayTable, DataSource, SourceImages
from ltdd_core.errors import InputError, how_to_set, is_out_of_memory, reason_of
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DAMAGE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What zipfile and numpy raise for a damaged member, one that holds Python objects, and an encrypted one."""
MOST_PACKED = 1100
"""Bytes that deflate can make of one; it is 1032 in theory."""
AT_ONCE = 256
"""Images that are in memory in the size that they have in the file, where they get another one."""


@dataclass(frozen=True)
class NpzTable(ArrayTable):
    """Images of an archive."""

    shape: tuple[int, ...]
    """``(C, H, W)`` in the file."""
    in_file: str | None
    """The digest of the images as they are in the file where they get another size; None: nobody knows."""

    def digest(self) -> str | None:
        """Of the images as they are in the file."""
        return super().digest() if tuple(self.images.shape[1:]) == self.shape else self.in_file


class Npz(DataSource):
    """An archive of NumPy as MedMNIST has them: images [N, H, W] or [N, H, W, C], labels from 0."""

    class Options(OwnDataOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, ".npz file with the images")
        channels: int | None = option(
            None, "channels of the images, the last axis of the arrays, where they are neither 1 nor 3", ge=1, le=1024
        )
        image_size: int | None = option(
            None, "side of the square images; unless given, the images stay as they are", ge=4
        )

    @property
    def title(self) -> str | None:
        """The name of the file without its ending, unless the user names the data."""
        return self.options.title or (self.options.root and name_of_place(self.options.root)) or None

    def check(self) -> None:
        """See that the file is an archive."""
        if self.options.root is None:
            raise InputError(f"data source 'npz' needs {how_to_set('data.root')}: a .npz file in MedMNIST's layout.")
        check_is_for_classes(self.options.root)
        with _opened(self.options.root):
            pass

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read the arrays; nothing in the file is ever executed."""
        import torch

        self.check()
        path = self.options.root
        kind = Kind(self.options.channels, range_of(self.options), self.options.image_size)
        train, test, validation, notes = _load_tables(path, kind)
        for part, table in (("test", test), ("validation", validation)):
            if table is not None and train.shape != table.shape:
                shapes = [list(train.shape), list(table.shape)]
                raise InputError(f"{path}: training and {part} images differ in shape: {shapes[0]} and {shapes[1]}.")
        if test is None:
            train, test = self._parted(train, generator)
        classes = _classes(train, test)
        present = torch.unique(train.labels)
        if len(present) < classes:
            missing = next(label for label in range(classes) if label not in present)
            raise InputError(
                f"{path}: train_labels have no {missing}: labels run from 0 to {classes - 1}, "
                "and every class needs an image to train."
            )
        names = class_names(path, classes)
        return SourceImages(train, test, names, validation, _resized(train), notes, values=kind.values)

    def _parted(self, table: NpzTable, generator: torch.Generator) -> tuple[NpzTable, NpzTable]:
        """Training and test images, of images that come without a test part."""
        options = self.options
        test = held_out(table.labels, _classes(table), options.test_share, options.test_least, generator)
        if not test.any():
            raise none_to_test(options.root, "test_images")
        return _only(table, ~test), _only(table, test)


def _load_tables(path: Path, kind: Kind) -> tuple[NpzTable, NpzTable | None, NpzTable | None, tuple[str, ...]]:
    """The training, test and validation images, and what a user should know of them, a sentence each."""
    with _opened(path) as archive:
        train, test, validation = _table(path, archive, "train", kind), None, None
        has_test = "test_images" in archive or "test_labels" in archive
        has_validation = "val_images" in archive and "val_labels" in archive
        if has_validation and not has_test:
            notes = ("val_images are the test part, since there are no test_images.",)
            return train, _table(path, archive, "val", kind), None, notes
        if has_test:
            test = _table(path, archive, "test", kind)
        if has_validation:
            validation = _table(path, archive, "val", kind, _classes(train, test))
        return train, test, validation, ()


def _only(table: NpzTable, chosen: Tensor) -> NpzTable:
    return NpzTable(table.images[chosen], table.labels[chosen], table.shape, None)


def _resized(table: NpzTable) -> str:
    """What becomes of the images, ``28x28 -> 32x32``; empty where they stay as they are."""
    before, after = table.shape[1:], table.images.shape[2:]
    return "" if before == tuple(after) else f"{before[1]}x{before[0]} -> {after[1]}x{after[0]}"


def _classes(*tables: ArrayTable | None) -> int:
    return max(int(table.labels.max()) for table in tables if table is not None) + 1


@dataclass(frozen=True)
class Kind:
    """What a user says of the arrays of images, and what becomes of them."""

    channels: int | None
    values: Range | None
    side: int | None
    """Of the square images; None: they stay as they are."""

    def check(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        """See that the last axis of an array is that of the channels.

        Raises:
            InputError: it may be another one, or has another number of channels.
        """
        own = 1 if len(shape) == 3 else shape[3]
        if self.channels is None and own not in (1, 3):
            raise InputError(
                f"{path}: {name} are {list(shape)}, not [N, H, W] or [N, H, W, 3]: if the last axis is that of "
                f"the channels, say so with {how_to_set('data.channels', own)}."
            )
        if self.channels is not None and own != self.channels:
            raise InputError(
                f"{path}: {name} are {list(shape)}, which is {own} channel(s) and not "
                f"{how_to_set('data.channels', self.channels)}."
            )

    def in_8_bits(self, path: Path, name: str, images: np.ndarray) -> np.ndarray:
        """Images as uint8.

        Raises:
            InputError: nobody has said which values are black and white, or most of them lie beyond those.
        """
        if self.values is not None and images.dtype != np.uint8 and images.size:
            beyond = (images < min(self.values)) | (images > max(self.values))
            if beyond.mean() > 0.5:
                raise InputError(
                    f"{path}: most values of {name} lie beyond {how_to_set('data.range', list(self.values))}: they "
                    f"run from {images.min():g} to {images.max():g}."
                )
        try:
            return as_8_bits(images, self.values)
        except InputError as error:
            how = "" if self.values else f", or say it with {how_to_set('data.range', '[BLACK,WHITE]')}"
            raise InputError(f"{path}: {name}: {error}: put it right{how}.") from error


def load_images(path: Path, name: str) -> np.ndarray:
    """An array of images in an archive: numbers ``[N, H, W]`` or ``[N, H, W, C]``.

    Raises:
        InputError: the archive is damaged, or the array is missing or of another kind.
    """
    with _opened(path) as archive:
        return _images(path, archive, name)


def _images(path: Path, archive: Any, name: str, kind: Kind | None = None) -> np.ndarray:
    images = _array(path, archive, name)
    _check_images(path, name, images.dtype, images.shape, kind)
    return images


def _check_images(path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], kind: Kind | None) -> None:
    if dtype.kind not in "uif" or len(shape) not in (3, 4):
        raise InputError(f"{path}: {name} are {dtype} {list(shape)}, not numbers [N, H, W] or [N, H, W, C].")
    if kind is not None:
        kind.check(path, name, shape)
    if min(shape[1:3]) < SMALLEST_SIDE:
        raise InputError(
            f"{path}: {name} have {shape[2]}x{shape[1]} pixels; images need at least {SMALLEST_SIDE} a side."
        )


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
        raise no_such("file", path) from error
    except IsADirectoryError as error:
        raise InputError(
            f"{how_to_set('root', path)}: this is a folder; give the .npz file, or use data source 'folder'."
        ) from error
    except MemoryError as error:
        raise InputError(_too_large(path)) from error
    except DAMAGE as error:
        if is_out_of_memory(error):
            raise InputError(_too_large(path)) from error
        raise InputError(f"{path}: cannot be read as an archive of plain arrays ({reason_of(error)}).") from error


def _too_large(path: Path) -> str:
    return f"{path}: its arrays do not fit into memory: try {how_to_set('data.image_size', 'N')} with a smaller N."


def _table(path: Path, archive: Any, part: str, kind: Kind, classes: int | None = None) -> NpzTable:
    """The images of a part; ``classes`` is how many there are, where that is known."""
    name = f"{part}_images"
    if kind.side is not None:
        shape, chunks = _streamed(path, archive, name, kind)
        labels = _labels(path, archive, part, shape[0], classes)
        return _scaled(shape, (kind.in_8_bits(path, name, chunk) for chunk in chunks), labels, kind.side)
    images = _images(path, archive, name, kind)
    labels = _labels(path, archive, part, len(images), classes)
    pixels = _channels_first(kind.in_8_bits(path, name, images))
    return NpzTable(pixels, labels, tuple(pixels.shape[1:]), None)


def _scaled(shape: tuple[int, ...], chunks: Iterator[np.ndarray], labels: Tensor, side: int) -> NpzTable:
    """Images uint8 of a shape ``[N, H, W]`` or ``[N, H, W, C]``, some at a time, made squares."""
    import torch

    from ltdd_core.storage import TensorDigest

    in_file = ((*shape[3:], 1)[0], *shape[1:3])
    scaled = torch.empty(shape[0], in_file[0], side, side, dtype=torch.uint8)
    digest, done = TensorDigest(), 0
    digest.begin("images", scaled.dtype, (shape[0], *in_file))
    for chunk in chunks:
        digest.update(_channels_first(chunk))
        scaled[done : done + len(chunk)] = _channels_first(np.stack([_fitted(image, side) for image in chunk]))
        done += len(chunk)
    digest.begin("labels", labels.dtype, labels.shape)
    digest.update(labels)
    return NpzTable(scaled, labels, in_file, digest.hexdigest())


def _labels(path: Path, archive: Any, part: str, images: int, classes: int | None) -> Tensor:
    import torch

    labels = _array(path, archive, f"{part}_labels")
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise InputError(f"{path}: {part}_labels have {labels.shape[1]} columns; one label an image is needed.")
    labels = labels.reshape(-1)
    if not images or len(labels) != images:
        raise InputError(f"{path}: {images} {part}_images but {len(labels)} {part}_labels; one label an image.")
    # A label past the number of images leaves some class below it empty, and might be a huge one.
    most = len(labels) if classes is None else classes
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= most:
        raise InputError(f"{path}: {part}_labels must be whole numbers from 0 to the number of classes - 1.")
    return torch.from_numpy(labels.astype(np.int64))


def _channels_first(images: np.ndarray) -> Tensor:
    import torch

    pixels = torch.from_numpy(images).reshape(len(images), images.shape[1], images.shape[2], -1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def _fitted(image: np.ndarray, side: int) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(fitted(Image.fromarray(image), "RGB", side, side))
    channels = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    return np.stack([np.asarray(fitted(Image.fromarray(channel), "L", side, side)) for channel in channels], axis=-1)


def _array(path: Path, archive: Any, name: str) -> np.ndarray:
    _check_header(path, archive, name)
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of whatever else is in the archive
        raise InputError(f"{path}: {name!r} is not a NumPy array: write the archive with numpy.savez.")
    return array


def _streamed(path: Path, archive: Any, name: str, kind: Kind) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """The shape of an array of images, and the images, some at a time."""
    header = _check_header(path, archive, name)
    if header is None or header.fortran_order:  # the latter has the first pixels of all images first
        images = _images(path, archive, name, kind)
        return images.shape, iter(np.array_split(images, max(1, len(images) // AT_ONCE)))
    _check_images(path, name, header.dtype, header.shape, kind)
    return header.shape, _read_images(archive.zip, name, header)


@dataclass(frozen=True)
class _Header:
    """What an array in an archive says of itself."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _read_images(archive: zipfile.ZipFile, name: str, header: _Header) -> Iterator[np.ndarray]:
    with archive.open(_member(archive, name)) as file:
        _read_header(file)
        for start in range(0, header.shape[0], AT_ONCE):
            shape = (min(AT_ONCE, header.shape[0] - start), *header.shape[1:])
            chunk = file.read(math.prod(shape) * header.dtype.itemsize)
            yield np.frombuffer(bytearray(chunk), header.dtype).reshape(shape)


def _check_header(path: Path, archive: Any, name: str) -> _Header | None:
    """The header of an array; None for what is no array that is taken here.

    Raises:
        InputError: there is no such array, or it claims more than there is, so that numpy would make room for it.
    """
    if name not in archive:
        raise InputError(f"{path}: array {name!r} is missing; it has {', '.join(sorted(archive)) or 'none'}.")
    member = _member(archive.zip, name)
    with archive.zip.open(member) as file:
        header = _read_header(file)
    if header is None:
        return None
    claimed, packed = math.prod(header.shape) * header.dtype.itemsize, min(member.compress_size, path.stat().st_size)
    if claimed > member.file_size or member.file_size > MOST_PACKED * (packed + 1):
        raise InputError(f"{path}: {name!r} claims {claimed} bytes, which the file cannot hold: it is damaged.")
    return header


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    return archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)


def _read_header(file: IO[bytes]) -> _Header | None:
    readers = {b"\1\0": np.lib.format.read_array_header_1_0, b"\2\0": np.lib.format.read_array_header_2_0}
    start = file.read(len(np.lib.format.MAGIC_PREFIX) + 2)
    reader = readers.get(start[-2:])
    if not start.startswith(np.lib.format.MAGIC_PREFIX) or reader is None:
        return None
    return _Header(*reader(file))
