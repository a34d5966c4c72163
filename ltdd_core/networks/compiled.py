"""Networks in mixed precision, and compiled."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ltdd_core.networks.network import Network

Result = TypeVar("Result")
Compiling = bool | Literal["auto"]
"""Whether networks are compiled; ``auto``: where it pays for itself."""
KINDS = 64
"""Kinds of networks of one class that a process compiles."""
PAYS_FROM = {"cpu": 6e12, "cuda": 3e14}
"""Multiply-adds of a work from which on compiling pays.

A CPU takes a minute or more for them, and compiling takes some 15 seconds and saves a third.  An H200 takes three
minutes for those of small networks, and compiling takes 30 seconds and saves a tenth or more.  They are fixed, so that
the same work is always done in the same way.
"""


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context of mixed precision for ``bf16``; one that does nothing for ``fp32``.

    Args:
        precision: ``bf16`` or ``fp32``.
        device: where the block computes.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def compiling_pays(compiling: Compiling, multiply_adds: Callable[[], float], device: torch.device) -> bool:
    """Whether to compile a network for some work.

    Args:
        compiling: what was asked for.
        multiply_adds: counts those of the whole work.
        device: where it is done.
    """
    if compiling == "auto":
        return multiply_adds() >= PAYS_FROM.get(device.type, PAYS_FROM["cuda"])
    return compiling


def compiled_function(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function that torch compiles at its first call, the same up to rounding.

    It is compiled once for every kind of network (width, image shape, mode, gradients or none) of a class in a process.
    torch shares what it has compiled between networks of the same kind, and by default leaves the ninth kind as it is:
    a grid over widths then continues without compiling, with a warning in torch's log.

    Where torch cannot compile it, as with a compiler that does not work, the function runs as it is, with a warning.

    Args:
        function: of tensors, or of what holds tensors.
    """
    import torch._dynamo.config as dynamo  # takes a second
    from torch._dynamo.exc import TorchDynamoException

    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS)
    logging.getLogger("torch.utils.cpp_extension").addFilter(_about_this_machine)
    faster: Callable[..., Result] | None = torch.compile(function)

    def compiled(*args: Any) -> Result:
        nonlocal faster
        if faster is not None:
            try:
                return faster(*args)
            except TorchDynamoException as error:
                faster = None
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                warnings.warn(f"torch cannot compile the network, which runs as it is: {reason}", stacklevel=2)
        return function(*args)

    return compiled


def _about_this_machine(record: logging.LogRecord) -> bool:
    """Leave out what torch says with each first compilation on a machine that has CUDA's folder and no GPU."""
    return not record.getMessage().startswith("No CUDA runtime is found")


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
        self._inner_embed = compiled_function(inner.embed) if compiled else inner.embed
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
        if self._compiled:
            torch._dynamo.maybe_mark_dynamic(images, 0)  # one graph for all sizes of a batch, and no slower
        with precision_context(self._precision, images.device):
            features = self._inner_embed(images)
        return features.float() if self._precision == "bf16" else features
