"""Images that are there more than once: in the test part as well as in training, or under two classes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltdd_core.data.files import unreadable
from ltdd_core.data.imagefile import ImageFile

if TYPE_CHECKING:
    from torch import Tensor


def same_files(paths: Sequence[ImageFile]) -> list[int]:
    """For each file the place of the first one with the same bytes; only files of the same length are read.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        lengths = [path.stat().st_size if isinstance(path, Path) else path.length() for path in paths]
        often = Counter(lengths)
        first = dict[object, int]()
        return [
            first.setdefault(_digest(path) if often[length] > 1 else place, place)
            for place, (path, length) in enumerate(zip(paths, lengths, strict=True))
        ]
    except OSError as error:
        unreadable(error)


@dataclass(frozen=True)
class Part:
    """The images of a part of the data as networks see them."""

    what: str
    """``training``, ``validation`` or ``test``."""
    images: Tensor
    """uint8 ``[N, C, H, W]``."""
    labels: Tensor
    """int64 ``[N]``."""
    name: Callable[[int], str | None]
    """What a user calls the image of an index; None: nothing."""


def told_copies(parts: Sequence[Part]) -> tuple[str, ...]:
    """Sentences about images that are in two parts or in two classes, each with an example where images have names.

    Images are the same if all of their pixels are, whatever files they come from.

    Args:
        parts: an image in several of them is one of the first.
    """
    first, sentences = dict[bytes, tuple[int, int]](), list[str]()
    doubtful = list[tuple[str | None, str | None]]()
    for number, part in enumerate(parts):
        shared: dict[int, list[tuple[str | None, str | None]]] = {}
        for index, image in enumerate(part.images.cpu().contiguous().numpy()):
            pixels = hashlib.blake2b(image, digest_size=16).digest()
            where, place = first.setdefault(pixels, (number, index))
            if (where, place) == (number, index):
                continue
            names = part.name(index), parts[where].name(place)
            if where != number:
                shared.setdefault(where, []).append(names)
            if part.labels[index] != parts[where].labels[place]:
                doubtful.append(names)
        for where, found in sorted(shared.items()):
            what, other = part.what, parts[where].what
            sentences += _told(found, f"{what} image is a {other} image too", f"{what} images are {other} images too")
    return (*sentences, *_told(doubtful, "image is in another class too", "images are in another class too"))


def _told(found: Sequence[tuple[str | None, str | None]], one: str, several: str) -> tuple[str, ...]:
    if not found:
        return ()
    name, other = found[0]
    example = "" if name is None or other is None else f", such as {name}, which has the pixels of {other}"
    return (f"{len(found)} {one if len(found) == 1 else several}{example}.",)


def _digest(path: ImageFile) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
