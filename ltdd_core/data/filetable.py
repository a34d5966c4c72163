"""The image files of a folder that can be used, decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltdd_core.data.colours import Range
from ltdd_core.data.files import unreadable
from ltdd_core.data.imagefile import Header, ImageFile, decode, read_header, refusal, tried
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
    decoded: Mapping[ImageFile, Tensor]
    """The images that are decoded already."""
    advice: str
    """What a user can do where a file cannot be used."""

    def read(self, indices: Tensor) -> Tensor:
        """Decode; the shorter side becomes ``size`` and the middle is cut out."""
        import torch

        paths = [self.paths[index] for index in indices.tolist()]
        missing = [path for path in paths if path not in self.decoded]
        found, refused = tried(missing, lambda path: pixels(path, self.size, self.values, grey=self.grey))
        if refused:
            raise refusal(refused, self.advice)
        return torch.stack([found[path] if path in found else self.decoded[path] for path in paths]).contiguous()

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def digest(self) -> str:
        """Of the files, so it is the same for any size that they are decoded to."""
        digest = hashlib.blake2b(repr(self.labels.tolist()).encode(), digest_size=16)
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            except OSError as error:
                unreadable(error)
        return digest.hexdigest()


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
    decoded: Mapping[ImageFile, Tensor]
    advice: str

    def table(self, paths: Sequence[ImageFile], labels: Tensor) -> FileTable:
        """The images of some of the files."""
        return FileTable(tuple(paths), labels, self.size, self.grey, self.values, self.decoded, self.advice)


def usable(
    paths: Sequence[ImageFile],
    validation: Sequence[ImageFile],
    image_size: int | None,
    values: Range | None,
    skip_bad: bool | None,
    display: Display | None,
) -> Usable:
    """Look at the headers of files; where bad ones are to be left out, decode all, since only that shows damage.

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
    headers, refused = tried((*paths, *validation), lambda path: read_header(path, values))
    if refused and not skip_bad:
        raise refusal(refused, advice)

    def becomes() -> tuple[int, bool]:
        deciding = [headers[path] for path in paths if path in headers]
        return image_size or _common_size(deciding), all(header.grey for header in deciding)

    size, grey = becomes()
    if not skip_bad:
        return Usable(headers, {}, size, grey, values, {}, advice)
    decoded, damaged = _decoded(headers, size, values, display, grey=grey)
    if damaged:
        headers = {path: header for path, header in headers.items() if path not in damaged}
        if becomes() != (size, grey):  # a damaged file had another size or colours
            size, grey = becomes()
            decoded, _ = _decoded(headers, size, values, display, grey=grey)
    return Usable(headers, refused | damaged, size, grey, values, decoded, advice)


def pixels(path: ImageFile, size: int, values: Range | None, *, grey: bool) -> Tensor:
    """An image file as uint8 ``[C, size, size]``.

    Raises:
        InputError: the image is damaged.
    """
    import torch

    array = np.array(decode(path, "L" if grey else "RGB", size, size, values))
    return torch.from_numpy(array).view(size, size, -1).permute(2, 0, 1)


def _decoded(
    paths: Collection[ImageFile], size: int, values: Range | None, display: Display | None, *, grey: bool
) -> tuple[dict[ImageFile, Tensor], dict[ImageFile, InputError]]:
    with (display or Display()).work("looking for damaged images", len(paths), "images") as told:
        return tried(paths, lambda path: pixels(path, size, values, grey=grey), told)


def _common_size(headers: Sequence[Header]) -> int:
    sizes = {header.size for header in headers}
    (width, height) = next(iter(sizes), (0, 0))
    if len(sizes) == 1 and width == height and width <= 2 * USUAL_SIZE:
        return width
    return USUAL_SIZE
