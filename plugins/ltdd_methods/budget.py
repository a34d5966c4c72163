"""How many steps of a method fit into a time: it is prepared, and takes some steps, on the machine that will run it.

What a method trains beforehand, teachers and experts, is part of its time, whoever trained it: a network that is found
in the store counts with the seconds that its training took.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

from ltdd_core import Config, LongTailedSet, Matcher, OutOfTime
from ltdd_core.commands import limited, open_setup, task_of

MEASURED = 0.1
"""Share of the time that is spent to measure steps, if these are enough."""
ENOUGH = 3  # steps; the first takes longer than the others
SHORTEST = 1e-6  # seconds of a step, for a clock that did not move


@dataclass(frozen=True)
class Measured:
    """What a method does in its time."""

    iterations: int
    """Steps that fit; 0 of a method that takes none."""
    beforehand: float
    """Seconds before the first step, with those of networks that are trained beforehand."""
    step: float
    """Seconds of a step, the median of those that were taken; 0 of a method that takes none."""
    preset: str = ""
    """The quick preset that the method needs for this; empty where its usual options do."""

    def with_more(self, seconds: float) -> Measured:
        """The same with so many seconds more."""
        more = int(seconds / max(self.step, SHORTEST)) if self.step else 0
        return replace(self, iterations=self.iterations + more)


def measure(config: Config, data: LongTailedSet, seconds: float) -> Measured | None:
    """How many steps of a method fit into a time; None where it has not taken one when the time is over.

    The steps that are taken here are lost.  Networks that are trained here are kept in the store.

    Args:
        config: of the run.
        data: its long-tailed set.
        seconds: all that the method may take.

    Raises:
        InputError: the method cannot be had, or its options do not go with the data.
        RunFailed: a training diverged.
        Interrupted: a signal came.
    """
    steps: list[float] = []
    beforehand = 0.0
    with open_setup(config, data=data) as listening:
        setup = limited(listening, seconds)
        try:
            matcher: Matcher = config.matcher.make()
            task, began = task_of(setup), time.monotonic()
            matcher.prepare(task)
            own = time.monotonic() - began - setup.beforehand.spent
            beforehand = own + (setup.beforehand.total.seconds or setup.beforehand.spent)
            if not type(matcher).iterative:
                return Measured(0, beforehand, 0.0)
            while (left := seconds - beforehand - sum(steps)) > 0:
                if len(steps) >= ENOUGH and sum(steps) >= MEASURED * seconds:
                    usual = statistics.median(steps[1:])
                    return Measured(len(steps) + int(left / max(usual, SHORTEST)), beforehand, usual)
                listening.stop.check()
                steps.append(_seconds_of_step(matcher, len(steps)))
        except OutOfTime:
            pass
    return Measured(len(steps), beforehand, statistics.median(steps)) if steps else None


def _seconds_of_step(matcher: Matcher, step: int) -> float:
    began = time.monotonic()
    for value in matcher.step(step).values():
        float(value)  # waits for the device
    return time.monotonic() - began
