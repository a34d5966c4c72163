"""What a user names as a run, looked at before torch is imported, so that a wrong name is answered at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from unicodedata import normalize

from ltdd_core.errors import InputError

RUNS = Path("runs")
"""Where runs are put whose folder nobody names."""
DISTILLED_FILE = "distilled.safetensors"

_NOT_IN_NAMES = set('/\\:*?"<>|')
LONGEST_NAME = 150
"""Bytes of what names of folders begin with; a file system allows 255 for the whole."""


_RESERVED = {"con", "prn", "aux", "nul", *(f"{kind}{digit}" for kind in ("com", "lpt") for digit in range(1, 10))}
"""Names of devices on Windows, which no file can have, with whatever ending."""


def as_folder_names(names: Sequence[str]) -> list[str]:
    """A folder name for each name, which every system takes: the name itself where that is one.

    A letter that Windows refuses becomes a hyphen, and so does a dot or a space at an end; the name of a device gets a
    hyphen.  Of names that differ in case alone, or in the form of Unicode, the later ones get a number.
    """
    found: dict[str, str] = {}  # by what a system without case tells names apart by
    for name in names:
        plain = wanted = _as_folder_name(name)
        number = 1
        while (key := normalize("NFC", wanted).casefold()) in found:
            number += 1
            wanted = f"{plain}-{number}"
        found[key] = wanted
    return list(found.values())


def _as_folder_name(name: str) -> str:
    kept = "".join("-" if letter in _NOT_IN_NAMES or ord(letter) < ord(" ") else letter for letter in name)
    kept = kept.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")
    inside = kept.rstrip(". ")
    kept = inside + "-" * (len(kept) - len(inside))
    if kept.startswith("."):
        kept = "-" + kept[1:]  # else it would be hidden
    stem, dot, ending = kept.partition(".")
    return (f"{stem}-{dot}{ending}" if stem.rstrip().lower() in _RESERVED else kept) or "-"


def as_file_name(title: str) -> str:
    """A title as the beginning of the name of a folder, in any script, without what some file system does not take.

    Args:
        title: of data, say; of a long one the beginning is left.
    """
    kept = "".join("-" if letter in _NOT_IN_NAMES or not letter.isprintable() else letter for letter in title)
    short = "-".join(kept.split()).encode()[:LONGEST_NAME].decode(errors="ignore")
    return short.strip("-.") or "data"


def check_there(path: Path) -> None:
    """See that there is a file or a folder.

    Args:
        path: what the user named.

    Raises:
        InputError: there is none; the message has the run with the nearest name, in the same folder or under
            ``runs/``.
    """
    if os.path.exists(path):  # noqa: PTH110 - a name that no path can have is none
        return
    by_name = {name: folder / name for folder in (RUNS, path.parent) for name in _folders(folder)}
    close = get_close_matches(path.name, by_name, n=1, cutoff=0.6)
    hint = f" Did you mean {by_name[close[0]]}?" if close else ""
    raise InputError(f"{path}: there is no such file or folder.{hint}")


def holds_results(path: Path) -> bool:
    """Whether a folder may hold a distilled set or classifiers: it has a configuration, or files of tensors in it.

    Args:
        path: what the user named; a file may be anything.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is none
        return True
    return any(file.name in ("config.yaml", "classifiers") or file.suffix == ".safetensors" for file in path.iterdir())


def file_of_set(path: Path) -> Path:
    """The file of a distilled set: what the user named, or the file in it where that is a folder.

    Args:
        path: the folder of a run, or the file itself, which need not be there.

    Raises:
        InputError: it is a folder without such a file.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is none
        return path
    if not (path / DISTILLED_FILE).is_file():
        if (path / "report.json").is_file():
            raise InputError(f"{path} has classifiers and no distilled set: name the folder of a run of ltdd distill.")
        raise InputError(f"{path}: no {DISTILLED_FILE} in this folder; did the run finish?")
    return path / DISTILLED_FILE


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (OSError, ValueError):  # no folder, or a name that no path can have
        return []
