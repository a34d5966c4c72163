"""Tensors and documents on disk: safetensors and JSON, written atomically, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ltdd_core.data.normalisation import stored_normalisation
from ltdd_core.errors import InputError
from ltdd_core.interfaces import DistilledSet

FORMAT = "ltdd-distilled"
FORMAT_VERSION = 1
DISTILLED = "distilled.safetensors"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what an operating system says when it cannot write into one line.

    Raises:
        InputError: no space, no permission, no such folder.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before, whatever happens meanwhile.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A safetensors file with JSON facts in its metadata, written atomically.

    The same tensors and facts give the same bytes.
    """
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    metadata = {key: json.dumps(facts[key], sort_keys=True) for key in sorted(facts)}
    write_atomically(path, _sorted_header(safetensors_bytes(plain, metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_tensors` wrote.

    Raises:
        InputError: the file is not there, is damaged, or was written by something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        return tensors, {key: json.loads(value) for key, value in metadata.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file: {error}.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: its metadata were not written by ltdd.") from error


def save_distilled(path: Path, distilled: DistilledSet) -> None:
    """Write a distilled set for people who may never install ltdd; see docs/file-formats.md."""
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class_names": list(distilled.class_names),
        "normalisation": distilled.normalisation.to_json(),
        "ipc": distilled.ipc,
        "training": dict(distilled.training),
        "decoder": distilled.decoder,
        "origin": distilled.origin,
    }
    tensors = {"images": distilled.images, "labels": distilled.labels, **distilled.normalisation.tensors()}
    save_tensors(path, tensors, facts)


def load_distilled(path: Path | str) -> DistilledSet:
    """Read a distilled set, from its file or from the folder of its run.

    Raises:
        InputError: there is none, it is damaged, or its contents do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        path = path / DISTILLED
        if not path.is_file():
            raise InputError(f"{path.parent}: no {DISTILLED} in this folder; did the run finish?")
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        raise InputError(f"{path}: a safetensors file, but not a distilled set of ltdd.")
    if facts.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: format version {facts.get('format_version')}; this ltdd reads {FORMAT_VERSION}.")
    try:
        distilled = DistilledSet(
            images=tensors["images"],
            labels=tensors["labels"],
            class_names=tuple(facts["class_names"]),
            normalisation=stored_normalisation(facts["normalisation"], tensors),
            ipc=int(facts["ipc"]),
            training={name: float(value) for name, value in facts.get("training", {}).items()},
            decoder=facts["decoder"],
            origin=facts["origin"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: part of a distilled set is missing or malformed ({error!r}).") from error
    _check(path, distilled)
    return distilled


def _check(path: Path, distilled: DistilledSet) -> None:
    images, labels, classes = distilled.images, distilled.labels, len(distilled.class_names)
    if images.dim() != 4 or images.dtype != torch.float32 or not torch.isfinite(images).all():
        raise InputError(f"{path}: images must be finite float32 [n, C, H, W].")
    hard = labels.dtype == torch.int64 and labels.dim() == 1
    soft = labels.dtype == torch.float32 and labels.shape[1:] == (classes,)
    if len(labels) != len(images) or not (hard or soft):
        raise InputError(f"{path}: labels must be int64 [n] or float32 [n, {classes}].")
    if hard and len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"{path}: a label is not one of the {classes} classes.")
    if not len(images) or not torch.isfinite(labels).all():
        raise InputError(f"{path}: it holds no images, or labels that are not finite.")
    misfit = distilled.normalisation.misfit(tuple(images.shape[1:]))
    if misfit and distilled.decoder is None:
        raise InputError(f"{path}: {misfit}.")
    if not isinstance(distilled.decoder, str | None):
        raise InputError(f"{path}: the decoder must be the name of a matcher, or null.")


def _sorted_header(content: bytes) -> bytes:
    """The same file with the header's keys sorted: the library writes metadata in random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns its data to eight bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
