"""Whether the images of a set fit into memory, which is better known before hours of decoding."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ltdd_core.data.source import ArrayTable, ImageTable
from ltdd_core.errors import InputError, how_to_set

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may have."""
GIGABYTE = 10**9


def check_fits(name: str, parts: Iterable[tuple[ImageTable, Tensor]]) -> None:
    """Refuse images that need more memory than there is, swap aside.

    Args:
        name: of the data.
        parts: tables of images, each with the indices that are to be read; what is in memory already is not counted.

    Raises:
        InputError: they cannot fit.
    """
    needed, shape, there = 0, (0, 0), memory_of_machine()
    for table, indices in parts:
        if not isinstance(table, ArrayTable) and len(indices):
            try:
                _, *size = table.read(indices[:1]).shape
            except InputError:
                return  # whoever reads all images says how many cannot be used
            needed, shape = needed + len(indices) * math.prod(size), (size[-1], size[-2])
    if there is not None and needed > there:
        raise InputError(
            f"data {name!r}: the images need {needed / GIGABYTE:.3g} GB of memory in the size {shape[0]}x{shape[1]}, "
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
