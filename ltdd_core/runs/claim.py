"""The folder of a run gets its name: it is made at once, and goes again where the run never begins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltdd_core.errors import InputError
from ltdd_core.runs.folder import LOCK, RunFolder
from ltdd_core.runs.named import RUNS
from ltdd_core.storage import writing


@contextmanager
def claimed(out: Path | None, stem: str) -> Iterator[Path]:
    """The folder of a run, made at once: no other process takes its name, and a place where none can be is refused.

    It is removed again if the block leaves it without a file.

    Args:
        out: where the user wants it; None: a new folder under ``runs/``.
        stem: what the name of a new folder begins with.

    Raises:
        InputError: it cannot be made.
    """
    RunFolder(out or RUNS).is_empty()  # refuses a file of that name
    wanted = out or RUNS / stem
    made = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
    with writing(wanted):
        path = out or new_folder(stem)
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        if out is None or out in made:
            _remove_unused(path, *made)


def _remove_unused(path: Path, *parents: Path) -> None:
    """Remove the folder of a run that never began, and parents that were made for it."""
    with contextlib.suppress(OSError, InputError):
        if RunFolder(path).is_empty():
            (path / LOCK).unlink(missing_ok=True)
            for folder in dict.fromkeys((path, *parents)):
                if folder.exists():
                    folder.rmdir()  # an OSError where there is something in it


def new_folder(stem: str) -> Path:
    """Make a folder under ``runs/`` that was not there, ``STEM-1`` or the next number that is free."""
    number = 1
    while True:
        path = RUNS / f"{stem}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        number += 1
