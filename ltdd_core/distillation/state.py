"""The state of a matcher as flat tensors: what it keeps is declared once, for saving and for loading alike."""

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
    return dict(_tensors(parts, ""))


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
        for name, tensor in _tensors(parts, ""):
            if not _is_of_optimizer(name, parts):
                tensor.copy_(state[name])
        for prefix, optimizer in _optimizers(parts, ""):
            _fill(optimizer, prefix, state)


def _tensors(part: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield name, part.detach()
    elif isinstance(part, nn.Module):
        yield from _tensors(part.state_dict(), name)
    elif isinstance(part, torch.optim.Optimizer):
        for index, parameter in enumerate(_parameters(part)):
            yield from _tensors(dict(part.state.get(parameter, {})), f"{name}: {index}")
    elif isinstance(part, Mapping):
        for key, inside in part.items():
            yield from _tensors(inside, f"{name}: {key}" if name else str(key))
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for index, inside in enumerate(part):
            yield from _tensors(inside, f"{name}: {index}")
    elif part is not None:
        raise TypeError(f"{name} is a {type(part).__name__}, and a state is made of tensors, modules and optimizers")


def _optimizers(part: Any, name: str) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    if isinstance(part, torch.optim.Optimizer):
        yield name, part
    elif isinstance(part, Mapping):
        for key, inside in part.items():
            yield from _optimizers(inside, f"{name}: {key}" if name else str(key))
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for index, inside in enumerate(part):
            yield from _optimizers(inside, f"{name}: {index}")


def _is_of_optimizer(name: str, parts: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{prefix}: ") for prefix, _ in _optimizers(parts, ""))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _fill(optimizer: torch.optim.Optimizer, prefix: str, state: Mapping[str, Tensor]) -> None:
    """What an optimizer remembers of each parameter; nothing, where it had nothing before its first step."""
    for index, parameter in enumerate(_parameters(optimizer)):
        start = f"{prefix}: {index}: "
        memory = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        optimizer.state[parameter] = {
            # What is of the shape of the parameter is where it is; the step of Adam is a number on the CPU.
            key: value.to(parameter.device if value.shape == parameter.shape else "cpu", copy=True)
            for key, value in memory.items()
        }
