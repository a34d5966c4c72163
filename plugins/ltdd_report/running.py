"""Whether a process works on a run."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""The process that works on a run holds a lock on this file of its folder."""


def is_running(path: Path) -> bool | None:
    """Whether a process works on the run in a folder; None where that cannot be known.

    It cannot be known in a folder that may not be written or has no locks.  Of a run on another machine, over a shared
    folder that does not share locks, the answer is False.  Nothing is created: a folder without the file has no run
    that works.
    """
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None
