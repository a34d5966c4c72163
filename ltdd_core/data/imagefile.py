"""One image file: look at its header, decode it to one size, refuse what cannot be used."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

from ltdd_core.errors import InputError, reason_of

T = TypeVar("T")

SMALLEST_SIDE = 4
NAMED = 3
"""How many more files that cannot be used are named after the first."""
GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"RGB", "RGBA", "P", "PA"}


def read_header(path: Path) -> tuple[tuple[int, int], str]:
    """Size and mode from the header, without decoding.

    Raises:
        InputError: no image, too small, or of a mode whose colours one would have to guess.
    """
    with _opened(path) as image:
        if min(image.size) < SMALLEST_SIDE:
            raise InputError(
                f"{path}: {image.width}x{image.height} pixels; images need at least {SMALLEST_SIDE} a side: remove it."
            )
        # Pillow opens 16-bit colour as RGB and drops the lower half of every value without a word.
        deep = image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        if deep or image.mode not in GREY_MODES | COLOUR_MODES:
            kind = "16-bit images" if deep else f"images of mode {image.mode}"
            raise InputError(
                f"{path}: {kind} are not taken, since their colours would have to be guessed: "
                "save it as 8-bit RGB or grey."
            )
        return image.size, image.mode


def each_file(paths: Iterable[Path], read: Callable[[Path], T]) -> list[T]:
    """What ``read`` makes of each file; all of them are tried, so that a user learns at once how many are unusable.

    Raises:
        InputError: the one of the first file that ``read`` refuses, with the names of some others.
    """
    found, refused = list[T](), list[tuple[Path, InputError]]()
    for path in paths:
        try:
            found.append(read(path))
        except InputError as error:
            refused.append((path, error))
    if not refused:
        return found
    (_, first), *others = refused
    if not others:
        raise first
    named = ", ".join(str(path) for path, _ in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
    raise InputError(f"{first} {len(others)} more cannot be used, for this reason or another: {named}") from first


def decode(path: Path, mode: str, height: int, width: int) -> Image.Image:
    """The upright image in a mode (``L`` or ``RGB``) and size, as :func:`fitted` makes it.

    Raises:
        InputError: the image is damaged.
    """
    with _opened(path) as opened:
        return fitted(_on_white(ImageOps.exif_transpose(opened)), mode, height, width)


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
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open image file; whatever goes wrong with it in the block is said of the file, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which leave the pixels as they are
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise InputError(f"{path}: this is a pipe or a device, not an image file: remove it.")
            with Image.open(path) as image:
                yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: this is not an image, or a damaged one: remove it or put it right.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"{path}: more than {most} million pixels: make it smaller or remove it.") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
        raise InputError(f"{path}: this image is damaged ({reason_of(error)}): remove it or put it right.") from error


def _on_white(image: Image.Image) -> Image.Image:
    """Transparent pixels have no colour of their own: put the image on white."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image
