"""What distilling and training cost, in ``costs.json``: apart from files that are the same each time a run is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, NonNegativeFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ltdd_core.errors import InputError
from ltdd_core.storage import json_text, parse_json, write_atomically
from ltdd_core.training.cost import TrainingCost

COSTS = "costs.json"


@dataclass(frozen=True)
class DistillingCost:
    """What it cost to make a distilled set."""

    seconds: NonNegativeFloat
    """Of the method and the labeller, without the networks that were trained beforehand."""
    beforehand: TrainingCost
    """Of the networks that were trained beforehand, such as teachers, whoever trained them."""

    @property
    def total_seconds(self) -> float | None:
        """All seconds; None where those of a network are not known."""
        return None if self.beforehand.seconds is None else self.seconds + self.beforehand.seconds


class Costs(BaseModel):
    """What is known in the folder of a run."""

    lines: dict[str, TrainingCost] = Field(default_factory=dict)
    """Of the classifier of each line of the table."""
    distilling: DistillingCost | None = None
    """Of its distilled set; None where this run did not make it, or is of an earlier version."""


def stored_costs(folder: Path) -> Costs:
    """What is known in a folder; nothing where there is no file, as in a run of an earlier version.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / COSTS
    if not path.exists():
        return Costs()
    try:
        return Costs.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(f"{path} is damaged. Delete the file, and the costs are not known.") from error


def note_costs(
    folder: Path, *, lines: Mapping[str, TrainingCost] | None = None, distilling: DistillingCost | None = None
) -> None:
    """Add to what is known in a folder.

    Raises:
        InputError: the file is damaged.
        WriteError: it cannot be written.
    """
    known = stored_costs(folder)
    now = Costs(lines={**known.lines, **(lines or {})}, distilling=distilling or known.distilling)
    write_atomically(folder / COSTS, (json_text(as_json(now), indent=1) + "\n").encode())


def as_json(cost: Costs | DistillingCost | TrainingCost) -> dict[str, Any]:
    """A cost as JSON."""
    document: dict[str, Any] = TypeAdapter(type(cost)).dump_python(cost, mode="json")
    return document
