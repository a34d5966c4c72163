"""Which folders and files under a folder are a user's, and which of the files are images."""

from __future__ import annotations

import itertools
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from PIL import Image

from ltdd_core.errors import InputError, how_to_set

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
}
NOT_OF_THE_USER = {
    *("@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found"),
    *("thumbs.db", "desktop.ini", "icon\r"),
}
"""Folders and files that systems and network drives leave among those of a user, in lower case."""
MOST_RUNS = 1000
"""Entries of a folder that are looked at to see whether it holds runs: a class may have a million."""


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own."""
    return name.startswith(".") or name.lower() in NOT_OF_THE_USER


def no_such(kind: str, path: Path) -> InputError:
    """An error for data that are not there; the path may be that of a run, so nobody need have typed it.

    Args:
        kind: what is missing, a folder or a file.
        path: where it was looked for.
    """
    here = "" if path.is_absolute() else f" in {Path.cwd()}"
    missing = f"{how_to_set('root', path)}: there is no such {kind}{here}."
    return InputError(f"{missing} Name the place of the data with {how_to_set('root')}.")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders inside, sorted, those of a system and those with runs of ltdd left out.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir() and not is_passed_over(entry.name))
    except FileNotFoundError as error:
        raise no_such("folder", folder) from error
    except NotADirectoryError as error:
        raise InputError(
            f"{how_to_set('root', folder)}: this is a file; give the folder that holds the images."
        ) from error
    except OSError as error:
        unreadable(error)
    return [name for name in found if not _has_runs(folder / name)]


def image_files(folder: Path, left_out: Counter[str] | None = None, *, deep: bool = True) -> list[Path]:
    """Image files in a folder and the folders inside it, sorted; links to folders are followed.

    A file is an image if its name ends as those of images do.  One whose name has no suffix is looked at.

    Args:
        folder: where to look.
        left_out: counts the suffixes of the files that are no images, but are not a system's own either.
        deep: look into the folders inside, too.

    Raises:
        InputError: a folder cannot be read.
    """
    found = []
    for path in _files(folder, deep=deep):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or (not suffix and _is_image(path)):
            found.append(path)
        elif left_out is not None:
            left_out[suffix] += 1
    return sorted(found)


def told_left_out(left_out: Counter[str]) -> tuple[str, ...]:
    """A sentence about the files that are no images; none where there is no such file."""
    if not left_out:
        return ()
    often_first = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in often_first)
    files = "1 file is" if left_out.total() == 1 else f"{left_out.total()} files are"
    return (f"{files} left out, since the names do not end as those of images: {kinds}.",)


def unreadable(error: OSError) -> NoReturn:
    """Say what cannot be read.

    Raises:
        InputError: always.
    """
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}.") from error


def _files(folder: Path, *, deep: bool) -> Iterator[Path]:
    """All files that are the user's; a folder that several links lead to is entered once."""
    entered = set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        found = Path(place).stat()
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if deep and not is_passed_over(name))
        yield from (Path(place, name) for name in names if not is_passed_over(name))


def _is_image(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                return False
            with Image.open(path):
                return True
    except Exception:  # decoders raise whatever a file leads them to
        return False


def _has_runs(folder: Path) -> bool:
    """Whether it is a folder of runs, such as ``runs`` where somebody works beside their images."""
    try:
        with os.scandir(folder) as entries:
            some = itertools.islice(entries, MOST_RUNS)
            return any(entry.is_dir() and os.path.isfile(Path(entry.path, "run.json")) for entry in some)  # noqa: PTH113
    except OSError:
        return False  # whoever reads it says why it cannot be read
