"""The axes of a grid file: what a user may list, as layers of a configuration.

An axis that is not in the file has one value that changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ltdd_core.config.layers import Layer, Presets, Tree, normalised
from ltdd_core.errors import InputError, brief

AXES = ("seeds", "data", "imbalance", "ipc", "methods", "plugins")
"""From the slowest to the fastest: every row of the table has its first seed before one gets its second."""
NO_PLUGIN = "none"

T = TypeVar("T")


@dataclass(frozen=True)
class Value:
    """One value of an axis."""

    layer: Layer
    label: str = ""
    """How the table calls it; empty: the name in the configuration."""
    preset: Presets = None
    plugins: tuple[str, ...] = field(default=())


def expanded(axes: Mapping[str, Sequence[T]]) -> list[dict[str, T]]:
    """Every combination of one value an axis, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def read_axes(tree: Tree, origin: str) -> dict[str, list[Value]]:
    """The values of every axis.

    Raises:
        InputError: an axis is empty, or a value is of the wrong kind.
    """
    return {axis: _read_axis(axis, tree[axis], origin) if axis in tree else [_nothing(origin)] for axis in AXES}


def plugin_names(value: Any, origin: str) -> tuple[str, ...]:
    """``none``, a name, or a list of names.

    Raises:
        InputError: it is something else.
    """
    names = [value] if isinstance(value, str) else value
    if names is None or names == [NO_PLUGIN]:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{origin}: a plugin is a name, a list of names, or {NO_PLUGIN}, not {brief(value)}.")
    return tuple(names)


def _nothing(origin: str) -> Value:
    return Value(Layer(origin, {}))


def _read_axis(axis: str, entries: Any, origin: str) -> list[Value]:
    if axis == "seeds" and not isinstance(entries, list):
        raise InputError(f"{origin}: seeds are listed one by one, such as [0, 1, 2], not {brief(entries)}.")
    listed = entries if isinstance(entries, list) else [entries]
    if not listed:
        raise InputError(f"{origin}: {axis} is empty; name a value, or leave it out.")
    return [_value(axis, entry, f"{origin}: {axis}") for entry in listed]


def _value(axis: str, entry: Any, origin: str) -> Value:
    if axis == "plugins":
        names = plugin_names(entry, origin)
        return Value(Layer(origin, {}), ", ".join(names) or NO_PLUGIN, plugins=names)
    if axis in ("data", "methods"):
        return _component(axis, entry, origin)
    if isinstance(entry, list) or (isinstance(entry, dict) and axis != "ipc"):
        raise InputError(f"{origin}: each is one value, not {brief(entry)}.")
    tree = {"seeds": {"seed": entry}, "ipc": {"ipc": entry}, "imbalance": {"data": {"imbalance": entry}}}[axis]
    return Value(Layer(origin, tree))


def _component(axis: str, entry: Any, origin: str) -> Value:
    """A data set (a name, or its section) or a method (a name, or a configuration with ``method`` or ``preset``)."""
    short = "name" if axis == "data" else "method"
    if not entry or not isinstance(entry, str | dict):
        raise InputError(f"{origin}: each is a name or a mapping with {short!r}, not {brief(entry)}.")
    tree = {short: entry} if isinstance(entry, str) else dict(entry)
    label, preset = tree.pop("label", ""), tree.pop("preset", None) if axis == "methods" else None
    named = isinstance(preset, str | None) or (
        isinstance(preset, list) and all(isinstance(name, str) for name in preset)
    )
    if not isinstance(label, str) or not named:
        raise InputError(f"{origin}: label is a name, and preset a name or several, in {brief(entry)}.")
    if axis == "methods" and "name" in tree:
        raise InputError(f"{origin}: write 'method: {tree['name']}', and 'label: ...' for its name in the table.")
    return Value(normalised(Layer(origin, {"data": tree} if axis == "data" else tree)), label, preset)
