"""The state of a matcher or of a training as flat tensors: declared once, for saving and for loading alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def state_of(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of some parts, by names such as ``optimizer: 0: momentum_buffer``; not copied.

    Args:
        parts: tensors, modules, optimizers, and lists and mappings of those, by name.

    Raises:
        TypeError: a part is something else.
    """
    return {place: tensor for name, leaf in _leaves(parts, "") for place, tensor in _tensors(leaf, name)}


def load_state_of(parts: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Make parts of the same structure what they were when :func:`state_of` read them; tensors are filled in place.

    Args:
        parts: as of :func:`state_of`.
        state: the tensors, on any device.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: a tensor has another shape.
    """
    with torch.no_grad():
        for name, leaf in _leaves(parts, ""):
            if isinstance(leaf, torch.optim.Optimizer):
                _fill(leaf, name, state)
            else:
                for place, tensor in _tensors(leaf, name):
                    _copy(place, state[place], tensor)


def _copy(place: str, stored: Tensor, tensor: Tensor) -> None:
    if stored.shape != tensor.shape:  # copy_ would repeat a single image, or a number, until it fits
        raise RuntimeError(f"{place} is {list(stored.shape)}, not {list(tensor.shape)}")
    tensor.copy_(stored)


def _leaves(part: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors, modules and optimizers in lists and mappings, by name."""
    if isinstance(part, Mapping):
        for key, inside in part.items():
            yield from _leaves(inside, f"{name}: {key}" if name else str(key))
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for index, inside in enumerate(part):
            yield from _leaves(inside, f"{name}: {index}")
    elif part is not None:
        yield name, part


def _tensors(leaf: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a leaf, by name."""
    if isinstance(leaf, Tensor):
        yield name, leaf.detach()
    elif isinstance(leaf, nn.Module):
        yield from ((f"{name}: {key}", value) for key, value in leaf.state_dict().items())
    elif isinstance(leaf, torch.optim.Optimizer):
        for index, parameter in enumerate(_parameters(leaf)):
            memory = {key: value for key, value in leaf.state.get(parameter, {}).items() if value is not None}
            yield from ((f"{name}: {index}: {key}", value.detach()) for key, value in memory.items())
    else:
        raise TypeError(f"{name} is a {type(leaf).__name__}, and a state is made of tensors, modules and optimizers")


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _fill(optimizer: torch.optim.Optimizer, prefix: str, state: Mapping[str, Tensor]) -> None:
    """What an optimizer remembers of each parameter; nothing, where it had nothing before its first step."""
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for index, parameter in enumerate(_parameters(optimizer)):
        start = f"{prefix}: {index}: "
        memory = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        optimizer.state[parameter] = {
            # What is of the shape of the parameter is where it is; the step of Adam is on the CPU unless fused.
            key: value.to(parameter.device if fused or value.shape == parameter.shape else "cpu", copy=True)
            for key, value in memory.items()
        }
