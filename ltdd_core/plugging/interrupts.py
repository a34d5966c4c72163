"""Tell Ctrl-C from a ``KeyboardInterrupt`` that code raises by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def real_interrupts() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a SIGINT has come since the block began.

    Whoever handled the signal before still does.  In a thread other than the main one no signal arrives, so there the
    answer is no.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    handler: Callable[[int, FrameType | None], object] = before

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # the code may have set its own
            signal.signal(signal.SIGINT, handler)
