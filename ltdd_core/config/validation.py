"""Validate the options of one section; what is wrong is said in the words of the user, not of pydantic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from reprlib import Repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ltdd_core.errors import OptionError, unknown

Place = tuple[str, ...]

WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of options",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
}
"""What pydantic finds wrong -> what an option must be."""

_repr = Repr()
_repr.maxstring = _repr.maxother = 80


def brief(value: Any) -> str:
    """How a wrong value is shown: it may hold anything, and any amount of it."""
    return _repr.repr(value)


def validate_options(section: Place, model: type[BaseModel], values: Any) -> Any:
    """Make an ``Options`` object from what a section of the configuration holds.

    Raises:
        OptionError: with every wrong value, and the nearest name for an unknown one.
    """
    try:
        options = model.model_validate(_without_flags(model, values))
    except ValidationError as error:
        raise OptionError(_faults(section, model, error)) from error
    infinite = {place: f"{'.'.join(place)} must be finite, not {value}." for place, value in _odd(section, options)}
    if infinite:
        raise OptionError(infinite)
    return options


def _faults(section: Place, model: type[BaseModel], error: ValidationError) -> dict[Place, str]:
    """One sentence for each wrong value; a union is wrong once, not once for each of its members."""
    wanted: dict[Place, list[str]] = {}
    found: dict[Place, str] = {}
    for one in error.errors():
        place = _place(model, one["loc"])
        full, context = (*section, *place), one.get("ctx", {})
        name = ".".join(full) or "the configuration"
        if any(isinstance(part, int) for part in one["loc"]):
            name = f"each item of {name}"
        if one["type"] == "extra_forbidden":
            holder = _model_at(model, place[:-1])
            what = f"{'.'.join((*section, *place[:-1]))} option".strip()
            found[full] = str(unknown(what, place[-1], holder.model_fields))
        elif one["type"] in WANTED:
            wanted.setdefault(full, []).append(WANTED[one["type"]].format(**context))
            found[full] = f"{name} must be {' or '.join(wanted[full])}, not {brief(one['input'])}."
        else:
            reason = str(context.get("error", one["msg"])).rstrip(".")
            found[full] = f"{name}: {' '.join(reason.split())}."
    return found


def _place(model: type[BaseModel], location: Sequence[Any]) -> Place:
    """The names of options in a pydantic location, without its numbers of items and members of unions."""
    place: list[str] = []
    for part in location:
        holder = _model_at(model, place)
        if holder is BaseModel:
            break
        place.append(str(part))
    return tuple(place)


def _model_at(model: type[BaseModel], place: Sequence[str]) -> type[BaseModel]:
    """The options under a path of keys; ``BaseModel`` itself, which has none, under a plain option."""
    for part in place:
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else BaseModel
    return model


class _Flag:
    """True or false where it is not a number: pydantic would take it for 1 or 0."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _without_flags(model: type[BaseModel], values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    found = dict(values)
    for name, value in found.items():
        field = model.model_fields.get(name)
        if isinstance(value, Mapping):
            found[name] = _without_flags(_model_at(model, [name]), value)
        elif isinstance(value, bool) and field and bool not in (field.annotation, *get_args(field.annotation)):
            found[name] = _Flag(value)
    return found


def _odd(section: Place, options: BaseModel) -> Iterator[tuple[Place, float]]:
    """Numbers that are infinite or none at all, as ``.inf`` and ``.nan`` are in YAML."""
    for name, value in options:
        if isinstance(value, BaseModel):
            yield from _odd((*section, name), value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                yield (*section, name), number
