"""The three ways a command ends that are not bugs; anything else shows its traceback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


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
    """A run could not go on (its loss became NaN, say); what it had saved is intact. Exit code 1."""


class Interrupted(KeyboardInterrupt):
    """The user or the system asked a run to stop, and it has saved itself. Exit code 130.

    It is no ``Exception``, so that code that survives whatever fails, in a plugin say, does not survive this.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest one that does."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InputError(f"unknown {what} {name!r}.{hint} Available: {', '.join(names) or 'none'}.")
