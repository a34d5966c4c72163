"""Options of components: declared once, validated, described, and set by configuration files and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = TypeVar("Value")


class BaseOptions(BaseModel):
    """Base of every component's ``Options``; unknown names are refused and values are validated.

    An option may itself be a ``BaseOptions``: what is given for some of its options stands over its default, such as
    ``TrainingOptions(epochs=40)``, which stays for the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _over_nested_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.get_default(call_default_factory=True) for name, field in cls.model_fields.items()}
        return {name: _over(defaults.get(name), value) for name, value in values.items()}


def _over(default: Any, given: Any) -> Any:
    """The options of a nested default with what is given above them."""
    if not (isinstance(default, BaseOptions) and isinstance(given, Mapping)):
        return given
    base = dict(default)
    return {**base, **{name: _over(base.get(name), value) for name, value in given.items()}}


Named = str | dict[str, Any]
"""Another component as the value of an option: its name, or its name and options, ``{"name": "ldam", "scale": 10}``."""


def name_of(named: Named) -> str:
    """The name of a component that an option names, alone or with options."""
    return named if isinstance(named, str) else str(named.get("name"))


def option(default: Value, text: str, *, source: str = "", component: str = "", **limits: Any) -> Value:
    """Declare one option: its default, what it does, where the default comes from, and its limits.

    ``component`` is the kind of component that the value names (``"head"``), alone or with options (:data:`Named`): an
    unknown name or option is refused as soon as it is read.  ``limits`` are pydantic's: ``gt``, ``ge``, ``lt``, ``le``.
    """
    extra: dict[str, Any] = {"source": source, "component": component}
    field_info: Value = Field(default, description=text, json_schema_extra=extra, **limits)
    return field_info


class Component:
    """What all components but networks share: they are made from their validated options."""

    Options: ClassVar[type[BaseOptions]] = BaseOptions

    def __init__(self, options: Any) -> None:
        self.options = options
