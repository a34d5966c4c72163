"""Requests to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ltdd_core.errors import Interrupted


class StopRequest:
    """Set by Ctrl-C or SIGTERM; looked at where stopping loses nothing.  A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Interrupted: a signal has come.
        """
        if self.signal is not None:
            raise Interrupted(self.signal)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals inside the block; a thread other than the main one catches none."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
