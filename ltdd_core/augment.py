"""Differentiable Siamese augmentation (Zhao & Bilen, ICML 2021, "DSA").

One draw is shared by a whole batch, and by the real and the synthetic batch that are compared:
``transform = augmentation.draw(shape, generator)``, then ``transform(real)`` and ``transform(synthetic)``.
The operations work on normalised colours and never clamp them.  Everything random is drawn on the CPU, and
the geometric operations are fixed linear maps whose transposes are gathers too, so results and gradients
are deterministic on every device and can be differentiated as often as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ltdd_core.errors import InputError, unknown

Transform = Callable[[Tensor], Tensor]
Shape = tuple[int, int, int]

# Ranges of DSA's public code.
ROTATE_DEGREES = 15.0
SCALE = 1.2
CROP = 0.125
CUTOUT = 0.5


class Augmentation:
    """A choice of operations; each draw picks one of them at random.

    Args:
        operations: names joined by ``_``, of color, crop, cutout, flip, scale, rotate; or ``none``.

    Raises:
        InputError: an operation has another name.
    """

    def __init__(self, operations: str) -> None:
        names = [] if operations == "none" else operations.split("_")
        for name in names:
            if name not in OPERATIONS:
                raise unknown("augmentation", name, OPERATIONS)
        if len(set(names)) != len(names):
            raise InputError(f"augmentation {operations!r} names an operation twice.")
        self.operations = [OPERATIONS[name] for name in names]

    def draw(self, shape: Shape, generator: torch.Generator) -> Transform:
        """One operation with its strength, for images ``[n, C, H, W]`` with ``shape = (C, H, W)``."""
        if not self.operations:
            return _identity
        choice = int(torch.randint(len(self.operations), (), generator=generator))
        return self.operations[choice](shape, generator)


def _identity(images: Tensor) -> Tensor:
    return images


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _color(shape: Shape, generator: torch.Generator) -> Transform:
    """Brightness, then saturation, then contrast."""
    brightness, saturation, contrast = (_uniform(generator) for _ in range(3))

    def apply(images: Tensor) -> Tensor:
        images = images + (brightness - 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (2 * saturation) + grey
        middle = images.mean((1, 2, 3), keepdim=True)
        return (images - middle) * (contrast + 0.5) + middle

    return apply


def _crop(shape: Shape, generator: torch.Generator) -> Transform:
    """A shift by up to an eighth of the side; zeros come in."""
    _, height, width = shape
    reach_y, reach_x = int(height * CROP + 0.5), int(width * CROP + 0.5)
    dy = int(torch.randint(-reach_y, reach_y + 1, (), generator=generator))
    dx = int(torch.randint(-reach_x, reach_x + 1, (), generator=generator))

    def apply(images: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(images, (reach_x, reach_x, reach_y, reach_y))
        return padded[:, :, reach_y + dy : reach_y + dy + height, reach_x + dx : reach_x + dx + width]

    return apply


def _cutout(shape: Shape, generator: torch.Generator) -> Transform:
    """A zero square of half the side around a random pixel; parts of it may lie outside."""
    _, height, width = shape
    kept = torch.ones(height, width)
    tall, wide = int(height * CUTOUT + 0.5), int(width * CUTOUT + 0.5)
    top = int(torch.randint(height + 1 - tall % 2, (), generator=generator)) - tall // 2
    left = int(torch.randint(width + 1 - wide % 2, (), generator=generator)) - wide // 2
    kept[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = 0

    def apply(images: Tensor) -> Tensor:
        return images * kept.to(images)

    return apply


def _flip(shape: Shape, generator: torch.Generator) -> Transform:
    """Left and right exchanged, half of the time."""
    flipped = _uniform(generator) < 0.5

    def apply(images: Tensor) -> Tensor:
        return images.flip(3) if flipped else images

    return apply


def _scale(shape: Shape, generator: torch.Generator) -> Transform:
    """A zoom, drawn for each axis."""
    x, y = (_uniform(generator, 1 / SCALE, SCALE) for _ in range(2))
    return _warp(shape, torch.tensor([[x, 0.0], [0.0, y]], dtype=torch.float64))


def _rotate(shape: Shape, generator: torch.Generator) -> Transform:
    """A rotation about the centre."""
    angle = math.radians(_uniform(generator, -ROTATE_DEGREES, ROTATE_DEGREES))
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp(shape, torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64))


OPERATIONS: Mapping[str, Callable[[Shape, torch.Generator], Transform]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


# ---- warps as linear maps ------------------------------------------------------------------------


def _warp(shape: Shape, matrix: Tensor) -> Transform:
    """Bilinear sampling at ``matrix @ (x, y)``, coordinates from -1 to 1 across the image; zeros outside."""
    _, height, width = shape
    indices, weights = _bilinear_taps(height, width, matrix)
    forward, backward = (indices, weights), _transposed(indices, weights, height * width)

    def apply(images: Tensor) -> Tensor:
        maps = tuple((i.to(images.device), w.to(images)) for i, w in (forward, backward))
        warped: Tensor = _LinearMap.apply(images.flatten(2), *maps)
        return warped.view(images.shape)

    return apply


def _bilinear_taps(height: int, width: int, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Four source pixels ``[4, H*W]`` of every target pixel and their weights; weight 0 outside."""
    ys = (torch.arange(height, dtype=torch.float64) * 2 + 1) / height - 1
    xs = (torch.arange(width, dtype=torch.float64) * 2 + 1) / width - 1
    grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1]).flatten(1)  # [2, H*W], x before y
    x, y = matrix @ grid
    column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    left, top = column.floor(), row.floor()
    indices, weights = [], []
    for r, weight_r in ((top, 1 - (row - top)), (top + 1, row - top)):
        for c, weight_c in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            indices.append((r.clamp(0, height - 1) * width + c.clamp(0, width - 1)).long())
            weights.append(weight_r * weight_c * inside)
    return torch.stack(indices), torch.stack(weights).float()


def _transposed(indices: Tensor, weights: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """The transpose of the map in the same form: ``[K, pixels]`` taps, padded with weight 0."""
    used = weights.flatten() != 0
    source = indices.flatten()[used]
    target = torch.arange(indices.shape[1]).expand_as(indices).flatten()[used]
    value = weights.flatten()[used]
    order = torch.argsort(source, stable=True)
    source, target, value = source[order], target[order], value[order]
    count = torch.bincount(source, minlength=pixels)
    rank = torch.arange(len(source)) - (count.cumsum(0) - count)[source]
    taps = int(count.max()) if len(source) else 1
    new_indices, new_weights = torch.zeros(taps, pixels, dtype=torch.long), torch.zeros(taps, pixels)
    new_indices[rank, source], new_weights[rank, source] = target, value
    return new_indices, new_weights


class _LinearMap(torch.autograd.Function):
    """``y[..., p] = sum_k weights[k, p] x[..., indices[k, p]]``; its gradient is the transposed map.

    The gradient of plain indexing would be a scatter-add, whose order CUDA does not fix.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, forward: Any, backward: Any) -> Tensor:
        ctx.maps = forward, backward
        indices, weights = forward
        result = pixels[..., indices[0]] * weights[0]
        for index, weight in zip(indices[1:], weights[1:], strict=True):
            result = result.addcmul(pixels[..., index], weight)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        forward, backward = ctx.maps
        return _LinearMap.apply(gradients[0], backward, forward), None, None
