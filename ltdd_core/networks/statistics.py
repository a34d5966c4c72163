"""Statistics of the inputs of layers over a data set, class by class: what statistics matching recovers images from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltdd_core.networks.compiled import CompiledNetwork


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and variance of each channel of the input of a layer, over the images of each class and all pixels."""

    mean: Tensor
    """float32 ``[classes, channels]``."""
    var: Tensor
    """float32 ``[classes, channels]``, over images and pixels together, not corrected for their number."""


def normalised_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The batch normalisations of a network, by name, in its order."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kind)}


def class_statistics(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int
) -> dict[str, LayerStatistics]:
    """The statistics of the inputs of all batch normalisations, in one pass; the network stays as it is.

    Sums are taken in float64, so that neither the order nor the size of the batches matters.

    Args:
        network: in evaluation mode; a function of normalised images.
        batches: normalised images ``[n, C, H, W]`` on the network's device, and their classes, int64 ``[n]``.
        classes: number of classes; one without images has mean 0 and variance 0.
    """
    if isinstance(network, CompiledNetwork):  # compiled code that was made before hooks were there does not call them
        network = network.eager
    seen: dict[str, Tensor] = {}
    layers = normalised_layers(network)

    def noting(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()

        return layers[name].register_forward_pre_hook(note)

    handles = [noting(name) for name in layers]
    sums: dict[str, Tensor] = {}
    try:
        for images, labels in batches:
            with torch.no_grad():
                network(images)
            for name, values in seen.items():
                part = _sums(values, labels.to(values.device), classes)
                sums[name] = sums[name] + part if name in sums else part
    finally:
        for handle in handles:
            handle.remove()
    return {name: _statistics(total) for name, total in sums.items()}


def _sums(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Number, sum and sum of squares of each channel, by class: float64 ``[3, classes, channels]``."""
    flat = values.double().flatten(2) if values.dim() > 2 else values.double()[:, :, None]  # [n, channels, pixels]
    count = torch.full(flat.shape[:2], float(flat.shape[2]), dtype=torch.float64, device=flat.device)
    of_images = torch.stack([count, flat.sum(2), flat.square().sum(2)])  # [3, n, channels]
    member = torch.nn.functional.one_hot(labels, classes).double()  # [n, classes]
    return member.T @ of_images


def _statistics(total: Tensor) -> LayerStatistics:
    count, first, second = total
    mean = first / count.clamp(min=1)
    var = (second / count.clamp(min=1) - mean.square()).clamp(min=0)
    return LayerStatistics(mean.float().cpu(), var.float().cpu())
