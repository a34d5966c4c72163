"""What a run tells its user while it works; the command line shows it, the Python API warns at most."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Told = Callable[..., None]
"""``told(done)``, or ``told(done, loss=0.5)``: how much of some work is done, and numbers that go with it."""


def nobody(done: int, **numbers: float) -> None:
    """A :data:`Told` that tells nobody."""


class Display:
    """Shows nothing.  A subclass shows what it likes; none of it may change the run."""

    def warn(self, text: str) -> None:
        """Something is wrong that does not stop the run."""
        warnings.warn(text, stacklevel=2)

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

    @contextmanager
    def work(self, what: str, total: int, unit: str, done: int = 0, of: str = "") -> Iterator[Told]:
        """Something else that takes its time, until the block ends: a training, an evaluation, reading images.

        Args:
            what: it is, as a phrase: ``"training classes on the original set"``.
            total: how much there is to do.
            unit: what is counted: ``"epochs"`` or ``"images"``.
            done: how much of it was done before.
            of: the name of the set, if it is a training.

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
