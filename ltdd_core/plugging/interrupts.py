"""Tell Ctrl-C, and what a system ends a process with, from a ``KeyboardInterrupt`` that code raises by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: two


@contextmanager
def real_interrupts() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGINT, SIGTERM or SIGHUP has come since the block began.

    Whoever handled the signal before still does.  In a thread other than the main one no signal arrives, so there the
    answer is no.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}
    ours = {number: _noting(came, handler) for number, handler in before.items()}
    for number, note in ours.items():
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ours[number]:  # the code may have set its own
                signal.signal(number, handler)


def _noting(came: list[int], handler: Handler) -> Handler:
    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        handler(number, frame)

    return note
