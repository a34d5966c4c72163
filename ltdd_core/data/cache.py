"""The cache of decoded images: files are decoded once, and a set that is larger than memory is read from there.

The cache is the folder ``images`` in the user's cache folder.  Each part of a data set, its training images say, is one
safetensors file that is mapped into memory, so processes share it, and what is not used takes no memory.  What was seen
in the headers of files is kept beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltdd_core.errors import InputError, WriteError

if TYPE_CHECKING:  # a command that lists the cache, and the check of a folder, need no torch
    from torch import Tensor

    from ltdd_core.data.imagefile import ImageFile

IMAGES, NOTES = ".safetensors", ".json"
"""How the names of files end: decoded images, and what is known of the files that they come from."""
TENSOR = "images"
LEAST = 8 * 2**20
"""Bytes of files below which decoding takes no time that is worth a file."""
FORMAT = 1
"""Changes when the same files become other images."""


def image_cache() -> Path | None:
    """The folder of the cache, which need not be there yet; None where the user has no home."""
    from ltdd_core.storage import cache_folder

    folder = cache_folder()
    return None if folder is None else folder / "images"


def key_of_files(files: Sequence[ImageFile], *decided_by: object) -> str | None:
    """A digest of the files' names, lengths and times; None where they are few and small, or one cannot be read.

    The folder that holds all of them does not count, so a copy of it that keeps the times has the same key.

    Args:
        files: in the order of their images.
        decided_by: what else decides what becomes of them; each has a ``repr`` that says all of it.
    """
    import PIL

    places = {file: os.path.abspath(file) for file in files if isinstance(file, Path)}  # noqa: PTH100 - no link is followed
    start = len(_common(places.values()))
    digest, total = hashlib.blake2b(repr((FORMAT, PIL.__version__, decided_by)).encode(), digest_size=16), 0
    try:
        for file in files:
            if isinstance(file, Path):
                found = file.stat()
                total += found.st_size
                told: object = (places[file][start:], found.st_size, found.st_mtime_ns)
            else:
                content = file.content()
                total += len(content)
                told = hashlib.blake2b(content, digest_size=16).digest()
            digest.update(repr(told).encode(errors="surrogateescape"))
    except (OSError, InputError):  # whoever reads the files says it better
        return None
    return digest.hexdigest() if total >= LEAST else None


def _common(places: Iterable[str]) -> str:
    """The folder that all paths are in; empty where there is none, as on two disks of Windows."""
    with contextlib.suppress(ValueError):
        return os.path.commonpath(places)
    return ""


def noted(key: str | None, find: Callable[[], Any], *, worth: Callable[[Any], bool] = lambda value: True) -> Any:
    """What is known under a key, found out now if need be and kept.

    Args:
        key: of :func:`key_of_files`; None: nothing is kept.
        find: finds it out: what JSON can hold.
        worth: whether what was found may be kept.
    """
    from ltdd_core.storage import json_text, parse_json, write_atomically

    folder = image_cache()
    if key is None or folder is None:
        return find()
    path = folder / f"{key}{NOTES}"
    with contextlib.suppress(OSError, ValueError):  # not known yet, or damaged
        value = parse_json(path.read_bytes())
        _touch(path)
        return value
    value = find()
    if worth(value):
        with contextlib.suppress(OSError, WriteError):  # it will be found out again
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json_text(value).encode())
    return value


@dataclass(frozen=True)
class CachedImages:
    """A part of a data set in the cache."""

    path: Path
    """Its file; the stem is the key."""
    name: str
    """What the images are, as ``cifar10, training``."""
    shape: tuple[int, ...]
    """``(N, C, H, W)``; empty where the file is damaged."""
    size: int
    """Bytes of the file."""
    used: float
    """When it was last used, in seconds since 1970."""


def cached_images() -> list[CachedImages]:
    """What is in the cache, the last used first."""
    folder = image_cache()
    found = [] if folder is None else [_described(path) for path in folder.glob(f"*{IMAGES}")]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.used)


def remove_cached(entry: CachedImages) -> None:
    """Remove a part of the cache; runs that read it go on.

    Raises:
        InputError: the file cannot be removed.
    """
    try:
        entry.path.unlink(missing_ok=True)
        _lock_of(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{entry.path}: cannot be removed: {error.strerror}.") from error


def remove_notes() -> None:
    """Remove what is known of files, and what processes that were killed have left."""
    folder = image_cache()
    for path in () if folder is None else (*folder.glob(f"*{NOTES}"), *folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            path.unlink()


def room(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def load_cached(path: Path, shape: Sequence[int]) -> Tensor | None:
    """The images of a file of the cache, uint8 ``[N, C, H, W]``; None where it is not there, or is damaged.

    Args:
        path: of the file.
        shape: that they must have.
    """
    from ltdd_core.storage import read_tensors

    with contextlib.suppress(InputError):
        images = read_tensors(path)[0].get(TENSOR)
        if images is not None and tuple(images.shape) == tuple(shape) and str(images.dtype) == "torch.uint8":
            _touch(path)
            return images
    return None


def through_cache(path: Path, name: str, shape: Sequence[int], parts: Callable[[], Iterable[Tensor]]) -> Tensor:
    """The images of a file of the cache, which is made if need be; where another process makes it, that is waited for.

    Args:
        path: of the file.
        name: what the images are.
        shape: ``(N, C, H, W)``.
        parts: decodes them, uint8 ``[n, C, H, W]`` each.

    Raises:
        WriteError: the file cannot be written.
    """
    from ltdd_core.locking import locked
    from ltdd_core.storage import TEMPORARY, save_bytes_in_parts, writing

    if (images := load_cached(path, shape)) is not None:
        return images
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock_of(path), wait=True):
        if (images := load_cached(path, shape)) is not None:
            return images
        for left in path.parent.glob(f".{path.name}.*{TEMPORARY}"):  # by a process that was killed
            left.unlink(missing_ok=True)
        save_bytes_in_parts(path, TENSOR, shape, parts(), {"name": name})
        images = load_cached(path, shape)
    if images is None:
        raise WriteError(f"cannot write {path}: it is damaged as soon as it is written.")
    return images


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _touch(path: Path) -> None:
    """Note that a file is used, where it may be written."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _described(path: Path) -> CachedImages | None:
    """What a file of the cache holds, by its header alone; None where it is none."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        name, shape = json.loads(header["__metadata__"]["name"]), tuple(header[TENSOR]["shape"])
        found = path.stat()
    except FileNotFoundError:  # removed at this moment
        return None
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        name, shape, found = "damaged", (), path.stat()
    return CachedImages(path, str(name), shape, found.st_size, found.st_mtime)
