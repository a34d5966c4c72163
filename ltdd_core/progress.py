"""What a run tells its user while it works: the command line has bars for it, Python a single line."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

RECENT = 50
"""Steps that the speed is an average of; the first step, which may compile the network, is never one."""
PER = {
    "iterations": ("it", "it"),
    "epochs": ("epochs", "epoch"),
    "images": ("images", "image"),
    "runs": ("runs", "run"),
}
"""What stands in a speed, as 2.0 epochs/s or 2.0 s/epoch."""
SECONDS_BETWEEN_DRAWS = 0.2

Told = Callable[..., None]
"""``told(done)``, or ``told(done, loss=0.5)``: how much of some work is done, and numbers that go with it."""


def nobody(done: int, **numbers: float) -> None:
    """A :data:`Told` that tells nobody."""


class Display:
    """Shows nothing.  A subclass shows what it likes; none of it may change the run."""

    def warn(self, text: str) -> None:
        """Something is wrong that does not stop the run."""
        warnings.warn(text, stacklevel=2)

    def note(self, text: str) -> None:
        """Something that is good to know and changes no number."""

    def advise(self, text: str) -> None:
        """Something that a user should know of the data before a run; nothing is wrong."""

    def data(self, summary: str) -> None:
        """The long-tailed set is loaded; ``summary`` describes it in one line."""

    def steps(self, start: int, total: int) -> None:
        """The steps of the matcher begin.

        Args:
            start: how many of them were done before.
            total: how many there are.
        """

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step of the matcher is done.

        Args:
            step: from 0 to ``total - 1``.
            metrics: its scalars, ``loss`` among them.
        """

    def steps_done(self) -> None:
        """No more steps."""

    def recipe(self, options: Mapping[str, Any]) -> None:
        """What the method of a distilled set says of training on it, as far as it holds; not called without any."""

    def training(self, what: str) -> None:
        """A network is about to be trained."""

    def ahead(self, trainings: Callable[[], Mapping[str, Sequence[float]]]) -> None:
        """What comes after the steps of the matcher.

        Args:
            trainings: gives a guess of the seconds that each training of a network takes, by the name of its set;
                finding out takes a moment.
        """

    def beforehand(self, trainings: Callable[[], Sequence[float]]) -> None:
        """Networks are about to be trained that the steps, or the labels, need: teachers and experts.

        Args:
            trainings: gives a guess of the seconds of each; finding out takes a moment.
        """

    @contextmanager
    def work(self, what: str, total: int, unit: str, done: int = 0, of: str = "", networks: int = 1) -> Iterator[Told]:
        """Something else that takes its time, until the block ends: a training, an evaluation, reading images.

        Args:
            what: it is, as a phrase: ``"training classes on the original set"``.
            total: how much there is to do.
            unit: what is counted: ``"epochs"`` or ``"images"``.
            done: how much of it was done before.
            of: the name of the set, if it is a training.
            networks: how many are trained at once, if it is a training.

        Yields:
            What is to be told how much is done, now and then.
        """
        yield nobody

    def row(self, name: str, accuracy: float, std: float) -> None:
        """A line of the result table is known.

        Args:
            name: of the line.
            accuracy: share of the test images whose predicted class is right, in per cent.
            std: standard deviation of the accuracies of the classes, in per cent.
        """


class Pace:
    """How fast some work is, and how long it still takes.

    Args:
        total: how much there is to do.
        unit: what is counted.
        ahead: gives the seconds of what comes after it.
    """

    def __init__(self, total: int, unit: str, ahead: Callable[[], float] = lambda: 0.0) -> None:
        self._total, self._unit, self._ahead = total, unit, ahead
        self._ends: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)

    def told(self, done: int) -> None:
        """So much is done now."""
        self._ends.append((time.monotonic(), done))

    def steps(self) -> int:
        """How many steps the speed is an average of."""
        return max(0, len(self._ends) - 1)

    def left(self) -> float | None:
        """Seconds that are left of it; None at first, since the first step says little about the next."""
        speed = self._speed()
        return (self._total - self._ends[-1][1]) / speed if speed else None

    def _speed(self) -> float | None:
        if not self._ends:
            return None
        (began, start), (now, done) = self._ends[0], self._ends[-1]
        return None if now == began or done == start else (done - start) / (now - began)

    def __str__(self) -> str:
        """Recent speed and the time left, of it and in all; empty at first."""
        speed, left = self._speed(), self.left()
        if speed is None or left is None:
            return ""
        many, one = PER.get(self._unit, (self._unit, self._unit))
        text = f"{f'{speed:.1f} {many}/s' if speed >= 1 else f'{1 / speed:.1f} s/{one}'}  {clock_time(left)} left"
        return f"{text}, {clock_time(left + self._ahead())} in all" if round(self._ahead()) else text


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: ``0:01:20``."""
    return str(timedelta(seconds=round(seconds)))


def in_figures(numbers: Mapping[str, float]) -> str:
    """Numbers that go with a progress: ``loss 0.5``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


# ---- one line ------------------------------------------------------------------------------------

Show = Callable[[str], None]
"""Puts a text in the place of the one before; an empty one takes it away."""


def usual_display() -> Display:
    """What the functions of Python show unless told otherwise: one line, in a notebook or a terminal, else nothing."""
    show = _in_notebook() or _in_terminal()
    return Display() if show is None else OneLine(show)


class OneLine(Display):
    """Whatever is at work, and how far it is, in a single line that goes away at the end.

    Args:
        show: puts the line where a user sees it.
    """

    def __init__(self, show: Show) -> None:
        self._show = show
        self._drawn, self._at_work, self._distilling = -SECONDS_BETWEEN_DRAWS, 0, nobody

    def warn(self, text: str) -> None:
        """A warning of Python, below no half line."""
        self._show("")
        warnings.warn(text, stacklevel=2)

    def steps(self, start: int, total: int) -> None:
        """The line is about the steps."""
        self._distilling = self._begin("distilling", total, "iterations", start)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """So many steps are done."""
        self._distilling(step + 1, loss=metrics["loss"])

    def steps_done(self) -> None:
        """No line any more."""
        self._distilling = nobody
        self._end()

    @contextmanager
    def work(self, what: str, total: int, unit: str, done: int = 0, of: str = "", networks: int = 1) -> Iterator[Told]:
        """The line is about this work until the block ends."""
        told = self._begin(what, total, unit, done)
        try:
            yield told
        finally:
            self._end()

    def _begin(self, what: str, total: int, unit: str, done: int) -> Told:
        pace = Pace(total, unit)
        self._at_work += 1

        def told(done: int, **numbers: float) -> None:
            pace.told(done)
            self._draw(lambda: f"{what}: {done}/{total} {unit}", in_figures(numbers), pace)

        self._draw(lambda: f"{what}: {done}/{total} {unit}")
        return told

    def _draw(self, text: Callable[[], str], *more: object) -> None:
        """Not each time: a step can take less than drawing a line."""
        now = time.monotonic()
        if now - self._drawn >= SECONDS_BETWEEN_DRAWS:
            self._drawn = now
            self._show("  ".join(filter(None, (text(), *map(str, more)))))

    def _end(self) -> None:
        self._at_work -= 1
        if not self._at_work:
            self._show("")


def _in_notebook() -> Show | None:
    """A line below the cell at work; None where there is no notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    handles: list[Any] = []

    def show(text: str) -> None:
        data = {"text/plain": text}
        if handles:
            handles[0].update(data, raw=True)
        elif text:
            handles.append(display(data, raw=True, display_id=True))

    return show


def _in_terminal() -> Show | None:
    """The last line of the terminal; None where stderr is none."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    shown = 0

    def show(text: str) -> None:
        nonlocal shown
        # A line that is folded cannot be taken back, and a name must not command the terminal.
        line = "".join(letter if letter.isprintable() else "?" for letter in text)
        line = line[: max(0, shutil.get_terminal_size().columns - 1)]
        with suppress(OSError, ValueError):  # a terminal that is gone, or cannot write a letter, stops no run
            sys.stderr.write(f"\r{line.ljust(shown)}" if line else f"\r{' ' * shown}\r" if shown else "")
            sys.stderr.flush()
        shown = len(line)

    return show
