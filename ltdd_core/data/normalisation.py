"""How images in [0, 1] become what a network sees, and back: statistics of each channel, or ZCA whitening.

The normalisation is part of a distilled set: a network trained on synthetic images expects its other images
in the same colours.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from ltdd_core.errors import InputError, how_to_set

LARGEST = 3 * 64 * 64
"""Values of an image that ZCA takes: its matrix has the square of that, 604 MB here."""
APPLIED_AT_ONCE = COUNTED_AT_ONCE = 1024


class Normalisation(ABC):
    """Turns raw images into network inputs."""

    once: ClassVar[bool] = False
    """Whether images that are used repeatedly are better normalised once and stored that way."""

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Network inputs of raw images: float32 ``[n, C, H, W]``, on the same device.

        Args:
            images: uint8 ``[n, C, H, W]``.
        """

    @abstractmethod
    def layer(self) -> nn.Module:
        """The same as the first layer of a network, whose inputs are float32 ``[n, C, H, W]`` in [0, 1]."""

    @abstractmethod
    def invert(self, images: Tensor) -> Tensor:
        """Images to look at, of network inputs: float32 ``[n, C, H, W]`` in [0, 1], clamped.

        Args:
            images: float32 ``[n, C, H, W]``, normalised.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The facts that :func:`stored_normalisation` reads, ``kind`` among them."""

    def tensors(self) -> dict[str, Tensor]:
        """What :func:`stored_normalisation` needs beside the facts."""
        return {}

    @abstractmethod
    def misfit(self, image_shape: tuple[int, ...]) -> str | None:
        """What is wrong if it is not for images ``(C, H, W)``; None if it is for them."""


@dataclass(frozen=True)
class PerChannel(Normalisation):
    """Zero mean and unit deviation of each channel over the training set."""

    mean: tuple[float, ...]
    """The mean of each channel, of values in [0, 1]."""
    std: tuple[float, ...]
    """The standard deviation of each channel, above 0, of values in [0, 1]."""

    @classmethod
    def of(cls, images: Tensor) -> PerChannel:
        """Statistics of uint8 images ``[N, C, H, W]``; a constant channel gets deviation 1."""
        histogram = torch.zeros(images.shape[1], 256, dtype=torch.int64)
        for part in images.split(COUNTED_AT_ONCE):
            histogram += torch.stack([channel.bincount(minlength=256) for channel in part.transpose(0, 1).flatten(1)])
        values = torch.arange(256, dtype=torch.float64) / 255
        share = histogram.double() / histogram.sum(1, keepdim=True)
        mean = share @ values
        std = ((share * (values - mean[:, None]) ** 2).sum(1)).sqrt()
        # Asked after rounding: a few odd pixels among millions of equal ones round to 0 as well.
        return cls(tuple(round(m, 6) for m in mean.tolist()), tuple(round(s, 6) or 1.0 for s in std.tolist()))

    def apply(self, images: Tensor) -> Tensor:
        """``(image / 255 - mean) / std``."""
        mean, std = self._columns(images.device)
        return (images.float() / 255 - mean) / std

    def layer(self) -> nn.Module:
        """``(image - mean) / std``."""
        return _Standardised(*self._columns(torch.device("cpu")))

    def invert(self, images: Tensor) -> Tensor:
        """``image * std + mean``, clamped to [0, 1]."""
        mean, std = self._columns(images.device)
        return (images * std).add_(mean).clamp_(0, 1)

    def to_json(self) -> dict[str, Any]:
        """Kind, mean and std."""
        return {"kind": "per-channel", "mean": list(self.mean), "std": list(self.std)}

    def misfit(self, image_shape: tuple[int, ...]) -> str | None:
        """Another number of channels, or a deviation that is not positive."""
        if len(self.mean) == len(self.std) == image_shape[0] and min(self.std) > 0:
            return None
        return f"normalisation is not for {image_shape[0]} channels"

    def _columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device)[:, None, None]
        std = torch.tensor(self.std, dtype=torch.float32, device=device)[:, None, None]
        return mean, std


@dataclass(frozen=True, eq=False)
class ZCA(Normalisation):
    """ZCA whitening: all pixels uncorrelated and of equal variance, in images that still look like images.

    The whitened image is ``(x - mean) @ matrix`` for the flattened image ``x`` in [0, 1], with
    ``matrix = U diag(1 / sqrt(s + eps)) U^T`` of the covariance ``U diag(s) U^T`` of the training images
    (Krizhevsky & Hinton, 2009; with eps 0.1, and without per-channel statistics before, as in MTT's public code).
    """

    once = True

    mean: Tensor
    """float32 ``[C, H, W]``."""
    matrix: Tensor
    """float32 ``[C * H * W, C * H * W]``, symmetric."""
    eps: float
    """What is added to the variances, at least 0."""
    _on: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, images: Tensor, eps: float) -> ZCA:
        """Whitening of uint8 images ``[N, C, H, W]``.

        Raises:
            InputError: a single image, or images too large for a matrix of their pixels' covariances.
        """
        values = images[0].numel()
        if len(images) < 2:
            raise InputError("data.normalisation=zca needs at least two training images.")
        if values > LARGEST:
            size = "x".join(map(str, images.shape[1:]))
            raise InputError(
                f"data.normalisation=zca: images of {size} are too large, the matrix would take "
                f"{4 * values**2 / 2**30:.1f} GiB; use a smaller {how_to_set('data.image_size')}, or "
                "data.normalisation=per-channel."
            )
        total, products = torch.zeros(values, dtype=torch.float64), torch.zeros(values, values, dtype=torch.float64)
        for part in images.split(APPLIED_AT_ONCE):
            flat = part.flatten(1).double() / 255
            total, products = total + flat.sum(0), products.addmm_(flat.T, flat)
        mean = total / len(images)
        covariance = (products - len(images) * mean[:, None] * mean) / (len(images) - 1)
        variances, axes = torch.linalg.eigh(covariance)
        matrix = (axes / (variances.clamp(min=0) + eps).sqrt()) @ axes.T
        return cls(mean.float().view(images.shape[1:]), matrix.float(), eps)

    def apply(self, images: Tensor) -> Tensor:
        """``(image / 255 - mean) @ matrix``."""
        mean, matrix = self._tensors_on(images.device)
        parts = [
            ((part.float() / 255 - mean).flatten(1) @ matrix).view(part.shape) for part in images.split(APPLIED_AT_ONCE)
        ]
        return torch.cat(parts) if parts else images.float()

    def layer(self) -> nn.Module:
        """``(image - mean) @ matrix``."""
        return _Whitened(self.mean, self.matrix)

    def invert(self, images: Tensor) -> Tensor:
        """``image @ matrix^-1 + mean``, clamped to [0, 1]."""
        mean, matrix = self._tensors_on(images.device)
        flat = torch.linalg.solve(matrix.double(), images.flatten(1).double().T).T
        return (flat.float().view(images.shape) + mean).clamp(0, 1)

    def to_json(self) -> dict[str, Any]:
        """Kind and eps."""
        return {"kind": "zca", "eps": self.eps}

    def tensors(self) -> dict[str, Tensor]:
        """``zca_mean`` and ``zca_matrix``."""
        return {"zca_mean": self.mean, "zca_matrix": self.matrix}

    def misfit(self, image_shape: tuple[int, ...]) -> str | None:
        """Made for images of another size."""
        if tuple(self.mean.shape) == tuple(image_shape):
            return None
        return f"its ZCA is for images of {tuple(self.mean.shape)}, not {tuple(image_shape)}"

    def _tensors_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Moved once: the matrix is large."""
        if device not in self._on:
            self._on[device] = self.mean.to(device), self.matrix.to(device)
        return self._on[device]


class _Standardised(nn.Module):
    """:class:`PerChannel` as a layer."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class _Whitened(nn.Module):
    """:class:`ZCA` as a layer."""

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.mean, self.matrix = nn.Buffer(mean), nn.Buffer(matrix)

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean).flatten(1) @ self.matrix).view(images.shape)


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Channels(BaseModel):
    """The facts of :class:`PerChannel`."""

    mean: tuple[Number, ...] = Field(min_length=1)
    std: tuple[Annotated[Number, Field(gt=0)], ...] = Field(min_length=1)


class _Whitening(BaseModel):
    """The facts of :class:`ZCA`."""

    eps: Number = Field(ge=0)


def stored_normalisation(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Normalisation:
    """What :meth:`Normalisation.to_json` and :meth:`Normalisation.tensors` gave.

    Raises:
        InputError: the kind is unknown, or something is missing or malformed.
    """
    kind = facts.get("kind")
    if kind not in ("zca", "per-channel"):
        raise InputError(f"normalisation of kind {reprlib.repr(kind)} is unknown; is this ltdd older?")
    try:
        if kind == "zca":
            return _stored_zca(_Whitening.model_validate(facts).eps, tensors)
        channels = _Channels.model_validate(facts)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"][:1])
        raise InputError(
            f"normalisation.{wrong} is missing, or no finite number (or list of them) in range."
        ) from error
    return PerChannel(channels.mean, channels.std)


def _stored_zca(eps: float, tensors: Mapping[str, Tensor]) -> ZCA:
    mean, matrix = tensors.get("zca_mean"), tensors.get("zca_matrix")
    if mean is None or matrix is None:
        raise InputError("normalisation zca needs the tensors zca_mean and zca_matrix.")
    fits = mean.dim() == 3 and matrix.shape == (mean.numel(), mean.numel())
    plain = all(t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in (mean, matrix))
    if not fits or not plain:
        raise InputError("zca_mean must be finite float32 [C, H, W], and zca_matrix float32 [C*H*W, C*H*W].")
    return ZCA(mean, matrix, eps)
