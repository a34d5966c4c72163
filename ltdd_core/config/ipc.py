"""Synthetic images per class: one number, or one for each class by a rule or by groups of classes.

This module imports no torch before the numbers of a data set are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer

from ltdd_core.config.layers import BUDGET
from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError, OptionError, how_to_set, unknown
from ltdd_core.options import BaseOptions, option

DEFAULT, LARGEST = 10, 10**9
Count = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]


class SharedIPC(BaseOptions):
    """A budget of images in all, shared between the classes by their training images."""

    rule: Literal["equal", "sqrt", "proportional"] = option(
        "equal", "shares in proportion to 1, to the root of a class's training images, or to their number"
    )
    total: int = Field(description="synthetic images in all, at least one a class", ge=1, le=LARGEST)

    def label(self) -> str:
        """``sqrt, 100 in all``."""
        return f"{self.rule}, {self.total} in all"

    def of_classes(self, class_names: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
        """The images of each class; they sum to the total.

        Raises:
            InputError: the total is less than one image a class.
        """
        if self.total < len(counts):
            raise InputError(
                f"ipc.total is {self.total}, and each of the {len(counts)} classes gets an image or more: "
                f"raise it to at least {len(counts)}."
            )
        weights = {"equal": lambda count: 1.0, "sqrt": math.sqrt, "proportional": float}[self.rule]
        return shares(self.total, [weights(count) for count in counts])


class GroupedIPC(BaseOptions):
    """A number for all classes, others for some shot groups, and others still for single classes."""

    all: Count = option(DEFAULT, "synthetic images of a class of which nothing else is said")
    many: Count | None = option(None, "synthetic images of a class with more than 100 training images")
    medium: Count | None = option(None, "synthetic images of a class with 20 to 100 training images")
    few: Count | None = option(None, "synthetic images of a class with fewer than 20 training images")
    classes: dict[str, Count] = option({}, "synthetic images of single classes, by their names")

    @model_serializer(mode="wrap")
    def _as_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value not in (None, {})}

    def label(self) -> str:
        """``10, few 20, ship 5``."""
        groups = [f"{group} {number}" for group in ("many", "medium", "few") if (number := getattr(self, group))]
        return ", ".join([str(self.all), *groups, *(f"{name} {number}" for name, number in self.classes.items())])

    def of_classes(self, class_names: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
        """The images of each class: what is said of it, else of its shot group, else of all.

        Raises:
            InputError: a class does not exist.
        """
        from ltdd_core.data.longtail import shot_groups
        from ltdd_core.data.names import found_by_name, labels_by_name

        labels = labels_by_name(class_names)
        numbers = [self.all] * len(counts)
        for group, members in shot_groups(counts).items():
            for label in members:
                numbers[label] = getattr(self, group) or self.all
        for name, number in self.classes.items():
            found = found_by_name(labels, name)
            if found is None:
                raise InputError(f"ipc.classes: {unknown('class', name, class_names)}")
            numbers[found] = number
        return tuple(numbers)


def _form(value: Any) -> str:
    return "budget" if isinstance(value, SharedIPC) else "groups" if isinstance(value, GroupedIPC) else "number"


IPC = Annotated[
    Annotated[int, Field(ge=1, le=LARGEST), Tag("number")]
    | Annotated[SharedIPC, Tag("budget")]
    | Annotated[GroupedIPC, Tag("groups")],
    Discriminator(_form),
]
"""One number for every class, or how the number of each is found."""


def read_ipc(value: Any) -> Any:
    """A mapping as what it describes; numbers that are the same for all classes as one number, and the rest as it is.

    Raises:
        OptionError: an unknown key, a value out of range, or two ways at once.
    """
    if not isinstance(value, Mapping):
        return value
    known = {*SharedIPC.model_fields, *GroupedIPC.model_fields}
    for key in value:
        if key not in known:
            raise OptionError({("ipc", str(key)): str(unknown("ipc option", str(key), known))})
    budget, rest = value.keys() & BUDGET, value.keys() - BUDGET
    if budget and rest:
        raise OptionError(
            {
                (
                    "ipc",
                ): f"ipc: {min(budget)} shares a budget, and {min(rest)} is a number of its own; keep one of the two."
            }
        )
    if budget and "total" not in value:
        raise OptionError({("ipc", "rule"): f"ipc.rule needs a budget to share: {how_to_set('ipc.total', 100)}."})
    if budget:
        return validate_options(("ipc",), SharedIPC, value)
    groups: GroupedIPC = validate_options(("ipc",), GroupedIPC, value)
    return groups.all if groups == GroupedIPC(all=groups.all) else groups


def ipc_of_classes(ipc: IPC, class_names: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
    """The synthetic images of each class, each at least 1.

    Args:
        ipc: of a configuration.
        class_names: in the order of the labels.
        counts: training images of each class, each at least 1.

    Raises:
        InputError: a class that does not exist, or a budget that is too small.
    """
    if isinstance(ipc, int):
        return (ipc,) * len(counts)
    return ipc.of_classes(class_names, counts)


def ipc_label(ipc: IPC) -> str:
    """What a table and the name of a file call it: ``10``, ``sqrt, 100 in all`` or ``10, few 20``."""
    return str(ipc) if isinstance(ipc, int) else ipc.label()


def shares(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """A total in proportion to weights, by the largest remainders (Hamilton's method), and at least 1 for each.

    What would get less than 1 gets 1, and the others share the rest.  Of equal remainders the first comes first.

    Args:
        total: at least as many as there are weights.
        weights: above 0.

    Returns:
        Numbers that sum to the total.
    """
    left, rest = list(range(len(weights))), total
    while True:
        weight = sum(weights[place] for place in left)
        quotas = {place: rest * weights[place] / weight for place in left}
        small = [place for place in left if quotas[place] < 1]
        if not small:
            break
        left, rest = [place for place in left if place not in small], rest - len(small)
    numbers = [int(quotas.get(place, 1)) for place in range(len(weights))]
    by_remainder = sorted(left, key=lambda place: numbers[place] - quotas[place])  # stable
    for place in by_remainder[: total - sum(numbers)]:
        numbers[place] += 1
    return tuple(numbers)
