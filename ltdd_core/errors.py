"""The three ways a command ends that are not bugs; anything else shows its traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from reprlib import Repr
from typing import Any


class InputError(Exception):
    """What the user gave is wrong; the message is the whole answer. Exit code 2."""


class WriteError(InputError):
    """A file or a folder could not be written; while a run is at work, :class:`RunFailed` takes its place."""


class OptionError(InputError):
    """Something is wrong at known places of a configuration.

    Args:
        faults: what is wrong, by the path of keys that leads there.
    """

    def __init__(self, faults: Mapping[tuple[str, ...], str]) -> None:
        super().__init__(" ".join(faults.values()))
        self.faults = faults


class RunFailed(Exception):
    """A run cannot continue (its loss became NaN, say); what it had saved is intact. Exit code 1."""


class Interrupted(KeyboardInterrupt):
    """The user or the system asked a run to stop, and it has saved itself. Exit code 130.

    It is no ``Exception``, so that code that survives whatever fails, in a plugin say, does not survive this.
    """


_MEMORY_WORDS = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on a CPU, for which torch has no type of its own."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _MEMORY_WORDS)
    return isinstance(error, MemoryError)


@contextmanager
def memory_in_words(advice: str) -> Iterator[None]:
    """Turn running out of memory into one line.

    Args:
        advice: what to try, as the end of a sentence.

    Raises:
        RunFailed: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise RunFailed(f"out of memory: {advice}") from error
        raise


MOST_LISTED = 50
"""Names in a message."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest that do.

    Args:
        kind: what it would be the name of, as a sentence calls it.
        name: the wrong one.
        known: all that exist; they are listed, unless they are too many.
    """
    import difflib

    names = sorted(known)
    few = len(names) <= MOST_LISTED
    close = difflib.get_close_matches(name.lower(), names, n=1 if few else 3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = ", ".join(names) or "none"
    rest = f"Available: {listed}." if few else f"There are {len(names)} of them."
    return InputError(f"unknown {kind} {name!r}.{hint} {rest}")


_repr = Repr()
_repr.maxstring = _repr.maxother = 80


def brief(value: Any) -> str:
    """How a wrong value is shown: it may hold anything, and any amount of it."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
