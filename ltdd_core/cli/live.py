"""The progress of a run: a live display in a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ltdd_core.progress import Display

LINES = 20
"""Plain lines over a whole run; more only when a step is slow."""
SECONDS_BETWEEN_LINES = 30.0
RECENT = 50
"""Steps that the speed is an average of; the first step, which may compile the network, is never one."""


class LiveDisplay(Display):
    """Iteration, loss, speed and time left.

    Args:
        console: on stderr.
        verbose: print the accuracy of each line of the table, too.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose
        self._progress: Progress | None = None
        self._total = 0
        self._last_line = 0.0
        self._ends: deque[float] = deque(maxlen=RECENT + 1)

    def warn(self, text: str) -> None:
        """A yellow line."""
        self._console.print(text, style="yellow", markup=False, soft_wrap=True)

    def data(self, summary: str) -> None:
        """One line about the data."""
        self._console.print(summary, soft_wrap=True)

    def steps(self, start: int, total: int) -> None:
        """Start the display."""
        self._total, self._last_line = total, time.monotonic()
        self._ends.clear()
        if start:
            self._console.print(f"resuming after {start} of {total} iterations", soft_wrap=True)
        if self._console.is_interactive:
            self._progress = Progress(
                TextColumn("distilling"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[speed]}"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._progress.add_task("distilling", total=total, completed=start, loss="-", speed="")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line now and then."""
        now, done = time.monotonic(), step + 1
        self._ends.append(now)
        pace = self._pace(self._total - done)
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, loss=f"{metrics['loss']:.4g}", speed=pace)
            return
        due = done % max(1, self._total // LINES) == 0 or now - self._last_line > SECONDS_BETWEEN_LINES
        if due or done == self._total:
            self._last_line = now
            line = f"iteration {done}/{self._total}  loss {metrics['loss']:.4g}  {pace}"
            self._console.print(line.rstrip(), soft_wrap=True)

    def _pace(self, steps_left: int) -> str:
        """Recent speed and the time left; empty after one step, which says little about the next."""
        steps, seconds = len(self._ends) - 1, self._ends[-1] - self._ends[0]
        if not seconds:
            return ""
        speed = steps / seconds
        left = timedelta(seconds=round(steps_left / speed))
        return f"{f'{speed:.1f} it/s' if speed >= 1 else f'{1 / speed:.1f} s/it'}  {left} left"

    def steps_done(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

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
