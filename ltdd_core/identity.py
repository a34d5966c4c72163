"""What decides a value, as a JSON tree: the part of a key that stands for a loss, a layer, an order or a network.

A trained network is kept under all that decides it.  Losses and layers are functions, which hold options, class counts,
teachers; so a function is identified by its name, its code and what it holds, and an object by its class and its
attributes.  The code that functions and classes use counts as well: their methods, their base classes, the functions,
classes and constants of their modules, and what those use, as far as they are named directly.  The code of Python, of
torch and of the other libraries in :data:`LIBRARIES` is taken as given.  A value that cannot be identified raises
:class:`Unidentified`, and what depends on it is not kept: the same key must never mean two networks.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ltdd_core.storage import digest_of

DEEPEST = 20
"""Values within values; deeper ones, and values that hold themselves, cannot be identified."""
LIBRARIES = {
    *sys.stdlib_module_names, "torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "pydantic", "pydantic_core",
    "click", "pluggy", "rich", "safetensors", "threadpoolctl", "yaml",
} - {"__main__"}  # fmt: skip
"""Packages whose functions and classes are known by their names."""
DECIDES_NOTHING = {"ltdd_core.errors", __name__}
"""Modules that training uses, and that change no number."""
KNOWS_ITSELF = "__ltdd_identity__"
"""The method of objects that say themselves what decides them: ``object.__ltdd_identity__() -> value``."""
BUILT_IN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)
OF_EVERY_MODULE = {*vars(nn.Module()), "_made"}
"""Attributes that every torch module has: its parts and tensors, which are read apart, its hooks, and what it was made
of, which its other attributes say."""


class Unidentified(Exception):
    """What decides a value cannot be told."""


def identity(value: Any) -> Any:
    """A JSON tree that is the same for values that do the same, in every process.

    Args:
        value: plain values, tensors, modules, options, components, functions with what they hold, and sequences and
            mappings of those.

    Raises:
        Unidentified: it holds something else, or itself.
    """
    reader = _Reader()
    tree = reader.tree(value)
    code = _code_behind(reader.used)
    return {"value": tree, "code": code} if code else tree


def structure(module: nn.Module) -> Any:
    """A JSON tree that is the same for modules that differ in nothing but the values of parameters and buffers.

    Raises:
        Unidentified: it holds something else than :func:`identity` takes.
    """
    tensors = {**dict(module.named_parameters()), **{f"buffer: {n}": b for n, b in module.named_buffers()}}
    shapes = [[name, list(t.shape), str(t.dtype), t.requires_grad] for name, t in tensors.items()]
    return [_Reader().structure(module, 0), shapes]


def digest(tree: Any) -> str:
    """A digest of a JSON tree, 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=16).hexdigest()


class _Reader:
    """Turns values into trees, and notes which functions and classes it meets."""

    def __init__(self) -> None:
        self.used: list[Any] = []

    def tree(self, value: Any, depth: int = 0) -> Any:
        """``depth``: how many values this one is within."""
        if depth > DEEPEST:
            raise Unidentified(f"{type(value).__name__} is nested too deeply")
        inside = functools.partial(self.tree, depth=depth + 1)
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, torch.device | torch.dtype | Enum | PurePath):
            return str(value)
        if isinstance(value, Tensor):
            return digest_of({"": value})
        if isinstance(value, type):
            return self._name(value)
        if isinstance(value, nn.Module):
            return self._of_module(value, depth)
        if isinstance(value, BaseModel):
            return {self._name(type(value)): inside(value.model_dump(mode="json"))}
        if isinstance(value, Mapping):
            return {"mapping": [[inside(key), inside(item)] for key, item in value.items()]}
        if isinstance(value, Set):
            return {"set": sorted(json.dumps(inside(item)) for item in value)}
        if isinstance(value, Sequence):
            return [inside(item) for item in value]
        if callable(value) and hasattr(value, "__wrapped__"):  # functools.cache and other decorators
            return {"decorated": inside(value.__wrapped__), "by": _name(type(value))}
        if isinstance(value, types.FunctionType | functools.partial):
            return self._of_function(value, depth)
        if isinstance(value, types.MethodType):
            return {"method": inside(value.__func__), "of": inside(value.__self__)}
        if isinstance(value, BUILT_IN):
            return self._of_built_in(value, depth)
        return self._of_object(value, depth)

    def _name(self, used: Any) -> str:
        self.used.append(used)
        return _name(used)

    def _of_object(self, value: Any, depth: int) -> Any:
        """Its class and its attributes, if those are all that it has."""
        kinds = type(value).__mro__[:-1]
        if callable(told := getattr(value, KNOWS_ITSELF, None)):
            return {self._name(type(value)): self.tree(told(), depth + 1)}
        if not (hasattr(value, "__dict__") and all(map(_in_python, kinds))):
            raise Unidentified(f"{type(value).__name__} cannot be identified")
        if any(vars(kind).get("__slots__") for kind in kinds):
            raise Unidentified(f"{type(value).__name__} has attributes in slots")
        return {self._name(type(value)): self.tree(vars(value), depth + 1)}

    def _of_module(self, module: nn.Module, depth: int) -> Any:
        """Its structure, its attributes and all of its tensors."""
        tensors = {**dict(module.named_parameters()), **{f"buffer: {n}": b for n, b in module.named_buffers()}}
        return {"module": self.structure(module, depth), "tensors": digest_of(tensors)}

    def structure(self, module: nn.Module, depth: int) -> Any:
        """Its parts, and the attributes of each."""
        parts = dict(module.named_modules())
        known = {id(part) for part in parts.values()}
        found = []
        for name, part in parts.items():
            attributes = {key: value for key, value in sorted(vars(part).items()) if key not in OF_EVERY_MODULE}
            told = {key: self._of_attribute(value, known, depth) for key, value in attributes.items()}
            found.append([name, self._name(type(part)), told])
        return found

    def _of_attribute(self, value: Any, known: set[int], depth: int) -> Any:
        """An attribute of a module; a method of one of its parts, compiled or not, is known by its name."""
        method = getattr(value, "_torchdynamo_orig_callable", value)
        if isinstance(method, types.MethodType) and id(method.__self__) in known:
            return method.__name__
        return self.tree(value, depth + 1)

    def _of_function(self, function: Any, depth: int) -> Any:
        inside = functools.partial(self.tree, depth=depth + 1)
        if isinstance(function, functools.partial):
            return {"partial": inside(function.func), "with": inside([function.args, function.keywords])}
        try:
            held = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError as error:  # a cell that is not filled yet
            raise Unidentified(f"{function.__qualname__} holds a value that is not there yet") from error
        return {
            "function": self._name(function),
            "code": _digest_of_code(function.__code__, function.__doc__),
            "holds": inside(held),
            "defaults": inside([function.__defaults__, function.__kwdefaults__]),
        }

    def _of_built_in(self, function: Any, depth: int) -> Any:
        """A function that is not written in Python: its name says all, beside the object that it is a method of."""
        owner = getattr(function, "__self__", None)
        if owner is None or isinstance(owner, types.ModuleType):
            return _name(function)
        return {"method": function.__name__, "of": self.tree(owner, depth + 1)}


def _in_python(kind: type) -> bool:
    """Whether a class is written in Python, so that its instances have nothing beside their attributes."""
    return str(getattr(sys.modules.get(kind.__module__), "__file__", "")).endswith(".py")


def _name(used: Any) -> str:
    return f"{getattr(used, '__module__', None)}.{getattr(used, '__qualname__', type(used).__qualname__)}"


# ---- code ----------------------------------------------------------------------------------------


def _code_behind(used: Sequence[Any]) -> str | None:
    """A digest of the code of functions and classes, and of what that code uses; None where all is taken as given."""
    waiting, seen, digests = list(used), set[Any](), set[str]()
    while waiting:
        item = inspect.unwrap(waiting.pop())
        mark = item.__code__ if isinstance(item, types.FunctionType) else item
        if mark in seen or _given(item):
            continue
        seen.add(mark)
        own, uses = _of_class(item) if isinstance(item, type) else _of_plain_function(item)
        digests.add(digest([_name(item), own]))
        waiting += uses
    return digest(sorted(digests)) if digests else None


def _given(item: Any) -> bool:
    """Whether the code of a function or class is taken as given."""
    module = str(getattr(item, "__module__", None))
    return module.partition(".")[0] in LIBRARIES or module in DECIDES_NOTHING


def _of_class(kind: type) -> tuple[Any, list[Any]]:
    """What a class says itself, and the functions and classes that it uses."""
    constants, uses = {}, list[Any](kind.__bases__)
    for name, value in vars(kind).items():
        parts = list(_functions_of(value))
        uses += parts
        if not parts and not name.startswith("_") and (told := _constant(name, value, uses)) is not None:
            constants[name] = told
    return sorted(constants.items()), uses


def _functions_of(value: Any) -> Iterator[Any]:
    """The functions behind an attribute of a class, or the class that it is."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        yield from (part for part in (value.fget, value.fset) if isinstance(part, types.FunctionType))
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif isinstance(value, types.FunctionType | type):
        yield value


def _of_plain_function(function: types.FunctionType) -> tuple[Any, list[Any]]:
    """What a function says itself, and the functions and classes of its module that it uses."""
    constants, uses = {}, []
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            of_module = [getattr(value, other, None) for other in names]
            uses += [part for part in of_module if isinstance(part, types.FunctionType | type)]
        elif isinstance(inspect.unwrap(value) if callable(value) else value, types.FunctionType | type):
            uses.append(value)
        elif (told := _constant(name, value, uses)) is not None:
            constants[name] = told
    return [_digest_of_code(function.__code__, function.__doc__), sorted(constants.items())], uses


def _constant(name: str, value: Any, uses: list[Any]) -> str | None:
    """The digest of a constant; what is no constant, or cannot be identified, has none.

    Lists, mappings and objects are constants if their name is in capitals: others may be caches, which change.
    """
    if not (name.isupper() or isinstance(value, bool | int | float | str | bytes | tuple | frozenset)):
        return None
    reader = _Reader()
    try:
        told = digest(reader.tree(value))
    except Unidentified:
        return None
    uses += reader.used
    return told


def _names(code: types.CodeType) -> Iterator[str]:
    """All names that a code uses, with the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@functools.cache
def _digest_of_code(code: types.CodeType, docstring: str | None) -> str:
    return digest(_of_code(code, docstring))


def _of_code(code: types.CodeType, docstring: str | None = None) -> Any:
    """Instructions, names and constants; a docstring, which does nothing, is none of them."""
    constants = [constant for constant in code.co_consts if docstring is None or constant != docstring]
    return [code.co_code.hex(), list(code.co_names), list(map(_of_code_constant, constants))]


def _of_code_constant(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return _of_code(constant)
    if isinstance(constant, frozenset):  # its order is another in every process
        return sorted(map(repr, constant))
    if isinstance(constant, tuple):
        return list(map(_of_code_constant, constant))
    return repr(constant)
