"""Options of components: declared once, validated, described, and set by configuration files and the command line."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Value = TypeVar("Value")


class BaseOptions(BaseModel):
    """Base of every component's ``Options``; unknown names are refused and values are validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def changes(options: BaseOptions, usual: BaseOptions | None = None) -> dict[str, Any]:
    """What differs from the defaults, as JSON has it: an option that is added later, with a default, is not in it.

    Args:
        options: of a component.
        usual: what to compare with; the defaults of its class unless given.
    """
    found, plain = {}, options.model_dump(mode="json")
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        default = field.get_default(call_default_factory=True) if usual is None else getattr(usual, name)
        if isinstance(value, BaseOptions) and type(value) is type(default):
            if value != default:
                found[name] = changes(value, default)
        elif value != default:
            found[name] = plain[name]
    return found


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
