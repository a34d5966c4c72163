"""``npz``: one NumPy archive in MedMNIST's layout.

It holds ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``; further arrays are left alone.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ltdd_core.data import ArrayTable, LongTailOptions
from ltdd_core.errors import InputError
from ltdd_core.interfaces import DataSource, SourceImages, option


class Npz(DataSource):
    """Images uint8 ``[N, H, W]`` or ``[N, H, W, 3]``, labels ``[N]`` or ``[N, 1]`` from 0."""

    class Options(LongTailOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(None, "the .npz file")
        imbalance: float | Literal["natural"] = option(
            "natural", "imbalance factor n_max / n_min, or 'natural' to take the data as they are"
        )

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read the four arrays; nothing in the file is ever executed."""
        path = self.options.root
        if path is None:
            raise InputError("data 'npz' needs --root: a .npz file in MedMNIST's layout.")
        if not path.is_file():
            raise InputError(f"--root {path}: there is no such file.")
        try:
            with np.load(path, allow_pickle=False) as archive:
                tables = [_table(path, archive, part) for part in ("train", "test")]
        except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: not a .npz archive of plain arrays: {error}.") from error
        train, test = tables
        if train.images.shape[1:] != test.images.shape[1:]:
            raise InputError(f"{path}: training and test images differ in shape.")
        classes = int(max(train.labels.max(), test.labels.max())) + 1
        return SourceImages(train, test, tuple(str(label) for label in range(classes)))


def _table(path: Path, archive: Any, part: str) -> ArrayTable:
    for name in (f"{part}_images", f"{part}_labels"):
        if name not in archive:
            raise InputError(f"{path}: array {name!r} is missing; it has {', '.join(sorted(archive))}.")
    images, labels = archive[f"{part}_images"], archive[f"{part}_labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise InputError(
            f"{path}: {part}_images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W] or [N, H, W, 3]."
        )
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise InputError(f"{path}: {part}_labels have several columns; one label an image is needed.")
    labels = labels.reshape(-1)
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer) or not len(labels) or labels.min() < 0:
        raise InputError(f"{path}: {part}_labels must be one whole number from 0 an image.")
    pixels = torch.from_numpy(images).reshape(len(images), images.shape[1], images.shape[2], -1)
    return ArrayTable(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64)))
