"""Keep other processes away from a file or a folder, on every system, and where there are no locks say so."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ltdd_core.errors import InputError
from ltdd_core.storage import writing

NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""How file systems without locks answer: Lustre, some NFS and FUSE."""

_said: set[int] = set()
"""Devices whose lack of locks was said."""


@contextmanager
def locked(path: Path, *, wait: bool, warn: Callable[[str], None] = warnings.warn) -> Iterator[bool]:
    """Hold a lock until the block ends; it is free again when the process dies, however that happens.

    Where the file system has no locks the block runs all the same, and ``warn`` is told once a process.

    Args:
        path: the lock file; made if need be, and left where it is.
        wait: for the process that holds the lock; else yield False where there is one.
        warn: takes a line of text.

    Yields:
        Whether no other process holds the lock.

    Raises:
        InputError: the file cannot be made or locked.
    """
    lock = FileLock(path, fallback_to_soft=False)  # the marker that would stand for a lock outlives a killed process
    mine = True
    with writing(path):
        path.touch()
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        mine = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(f"{path.parent} cannot be locked: {error.strerror}.") from error
        _say_once(path, warn)
    try:
        yield mine
    finally:
        lock.release()  # nothing where it was not acquired


def _say_once(path: Path, warn: Callable[[str], None]) -> None:
    device = path.stat().st_dev
    if device not in _said:
        _said.add(device)
        warn(f"the file system of {path.parent} has no locks: see that no two processes work in one folder at once.")
