"""Networks in mixed precision, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ltdd_core.networks.network import Network

Embed = Callable[[Tensor], Tensor]
KINDS = 64
"""Kinds of networks of one class that a process compiles."""


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context of mixed precision for ``bf16``; one that does nothing for ``fp32``.

    Args:
        precision: ``bf16`` or ``fp32``.
        device: where the block computes.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _compile(embed: Embed) -> Embed:
    """Compiled once for every kind of network (width, image shape, mode, gradients or none) of a class in a process.

    torch shares what it has compiled between networks of the same kind, and by default leaves the ninth kind as it is:
    a grid over widths then continues without compiling, with a warning in torch's log.
    """
    import torch._dynamo.config as dynamo  # takes a second

    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS)
    compiled: Embed = torch.compile(embed)
    return compiled


class CompiledNetwork(Network):
    """A network whose ``embed`` is compiled and in mixed precision; features come out in float32.

    A compiled network gives gradients once; for gradients of gradients there is :attr:`eager`.

    Args:
        inner: the network, with which it shares its parameters.
        precision: ``bf16`` computes ``embed`` in mixed precision, ``fp32`` as it is.
        compiled: whether ``embed`` is compiled.
    """

    def __init__(self, inner: Network, precision: str, compiled: bool) -> None:
        super().__init__()
        self.inner, self.linear = inner, inner.linear
        self._inner_embed = _compile(inner.embed) if compiled else inner.embed
        self._precision, self._compiled = precision, compiled

    def made_of(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The network and its precision; it is kept as one that is not compiled."""
        return (self.inner, self._precision, False), {}

    @property
    def eager(self) -> CompiledNetwork:
        """The same parameters and precision, not compiled."""
        return CompiledNetwork(self.inner, self._precision, compiled=False) if self._compiled else self

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` in float32."""
        if torch.compiler.is_exporting():  # a graph for other tools, few of which compute in bf16
            return self.inner.embed(images)
        with precision_context(self._precision, images.device):
            features = self._inner_embed(images)
        return features.float() if self._precision == "bf16" else features
