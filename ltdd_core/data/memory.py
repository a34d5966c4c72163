"""Whether the images of a set fit into memory, which is better known before hours of decoding."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ltdd_core.errors import InputError, how_to_set

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may have."""
GIGABYTE = 10**9


def check_fits(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse images that need more memory than there is, swap aside.

    Args:
        name: of the data.
        shapes: ``(n, C, H, W)`` of each of the tensors uint8 that are to be in memory at once.

    Raises:
        InputError: they cannot fit.
    """
    needed, there = sum(map(math.prod, shapes)), memory_of_machine()
    if there is not None and needed > there:
        width, height = max(shapes, key=math.prod)[:1:-1]
        raise InputError(
            f"data {name!r}: the images need {needed / GIGABYTE:.3g} GB of memory in the size {width}x{height}, "
            f"and there are {there / GIGABYTE:.3g}: try a smaller size with {how_to_set('data.image_size', 'N')}."
        )


def memory_of_machine() -> int | None:
    """Bytes of memory that this machine or container has; None where the system does not tell."""
    found = []
    with suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            found.append(int(limit.read_text()))
    return min(found, default=None)
