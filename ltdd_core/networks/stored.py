"""Modules that are kept without pickle: what each was made of as JSON, its weights as tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ltdd_core.errors import InputError, reason_of
from ltdd_core.options import BaseOptions
from ltdd_core.seeding import global_generator
from ltdd_core.storage import digest_of

FindClass = Callable[[str], type]
"""``"package.module:Class"`` -> the class.

Raises:
    InputError: there is none, or none that may be used.
"""
LINEAR = "torch.nn:Linear"


class Unstorable(InputError):
    """A module cannot be kept: it was made of something that is neither plain, nor a tensor, nor a module like it."""


class Storable(nn.Module):
    """A module that remembers what it was made of, so that a file can keep it and it can be made again.

    The arguments of its constructor are numbers, text, tensors, options, other storable modules, plain ``nn.Linear``
    layers, None, and lists, tuples and mappings of those; no functions.  What it has beside them is in its parameters
    and buffers.  A part that was put in the place of another afterwards, as ``network.linear = ...``, is kept too.
    """

    _made: _Made | None = None

    def __init_subclass__(cls, **how: Any) -> None:
        super().__init_subclass__(**how)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    def made_of(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments that make it again: those by place and those by name."""
        return ((), {}) if self._made is None else (self._made.by_place, self._made.by_name)


@dataclass
class _Made:
    """What a module was made of, and the parts that its constructor gave it."""

    by_place: tuple[Any, ...]
    by_name: dict[str, Any]
    parts: dict[str, nn.Module | None]


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that notes its arguments, unless that of a subclass has called it."""

    @functools.wraps(init)
    def remembering(self: Storable, *by_place: Any, **by_name: Any) -> None:
        if self._made is not None:
            init(self, *by_place, **by_name)
            return
        nn.Module.__init__(self)  # for classes that do not call it
        made = _Made(by_place, by_name, {})
        self.__dict__["_made"] = made
        init(self, *by_place, **by_name)
        made.parts = dict(self._modules)

    return remembering


def class_name(kind: type) -> str:
    """The name by which a class is found again: ``"package.module:Class"``."""
    return f"{kind.__module__}:{kind.__qualname__}"


# ---- taking apart ----------------------------------------------------------------------------------


def taken_apart(module: nn.Module, find: FindClass) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What makes a module again: a JSON list of the modules in it, itself the last, and all tensors, each once.

    Args:
        module: a :class:`Storable`.
        find: finds classes by name, as it will when the module is made again.

    Raises:
        Unstorable: something in it cannot be kept.
    """
    writer = _Writer(find)
    writer.module(module)
    return writer.modules, writer.tensors


class _Writer:
    def __init__(self, find: FindClass) -> None:
        self.modules: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self._find = find
        self._places: dict[nn.Module, int] = {}
        self._names: dict[str, str] = {}

    def module(self, module: nn.Module) -> int:
        """The place of a module in the list; it stands behind all that it was made of."""
        if module in self._places:
            return self._places[module]
        if type(module) is nn.Linear:
            name, replaced = LINEAR, dict[str, nn.Module]()
            by_place: Sequence[Any] = (module.in_features, module.out_features, module.bias is not None)
            by_name: Mapping[str, Any] = {}
        elif isinstance(module, Storable):
            name, replaced = self._name(type(module)), _replaced(module)
            by_place, by_name = module.made_of()
        else:
            raise Unstorable(f"{type(module).__name__} is no ltdd_core.Storable")
        whose = f"{type(module).__name__} was made of"
        entry = {
            "class": name,
            "by_place": [self._value(value, whose) for value in by_place],
            "by_name": {key: self._value(value, whose) for key, value in by_name.items()},
            "replaced": {key: self.module(part) for key, part in replaced.items()},
        }
        apart = {*_modules_in(by_place), *_modules_in(by_name), *replaced.values()}
        entry["tensors"] = {key: self._tensor(tensor) for key, tensor in _own_tensors(module, apart)}
        self._places[module] = len(self.modules)
        self.modules.append(entry)
        return self._places[module]

    def _value(self, value: Any, whose: str) -> Any:
        inside = functools.partial(self._value, whose=whose)
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value)}
        if isinstance(value, nn.Module):
            return {"module": self.module(value)}
        if isinstance(value, BaseOptions):
            return {"options": self._name(type(value)), "values": value.model_dump(mode="json")}
        if type(value) in (tuple, torch.Size):
            return {"tuple": [inside(item) for item in value]}
        if type(value) is list:
            return {"list": [inside(item) for item in value]}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"mapping": {key: inside(item) for key, item in value.items()}}
        kind = "function" if callable(value) else type(value).__name__
        raise Unstorable(f"{whose} a {kind}")

    def _name(self, kind: type) -> str:
        """The name of a class, if that is enough to find it."""
        name = class_name(kind)
        try:
            found = self._find(name)
        except InputError as error:
            raise Unstorable(f"{kind.__name__} could not be found again: {reason_of(error)}") from error
        if found is not kind:
            raise Unstorable(f"another class has the name {name}")
        return name

    def _tensor(self, tensor: Tensor) -> str:
        """The name of a tensor in the file; tensors that agree in every bit are one."""
        name = self._names.setdefault(digest_of({"": tensor}), str(len(self._names)))
        self.tensors[name] = tensor
        return name


def _replaced(module: Storable) -> dict[str, nn.Module]:
    """Parts that are not those that the constructor gave it, as ``network.linear = ...`` leaves them."""
    made = {} if module._made is None else module._made.parts
    return {
        name: part
        for name, part in module._modules.items()
        if part is not None and part is not made.get(name, part if module._made is None else None)
    }


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """The modules that stand in an argument themselves."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _modules_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _modules_in(item)


def _own_tensors(module: nn.Module, apart: set[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, without those of the modules that are kept apart."""
    for tensors in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in tensors.items() if tensor is not None)
    for name, part in module._modules.items():
        if part is not None and part not in apart:
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _own_tensors(part, apart))


# ---- putting together ------------------------------------------------------------------------------


class Entry(BaseModel):
    """A module in the list of :func:`taken_apart`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    kind: str = Field(alias="class")
    by_place: list[Any]
    by_name: dict[str, Any]
    replaced: dict[str, int]
    tensors: dict[str, str]


def put_together(modules: Sequence[Entry], tensors: Mapping[str, Tensor], find: FindClass) -> nn.Module:
    """The module that :func:`taken_apart` was given, on the CPU, in evaluation mode and frozen.

    Args:
        modules: its list.
        tensors: its tensors, on the CPU.
        find: finds classes by name.

    Raises:
        InputError: a class is missing, or the parts do not fit together.
    """
    if not modules:
        raise InputError("it holds no module.")
    made = list[nn.Module]()
    for entry in modules:
        try:
            with global_generator(0, "weights that are about to be replaced"):
                made.append(_Reader(made, tensors, find).module(entry))
        except InputError:
            raise
        except Exception as error:  # the constructors of whoever wrote the class, with what is in the file
            raise InputError(f"{entry.kind!r:.200} cannot be made again: {reason_of(error):.200}.") from error
    return made[-1].eval().requires_grad_(False)


@dataclass(frozen=True)
class _Reader:
    made: Sequence[nn.Module]
    tensors: Mapping[str, Tensor]
    find: FindClass

    def module(self, entry: Entry) -> nn.Module:
        kind: Any = nn.Linear if entry.kind == LINEAR else self.find(entry.kind)
        if not issubclass(kind, Storable | nn.Linear):
            raise InputError(f"{entry.kind!r:.200} is no class of a classifier.")
        by_place, by_name = self._value({"list": entry.by_place}), self._value({"mapping": entry.by_name})
        module: nn.Module = kind(*by_place, **by_name)
        replaced = {name: self._made(place) for name, place in entry.replaced.items()}
        for name, part in replaced.items():
            setattr(module, name, part)
        apart = {*_modules_in(by_place), *_modules_in(by_name), *replaced.values()}
        own = dict(_own_tensors(module, apart))
        if own.keys() != entry.tensors.keys():
            raise InputError(f"{entry.kind} has other weights in this version of its package.")
        with torch.no_grad():
            for name, tensor in own.items():
                stored = self.tensors[entry.tensors[name]]
                if (stored.shape, stored.dtype) != (tensor.shape, tensor.dtype):
                    raise InputError(f"{entry.kind}: {name} is of another shape in this version of its package.")
                tensor.copy_(stored)
        return module

    def _value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.keys() == {"options", "values"}:
            return self._options(value["options"], value["values"])
        ((kind, content),) = value.items()
        if kind == "tensor":
            return self.tensors[content].clone()
        if kind == "module":
            return self._made(content)
        if kind == "mapping":
            return {key: self._value(item) for key, item in content.items()}
        return {"list": list, "tuple": tuple}[kind](self._value(item) for item in content)

    def _made(self, place: int) -> nn.Module:
        if not 0 <= place < len(self.made):
            raise InputError(f"module {place} is missing.")
        return self.made[place]

    def _options(self, name: str, values: Any) -> BaseOptions:
        kind = self.find(name)
        if not issubclass(kind, BaseOptions):
            raise InputError(f"{name!r:.200} is no class of options.")
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{name}: its options are of another version of its package.") from error
