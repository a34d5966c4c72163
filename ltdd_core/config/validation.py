"""Validate the options of one section; what is wrong is said in the words of the user, not of pydantic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ltdd_core.errors import OptionError, brief, unknown

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
    "greater_than": "above {gt:.12g}",
    "greater_than_equal": "at least {ge:.12g}",
    "less_than": "below {lt:.12g}",
    "less_than_equal": "at most {le:.12g}",
    "finite_number": "a finite number",
    "too_large": "below 2^63",
    "broken_text": "valid text",
    "length": "a whole number, or text such as '4000 steps' or '60 or 4000 steps'",
}
"""What pydantic finds wrong -> what an option must be."""

MOST_FAULTS = 10
"""Wrong values in one message; who writes more has another trouble."""


def validate_options(section: Place, model: type[BaseModel], values: Any) -> Any:
    """Make an ``Options`` object from what a section of the configuration holds.

    Raises:
        OptionError: with every wrong value, and the nearest name for an unknown one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OptionError(_faults(section, model, error)) from error


def _faults(section: Place, model: type[BaseModel], error: ValidationError) -> dict[Place, str]:
    """One sentence for each wrong value; a union is wrong once, not once for each of its members."""
    wanted: dict[Place, dict[str, None]] = {}
    faults: dict[Place, str] = {}
    for fault in error.errors():
        place = _place(model, fault["loc"])
        full, context = (*section, *place), fault.get("ctx", {})
        name = ".".join(full) or "the configuration"
        if any(isinstance(part, int) for part in fault["loc"]):
            name = f"each item of {name}"
        if fault["type"] == "extra_forbidden":
            holder = _model_at(model, place[:-1])
            section_option = f"{'.'.join((*section, *place[:-1]))} option".strip()
            faults[full] = str(unknown(section_option, place[-1], holder.model_fields))
        elif fault["type"] in WANTED:
            wanted.setdefault(full, {})[WANTED[fault["type"]].format(**context)] = None
            faults[full] = f"{name} must be {_any_of(list(wanted[full]))}, not {brief(fault['input'])}."
        else:
            reason = str(context.get("error", fault["msg"])).rstrip(".")
            faults[full] = f"{name}: {' '.join(reason.split())}."
    return dict(list(faults.items())[:MOST_FAULTS])


def _any_of(wanted: list[str]) -> str:
    """``a number or 'natural'``, ``'auto', true or false``."""
    if len(wanted) == 1:
        return wanted[0]
    *others, last = " or ".join(wanted).split(" or ")
    return f"{', '.join(others)} or {last}"


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
