"""Images that somebody gives to a classifier: files, folders and archives, and the classes they are said to have."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ltdd_core.data.colours import Range, as_8_bits
from ltdd_core.data.files import image_files
from ltdd_core.data.imagefile import decode, fitted, quiet_decoders, read_header
from ltdd_core.data.names import composed, found_by_name, labels_by_name
from ltdd_core.data.npz import load_images
from ltdd_core.errors import MOST_LISTED, InputError, some_of, unknown
from ltdd_core.storage import text_of_csv

MODES = {1: "L", 3: "RGB"}
"""The modes of image files by the channels of the images that they become."""
NAME_IN_ARCHIVE = "images"


@dataclass(frozen=True)
class GivenImage:
    """One image."""

    name: str
    """What it is called in a result: the path of its file, with its number where it is in an archive."""
    path: Path
    """Its file, or its archive."""
    root: Path | None = None
    """The folder that was given and that it lies in."""
    pixels: np.ndarray | None = None
    """``[H, W]`` or ``[H, W, C]`` of numbers if it is in an archive."""


def find_images(paths: Sequence[Path]) -> list[GivenImage]:
    """All images of files, of folders with the folders inside them, and of ``.npz`` archives, in this order.

    Raises:
        InputError: there is no such file, no image in a folder, or an archive that cannot be used.
    """
    return [image for path in paths for image in _images_of(path)]


def _images_of(path: Path) -> Iterator[GivenImage]:
    if os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is none
        files = image_files(path)
        if not files:
            raise InputError(f"{path}: there is no image in this folder.")
        yield from (GivenImage(str(file), file, path) for file in files)
    elif not os.path.exists(path):  # noqa: PTH110 - likewise
        raise InputError(f"{path}: there is no such file or folder.")
    elif path.suffix.lower() == ".npz" and path.is_file():
        images = load_images(path, NAME_IN_ARCHIVE)
        if not len(images):
            raise InputError(f"{path}: there is no image in this archive.")
        yield from (GivenImage(f"{path}[{index}]", path, None, pixels) for index, pixels in enumerate(images))
    else:
        yield GivenImage(str(path), path)


def range_of(facts: Mapping[str, Any]) -> Range | None:
    """Black and white in images of more than 8 bits, as the facts of a classifier say what they were in training."""
    data = facts.get("data")
    found = data.get("range") if isinstance(data, dict) else None
    match found:
        case [int() | float() as black, int() | float() as white] if black != white:
            return black, white
    return None


def read_image(image: GivenImage, shape: tuple[int, int, int], values: Range | None = None) -> tuple[Tensor, bool]:
    """An image as those that trained a classifier, uint8 ``[C, H, W]``; whether it was of another size or colour.

    Args:
        image: from :func:`find_images`.
        shape: ``(C, H, W)`` of the images of the classifier.
        values: black and white in images of more than 8 bits, as they were in training.

    Raises:
        InputError: it cannot be read, or has channels that cannot become those of the images of the classifier.
    """
    channels, height, width = shape
    if image.pixels is not None:
        return _of_array(image.name, image.pixels, shape, values)
    if channels not in MODES:
        raise InputError(
            f"{image.name}: this classifier takes images of {channels} channels, and files have 1 or 3: "
            "put the images into an npz archive."
        )
    with quiet_decoders():
        header = read_header(image.path, values)
        made = np.asarray(decode(image.path, MODES[channels], height, width, values))
    tensor = torch.from_numpy(made.copy()).view(height, width, channels).permute(2, 0, 1)
    return tensor, header.size != (width, height) or header.grey != (channels == 1)


def _of_array(name: str, array: np.ndarray, shape: tuple[int, int, int], values: Range | None) -> tuple[Tensor, bool]:
    channels, height, width = shape
    try:
        pixels = np.atleast_3d(as_8_bits(array, values))
    except InputError as error:
        raise InputError(f"{name}: {error}.") from error
    own = pixels.shape[2]
    if own != channels and not {own, channels} <= set(MODES):
        raise InputError(f"{name} has {own} channels, and this classifier takes images of {channels}.")
    if own in MODES and channels in MODES:
        picture = Image.fromarray(pixels[..., 0] if own == 1 else pixels)
        made = np.asarray(fitted(picture, MODES[channels], height, width)).reshape(height, width, channels)
    else:
        each = (Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(channels))
        made = np.stack([np.asarray(fitted(plane, "L", height, width)) for plane in each], 2)
    tensor = torch.from_numpy(made.copy()).permute(2, 0, 1)
    return tensor, pixels.shape[:2] != (height, width) or own != channels


# ---- true classes ----------------------------------------------------------------------------------


def classes_by_folder(images: Sequence[GivenImage], class_names: Sequence[str]) -> list[int]:
    """The class of each image by the name of the folder that it lies in, or of one above it in the folder given.

    Raises:
        InputError: an image lies in no folder of a class.
    """
    labels = labels_by_name(class_names)
    found = []
    for image in images:
        of_folders = (found_by_name(labels, _text(folder)) for folder in _folders_of(image))
        known = [label for label in of_folders if label is not None]
        if image.pixels is not None or not known:
            raise InputError(
                f"{image.name} lies in no folder of a class ({some_of(class_names, MOST_LISTED)}): "
                "use --truth FILE.csv with the columns file and class."
            )
        found.append(known[0])
    return found


def _folders_of(image: GivenImage) -> Iterator[str]:
    """Names of the folders that an image lies in, the nearest first, up to the one that was given."""
    folder = image.path.absolute().parent
    yield folder.name
    while image.root is not None and folder != image.root.absolute() and folder != folder.parent:
        folder = folder.parent
        yield folder.name


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")  # as the names of classes are made


def classes_by_file(path: Path, images: Sequence[GivenImage], class_names: Sequence[str]) -> list[int]:
    """The class of each image by a CSV file with the columns ``file`` and ``class``.

    Files are named from where the command is given, or from where the CSV file is.

    Raises:
        InputError: the file cannot be read, names a class that there is not or two of one image, or lacks an image.
    """
    labels = labels_by_name(class_names)
    truth: dict[str, int] = {}
    said: dict[str, str] = {}
    for name, of_class in _rows(path):
        label = found_by_name(labels, of_class)
        if label is None:
            raise InputError(f"{path}: {unknown('class', of_class, class_names)}")
        if said.setdefault(name, of_class) != of_class:
            raise InputError(f"{path} has two classes of {name}: {said[name]} and {of_class}.")
        for place in (Path(name), path.parent / name):
            whole = os.path.abspath(place)  # noqa: PTH100 - an archive's images too
            truth.setdefault(whole, label)
            truth.setdefault(composed(whole), label)
    return [_class_of(image, truth, path) for image in images]


def _class_of(image: GivenImage, truth: Mapping[str, int], path: Path) -> int:
    label = found_by_name(truth, os.path.abspath(image.name))  # noqa: PTH100
    if label is None:
        raise InputError(f"{path} has no class of {image.name}.")
    return label


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        if not {"file", "class"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} has no columns 'file' and 'class' in its first line.")
        for row in reader:
            if row["file"] is None or row["class"] is None:
                raise InputError(f"{path}, line {reader.line_num}: a value is missing.")
            yield text_of_csv(row["file"]), text_of_csv(row["class"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (csv.Error, ValueError) as error:  # no UTF-8, or a name that no path can have
        raise InputError(f"{path}: this is no CSV file in UTF-8 with the columns file and class.") from error
