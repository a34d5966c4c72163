"""What decides a value, as a JSON tree: the part of a key that stands for a loss, a layer, an order or a network.

A trained network is kept under all that decides it.  Losses and layers are functions, which hold options, class counts,
teachers; so a function is identified by its name, its code and what it holds.  A value that cannot be identified raises
:class:`Unidentified`, and what depends on it is not kept: the same key must never mean two networks.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import types
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ltdd_core.storage import digest_of

DEEPEST = 20
"""Values within values; deeper ones, and values that hold themselves, cannot be identified."""


class Unidentified(Exception):
    """What decides a value cannot be told."""


def identity(value: Any, depth: int = 0) -> Any:
    """A JSON tree that is the same for values that do the same, in every process.

    Args:
        value: plain values, tensors, modules, options, components, functions with what they hold, and sequences and
            mappings of those.
        depth: how many values this one is within.

    Raises:
        Unidentified: it holds something else, or itself.
    """
    if depth > DEEPEST:
        raise Unidentified(f"{type(value).__name__} is nested too deeply")
    inside = functools.partial(identity, depth=depth + 1)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, torch.device | torch.dtype | Enum | PurePath):
        return str(value)
    if isinstance(value, Tensor):
        return digest_of({"": value})
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, nn.Module):
        return _of_module(value)
    if isinstance(value, BaseModel):
        return {_name(type(value)): inside(value.model_dump(mode="json"))}
    if isinstance(value, Mapping):
        return {"mapping": [[inside(key), inside(item)] for key, item in value.items()]}
    if isinstance(value, Set):
        return {"set": sorted(json.dumps(inside(item)) for item in value)}
    if isinstance(value, Sequence):
        return [inside(item) for item in value]
    written_in_c = callable(value) and not hasattr(value, "__dict__")
    if written_in_c or isinstance(value, types.FunctionType | functools.partial):
        return _of_function(value, depth)
    if isinstance(value, types.MethodType):
        return {"method": inside(value.__func__), "of": inside(value.__self__)}
    if hasattr(value, "__dict__") and all(_in_python(kind) for kind in type(value).__mro__[:-1]):
        return {_name(type(value)): inside(vars(value))}
    raise Unidentified(f"{type(value).__name__} cannot be identified")


def digest(tree: Any) -> str:
    """A digest of a JSON tree, 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=16).hexdigest()


def _in_python(kind: type) -> bool:
    """Whether a class is written in Python, so that its instances have nothing beside their attributes."""
    return str(getattr(sys.modules.get(kind.__module__), "__file__", "")).endswith(".py")


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _of_module(module: nn.Module) -> Any:
    """Its structure, its plain attributes and all of its tensors."""
    parts = [
        [
            name,
            _name(type(part)),
            {k: v for k, v in sorted(vars(part).items()) if isinstance(v, bool | int | float | str)},
        ]
        for name, part in module.named_modules()
    ]
    return {"module": parts, "tensors": digest_of(module.state_dict())}


def _of_function(function: Any, depth: int) -> Any:
    inside = functools.partial(identity, depth=depth + 1)
    if isinstance(function, functools.partial):
        return {"partial": inside(function.func), "with": inside([function.args, function.keywords])}
    if not isinstance(function, types.FunctionType):  # written in C: its name says all
        return (
            _name(function) if hasattr(function, "__qualname__") and hasattr(function, "__module__") else str(function)
        )
    try:
        held = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError as error:  # a cell that is not filled yet
        raise Unidentified(f"{function.__qualname__} holds a value that is not there yet") from error
    return {
        "function": _name(function),
        "code": digest(_of_code(function.__code__, function.__doc__)),
        "holds": inside(held),
        "defaults": inside([function.__defaults__, function.__kwdefaults__]),
    }


def _of_code(code: types.CodeType, docstring: str | None = None) -> Any:
    """Instructions, names and constants; a docstring, which does nothing, is none of them."""
    constants = [constant for constant in code.co_consts if docstring is None or constant != docstring]
    told = [_of_code(part) if isinstance(part, types.CodeType) else repr(part) for part in constants]
    return [code.co_code.hex(), list(code.co_names), told]
