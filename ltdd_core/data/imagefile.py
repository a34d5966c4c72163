"""One image file, or one that is encoded as in a file: look at its header, decode it, refuse what cannot be used."""

from __future__ import annotations

import io
import math
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image, UnidentifiedImageError

from ltdd_core.data.colours import Range, conversions, is_grey, is_taken, orientation, upright_in_8_bits
from ltdd_core.errors import InputError, how_to_set, reason_of

T = TypeVar("T")

SMALLEST_SIDE = 4
NAMED = 3
"""How many more files that cannot be used are named after the first."""
AT_ONCE = 64
"""Files, at most, that a thread takes at once."""
FEW = 16
"""Files that are not worth a second thread."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that is encoded as in a file, but lies elsewhere."""

    name: str
    """What messages call it."""
    content: Callable[[], bytes]
    """Reads it."""

    def __str__(self) -> str:
        return self.name

    def open(self, mode: Literal["rb"]) -> io.BytesIO:
        """As a file that is open to be read."""
        return io.BytesIO(self.content())

    def length(self) -> int:
        """In bytes."""
        return len(self.content())


ImageFile = Path | EncodedImage


@dataclass(frozen=True)
class Header:
    """What an image file says of itself."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    grey: bool
    converted: tuple[str, ...]
    """In which ways its colours are converted, as :func:`ltdd_core.data.colours.told_conversions` says them."""


def read_header(path: ImageFile, values: Range | None = None) -> Header:
    """Size and colours from the header, without decoding; inside :func:`quiet_decoders`.

    Args:
        path: of the file.
        values: black and white in images of more than 8 bits; None: 0 and 65535 of those with 16 bits.

    Raises:
        InputError: no image, too small, or of a mode whose colours one would have to guess.
    """
    with _opened(path) as image:
        if min(image.size) < SMALLEST_SIDE:
            raise InputError(
                f"{path}: {image.width}x{image.height} pixels; images need at least {SMALLEST_SIDE} a side: remove it."
            )
        if not is_taken(image, values):
            raise InputError(
                f"{path}: images of mode {image.mode} are not taken, since their colours would have to be guessed: "
                f"save it as 8-bit RGB or grey{_or_train_with_range() if is_grey(image) else ''}."
            )
        lies = orientation(image) > 4 and image.format != "TIFF"  # on its side, which Pillow has put right for TIFF
        size = (image.height, image.width) if lies else image.size
        return Header(size, is_grey(image), tuple(conversions(image, values)))


def _or_train_with_range() -> str:
    return f", or train with {how_to_set('data.range', '[BLACK,WHITE]')}"


def tried(
    paths: Iterable[ImageFile], read: Callable[[ImageFile], T], told: Callable[[int], object] | None = None
) -> tuple[dict[ImageFile, T], dict[ImageFile, InputError]]:
    """What ``read`` makes of each file that it takes, and what it says of each that it refuses.

    Where there are many files, threads share them: decoders work beside each other.

    Args:
        paths: the files.
        read: raises :class:`InputError` for a file that cannot be used; called by several threads.
        told: how many files are done, now and then.
    """
    found, refused, paths = dict[ImageFile, T](), dict[ImageFile, InputError](), list(paths)

    def each(part: Sequence[ImageFile]) -> list[tuple[ImageFile, T | InputError]]:
        return [(path, _tried_one(path, read)) for path in part]

    with quiet_decoders():
        for part in _in_threads(each, paths):
            for path, outcome in part:
                if isinstance(outcome, InputError):
                    refused[path] = outcome
                else:
                    found[path] = outcome
            if told is not None:
                told(len(found) + len(refused))
    return found, refused


def _tried_one(path: ImageFile, read: Callable[[ImageFile], T]) -> T | InputError:
    try:
        return read(path)
    except InputError as error:
        return error


def _in_threads(each: Callable[[Sequence[ImageFile]], T], paths: Sequence[ImageFile]) -> Iterator[T]:
    """What ``each`` makes of the files, a few at a time, in their order."""
    if len(paths) <= FEW:
        yield each(paths)
        return
    from joblib import cpu_count  # those that a container may use

    threads = cpu_count()
    size = min(AT_ONCE, math.ceil(len(paths) / threads))
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(each, (paths[start : start + size] for start in range(0, len(paths), size)))


def refusal(refused: Mapping[ImageFile, InputError], advice: str = "") -> InputError:
    """One line about all files that cannot be used: why the first one cannot, and the names of some others.

    Args:
        refused: what :func:`tried` found, one file at least.
        advice: a sentence about what else a user can do.
    """
    (_, first), *others = refused.items()
    named = ", ".join(str(path) for path, _ in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
    more = f" {len(others)} more cannot be used, for this reason or another: {named}" if others else ""
    if not advice:
        return InputError(f"{first}{more}")
    return InputError(f"{first}{more}{'.' if 0 < len(others) <= NAMED else ''} {advice}")


def decode(path: ImageFile, mode: str, height: int, width: int, values: Range | None = None) -> Image.Image:
    """The upright image in a mode (``L`` or ``RGB``) and size, as :func:`fitted` makes it.

    It is to be called inside :func:`quiet_decoders`.

    Raises:
        InputError: the image is damaged.
    """
    with _opened(path) as opened:
        return fitted(upright_in_8_bits(opened, values), mode, height, width)


def fitted(image: Image.Image, mode: str, height: int, width: int) -> Image.Image:
    """An image in a mode and size: the largest middle part of that shape, made smaller or larger."""
    image = image.convert(mode)
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (image.width - across) // 2, (image.height - down) // 2
    middle = (left, top, left + across, top + down)
    return image.crop(middle).resize((width, height), Image.Resampling.BILINEAR)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """No warnings of odd metadata, which leave the pixels as they are; of an image of too many pixels an error.

    Warnings are filtered for all threads alike, so a thread must not enter this.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _opened(path: ImageFile) -> Iterator[Image.Image]:
    """An open image file; whatever goes wrong with it in the block is said of the file, in one line."""
    try:
        if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise InputError(f"{path}: this is a pipe or a device, not an image file: remove it.")
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}: remove it or put it right.") from error
    except UnidentifiedImageError as error:
        if _is_tiff(path):
            raise InputError(
                f"{path}: a TIFF file that is damaged, or of channels or depths that are not read: "
                "save it as RGB or grey, or put arrays into an npz archive."
            ) from error
        raise InputError(f"{path}: this is not an image, or a damaged one: remove it or put it right.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"{path}: more than {most} million pixels: make it smaller or remove it.") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
        raise InputError(f"{path}: this image is damaged ({reason_of(error)}): remove it or put it right.") from error


def _is_tiff(path: ImageFile) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False
