"""What it costs to make a distilled set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ltdd_core.runs.costs import DistillingCost
from ltdd_core.training.cost import Ledger


class OwnSeconds:
    """Counts the seconds of a method and a labeller, without those of networks that are trained beforehand.

    Args:
        beforehand: notes what these networks cost.
    """

    def __init__(self, beforehand: Ledger) -> None:
        self._beforehand, self._seconds = beforehand, 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the block."""
        began, spent = time.monotonic(), self._beforehand.spent
        yield
        self._seconds += time.monotonic() - began - (self._beforehand.spent - spent)

    def cost(self, steps: float) -> DistillingCost:
        """What the distilled set cost; ``steps`` are the seconds of its steps, which are not counted here."""
        return DistillingCost(max(0.0, self._seconds) + steps, self._beforehand.total)
