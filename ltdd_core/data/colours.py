"""The colours of an image file as 8-bit grey or RGB, and which images had others."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, features

GREY_MODES = {"1", "L", "LA", "La"}
COLOUR_MODES = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"}
DEEP = 65535
"""The largest value of 16 bits."""
ORIENTATION = 0x0112
PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 262, 277, 338
"""Tags of TIFF."""

SAID = {
    "cmyk": "{are} CMYK; {they_are} converted to RGB.",
    "palette": "{have} the colours of a palette; {they_are} converted to RGB.",
    "deep": "{have} 16 bits; the values 0 to 65535 become 0 to 255.",
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
    return image.mode in GREY_MODES or _deepest(image) is not None


def is_taken(image: Image.Image) -> bool:
    """Whether the colours of an open image are known, so that none has to be guessed."""
    return image.mode in GREY_MODES | COLOUR_MODES or _deepest(image) is not None


def conversions(image: Image.Image) -> Iterator[str]:
    """In which ways an open image that is not loaded yet is converted, of the keys of :data:`SAID`."""
    if image.mode == "CMYK":
        yield "cmyk"
    if image.mode in ("P", "PA"):
        yield "palette"
    if _deepest(image) is not None or any(";16" in mode for mode in _raw_modes(image)):
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


def upright_in_8_bits(image: Image.Image) -> Image.Image:
    """An open image upright, opaque, and in 8-bit grey or colours, of any mode that :func:`is_taken`.

    Transparent parts become white.  CMYK becomes sRGB by the colour profile in the file where it has a usable one.
    """
    deepest, spare_band = _deepest(image), _has_spare_band(image)
    inverted = deepest is not None and _tag(image, PHOTOMETRIC) == 0  # white is 0, which Pillow knows of 8 bits only
    upright = ImageOps.exif_transpose(image)
    if deepest is not None:
        values = np.asarray(upright).astype(np.int64)
        scaled = (values * 255 + deepest // 2) // deepest
        return Image.fromarray((255 - scaled if inverted else scaled).astype(np.uint8))
    if upright.mode == "CMYK":
        return _from_cmyk(upright)
    return upright.convert("RGB") if spare_band else _on_white(upright)


def _deepest(image: Image.Image) -> int | None:
    """The largest value that a grey image of more than 8 bits can have; None for others and where nobody knows."""
    if image.mode.startswith("I;16"):
        return 4095 if "I;12" in _raw_modes(image) else DEEP
    return DEEP if image.mode == "I" and image.format in ("PPM", "PNG") else None


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
