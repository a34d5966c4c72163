"""Count what some code would compute, without computing it and without memory for its images.

An image set, or a feature map, stands here as a *hollow* tensor: of the right shape and type, all of it one number in
memory.  While :class:`Counting` is active, an operation on hollow tensors is not done.  torch is asked for the shapes
of its results alone (on the device "meta"), which come back hollow.  All else is done as usual: indices, labels, random
draws, loops and branches.  So any code can be counted as it is, a stranger's method too.

What depends on the values of a hollow tensor is not what it would be.  Floating point numbers are 1, whole numbers 0,
and a test says yes: a loss is finite, and the largest logit is that of class 0.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

NOTED = 2**16
"""Bytes of a tensor from which on it is part of the memory; there are too many smaller ones, of too little use."""
HALF = (torch.bfloat16, torch.float16)
FREE = ("empty", "new_empty", "detach", "lift_fresh", "_local_scalar_dense", "set_", "resize_")
"""Beginnings of names of operations that move no numbers."""
LOOKS_UP = ("index", "index_select", "gather", "embedding", "take")
"""Names of operations that read only as much of their input as they give."""
CANNOT = (RuntimeError, NotImplementedError, TypeError)
"""What torch raises where the shape of a result depends on values."""


@dataclass(frozen=True)
class Work:
    """What some code computes."""

    fp32: float = 0
    """Multiply-adds of convolutions and matrix products in fp32."""
    bf16: float = 0
    """Those in bf16."""
    moved: float = 0
    """Bytes that all other operations read and write."""
    calls: float = 0
    """How many operations on images, maps and gradients there are, which a GPU does if there is one."""
    small: float = 0
    """How many others there are, such as random draws, which the CPU does in any case."""

    @property
    def multiply_adds(self) -> float:
        """Of convolutions and matrix products."""
        return self.fp32 + self.bf16

    def __add__(self, other: Work) -> Work:
        return Work(
            self.fp32 + other.fp32,
            self.bf16 + other.bf16,
            self.moved + other.moved,
            self.calls + other.calls,
            self.small + other.small,
        )

    def __sub__(self, other: Work) -> Work:
        return self + other * -1

    def __mul__(self, times: float) -> Work:
        return Work(self.fp32 * times, self.bf16 * times, self.moved * times, self.calls * times, self.small * times)


NOTHING = Work()


class Tally:
    """Adds up work."""

    def __init__(self) -> None:
        self._fp32 = self._bf16 = self._moved = self._calls = self._small = 0

    def add(self, *, small: bool, fp32: int = 0, bf16: int = 0, moved: int = 0) -> None:
        """An operation more."""
        self._fp32, self._bf16, self._moved = self._fp32 + fp32, self._bf16 + bf16, self._moved + moved
        self._calls, self._small = self._calls + (not small), self._small + small

    def so_far(self) -> Work:
        """What was added."""
        return Work(self._fp32, self._bf16, self._moved, self._calls, self._small)


def hollow(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that takes no memory, on the CPU.

    Args:
        shape: its size in each dimension.
        dtype: of its numbers: 1 where they are floating point numbers, True or 0.
    """
    return torch.full((), dtype.is_floating_point or dtype == torch.bool, dtype=dtype).expand(shape)


def is_hollow(value: Tensor) -> bool:
    """Whether a tensor has more than one number, and a single place for them."""
    return value.numel() > 1 and not any(
        step for step, size in zip(value.stride(), value.shape, strict=True) if size > 1
    )


class Counting(TorchDispatchMode):
    """Count what is computed inside the block; hollow tensors stay hollow."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Tally()
        """All that was counted."""
        self.live = self.peak = 0
        """Bytes of the tensors that there are, and the most that there were."""
        self._shapes: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation, or find out the shapes of its results, and count it."""
        kwargs = kwargs or {}
        if _is_view(func):
            return func(*args, **kwargs)
        given = list(_tensors((*args, *kwargs.values())))
        small = not any(map(is_hollow, given))
        result = func(*args, **kwargs) if small else self._result(func, args, kwargs)
        found = list(_tensors((result,)))
        if not func._schema.is_mutable:
            for value in found:
                self._note(value)
        self._count(func, args, kwargs, result, found + (found if _looks_up(func) else given), small=small)
        return result

    @contextmanager
    def apart(self, *, noted: bool = False) -> Iterator[Count]:
        """What the block does is counted apart, and not in :attr:`work`.

        Args:
            noted: as a part of its own, so its peak is not one of what is counted around it.
        """
        count, before, peak = Count(), self.work, self.peak
        self.work, self.peak = Tally(), self.live
        try:
            yield count
        finally:
            count.work, count.peak = self.work.so_far(), self.peak
            self.work, self.peak = before, max(peak, self.live if noted else self.peak)

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any, tensors: list[Tensor], *, small: bool) -> None:
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is not None:
            number = formula(*args, **kwargs, out_val=result) // 2
            half = any(value.dtype in HALF for value in tensors)
            self.work.add(small=small, **{"bf16" if half else "fp32": number})
        elif not _is_free(func):
            self.work.add(small=small, moved=sum(value.numel() * value.itemsize for value in tensors))

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation on hollow tensors gives; one that writes into a tensor leaves it as it is."""
        schema = func._schema
        if schema.is_mutable and all(value.alias_info is not None for value in schema.returns):
            written = [_argument(schema, place, args, kwargs) for place in _written(schema)]
            return None if not schema.returns else written[0] if len(schema.returns) == 1 else tuple(written)
        key = func, _outline(args), _outline(tuple(kwargs.items()))
        if key not in self._shapes:
            try:
                meta = {name: _device(_mapped(_as_meta, value)) for name, value in kwargs.items()}
                self._shapes[key] = func(*_mapped(_as_meta, args), **meta)
            except CANNOT:
                self._shapes[key] = CANNOT
        shapes = self._shapes[key]
        if shapes is not CANNOT:
            return _mapped(_hollow_like, shapes)
        found = func(*args, **kwargs)  # a hollow tensor has numbers after all
        return _mapped(lambda value: _hollow_like(value) if _is_number(value) else value, found)

    def _note(self, value: Tensor) -> None:
        """Remember the memory of a tensor until its storage is gone."""
        size = value.numel() * value.itemsize
        if size < NOTED:
            return
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(value.untyped_storage(), self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self.live -= size


@dataclass
class Count:
    """What a part does, known at its end."""

    work: Work = NOTHING
    peak: int = 0
    """The most bytes of tensors that there were at once, those from before among them."""


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


@cache
def _is_free(func: Any) -> bool:
    return str(func._overloadpacket.__name__).startswith(FREE)


@cache
def _looks_up(func: Any) -> bool:
    return func._overloadpacket.__name__ in LOOKS_UP


@cache
def _is_view(func: Any) -> bool:
    """Whether an operation gives another look at the same numbers, which costs nothing."""
    returned = [value.alias_info for value in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


def _hollow_like(value: Tensor) -> Tensor:
    return hollow(*value.shape, dtype=value.dtype)


def _outline(value: Any) -> Any:
    """All of an argument that decides the shapes of a result, as something to look up by."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_outline, value))
    return float if isinstance(value, float) else value


def _is_number(value: Tensor) -> bool:
    return value.is_floating_point() or value.dtype == torch.uint8


def _written(schema: Any) -> list[int]:
    """The places of the arguments that an operation writes into and returns."""
    places = [place for place, value in enumerate(schema.arguments) if value.alias_info and value.alias_info.is_write]
    return places[: len(schema.returns)]


def _argument(schema: Any, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[place] if place < len(args) else kwargs[schema.arguments[place].name]


def _as_meta(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _device(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(function, part) for part in value)
    return value
