"""The three ways a command ends that are not bugs, anything else shows its traceback; and what their messages share."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
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


class DoesNotFit(RunFailed):
    """A step would need more memory than there is."""


class Interrupted(KeyboardInterrupt):
    """The user or the system asked a run to stop, and it has saved itself. Exit code 130.

    It is no ``Exception``, so that code that survives whatever fails, in a plugin say, does not survive this.
    """


class OutOfTime(Interrupted):
    """The time that was given to some work is over; trainings in it have saved themselves."""


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


# ---- what the user would write -------------------------------------------------------------------

PATHS = {
    "data": "data.name",
    "root": "data.root",
    "train": "data.train",
    "test": "data.test",
    "val": "data.val",
    "name": "data.title",
    "imbalance": "data.imbalance",
    "n_max": "data.n_max",
    "order": "data.order",
    "image_size": "data.image_size",
    "skip_bad": "data.skip_bad",
    "validation": "data.validation",
    "method": "matcher.name",
    "labeller": "labeller.name",
    "head": "head.name",
    "recipe": "recipe.name",
    "network": "network.name",
    "sampler": "sampler.name",
    "plugin": "plugins",
    "test_imbalance": "test_imbalances",
    "ipc": "ipc",
    "iterations": "iterations",
    "init": "init",
    "seed": "seed",
    "device": "compute.device",
    "threads": "compute.threads",
    "precision": "compute.precision",
    "compile": "compute.compile",
    "store": "compute.store",
    "keep": "compute.keep",
    "launcher": "launcher.name",
}
"""Where in a configuration each command-line option goes."""
_OPTIONS = {path: option for option, path in PATHS.items()}
_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextmanager
def for_command_line() -> Iterator[None]:
    """Until the block ends, messages name the options of the command line; elsewhere the arguments of Python."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def either(command_line: str, python: str) -> str:
    """The words for the one who will read them: at the command line, or in Python."""
    return command_line if _on_command_line.get() else python


def how_to_set(name: str, value: Any = None) -> str:
    """An option as who reads the message writes it: ``--root`` at the command line, ``root=`` in Python.

    With a value, ``--set network.width=N`` and ``network={"width": N}``, or ``--resume`` and ``resume=True``.

    Args:
        name: the path of an option in a configuration, as ``data.root``, or the name of an argument, as ``resume``.
        value: what to set it to; text in capitals, or ``...``, stands for a value.  None: the option alone is named.
            A mapping is a component with options: ``how_to_set("network", {"name": "mlp", "width": 32})``.
    """
    return _option(name, value) if _on_command_line.get() else _argument(name, value)


def _option(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_option(f"{name}.{key}", inside) for key, inside in value.items())
    option = _OPTIONS.get(name, None if "." in name else name)
    if option is None:
        return f"--set {name}" if value is None else f"--set {name}={value}"
    flag = "--" + option.replace("_", "-")
    if value is False:
        return flag.replace("--", "--no-", 1)
    return flag if value is None or value is True else f"{flag} {value}"


def _argument(name: str, value: Any) -> str:
    keys = [_OPTIONS.get(name, name.removesuffix(".name"))] if name.endswith(".name") else name.split(".")
    if value is None:
        return f"{keys[-1]}="
    value = str(value) if isinstance(value, Path) else value
    stands_for_one = isinstance(value, str) and (value.isupper() or value == "...")
    quoted = isinstance(value, str | Mapping)
    text = value if stands_for_one else json.dumps(value, ensure_ascii=False) if quoted else repr(value)
    for key in reversed(keys[1:]):
        text = f'{{"{key}": {text}}}'
    return f"{keys[0]}={text}"


# ---- names and values ----------------------------------------------------------------------------


def reason_of(error: Exception) -> str:
    """What an error says, in one line without a full stop; its kind where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


MOST_LISTED = 50
"""Names in a message."""


def some_of(names: Sequence[str], most: int) -> str:
    """Names in a sentence; of many, the first ones and how many there are.

    Args:
        names: at least one.
        most: how many of them are named.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


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
