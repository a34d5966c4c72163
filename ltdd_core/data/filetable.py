"""The image files of a folder that can be used, decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ltdd_core.data.cache import key_of_files, noted
from ltdd_core.data.colours import Range
from ltdd_core.data.files import unreadable
from ltdd_core.data.imagefile import SMALLEST_SIDE, Header, ImageFile, decode, read_header, refusal, tried
from ltdd_core.data.source import ImageTable
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.progress import Display

if TYPE_CHECKING:
    from torch import Tensor

USUAL_SIZE = 32


@dataclass(frozen=True)
class FileTable(ImageTable):
    """Image files, decoded to one size and number of channels."""

    paths: tuple[ImageFile, ...]
    labels: Tensor
    size: int
    grey: bool
    values: Range | None
    """Black and white in images of more than 8 bits."""
    advice: str
    """What a user can do where a file cannot be used."""

    def read(self, indices: Tensor) -> Tensor:
        """Decode; the shorter side becomes ``size`` and the middle is cut out."""
        import torch

        paths = [self.paths[index] for index in indices.tolist()]
        found, refused = tried(dict.fromkeys(paths), lambda path: pixels(path, self.size, self.values, grey=self.grey))
        if refused:
            raise refusal(refused, self.advice)
        return torch.stack([found[path] for path in paths]).contiguous()

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def digest(self) -> str:
        """Of the files, so it is the same for any size that they are decoded to."""
        key = key_of_files(self.paths, "digest", self.labels.tolist())
        found: str = noted(key, self._digest)
        return found

    def _digest(self) -> str:
        digest = hashlib.blake2b(repr(self.labels.tolist()).encode(), digest_size=16)
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            except OSError as error:
                unreadable(error)
        return digest.hexdigest()

    def kept_as(self, indices: Tensor) -> str | None:
        """Of the files' names, lengths and times, and of what becomes of them; None where that is little work."""
        return key_of_files([self.paths[index] for index in indices.tolist()], self.size, self.grey, self.values)


@dataclass(frozen=True)
class Usable:
    """Which of some image files can be used, and what they become."""

    headers: Mapping[ImageFile, Header]
    refused: Mapping[ImageFile, InputError]
    """The files that are left out."""
    size: int
    """The side of the images that they become."""
    grey: bool
    """Whether they become grey."""
    values: Range | None
    advice: str

    def table(self, paths: Sequence[ImageFile], labels: Tensor) -> FileTable:
        """The images of some of the files."""
        return FileTable(tuple(paths), labels, self.size, self.grey, self.values, self.advice)


def usable(
    paths: Sequence[ImageFile],
    validation: Sequence[ImageFile],
    image_size: int | None,
    values: Range | None,
    skip_bad: bool | None,
    display: Display | None,
) -> Usable:
    """Look at the headers of files; where bad ones are to be left out, decode all, since only that shows damage.

    What was seen of many files is noted in the cache, and they are not looked at again until one changes.

    Args:
        paths: the files that train and test, whose size and colours are those of all images.
        validation: the files that validate.
        image_size: the side of the images; None: that of all files if they agree and it is at most 64, else 32.
        values: black and white in images of more than 8 bits; None: 0 and 65535 of those with 16 bits.
        skip_bad: leave out files that cannot be used; None: there is no such option.
        display: told how many images are decoded.

    Raises:
        InputError: a file cannot be used, and is not to be left out.
    """
    advice = "" if skip_bad is None else f"{how_to_set('data.skip_bad', True)} leaves out what cannot be used."
    headers, refused = _noted_looks((*paths, *validation), values, display, damage=bool(skip_bad))
    if refused and not skip_bad:
        raise refusal(refused, advice)
    deciding = [headers[path] for path in paths if path in headers]
    size, grey = image_size or _common_size(deciding), all(header.grey for header in deciding)
    return Usable(headers, refused, size, grey, values, advice)


Looks = tuple[dict[ImageFile, Header], dict[ImageFile, InputError]]
"""The headers of the files that can be used, and why the others cannot be."""


def _noted_looks(files: Sequence[ImageFile], values: Range | None, display: Display | None, *, damage: bool) -> Looks:
    """As :func:`_looks`, of files that were looked at before without looking again."""
    key = key_of_files(files, "looks", values, damage)
    if key is None:
        return _looks(files, values, display, damage=damage)

    def find() -> dict[str, Any]:
        headers, refused = _looks(files, values, display, damage=damage)
        return {
            "headers": [
                (header := headers.get(file)) and [*header.size, header.grey, *header.converted] for file in files
            ],
            "refused": [(error := refused.get(file)) and str(error).removeprefix(str(file)) for file in files],
            "lasting": not any(_may_pass(error) for error in refused.values()),
        }

    found = noted(key, find, worth=lambda found: found["lasting"])
    headers, refused = dict[ImageFile, Header](), dict[ImageFile, InputError]()
    for file, header, error in zip(files, found["headers"], found["refused"], strict=True):
        if error is not None:
            refused[file] = InputError(f"{file}{error}")
        else:
            width, height, grey, *converted = header
            headers[file] = Header((width, height), grey, tuple(converted))
    return headers, refused


def _may_pass(error: InputError) -> bool:
    """Whether a file cannot be read at the moment, which says nothing of the file."""
    return isinstance(error.__cause__, OSError) and error.__cause__.strerror is not None


def _looks(files: Sequence[ImageFile], values: Range | None, display: Display | None, *, damage: bool) -> Looks:
    """Look at the headers of files, and if asked to decode those that have one, since only that shows damage."""
    headers, refused = tried(files, lambda path: read_header(path, values))
    if not damage:
        return headers, refused
    damaged = _damaged(headers, values, display)
    return {path: header for path, header in headers.items() if path not in damaged}, refused | damaged


def pixels(path: ImageFile, size: int, values: Range | None, *, grey: bool) -> Tensor:
    """An image file as uint8 ``[C, size, size]``.

    Raises:
        InputError: the image is damaged.
    """
    import torch

    array = np.array(decode(path, "L" if grey else "RGB", size, size, values))
    return torch.from_numpy(array).view(size, size, -1).permute(2, 0, 1)


def _damaged(
    paths: Collection[ImageFile], values: Range | None, display: Display | None
) -> dict[ImageFile, InputError]:
    """The files that cannot be decoded; what the others become is not kept, since it may not fit into memory."""

    def look(path: ImageFile) -> None:
        pixels(path, SMALLEST_SIDE, values, grey=False)

    with (display or Display()).work("looking for damaged images", len(paths), "images") as told:
        return tried(paths, look, told)[1]


def _common_size(headers: Sequence[Header]) -> int:
    sizes = {header.size for header in headers}
    (width, height) = next(iter(sizes), (0, 0))
    if len(sizes) == 1 and width == height and width <= 2 * USUAL_SIZE:
        return width
    return USUAL_SIZE
