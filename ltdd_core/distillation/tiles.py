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


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)
