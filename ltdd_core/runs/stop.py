"""Requests to stop: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal closes.

This module is what the command line imports first, so it imports next to nothing.
"""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

from ltdd_core.errors import Interrupted, OutOfTime

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: two
LOST = "what was not saved before is lost"
INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""


def first_word(code: int) -> str:
    """What the last line of a command begins with that ends with an exit code other than 0: stopping is no error."""
    return "Interrupted" if code == INTERRUPTED else "Error"


class StopRequest:
    """Set by a signal, and looked at where stopping loses nothing.  A second Ctrl-C stops at once.

    A process listens once: a block inside another one shares the request of the outer one, and so does a thread.
    """

    _listens: ClassVar[StopRequest | None] = None
    """The request that has the signals of the process."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._notes: bool | None = None
        """Whether a signal is only noted at the moment; None outside every block."""
        self._noted_before = False

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Interrupted: a signal has come.
        """
        if self.signal is not None:
            raise Interrupted(self.signal)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Note signals inside the block, for :meth:`check` to act on; a thread other than the main one notes none.

        Raises:
            Interrupted: a signal came before the block, or inside it and after the last look.
        """
        shared = StopRequest._listens or self
        shared.check()
        with shared._handling(), shared._inside(notes=True):
            yield shared
        shared.check()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Where stopping loses nothing and nobody can look (data are loaded, say): a signal ends the block itself.

        Raises:
            Interrupted: a signal came, before the block or inside it.
        """
        shared = StopRequest._listens or self
        shared.check()
        with shared._inside(notes=False):
            yield

    @contextmanager
    def commanding(self) -> Iterator[None]:
        """A whole command of the command line: outside the blocks that listen, a signal ends it on the spot.

        Raises:
            KeyboardInterrupt: a signal came; it says what that means.
        """
        try:
            with self._handling():
                yield
        finally:
            atexit.register(_ignore_signals)  # what is left is to leave, with the exit code that has been decided

    @contextmanager
    def _handling(self) -> Iterator[None]:
        """Have the signals of the process, unless it has them already or this thread cannot."""
        if StopRequest._listens is self or threading.current_thread() is not threading.main_thread():
            yield
            return
        # Under nohup SIGHUP is ignored, and so it stays.
        wanted = [number for number in SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
        outer, StopRequest._listens = StopRequest._listens, self
        before = {number: signal.signal(number, self._came) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            StopRequest._listens = outer

    @contextmanager
    def _inside(self, *, notes: bool) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        outside, self._notes = self._notes, notes
        self._noted_before = self._noted_before or notes
        try:
            yield
        finally:
            self._notes = outside

    def _came(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, self.signal or signal.Signals(number).name
        if again and number != signal.SIGINT:
            return  # the first one is being answered; timeout(1) sends two
        if self._notes is None:
            raise KeyboardInterrupt(f"{self.signal}: stopped; {LOST if self._noted_before else 'nothing was written'}.")
        if again:
            raise KeyboardInterrupt(f"{self.signal}: stopped at once; {LOST}.")
        if not self._notes:
            raise Interrupted(self.signal)


class TimeLimit(StopRequest):
    """A request that also stops work when its time is over.

    Args:
        request: the one that listens to signals.
        seconds: from now on.
    """

    def __init__(self, request: StopRequest, seconds: float) -> None:
        super().__init__()
        self._request, self._end = request, time.monotonic() + seconds

    def check(self) -> None:
        """Stop here if asked to, or if the time is over.

        Raises:
            Interrupted: a signal has come.
            OutOfTime: the time is over.
        """
        self._request.check()
        if time.monotonic() > self._end:
            raise OutOfTime("the time is over")


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
