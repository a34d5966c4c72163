"""The progress of a run: a live display in a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ltdd_core.progress import Display, Told

LINES = 20
"""Plain lines over all iterations; more only when one is slow."""
SECONDS_BETWEEN_LINES = 30.0
RECENT = 50
"""Steps that the speed is an average of; the first step, which may compile the network, is never one."""
PER = {"iterations": ("it", "it"), "epochs": ("epochs", "epoch"), "images": ("images", "image")}
"""What stands in a speed, as 2.0 epochs/s or 2.0 s/epoch."""


class LiveDisplay(Display):
    """What is done of the iterations, of a training and of whatever takes its time, with speed and time left.

    Args:
        console: on stderr.
        verbose: print the accuracy of each line of the table, too.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose
        self._bars: Progress | None = None
        self._steps: _Work | None = None

    def warn(self, text: str) -> None:
        """A yellow line."""
        self._console.print(text, style="yellow", markup=False, soft_wrap=True)

    def data(self, summary: str) -> None:
        """One line about the data."""
        self._console.print(summary, soft_wrap=True)

    def steps(self, start: int, total: int) -> None:
        """Start the display of the iterations."""
        if start:
            self._console.print(f"resuming after {start} of {total} iterations", soft_wrap=True)
        self._steps = self._begin("distilling", total, "iterations", start, max(1, total // LINES))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line now and then."""
        if self._steps is not None:
            self._steps.told(step + 1, loss=metrics["loss"])

    def steps_done(self) -> None:
        """Take the bar away."""
        if self._steps is not None:
            self._end(self._steps)
            self._steps = None

    @contextmanager
    def work(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Told]:
        """A bar of its own, or a line every half minute."""
        work = self._begin(what, total, unit, done, None)
        try:
            yield work.told
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
            return _Work(self._console, None, None, what, total, unit, every)
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("{task.fields[pace]}"),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        bar = self._bars.add_task(what, total=total, completed=done, numbers="", pace="")
        return _Work(self._console, self._bars, bar, what, total, unit, every)

    def _end(self, work: _Work) -> None:
        """Take a bar away, and the last one with all that it stands on."""
        if self._bars is None or work.bar is None:
            return
        if len(self._bars.tasks) > 1:
            self._bars.remove_task(work.bar)
        else:
            self._bars.stop()
            self._bars = None


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
    ) -> None:
        self._console, self._bars, self.bar = console, bars, bar
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._last_line = time.monotonic()
        self._ends: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)

    def told(self, done: int, **numbers: float) -> None:
        """Move the bar, or print a line now and then."""
        now = time.monotonic()
        self._ends.append((now, done))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._bars is not None and self.bar is not None:
            self._bars.update(self.bar, completed=done, numbers=shown, pace=self._pace())
            return
        due = self._every is not None and (done % self._every == 0 or done == self._total)
        if due or now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            subject = "iteration" if self._unit == "iterations" else f"{self._what}: {self._unit}"
            parts = (f"{subject} {done}/{self._total}", shown, self._pace())
            self._console.print("  ".join(filter(None, parts)), soft_wrap=True)

    def _pace(self) -> str:
        """Recent speed and the time left; empty at first, since the first step says little about the next."""
        (began, start), (now, done) = self._ends[0], self._ends[-1]
        if now == began or done == start:
            return ""
        speed = (done - start) / (now - began)
        many, one = PER.get(self._unit, (self._unit, self._unit))
        left = timedelta(seconds=round((self._total - done) / speed))
        return f"{f'{speed:.1f} {many}/s' if speed >= 1 else f'{1 / speed:.1f} s/{one}'}  {left} left"
