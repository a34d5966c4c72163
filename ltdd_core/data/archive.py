"""Arrays of an archive of NumPy that somebody else wrote: nothing in it is executed, and nothing it claims is believed.

Whatever is wrong with it is said in one line.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ltdd_core.data.files import no_such
from ltdd_core.errors import InputError, how_to_set, is_out_of_memory, reason_of

DAMAGE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What zipfile and numpy raise for a damaged member, one that holds Python objects, and an encrypted one."""
MOST_PACKED = 1100
"""Bytes that deflate can make of one; it is 1032 in theory."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open archive; whatever is wrong with it is said in one line, while it is in use, too.

    Raises:
        InputError: there is no such file, it is no archive, or it is damaged.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{how_to_set('root', path)}: this is a pipe or a device; give the .npz file.")
        with path.open("rb") as file:
            # np.load would take a single array or a pickle as well.
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: this is not a .npz archive: write it with numpy.savez.")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except FileNotFoundError as error:
        raise no_such("file", path) from error
    except IsADirectoryError as error:
        raise InputError(
            f"{how_to_set('root', path)}: this is a folder; give the .npz file, or use data source 'folder'."
        ) from error
    except MemoryError as error:
        raise InputError(_too_large(path)) from error
    except DAMAGE as error:
        if is_out_of_memory(error):
            raise InputError(_too_large(path)) from error
        raise InputError(f"{path}: cannot be read as an archive of plain arrays ({reason_of(error)}).") from error


def _too_large(path: Path) -> str:
    return f"{path}: its arrays do not fit into memory: try {how_to_set('data.image_size', 'N')} with a smaller N."


@dataclass(frozen=True)
class Header:
    """What an array in an archive says of itself."""

    shape: tuple[int, ...]
    fortran_order: bool
    """Whether the first index runs fastest in the file."""
    dtype: np.dtype


def array_of(path: Path, archive: Any, name: str) -> np.ndarray:
    """An array as a whole.

    Raises:
        InputError: there is none of that name, or it is damaged.
    """
    header_of(path, archive, name)
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of whatever else is in the archive
        raise InputError(f"{path}: {name!r} is not a NumPy array: write the archive with numpy.savez.")
    return array


def header_of(path: Path, archive: Any, name: str) -> Header | None:
    """The header of an array; None for what is no array that is taken here.

    Raises:
        InputError: there is no such array, or it claims more than there is, so that numpy would make room for it.
    """
    if name not in archive:
        raise InputError(f"{path}: array {name!r} is missing; it has {', '.join(sorted(archive)) or 'none'}.")
    member = _member(archive.zip, name)
    with archive.zip.open(member) as file:
        header = _read_header(file)
    if header is None:
        return None
    claimed, packed = math.prod(header.shape) * header.dtype.itemsize, min(member.compress_size, path.stat().st_size)
    if claimed > member.file_size or member.file_size > MOST_PACKED * (packed + 1):
        raise InputError(f"{path}: {name!r} claims {claimed} bytes, which the file cannot hold: it is damaged.")
    return header


def chunks_of(archive: zipfile.ZipFile, name: str, header: Header, at_once: int) -> Iterator[np.ndarray]:
    """An array in C order, ``at_once`` of its first index at a time."""
    with archive.open(_member(archive, name)) as file:
        _read_header(file)
        for start in range(0, header.shape[0], at_once):
            shape = (min(at_once, header.shape[0] - start), *header.shape[1:])
            chunk = file.read(math.prod(shape) * header.dtype.itemsize)
            yield np.frombuffer(bytearray(chunk), header.dtype).reshape(shape)


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    return archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)


def _read_header(file: IO[bytes]) -> Header | None:
    readers = {b"\1\0": np.lib.format.read_array_header_1_0, b"\2\0": np.lib.format.read_array_header_2_0}
    start = file.read(len(np.lib.format.MAGIC_PREFIX) + 2)
    reader = readers.get(start[-2:])
    if not start.startswith(np.lib.format.MAGIC_PREFIX) or reader is None:
        return None
    return Header(*reader(file))
