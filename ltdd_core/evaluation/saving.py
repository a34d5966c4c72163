"""What a distilled set saves: how much cheaper its classifier is, and after how many trainings distilling pays."""

from __future__ import annotations

import math
from typing import Any

from pydantic import NonNegativeFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ltdd_core.runs.costs import DistillingCost
from ltdd_core.training.cost import TrainingCost


@dataclass(frozen=True)
class Saving:
    """A classifier of the distilled set beside one of the whole set, trained on nothing else."""

    whole: TrainingCost
    """Of training on the long-tailed set."""
    distilled: TrainingCost
    """Of training on the distilled set alone."""
    distilling_seconds: NonNegativeFloat | None = None
    """What distilling took, without networks that were trained beforehand; None where that is not known."""
    beforehand_seconds: NonNegativeFloat | None = None
    """What training the networks beforehand took, such as teachers; None where that is not known."""

    @property
    def times_cheaper(self) -> float | None:
        """How many times the multiply-adds training on the whole set takes; None where the distilled set takes none."""
        return self.whole.multiply_adds / self.distilled.multiply_adds if self.distilled.multiply_adds else None

    @property
    def pays_after(self) -> int | None:
        """After how many trainings distilling has cost less time than training on the whole set; None: not known."""
        if None in (self.distilling_seconds, self.beforehand_seconds, self.whole.seconds, self.distilled.seconds):
            return None
        saved = (self.whole.seconds or 0.0) - (self.distilled.seconds or 0.0)
        spent = (self.distilling_seconds or 0.0) + (self.beforehand_seconds or 0.0)
        return max(1, math.ceil(spent / saved)) if saved > 0 else None

    @classmethod
    def from_json(cls, document: Any) -> Saving:
        """As :meth:`to_json` gave it.

        Raises:
            ValueError: it is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(document)
        except ValidationError as error:
            raise ValueError("must have the costs of two trainings, and seconds") from error

    def to_json(self) -> dict[str, Any]:
        """What ``report.json`` has of it."""
        document: dict[str, Any] = TypeAdapter(Saving).dump_python(self, mode="json")
        return {**document, "times_cheaper": self.times_cheaper, "pays_after": self.pays_after}

    def __str__(self) -> str:
        """One or two sentences; the first says nothing of what is not known."""
        whole, small, times = self.whole.seconds, self.distilled.seconds, self.times_cheaper
        parts = []
        if times is not None:
            fewer, more = f"{times:.3g}", f"{1 / times:.3g}"
            ratio = f"{fewer} times fewer" if times >= 1 else f"{more} times more"
            same = "1" in (fewer, more)
            parts.append(f"{'as many' if same else ratio} multiply-adds {'as' if same else 'than'} on the whole set")
        if whole is not None and small is not None:
            parts.append(f"{_seconds(small)} instead of {_seconds(whole)}")
        first = f"Training on the distilled set alone takes {', and '.join(parts)}." if parts else ""
        return f"{first}{self._pays()}"

    def _pays(self) -> str:
        if self.distilling_seconds is None or self.whole.seconds is None or self.distilled.seconds is None:
            return ""
        took = f" Distilling took {_seconds(self.distilling_seconds)}"
        if self.beforehand_seconds is None:
            return f"{took}, and the networks trained beforehand a time that is not known."
        if self.beforehand_seconds:
            took += f", and the networks trained beforehand {_seconds(self.beforehand_seconds)}"
        pays = self.pays_after
        if pays is None:
            return f"{took}; it saves no time."
        return f"{took}; it pays after {pays:,} training{'s' if pays > 1 else ''}."


def saving_of(
    whole: TrainingCost | None, distilled: TrainingCost | None, distilling: DistillingCost | None
) -> Saving | None:
    """What a distilled set saves; None where the cost of either classifier is not known.

    Args:
        whole: of a classifier trained on the long-tailed set.
        distilled: of one trained on the distilled set alone.
        distilling: of making the distilled set, where that is known.
    """
    if whole is None or distilled is None:
        return None
    if distilling is None:
        return Saving(whole, distilled)
    return Saving(whole, distilled, distilling.seconds, distilling.beforehand.seconds)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
