"""``folder``: one's own images, one folder a class, with or without a ``train``/``test`` split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ltdd_core.data import ImageTable, LongTailOptions
from ltdd_core.data.longtail import Order
from ltdd_core.errors import InputError
from ltdd_core.interfaces import DataSource, SourceImages, option

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SMALLEST_SIDE = 4
USUAL_SIZE = 32
GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"RGB", "RGBA", "P", "PA"}


@dataclass(frozen=True)
class FileTable(ImageTable):
    """Image files, decoded to one size and number of channels."""

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    grey: bool

    def read(self, indices: Tensor) -> Tensor:
        """Decode; the shorter side becomes ``size`` and the middle is cut out."""
        mode = "L" if self.grey else "RGB"
        arrays = []
        for index in indices.tolist():
            pixels = np.asarray(_decoded(self.paths[index], mode, self.size))
            arrays.append(torch.from_numpy(pixels.copy()).view(self.size, self.size, -1).permute(2, 0, 1))
        return torch.stack(arrays).contiguous()


class ImageFolder(DataSource):
    """``root/train/<class>/*`` and ``root/test/<class>/*``, or ``root/<class>/*``."""

    class Options(LongTailOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, "the folder with train/ and test/, or with the class folders")
        imbalance: float | Literal["natural"] = option(
            "natural", "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
        )
        order: Order = option("native", "which class is the head; native: folder names, sorted")
        image_size: int | None = option(
            None, "side of the square images; else their own if they agree and are at most 64, else 32", ge=4
        )
        test_share: float = option(
            0.2,
            "without a test folder: share of the smallest class, held out of every class alike",
            gt=0,
            lt=1,
        )

    def load(self, generator: torch.Generator) -> SourceImages:
        """List the files, look at their headers, and hold out a test set if there is none."""
        if self.options.root is None:
            raise InputError("data 'folder' needs --root: a folder with train/ and test/, one folder a class.")
        return load_folder(self.options.root, self.options.image_size, self.options.test_share, generator)


def load_folder(root: Path, image_size: int | None, test_share: float, generator: torch.Generator) -> SourceImages:
    """The image folder under ``root``.

    Raises:
        InputError: no such folder, fewer than two classes, an empty class, or an unusable file.
    """
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such folder.")
    split = has_split(root)
    classes = _class_folders(root / "train" if split else root)
    train_paths, train_labels = _files(root / "train" if split else root, classes)
    if split:
        extra = sorted(set(_class_folders(root / "test")) - set(classes))
        if extra:
            raise InputError(f"{root / 'test'}: class {extra[0]!r} has no folder in {root / 'train'}.")
        test_paths, test_labels = _files(root / "test", classes)
    else:
        train_paths, train_labels, test_paths, test_labels = _hold_out(
            train_paths, train_labels, len(classes), test_share, generator
        )
    sizes, modes = _look_at([*train_paths, *test_paths])
    size = image_size or _common_size(sizes)
    grey = set(modes) <= GREY_MODES
    return SourceImages(
        FileTable(tuple(train_paths), train_labels, size, grey),
        FileTable(tuple(test_paths), test_labels, size, grey),
        tuple(classes),
    )


def has_split(root: Path) -> bool:
    """Whether there are ``train`` and ``test`` folders."""
    return (root / "train").is_dir() and (root / "test").is_dir()


def _class_folders(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder}: {len(names)} class folder(s); at least two are needed, one a class.")
    return names


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise InputError(f"{folder}: there is no folder for class {name!r}.")
        own = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not own:
            raise InputError(f"{folder / name}: no image in this class folder.")
        paths += own
        labels += [label] * len(own)
    return paths, torch.tensor(labels)


def _hold_out(
    paths: list[Path], labels: Tensor, classes: int, share: float, generator: torch.Generator
) -> tuple[list[Path], Tensor, list[Path], Tensor]:
    """A test set with equally many images of every class; at least one image stays for training."""
    counts = torch.bincount(labels, minlength=classes)
    smallest = int(counts.min())
    if smallest < 2:
        raise InputError(
            "without a test folder every class needs two images or more, one to train and one to test: "
            "make train/ and test/ folders, or add images."
        )
    each = max(1, min(smallest - 1, round(smallest * share)))
    order = torch.randperm(len(labels), generator=generator)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        test[order[labels[order] == label][:each]] = True
    train_paths = [path for path, out in zip(paths, test.tolist(), strict=True) if not out]
    test_paths = [path for path, out in zip(paths, test.tolist(), strict=True) if out]
    return train_paths, labels[~test], test_paths, labels[test]


def _look_at(paths: list[Path]) -> tuple[Counter[tuple[int, int]], Counter[str]]:
    """Sizes and modes from the headers, without decoding.

    Raises:
        InputError: a file is no image, too small, or of a mode whose colours one would have to guess.
    """
    sizes, modes = Counter[tuple[int, int]](), Counter[str]()
    for path in paths:
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
        except UnidentifiedImageError as error:
            raise InputError(f"{path}: this is not an image, whatever its name says.") from error
        except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(f"{path}: cannot be read: {error}.") from error
        if min(size) < SMALLEST_SIDE:
            raise InputError(
                f"{path}: {size[0]}x{size[1]} pixels; images need at least {SMALLEST_SIDE} a side: remove it."
            )
        if mode not in GREY_MODES | COLOUR_MODES:
            raise InputError(
                f"{path}: images of mode {mode} (CMYK, 16-bit, ...) are not taken, since their colours would "
                "have to be guessed: save it as 8-bit RGB or grey."
            )
        sizes[size] += 1
        modes[mode] += 1
    return sizes, modes


def _common_size(sizes: Counter[tuple[int, int]]) -> int:
    (width, height) = next(iter(sizes))
    if len(sizes) == 1 and width == height and width <= 2 * USUAL_SIZE:
        return width
    return USUAL_SIZE


def _decoded(path: Path, mode: str, size: int) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            image = _on_white(opened).convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: this image is damaged: {error}.") from error
    if image.size == (size, size):
        return image
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    middle = (left, top, left + shorter, top + shorter)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=middle)


def _on_white(image: Image.Image) -> Image.Image:
    """Transparent pixels have no colour of their own: put the image on white."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image
