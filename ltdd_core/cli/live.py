"""The progress of a run: a live display in a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from ltdd_core.progress import Display, Pace, Told, clock_time, in_figures
from ltdd_core.runs.devices import peak_memory

LINES = 20
"""Plain lines over all iterations; more only when one is slow."""
SECONDS_BETWEEN_LINES = 30.0
NARROW, WIDE = 80, 120
"""Columns of a terminal from which on it has a short bar, and a long one."""
ENOUGH = 5
"""Steps after which the time of the whole run is said."""


class WarningsOnly(Display):
    """What ``--quiet`` leaves.

    Args:
        console: on stderr.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def warn(self, text: str) -> None:
        """A yellow line."""
        self._console.print(text, style="yellow", markup=False, soft_wrap=True)


class LiveDisplay(WarningsOnly):
    """What is done of the iterations, of a training and of whatever takes its time, with speed and time left.

    Args:
        console: on stderr.
        verbose: print the accuracy of each line of the table, too.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        super().__init__(console)
        self._verbose = verbose
        self._advice: set[str] = set()
        self._bars: Progress | None = None
        self._steps: _Work | None = None
        self._ahead: dict[str, list[float]] = {}
        self._beforehand: list[float] = []
        self._said = False

    def note(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def advise(self, text: str) -> None:
        """A yellow line, too; once, however often a grid reads the same data."""
        if text not in self._advice:
            self._advice.add(text)
            self.warn(text)

    def data(self, summary: str) -> None:
        """One line about the data."""
        self._console.print(summary, soft_wrap=True)

    def steps(self, start: int, total: int) -> None:
        """Start the display of the iterations."""
        self._beforehand = []
        if start:
            self._console.print(f"resuming after {start} of {total} iterations", soft_wrap=True)
        self._steps = self._begin("distilling", total, "iterations", start, max(1, total // LINES))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line now and then; soon one that says how long the whole run will take."""
        if self._steps is None:
            return
        self._steps.told(step + 1, loss=metrics["loss"])
        left = self._steps.pace.left()
        if left is not None and self._ahead and not self._said and self._steps.pace.steps() >= ENOUGH:
            self._said = True
            trainings, seconds = sum(map(len, self._ahead.values())), self._seconds_ahead()
            parts = f"{clock_time(left)} to distil, {clock_time(seconds)} to train {_networks(trainings)}"
            self._console.print(f"about {clock_time(left + seconds)} left: {parts}{_memory()}", soft_wrap=True)

    def ahead(self, trainings: Callable[[], Mapping[str, Sequence[float]]]) -> None:
        """Kept for the time that is left in all."""
        self._ahead, self._said = {name: list(seconds) for name, seconds in trainings().items()}, False

    def beforehand(self, trainings: Callable[[], Sequence[float]]) -> None:
        """A line about them, and about the trainings after the iterations."""
        self._beforehand = list(trainings())
        first, later = sum(self._beforehand), sum(map(sum, self._ahead.values()))
        text = f"about {clock_time(first)} to train {_networks(len(self._beforehand))} beforehand"
        if later:
            text += f", {clock_time(later)} to train {_networks(sum(map(len, self._ahead.values())))} at the end"
        self._console.print(f"{text}{_memory()}", soft_wrap=True)

    def _seconds_ahead(self) -> float:
        return sum(self._beforehand) + sum(map(sum, self._ahead.values()))

    def steps_done(self) -> None:
        """Take the bar away."""
        if self._steps is not None:
            self._end(self._steps)
            self._steps = None

    @contextmanager
    def work(self, what: str, total: int, unit: str, done: int = 0, of: str = "", networks: int = 1) -> Iterator[Told]:
        """A bar of its own, or a line every half minute."""
        guesses = self._beforehand or self._ahead.get(of, []) if of else []
        guess = sum(guesses.pop() for _ in range(min(networks, len(guesses))))
        work, began = self._begin(what, total, unit, done, None), time.monotonic()
        try:
            yield work.told
            if guess and not done:  # the others on this set will be off by as much
                guesses[:] = [seconds * (time.monotonic() - began) / guess for seconds in guesses]
        finally:
            self._end(work)

    def recipe(self, options: Mapping[str, Any]) -> None:
        """One line with all of them."""
        said = ", ".join(f"{name}={value}" for name, value in options.items())
        self._console.print(f"training on the distilled set as its method says: {said}", soft_wrap=True)

    def training(self, what: str) -> None:
        """A line for each network."""
        self._console.print(f"training a network: {what}", soft_wrap=True)

    def row(self, name: str, accuracy: float, std: float) -> None:
        """A line for each result, for those who read a log."""
        if self._verbose:
            self._console.print(f"{name}: accuracy {accuracy:.1f} %, std {std:.1f}", soft_wrap=True)

    def _begin(self, what: str, total: int, unit: str, done: int, every: int | None) -> _Work:
        """Some work, with a bar beside those of other work in a terminal."""
        if not self._console.is_interactive:
            return _Work(self._console, None, None, what, total, unit, every, self._seconds_ahead)
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", table_column=Column(overflow="fold")),
                *_bar(self._console.width),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("{task.fields[pace]}"),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        bar = self._bars.add_task(what, total=total, completed=done, numbers="", pace="")
        return _Work(self._console, self._bars, bar, what, total, unit, every, self._seconds_ahead)

    def _end(self, work: _Work) -> None:
        """Take a bar away, and the last one with all that it stands on."""
        if self._bars is None or work.bar is None:
            return
        if len(self._bars.tasks) > 1:
            self._bars.remove_task(work.bar)
        else:
            self._bars.stop()
            self._bars = None


def _bar(width: int) -> list[BarColumn]:
    """A bar where a terminal has room for it beside the numbers, of which no digit is cut."""
    return [BarColumn(40 if width >= WIDE else 10)] if width >= NARROW else []


def _networks(number: int) -> str:
    return f"{number} network{'s' * (number != 1)}"


def _memory() -> str:
    """What was used at most so far, as the end of a line; what comes later takes about as much."""
    used = peak_memory()
    return "" if used is None else f"; at most {decimal(used)} of memory so far"


class _Work:
    """Some work in progress, and where it is shown.

    Args:
        console: for plain lines.
        bars: of the terminal, if there is one.
        bar: that of this work among them.
        what: it is.
        total: how much there is to do.
        unit: what is counted.
        every: how much is done between two plain lines; None: that is a matter of time alone.
        ahead: seconds of what comes after it.
    """

    def __init__(
        self,
        console: Console,
        bars: Progress | None,
        bar: TaskID | None,
        what: str,
        total: int,
        unit: str,
        every: int | None,
        ahead: Callable[[], float],
    ) -> None:
        self._console, self._bars, self.bar = console, bars, bar
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._last_line = time.monotonic()
        self.pace = Pace(total, unit, ahead)

    def told(self, done: int, **numbers: float) -> None:
        """Move the bar, or print a line now and then."""
        now = time.monotonic()
        self.pace.told(done)
        shown, pace = in_figures(numbers), str(self.pace)
        if self._bars is not None and self.bar is not None:
            self._bars.update(self.bar, completed=done, numbers=shown, pace=pace)
            return
        due = self._every is not None and (done % self._every == 0 or done == self._total)
        if due or now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            subject = "iteration" if self._unit == "iterations" else f"{self._what}: {self._unit}"
            parts = (f"{subject} {done}/{self._total}", shown, pace)
            self._console.print("  ".join(filter(None, parts)), soft_wrap=True)
