"""Differentiable Siamese augmentation (Zhao & Bilen, ICML 2021, "DSA").

While matching, one draw is shared by a whole batch, and by the real and the synthetic batch that are compared:
``transform = augmentation.draw(shape, generator)``, then ``transform(real)`` and ``transform(synthetic)``.
While a network trains, ``augmentation.draw(shape, generator, count=n)`` gives each of n images separate strengths.
The operations work on normalised colours and never clamp them.  Everything random is drawn on the CPU, and
the geometric operations are fixed linear maps whose transposes are gathers too, so results and gradients
are deterministic on every device and can be differentiated as often as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.errors import InputError, unknown
from ltdd_core.networks.network import Shape

Transform = Callable[[Tensor], Tensor]

# Ranges of DSA's public code.
ROTATE_DEGREES = 15.0
SCALE = 1.2
CROP = 0.125
CUTOUT = 0.5
GRID_PIXELS = 2**20
"""Pixels whose places in the images are there at once, where each image has places of its own."""


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
        self.name = operations
        self.operations = [OPERATIONS[name] for name in names]

    def draw(self, shape: Shape, generator: torch.Generator, count: int | None = None) -> Transform:
        """One operation, with one strength for all images or with a strength for each of ``count`` images.

        Args:
            shape: ``(C, H, W)`` of the images.
            generator: where the operation and its strengths are drawn, on the CPU.
            count: None: the transform takes any number of images and changes all of them in the same way (siamese:
                matching).  A number: it takes exactly that many images, at least 1, each with separate strengths
                (training).

        Returns:
            A function of images ``[n, C, H, W]``, floating point, on any device; the result is like its argument.

        Raises:
            ValueError: ``count`` is below 1; from the transform: it is given another number of images.
        """
        if count is not None and count < 1:
            raise ValueError(f"a draw for each image needs a count of at least 1, not {count}")
        transform: Transform = _identity
        if self.operations:
            choice = int(torch.randint(len(self.operations), (), generator=generator))
            transform = self.operations[choice](shape, generator, 1 if count is None else count)
        return transform if count is None else _exactly(count, transform)

    def apply(self, images: Tensor, draws: torch.Generator, normalisation: Normalisation) -> Tensor:
        """One draw for the images of a training batch, each with separate strengths.

        Args:
            images: normalised, float32 ``[n, C, H, W]``.
            draws: on the CPU.
            normalisation: not needed: the operations work on normalised colours.
        """
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return self.draw(shape, draws, len(images))(images)

    def apply_to_each(self, images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """As :meth:`apply`, of several batches: each gets what its own generator draws.

        Batches for which the same operation is drawn go through it at once.

        Args:
            images: normalised, float32 ``[K, n, C, H, W]``.
            draws: of each batch, on the CPU.
        """
        if not self.operations:
            return images
        drawn = [int(torch.randint(len(self.operations), (), generator=own)) for own in draws]
        _, count, *shape = images.shape
        changed = torch.empty_like(images)
        for choice in sorted(set(drawn)):
            batches = [number for number, each in enumerate(drawn) if each == choice]
            transform = self.operations[choice](shape, [draws[number] for number in batches], count)
            changed[batches] = transform(images[batches].flatten(0, 1)).unflatten(0, (len(batches), count))
        return changed


def _identity(images: Tensor) -> Tensor:
    return images


def _exactly(count: int, transform: Transform) -> Transform:
    def apply(images: Tensor) -> Tensor:
        if len(images) != count:
            raise ValueError(f"this augmentation was drawn for {count} images, not for {len(images)}")
        return transform(images)

    return apply


# ---- the operations --------------------------------------------------------------------------------
# Each draws ``count`` strengths: as many as images, or one, which broadcasts over any number of images.  Of several
# generators each draws as many, for its own images.

Draws = torch.Generator | Sequence[torch.Generator]


def _uniform(draws: Draws, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * _of_each(draws, lambda own: torch.rand(count, generator=own, dtype=torch.float64))


def _integers(draws: Draws, count: int, low: int, high: int) -> Tensor:
    """From ``low`` to ``high - 1``, int64 ``[count, 1]``, or of each generator as many."""
    return _of_each(draws, lambda own: torch.randint(low, high, (count, 1), generator=own))


def _of_each(draws: Draws, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    return draw(draws) if isinstance(draws, torch.Generator) else torch.cat([draw(own) for own in draws])


def _color(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """Brightness, then saturation, then contrast."""
    brightness, saturation, contrast = (_uniform(draws, count) for _ in range(3))
    strengths = torch.stack([brightness - 0.5, 2 * saturation, contrast + 0.5]).view(3, -1, 1, 1, 1)

    def apply(images: Tensor) -> Tensor:
        added, saturated, contrasted = strengths.to(images)
        images = images + added
        grey = images.mean(1, keepdim=True)
        images = (images - grey).mul_(saturated).add_(grey)  # in place: a batch may be large
        middle = images.mean((1, 2, 3), keepdim=True)
        return (images - middle).mul_(contrasted).add_(middle)

    return apply


def _crop(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """A shift by up to an eighth of the side; zeros come in."""
    _, height, width = shape
    reach_y, reach_x = int(height * CROP + 0.5), int(width * CROP + 0.5)
    dy = _integers(draws, count, -reach_y, reach_y + 1)
    dx = _integers(draws, count, -reach_x, reach_x + 1)

    def shift(sign: int, device: torch.device) -> _Taps:
        rows = torch.arange(height, device=device) + sign * dy.to(device)
        columns = torch.arange(width, device=device) + sign * dx.to(device)
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None]
        indices = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
        return _Taps(indices.flatten(1)[None], inside.flatten(1)[None].float())

    return _linear(partial(shift, 1), partial(shift, -1))


def _cutout(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """A zero rectangle of half the sides around a random pixel; parts of it may lie outside."""
    _, height, width = shape
    tall, wide = int(height * CUTOUT + 0.5), int(width * CUTOUT + 0.5)
    top = _integers(draws, count, 0, height + 1 - tall % 2) - tall // 2
    left = _integers(draws, count, 0, width + 1 - wide % 2) - wide // 2
    cut_rows, cut_columns = _inside(torch.arange(height) - top, tall), _inside(torch.arange(width) - left, wide)
    kept = ~(cut_rows[:, None, :, None] & cut_columns[:, None, None, :])

    def apply(images: Tensor) -> Tensor:
        return images * kept.to(images)

    return apply


def _flip(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """Left and right exchanged, half of the time."""
    flipped = _uniform(draws, count).view(-1, 1, 1, 1) < 0.5

    def apply(images: Tensor) -> Tensor:
        if flipped.all():
            return images.flip(3)
        return torch.where(flipped.to(images.device), images.flip(3), images) if flipped.any() else images

    return apply


def _scale(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """A zoom, drawn for each axis."""
    x, y = (_uniform(draws, count, 1 / SCALE, SCALE) for _ in range(2))
    return _warp(shape, torch.stack([x, y], 1).diag_embed())


def _rotate(shape: Shape, draws: Draws, count: int = 1) -> Transform:
    """A rotation about the centre."""
    angles = [math.radians(a) for a in _uniform(draws, count, -ROTATE_DEGREES, ROTATE_DEGREES).tolist()]
    matrices = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
    return _warp(shape, torch.tensor(matrices, dtype=torch.float64))


OPERATIONS: Mapping[str, Callable[..., Transform]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


# ---- shifts and warps as linear maps -------------------------------------------------------------


class _Taps(NamedTuple):
    """A linear map for each image, or one for all (n = 1): ``y[p] = sum_k weights[k, p] x[indices[k, p]]``."""

    indices: Tensor  # [K, n, H*W], int64
    weights: Tensor  # [K, n, H*W], float32; 0 where a tap lies outside the image


TapsOn = Callable[[torch.device], _Taps]


def _linear(taps: TapsOn, transposed: TapsOn) -> Transform:
    """The map of ``taps``; a training run never asks for its transpose, so both are made when first needed."""
    forward, backward = cache(taps), cache(transposed)

    def apply(images: Tensor) -> Tensor:
        pixels: Tensor = _LinearMap.apply(images.flatten(2), forward, backward)
        return pixels.view(images.shape)

    return apply


class _LinearMap(torch.autograd.Function):
    """The map ``forward`` on pixels ``[N, C, H*W]``; its gradient is the map ``backward``, its transpose.

    The gradient of plain indexing would be a scatter-add, whose order CUDA does not fix.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, forward: TapsOn, backward: TapsOn) -> Tensor:
        ctx.maps = forward, backward
        indices, weights = forward(pixels.device)
        weights = weights.to(pixels)[:, :, None]
        chosen = (pixels.gather(2, index[:, None].expand_as(pixels)) for index in indices)
        result = next(chosen) * weights[0]
        for tap, weight in zip(chosen, weights[1:], strict=True):
            result = result.addcmul(tap, weight)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        forward, backward = ctx.maps
        return _LinearMap.apply(gradients[0], backward, forward), None, None


def _warp(shape: Shape, matrices: Tensor) -> Transform:
    """Bilinear sampling at ``matrix @ (x, y)``, coordinates from -1 to 1 across the image; zeros outside."""
    gathered = _gathered_warp(shape, matrices)
    sampled = _sampled_warp(shape, matrices) if len(matrices) > 1 else gathered

    def apply(images: Tensor) -> Tensor:
        # grid_sample is tens of times faster on the CPU; on CUDA the order of its gradient's sums is not fixed.
        # One matrix for all images, as in matching, is gathered everywhere: grid_sample wants a grid for each image.
        return sampled(images) if images.device.type == "cpu" else gathered(images)

    return apply


def _gathered_warp(shape: Shape, matrices: Tensor) -> Transform:
    _, height, width = shape
    taps = cache(lambda device: _bilinear_taps(height, width, matrices.to(device)))
    return _linear(taps, lambda device: _transposed(*taps(device)))


def _bilinear_taps(height: int, width: int, matrices: Tensor) -> _Taps:
    """The four source pixels of every target pixel, for ``matrices`` ``[n, 2, 2]`` in float64."""
    x, y = (matrices.flatten(0, 1) @ _grid(height, width, matrices.device)).unflatten(0, (-1, 2)).unbind(1)
    columns, rows = _neighbours(x, width), _neighbours(y, height)
    indices = [r * width + c for r, _ in rows for c, _ in columns]
    weights = [(weight_r * weight_c).float() for _, weight_r in rows for _, weight_c in columns]
    return _Taps(torch.stack(indices), torch.stack(weights))


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Centres of the pixels, ``[2, H*W]`` in float64, x before y."""
    ys = (torch.arange(height, dtype=torch.float64, device=device) * 2 + 1) / height - 1
    xs = (torch.arange(width, dtype=torch.float64, device=device) * 2 + 1) / width - 1
    return torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1]).flatten(1)


def _neighbours(coordinate: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The pixel before and the pixel after a coordinate along one axis, each with its weight, 0 outside."""
    position = ((coordinate + 1) * size - 1) / 2
    before = position.floor()
    weight = position - before
    pairs = (before, 1 - weight), (before + 1, weight)
    return [(pixel.clamp(0, size - 1).long(), weight * _inside(pixel, size)) for pixel, weight in pairs]


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)


def _transposed(indices: Tensor, weights: Tensor) -> _Taps:
    """The transposed map in the same form, as many taps as the most used pixel has, padded with weight 0."""
    taps, _, pixels = indices.shape
    weights = weights.transpose(0, 1).flatten(1)  # [n, K*pixels]
    used = indices.transpose(0, 1).flatten(1).masked_fill(weights == 0, pixels)
    source, order = used.int().sort(dim=1, stable=True)  # the taps of each source pixel now lie side by side
    every = torch.arange(pixels + 1, device=source.device, dtype=source.dtype).repeat(len(source), 1)
    first = torch.searchsorted(source, every)
    start, end = first[:, :-1], first[:, 1:]
    most = max(int((end - start).max()), 1)
    position = start + torch.arange(most, device=source.device)[:, None, None]  # [most, n, pixels]
    tap = order.expand(most, -1, -1).gather(2, position.clamp(max=taps * pixels - 1))
    return _Taps(tap % pixels, weights.expand(most, -1, -1).gather(2, tap) * (position < end))


def _sampled_warp(shape: Shape, matrices: Tensor) -> Transform:
    _, height, width = shape
    at_once = max(1, GRID_PIXELS // (height * width))

    def of(images: Tensor, matrices: Tensor) -> Tensor:
        # In float64 until here: an autocast leaves float64 alone.
        grid = (matrices @ _grid(height, width, matrices.device)).mT.unflatten(1, (height, width))  # [n, H, W, 2]
        sampled: Tensor = _GridSample.apply(images, grid.to(images), False)
        return sampled

    def apply(images: Tensor) -> Tensor:
        parts = [of(*part) for part in zip(images.split(at_once), matrices.split(at_once), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return apply


class _GridSample(torch.autograd.Function):
    """``grid_sample`` of images or its transpose: PyTorch's own has no second derivative.

    Sampling is linear in the images, so the gradient of zeros is the transpose.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor, transpose: bool) -> Tensor:
        ctx.grid, ctx.transpose = grid, transpose
        if not transpose:
            return grid_sample(images, grid, align_corners=False)
        with torch.enable_grad():
            zeros = torch.zeros_like(images, requires_grad=True)
            return torch.autograd.grad(grid_sample(zeros, grid, align_corners=False), zeros, images)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _GridSample.apply(gradients[0], ctx.grid, not ctx.transpose), None, None
