"""The log of a run: one JSON line a step."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from ltdd_core.storage import writing


class StepLog:
    """One JSON line a step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file: IO[str] = path.open("a", encoding="utf-8")

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line; a metric that is not finite, which JSON cannot hold, is null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """No more lines."""
        with contextlib.suppress(OSError):  # a full disk, which add() has answered already
            self._file.close()


def lines_before(step: int, content: bytes) -> Iterator[str]:
    """The lines of a log of the steps before ``step``; damaged ones, such as a half-written last one, are left out."""
    last = -1
    for line in content.splitlines():
        try:
            entry = json.loads(line.decode())  # an earlier version wrote NaN
            number = entry["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if type(number) is int and last < number < step:
            last = number
            yield line.decode() + "\n"


def seconds_logged(path: Path) -> float:
    """The seconds in a log, added up; lines that are lost or damaged count nothing.

    Args:
        path: of the log; there may be none.
    """
    entries = map(json.loads, lines_before(sys.maxsize, path.read_bytes() if path.is_file() else b""))
    found = (entry.get("seconds") for entry in entries)
    return sum(seconds for seconds in found if type(seconds) in (int, float) and 0 <= seconds < math.inf)
