"""Options of components: declared once, validated, described, and set by configuration files and the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

Value = TypeVar("Value")
LARGEST = 2**63
"""What numbers of options are below: larger ones do not fit into the integers that computing is done with."""


class BaseOptions(BaseModel):
    """Base of every component's ``Options``; unknown names are refused and values are validated.

    An option may itself be a ``BaseOptions``: what is given for some of its options overrides its default, such as
    ``TrainingOptions(epochs=40)``, which stays for the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _over_nested_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.get_default(call_default_factory=True) for name, field in cls.model_fields.items()}
        return {name: _over(defaults.get(name), value) for name, value in values.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return value if bool in (field.annotation, *get_args(field.annotation)) else _unmistakable(value)

    @field_validator("*", mode="after")
    @classmethod
    def _without_short_forms(cls, value: Any) -> Any:
        return expanded(value) if isinstance(value, Path) else value


def expanded(path: Path) -> Path:
    """A path with ``~`` and variables such as ``$HOME`` replaced; those that are unknown stay."""
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111 - that of Path raises where there is no home


class _Flag:
    """True or false where it is not asked for: pydantic would take it for 1 or 0."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _unmistakable(value: Any) -> Any:
    """A value, and each item of a list, that pydantic takes for what it is.

    Raises:
        PydanticCustomError: a number of more than 64 bits, or text that no file name can hold.
    """
    if isinstance(value, list | tuple):
        return [_unmistakable(item) for item in value]
    if isinstance(value, bool):
        return _Flag(value)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise PydanticCustomError("too_large", "too large")
    if isinstance(value, str) and not _is_text(value):
        raise PydanticCustomError("broken_text", "broken text")
    return value


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _over(default: Any, given: Any) -> Any:
    """The options of a nested default with what is given above them."""
    if not (isinstance(default, BaseOptions) and isinstance(given, Mapping)):
        return given
    base = dict(default)
    return {**base, **{name: _over(base.get(name), value) for name, value in given.items()}}


def changes(options: BaseOptions, usual: BaseOptions | None = None) -> dict[str, Any]:
    """What differs from the defaults, as JSON has it: an option that is added later, with a default, is not in it.

    Args:
        options: of a component.
        usual: what to compare with; the defaults of its class unless given.
    """
    changed, plain = {}, options.model_dump(mode="json")
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        default = field.get_default(call_default_factory=True) if usual is None else getattr(usual, name)
        if isinstance(value, BaseOptions) and type(value) is type(default):
            if value != default:
                changed[name] = changes(value, default)
        elif value != default:
            changed[name] = plain[name]
    return changed


Named = str | dict[str, Any]
"""Another component as the value of an option: its name, or its name and options, ``{"name": "ldam", "scale": 10}``."""


def name_of(named: Named) -> str:
    """The name of a component that an option names, alone or with options."""
    return str(named.get("name") if isinstance(named, Mapping) else named)


def section_of(named: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """A component that an option names, as a section of a configuration: ``{"name": ..., option: value, ...}``."""
    return {"name": named} if isinstance(named, str) else named


def option(
    default: Value,
    text: str,
    *,
    source: str = "",
    component: str = "",
    unless_given: str = "",
    follows: str = "",
    share: float = 1.0,
    **limits: Any,
) -> Value:
    """Declare one option: its default, what it does, where the default comes from, and its limits.

    Args:
        default: its value unless given.
        text: what it does, as a noun phrase that stands alone: "learning rate of the pixels".
        source: where the default comes from: a paper, or its code.
        component: the kind of component that the value names (``"head"``), alone or with options (:data:`Named`).  An
            unknown name or option is refused as soon as it is read.
        unless_given: what holds where the default is None, as it is shown: "the method's, or 0.9".
        follows: the option of the run (``"iterations"``) whose value holds where that of a matcher is None.  The
            configuration of a run has it spelt out, so a run that goes on with more steps keeps what it began with.
        share: of the value that is followed, 1 for all of it; less gives a rounded number.
        limits: those of pydantic: ``gt``, ``ge``, ``lt``, ``le``.
    """
    extra: dict[str, Any] = {"source": source, "component": component, "unless_given": unless_given}
    extra |= {"follows": follows, "share": share}
    field_info: Value = Field(default, description=text, json_schema_extra=extra, **limits)
    return field_info


class Component:
    """What all components but networks share: they are made from their validated options."""

    Options: ClassVar[type[BaseOptions]] = BaseOptions
    argument: ClassVar[str | None] = None
    """The option that a text after a colon gives: with ``"model"``, ``name:resnet18`` is ``name`` with the option
    ``model=resnet18``, wherever a component is named.  None: a colon is refused."""
    citation: ClassVar[str] = ""
    """The BibTeX entry of the paper that the component implements, which the page of a run shows; "" for none."""

    def __init__(self, options: Any) -> None:
        self.options = options
