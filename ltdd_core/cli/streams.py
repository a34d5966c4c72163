"""The standard streams as a command may find them: closed, on a full disk, a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO, TextIO

_COMMANDS = re.compile("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""Control characters but the end of a line, and halves of characters, as of a file name that is no UTF-8."""


def printable(text: str) -> str:
    """Names and messages from outside, with what could command a terminal as visible escapes."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say_last_counts(option: str, value: object) -> None:
    """A line on stderr about an option that takes one value and has been given several times.

    Args:
        option: as it is written, ``--seed``.
        value: the last one.
    """
    words = printable(f"{option} is given several times, and the last one counts: {value}")
    print(words, file=sys.stderr)  # noqa: T201 # click, which could, takes its time to import


class Output(io.TextIOWrapper):
    """Standard output that remembers whether something was lost."""

    lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or raise and remember."""
        with self._remembering():
            return super().write(text)

    def flush(self) -> None:
        """Pass on, or raise and remember."""
        with self._remembering():
            super().flush()

    def finish(self) -> OSError | None:
        """Write what is left; why something was lost, if it was.  Python's own last attempt is then none."""
        with contextlib.suppress(OSError):
            self.flush()
        if self.lost is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        return self.lost

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            raise


class Messages(io.TextIOWrapper):
    """Standard error, where a full disk, or a terminal that has closed, does not end a run."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what can be passed on."""
        with contextlib.suppress(OSError):
            super().flush()


def open_streams() -> Output:
    """Make the standard streams ours; those that the process was started without lead nowhere.

    A file of a run must never get the number of a closed stream: what somebody's library prints would be in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    output = Output(*_parts(sys.stdout, 1), line_buffering=sys.stdout is not None and sys.stdout.isatty())
    sys.stdout, sys.stderr = output, Messages(*_parts(sys.stderr, 2), line_buffering=True)
    return output


def _parts(stream: TextIO | None, number: int) -> tuple[BinaryIO, str | None, str]:
    """Bytes, encoding, and escapes for what the encoding does not have."""
    if stream is None:
        return open(number, "wb", closefd=False), None, "backslashreplace"  # a number, open for good
    return stream.buffer, stream.encoding, "backslashreplace"
