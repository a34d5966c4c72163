"""Trained networks that observe images: what their batch normalisations are given, and what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ltdd_core import LayerStatistics, Network

Which = Literal["running", "balanced", "averaged"]


@dataclass(frozen=True)
class Target:
    """What a batch normalisation should see."""

    layer: str
    """Its name in the network."""
    whole: Tensor
    """Mean and variance over the long-tailed set, float32 ``[2, channels]``."""
    classes: Tensor
    """Mean and variance of each class, float32 ``[classes, 2, channels]``."""


@dataclass(frozen=True)
class Observer:
    """A trained network whose batch normalisations are matched."""

    network: Network
    targets: tuple[Target, ...]


def global_target(network: Network, layer: str, of: LayerStatistics, which: Which) -> Tensor:
    """Mean and variance that a batch normalisation should see, float32 ``[2, channels]``.

    With the mean m_c and the variance v_c of each class, ``balanced`` is mean_c m_c and the total variance of a set in
    which all classes count the same, mean_c (v_c + m_c^2) - (mean_c m_c)^2.  ``averaged`` is mean_c m_c and mean_c v_c,
    as in Uni-level.  ``running`` is what the network noted while it was trained, as in SRe2L and EDC.

    Args:
        network: has the layer.
        layer: its name.
        of: the statistics of each class.
        which: one of the three.
    """
    if which == "running":
        noted = network.get_submodule(layer)
        return torch.stack([torch.as_tensor(noted.running_mean), torch.as_tensor(noted.running_var)]).detach()
    mean = of.mean.double()
    var = of.var.double().mean(0)
    if which == "balanced":
        var = var + mean.var(0, correction=0)
    return torch.stack([mean.mean(0), var]).float()


def observed(observer: Observer, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits ``[n, classes]``, and what each batch normalisation is given, float32 ``[n, channels, h, w]``.

    Args:
        observer: with the layers.
        images: normalised, float32 ``[n, C, H, W]``.
    """
    seen: dict[str, Tensor] = {}

    def noting(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].float()
            seen[name] = values if values.dim() == 4 else values[:, :, None, None]

        return observer.network.get_submodule(name).register_forward_pre_hook(note)

    handles = [noting(target.layer) for target in observer.targets]
    try:
        logits = observer.network(images).float()
    finally:
        for handle in handles:
            handle.remove()
    return logits, [seen[target.layer] for target in observer.targets]
