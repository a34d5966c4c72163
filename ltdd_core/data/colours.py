"""The colours of an image file as 8-bit grey or RGB, and which images had others."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, features

from ltdd_core.errors import InputError

GREY_MODES = {"1", "L", "LA", "La"}
COLOUR_MODES = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"}
WIDE_MODES = {"I", "F"}
"""Of 32 bits, whole numbers or floating point."""
Range = tuple[float, float]
"""Black and white."""
DEEP = 65535
"""The largest value of 16 bits."""
ORIENTATION = 0x0112
PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 262, 277, 338
"""Tags of TIFF."""

SAID = {
    "cmyk": "{are} CMYK; {they_are} converted to RGB.",
    "palette": "{have} the colours of a palette; {they_are} converted to RGB.",
    "deep": "{have} 16 bits; the values 0 to 65535 become 0 to 255.",
    "ranged": "{have} values of more than 8 bits; those of data.range become 0 to 255.",
    "alpha": "{have} an alpha channel; what is transparent becomes white.",
    "band": "{have} a fourth channel that is no transparency, such as near infrared; it is left out.",
    "frames": "{have} several frames or pages; the first one is used.",
    "turned": "{are} turned upright, as the EXIF data say.",
}
"""What is said of the images that are converted in each way."""
ONE = {"are": "1 image is", "have": "1 image has", "they_are": "it is"}
SEVERAL = {"are": "{} images are", "have": "{} images have", "they_are": "they are"}


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colours."""
    return image.mode in GREY_MODES or image.mode in WIDE_MODES or image.mode.startswith("I;16")


def is_taken(image: Image.Image, values: Range | None = None) -> bool:
    """Whether the colours of an open image are known, so that none has to be guessed.

    Args:
        image: an open image.
        values: what is black and what is white in images of more than 8 bits; None: nobody has said.
    """
    return image.mode in GREY_MODES | COLOUR_MODES or _black_and_white(image, values) is not None


def conversions(image: Image.Image, values: Range | None = None) -> Iterator[str]:
    """In which ways an open image that is not loaded yet is converted, of the keys of :data:`SAID`."""
    if image.mode == "CMYK":
        yield "cmyk"
    if image.mode in ("P", "PA"):
        yield "palette"
    if values is not None and _black_and_white(image, values) is not None:
        yield "ranged"
    elif _black_and_white(image) is not None or any(";16" in mode for mode in _raw_modes(image)):
        yield "deep"
    if _has_spare_band(image):
        yield "band"
    elif _has_alpha(image):
        yield "alpha"
    # The other images of MPO, the format of many cameras, are previews.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        yield "frames"
    if orientation(image) != 1:
        yield "turned"


def told_conversions(found: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """A sentence for each way in which images are converted, with their number."""
    often = Counter(way for ways in found for way in ways)
    return tuple(
        said.format(**(ONE if often[way] == 1 else {key: words.format(often[way]) for key, words in SEVERAL.items()}))
        for way, said in SAID.items()
        if often[way]
    )


def orientation(image: Image.Image) -> int:
    """How an open image has to be turned, as EXIF numbers it, 1 to 8; 1: not at all."""
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode it to look behind its pixels
        return 1
    turned = image.getexif().get(ORIENTATION, 1)
    return turned if turned in range(2, 9) else 1


def upright_in_8_bits(image: Image.Image, values: Range | None = None) -> Image.Image:
    """An open image upright, opaque, and in 8-bit grey or colours, of any mode that :func:`is_taken`.

    Transparent parts become white.  CMYK becomes sRGB by the colour profile in the file where it has a usable one.
    """
    levels, spare_band = _black_and_white(image, values), _has_spare_band(image)
    inverted = levels is not None and _tag(image, PHOTOMETRIC) == 0  # white is 0, which Pillow knows of 8 bits only
    upright = ImageOps.exif_transpose(image)
    if levels is not None:
        black, white = levels
        return Image.fromarray(in_8_bits(np.asarray(upright), (white, black) if inverted else levels))
    if spare_band:
        return upright.convert("RGB")
    if upright.mode == "CMYK":
        return _from_cmyk(upright)
    return _on_white(upright)


def in_8_bits(values: np.ndarray, levels: Range) -> np.ndarray:
    """Numbers of any type as uint8: black becomes 0, white 255, and what lies beyond becomes the nearer one.

    Args:
        values: any shape.
        levels: black and white.

    Raises:
        InputError: a value is infinite or no number.
    """
    black, white = levels
    scaled = (values.astype(np.float64) - black) * (255 / (white - black))
    if not np.isfinite(scaled).all():
        raise InputError("a value is infinite or no number (NaN)")
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def as_8_bits(values: np.ndarray, levels: Range | None = None) -> np.ndarray:
    """An array of images as uint8; one that is uint8 stays as it is.

    Args:
        values: numbers of any type and shape.
        levels: black and white; None: 0 and 65535 of uint16.

    Raises:
        InputError: nobody has said what is black and white, or a value is infinite or no number.
    """
    if values.dtype == np.uint8:
        return values
    if levels is None and values.dtype != np.uint16:
        raise InputError(f"values are {values.dtype}, and nobody has said which are black and white")
    return in_8_bits(values, levels or (0, DEEP))


def _black_and_white(image: Image.Image, values: Range | None = None) -> Range | None:
    """The values that are black and white in a grey image of more than 8 bits; None for others, and if nobody knows."""
    short = image.mode.startswith("I;16")
    if short or image.mode in WIDE_MODES:
        if values is not None:
            return values
        if short:
            return 0, 4095 if "I;12" in _raw_modes(image) else DEEP
        return (0, DEEP) if image.mode == "I" and image.format in ("PPM", "PNG") else None
    return None


def _raw_modes(image: Image.Image) -> Iterator[str]:
    """How the values lie in the file; nothing once an image is loaded."""
    for *_, how in getattr(image, "tile", ()):
        yield str(how[0] if isinstance(how, tuple) and how else how)


def _has_spare_band(image: Image.Image) -> bool:
    """Whether there is a fourth channel that the file does not call transparency; Pillow takes it for that."""
    colours = image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX")
    return colours and _tag(image, SAMPLES) == 4 and _tag(image, EXTRA_SAMPLES, 0) == 0


def _tag(image: Image.Image, number: int, otherwise: Any = None) -> Any:
    """A tag of a TIFF file, the first one of several values."""
    value = getattr(image, "tag_v2", {}).get(number, otherwise)
    return value[0] if isinstance(value, tuple) and value else value


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    """Transparent pixels have no colour of their own: put the image on white."""
    if _has_alpha(image):
        coloured = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    transform = _to_srgb(profile) if profile and features.check("littlecms2") else None
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From the inks of a colour profile to sRGB; None where it is damaged, or of other colours."""
    try:
        inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(inks, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
