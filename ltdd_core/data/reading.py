"""Read the images that a set is made of: into memory, or through the cache of decoded images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.filesize import decimal
from torch import Tensor

from ltdd_core.data.cache import IMAGES, image_cache, room, through_cache
from ltdd_core.data.memory import check_fits
from ltdd_core.data.source import ArrayTable, ImageTable
from ltdd_core.errors import InputError, WriteError
from ltdd_core.progress import Display

AT_ONCE = 1024
"""Images, at most, that are decoded between two looks at how many are done."""
BYTES_AT_ONCE = 64 * 2**20
"""Of decoded images between two such looks, unless one image is larger."""

Chosen = tuple[ImageTable, Tensor]
"""A table, and the indices of the images that are wanted of it, int64 ``[n]``."""


@dataclass(frozen=True)
class _Wanted:
    """Some images of a table, and where they are kept."""

    what: str
    table: ImageTable
    indices: Tensor
    shape: tuple[int, ...] | None
    """``(n, C, H, W)``; None where none is read, or the first cannot be, which whoever reads them all says better."""
    path: Path | None
    """The file of the cache; None: they are read into memory."""

    @property
    def size(self) -> int:
        """Bytes."""
        return 0 if self.shape is None else math.prod(self.shape)

    def in_memory(self) -> _Wanted:
        """The same images, which are not kept."""
        return _Wanted(self.what, self.table, self.indices, self.shape, None)


def read_parts(name: str, chosen: Mapping[str, Chosen], display: Display | None = None) -> dict[str, Tensor]:
    """The images of each part of a data set, uint8 ``[n, C, H, W]``.

    What is kept in the cache is mapped from the disk, and takes no memory that others could not have.

    Args:
        name: of the data.
        chosen: the images of each part, by what the part is: ``training``.
        display: told how many images are decoded.

    Raises:
        InputError: an image cannot be used, or images that are not kept do not fit into memory.
    """
    display = display or Display()
    wanted = _with_room(name, [_wanted(what, table, indices) for what, (table, indices) in chosen.items()], display)
    check_fits(name, [part.shape for part in wanted if part.path is None and part.shape is not None])
    return {part.what: _images(name, part, display) for part in wanted}


def _wanted(what: str, table: ImageTable, indices: Tensor) -> _Wanted:
    if isinstance(table, ArrayTable) or not len(indices):
        return _Wanted(what, table, indices, None, None)
    try:
        shape = (len(indices), *table.read(indices[:1]).shape[1:])
    except InputError:
        return _Wanted(what, table, indices, None, None)
    folder, key = image_cache(), table.kept_as(indices)
    path = None if key is None or folder is None else folder / f"{key}{IMAGES}"
    return _Wanted(what, table, indices, shape, path)


def _with_room(name: str, wanted: list[_Wanted], display: Display) -> list[_Wanted]:
    """What is to be kept in the cache, as far as the disk has room for it; the rest is read into memory."""
    missing = [part for part in wanted if part.path is not None and not part.path.exists()]
    folder = image_cache()
    if not missing or folder is None:
        return wanted
    needed, free = sum(part.size for part in missing), room(folder)
    if needed <= free:
        display.note(
            f"{name}: the decoded images are kept in {folder}, {decimal(needed)}, so that they are decoded once; "
            "'ltdd data cache' lists and removes them."
        )
        return wanted
    display.advise(
        f"{name}: the decoded images take {decimal(needed)}, and the disk of {folder} has {decimal(free)} free, so "
        "they are decoded at each start. The environment variable XDG_CACHE_HOME names another folder."
    )
    return [part.in_memory() if part in missing else part for part in wanted]


def _images(name: str, part: _Wanted, display: Display) -> Tensor:
    if isinstance(part.table, ArrayTable) or not len(part.indices):
        return part.table.read(part.indices)
    if part.path is not None and part.shape is not None:
        try:
            return through_cache(part.path, f"{name}, {part.what}", part.shape, lambda: _decoded(part, display))
        except WriteError as error:
            display.advise(f"{name}: {error} So the {part.what} images are not kept, and decoded at each start.")
            check_fits(name, [part.shape])
    images, done = torch.empty(0), 0
    for read in _decoded(part, display):
        if not done:
            images = read.new_empty(len(part.indices), *read.shape[1:])
        images[done : done + len(read)] = read
        done += len(read)
    return images


def _decoded(part: _Wanted, display: Display) -> Iterator[Tensor]:
    """The images, a few at a time."""
    of_one = max(1, part.size // len(part.indices))
    at_once, done = max(1, min(AT_ONCE, BYTES_AT_ONCE // of_one)), 0
    with display.work(f"reading the {part.what} images", len(part.indices), "images") as told:
        for indices in part.indices.split(at_once):
            yield part.table.read(indices)
            done += len(indices)
            told(done)
