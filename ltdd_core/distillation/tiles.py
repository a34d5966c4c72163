"""Several images in the place of one, each shrunk to a tile."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def tiled(images: Tensor, factor: int) -> Tensor:
    """Every ``factor * factor`` images as the tiles of one, from left to right and from top to bottom.

    Args:
        images: float32 ``[n * factor^2, C, H, W]``.
        factor: from 1 to the smaller of H and W; the first tiles are a pixel larger where it does not divide a side.

    Returns:
        Float32 ``[n, C, H, W]``.
    """
    heights, widths = ([len(part) for part in torch.arange(size).tensor_split(factor)] for size in images.shape[2:])
    tiles = images.unflatten(0, (-1, factor, factor))
    rows = [
        torch.cat([_shrunk(tiles[:, row, column], (high, wide)) for column, wide in enumerate(widths)], 3)
        for row, high in enumerate(heights)
    ]
    return torch.cat(rows, 2)


def untiled(images: Tensor, factor: int) -> Tensor:
    """The tiles of images, each at the size of a whole image: what a network sees of images made by :func:`tiled`.

    Tiles are enlarged by linear interpolation in both directions, as products with two fixed matrices, whose gradients
    are the same each time on every device.

    Args:
        images: float32 ``[n, C, H, W]``.
        factor: as of :func:`tiled`.

    Returns:
        Float32 ``[n, factor^2, C, H, W]``, from left to right and from top to bottom.
    """
    if factor == 1:
        return images[:, None]
    height, width = images.shape[2:]
    tiles = [
        _enlarging(tile.shape[2], height, images).T @ tile @ _enlarging(tile.shape[3], width, images)
        for row in images.tensor_split(factor, 2)
        for tile in row.tensor_split(factor, 3)
    ]
    return torch.stack(tiles, 1)


def _enlarging(size: int, to: int, like: Tensor) -> Tensor:
    """``[size, to]``, which a row of so many values is multiplied by."""
    return F.interpolate(torch.eye(size, dtype=like.dtype, device=like.device)[None], to, mode="linear")[0]


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)
