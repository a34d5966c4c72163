"""The archive holds ``train_images``, ``train_labels``, and perhaps arrays of a test and a validation part.

Those are ``test_images`` and ``test_labels``, ``val_images`` and ``val_labels``; further arrays are left alone.  Where
there is no test part, the validation part tests; where there is none either, some images are held out.  Images that get
another size are read a few at a time, so that they need not fit into memory as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ltdd_core.data.archive import array_of, chunks_of, header_of, opened
from ltdd_core.data.colours import Range, as_8_bits
from ltdd_core.data.folder import OwnDataOptions, held_out, name_of_place, none_to_test, range_of
from ltdd_core.data.image_groups import numbered, told_groups
from ltdd_core.data.imagefile import SMALLEST_SIDE, fitted
from ltdd_core.data.medmnist import check_is_for_classes, class_names
from ltdd_core.data.source import ArrayTable, DataSource, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option
from ltdd_core.progress import Display, Told

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARTS = {"train": "training", "test": "test", "val": "validation"}
AT_ONCE = 256
"""Images that are in memory in the size that they have in the file, where they get another one."""


@dataclass(frozen=True)
class NpzTable(ArrayTable):
    """Images of an archive."""

    shape: tuple[int, ...]
    """``(C, H, W)`` in the file."""
    in_file: str | None
    """The digest of the images as they are in the file where they get another size; None: nobody knows."""
    groups: tuple[str, ...] | None
    """The name of the group of each image; None: each stands alone."""

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
        group: str | None = option(
            None,
            "array of what an image belongs to, without its part: patients stands for train_patients and, if it is "
            "there, test_patients; the test and validation images that are held out are of other groups than those "
            "that train",
            min_length=1,
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
        with opened(self.options.root):
            pass

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read the arrays; nothing in the file is ever executed."""
        import torch

        self.check()
        path = self.options.root
        kind = Kind(self.options.channels, range_of(self.options), self.options.image_size, self.options.group)
        train, test, validation, notes = _load_tables(path, kind, self.display or Display())
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
        groups = None
        if train.groups is not None:
            groups, notes = numbered(train.groups), (*notes, *told_groups(train.groups, _names_of_groups(test)))
        return SourceImages(train, test, names, validation, _resized(train), notes, groups, kind.values)

    def _parted(self, table: NpzTable, generator: torch.Generator) -> tuple[NpzTable, NpzTable]:
        """Training and test images, of images that come without a test part."""
        options = self.options
        groups = None if table.groups is None else numbered(table.groups)
        test = held_out(table.labels, _classes(table), options.test_share, options.test_least, generator, groups)
        if not test.any():
            raise none_to_test(options.root, "test_images", grouped=groups is not None)
        return _only(table, ~test), _only(table, test)


def _load_tables(
    path: Path, kind: Kind, display: Display
) -> tuple[NpzTable, NpzTable | None, NpzTable | None, tuple[str, ...]]:
    """The training, test and validation images, and what a user should know of them, a sentence each."""
    with opened(path) as archive:
        train, test, validation = _table(path, archive, "train", kind, display), None, None
        has_test = "test_images" in archive or "test_labels" in archive
        has_validation = "val_images" in archive and "val_labels" in archive
        if has_validation and not has_test:
            notes = ("val_images are the test part, since there are no test_images.",)
            return train, _table(path, archive, "val", kind, display), None, notes
        if has_test:
            test = _table(path, archive, "test", kind, display)
        if has_validation:
            validation = _table(path, archive, "val", kind, display, _classes(train, test))
        return train, test, validation, ()


def _only(table: NpzTable, chosen: Tensor) -> NpzTable:
    groups = None if table.groups is None else tuple(itertools.compress(table.groups, chosen.tolist()))
    return NpzTable(table.images[chosen], table.labels[chosen], table.shape, None, groups)


def _names_of_groups(table: NpzTable) -> Sequence[str]:
    """Of each image; one that stands alone has a name that no other has."""
    return table.groups or [f"test image {number}" for number in range(len(table.labels))]


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
    group: str | None
    """The array of groups, without its part; None: no image belongs to another."""

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
    with opened(path) as archive:
        return _images(path, archive, name)


def _images(path: Path, archive: Any, name: str, kind: Kind | None = None) -> np.ndarray:
    images = array_of(path, archive, name)
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


def _table(path: Path, archive: Any, part: str, kind: Kind, display: Display, classes: int | None = None) -> NpzTable:
    """The images of a part; ``classes`` is how many there are, where that is known."""
    name = f"{part}_images"
    if kind.side is not None:
        shape, chunks = _streamed(path, archive, name, kind)
        labels = _labels(path, archive, part, shape[0], classes)
        groups = _groups(path, archive, part, shape[0], kind.group)
        in_8_bits = (kind.in_8_bits(path, name, chunk) for chunk in chunks)
        with display.work(f"scaling the {PARTS[part]} images", shape[0], "images") as told:
            return replace(_scaled(shape, in_8_bits, labels, kind.side, told), groups=groups)
    images = _images(path, archive, name, kind)
    labels = _labels(path, archive, part, len(images), classes)
    pixels = _channels_first(kind.in_8_bits(path, name, images))
    groups = _groups(path, archive, part, len(images), kind.group)
    return NpzTable(pixels, labels, tuple(pixels.shape[1:]), None, groups)


def _groups(path: Path, archive: Any, part: str, images: int, group: str | None) -> tuple[str, ...] | None:
    """The name of the group of each image of a part, of which only that of training needs them."""
    name = f"{part}_{group}"
    if group is None or (part != "train" and name not in archive):
        return None
    values = array_of(path, archive, name)
    if values.dtype.kind not in "iuUSb" or values.size != images:
        raise InputError(
            f"{path}: {name} are {values.dtype} {list(values.shape)}; {images} whole numbers or texts are needed, one "
            "group an image."
        )
    return tuple(map(str, values.reshape(-1).tolist()))


def _scaled(shape: tuple[int, ...], chunks: Iterator[np.ndarray], labels: Tensor, side: int, told: Told) -> NpzTable:
    """Images uint8 of a shape ``[N, H, W]`` or ``[N, H, W, C]``, some at a time, made squares; told how many are."""
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
        told(done)
    digest.begin("labels", labels.dtype, labels.shape)
    digest.update(labels)
    return NpzTable(scaled, labels, in_file, digest.hexdigest(), None)


def _labels(path: Path, archive: Any, part: str, images: int, classes: int | None) -> Tensor:
    import torch

    labels = array_of(path, archive, f"{part}_labels")
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


def _streamed(path: Path, archive: Any, name: str, kind: Kind) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """The shape of an array of images, and the images, some at a time."""
    header = header_of(path, archive, name)
    if header is None or header.fortran_order:  # the latter has the first pixels of all images first
        images = _images(path, archive, name, kind)
        return images.shape, iter(np.array_split(images, max(1, len(images) // AT_ONCE)))
    _check_images(path, name, header.dtype, header.shape, kind)
    return header.shape, chunks_of(archive.zip, name, header, AT_ONCE)
