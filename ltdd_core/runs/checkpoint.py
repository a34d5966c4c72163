"""The checkpoint of a run: one file, or a file for each part of a large state, so that only changed ones are written.

A queue of a hundred networks, of which a step changes one, would else be written as a whole at every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError
from ltdd_core.storage import all_finite, digest_of, load_tensors, save_tensors, writing

CHECKPOINT = "checkpoint.safetensors"
PARTS = "state"
"""The folder of the parts of a large state within that of a run."""
LARGE = 32 * 2**20
"""Bytes of a state from which on its parts have files of their own."""
BEGIN_AGAIN = "Delete the file, and the run begins again."


class _Facts(BaseModel):
    """The metadata of the file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    step: int = Field(ge=0)
    parts: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{32}$")]] = {}
    """The digest of each part that has a file of its own, by what the names of its tensors begin with."""


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Tensor]) -> None:
    """Write the state of a matcher.

    The parts come first, then the file that names them, and what no checkpoint names any more goes last.  So whatever
    happens meanwhile, there is a whole checkpoint.

    Args:
        folder: of the run.
        step: how many steps are done.
        state: tensors by name; those whose names agree up to the last ``": "`` are a part.

    Raises:
        WriteError: a file cannot be written.
    """
    if sum(tensor.nbytes for tensor in state.values()) < LARGE:
        save_tensors(folder / CHECKPOINT, state, {"step": step})
        _remove_all_but(folder, set())
        return
    with writing(folder / PARTS):
        (folder / PARTS).mkdir(exist_ok=True)
    parts = dict[str, dict[str, Tensor]]()
    for name, tensor in state.items():
        part, _, inside = name.rpartition(": ")
        parts.setdefault(part, {})[inside] = tensor
    digests = {part: digest_of(tensors) for part, tensors in parts.items()}
    for part, tensors in parts.items():
        if not _file_of(folder, digests[part]).exists():
            save_tensors(_file_of(folder, digests[part]), tensors, {})
    save_tensors(folder / CHECKPOINT, {}, {"step": step, "parts": digests})
    _remove_all_but(folder, set(digests.values()))


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """Steps done and the state after them; None if there is no checkpoint yet.

    Raises:
        InputError: it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state, metadata = load_tensors(path)
    try:
        facts: _Facts = validate_options((), _Facts, metadata)
    except InputError as error:
        raise InputError(f"{path} is no checkpoint of this version of ltdd.") from error
    for part, digest in facts.parts.items():
        file = _file_of(folder, digest)
        tensors, _ = load_tensors(file)
        if digest_of(tensors) != digest:
            raise InputError(f"{file}: damaged. Delete {path}, and the run begins again.")
        state |= {f"{part}: {inside}" if part else inside: tensor for inside, tensor in tensors.items()}
    for name, tensor in state.items():
        if not all_finite(tensor):
            raise InputError(f"{path}: {name!r} is not finite. {BEGIN_AGAIN}")
    return facts.step, state


def _file_of(folder: Path, digest: str) -> Path:
    return folder / PARTS / f"{digest}.safetensors"


def _remove_all_but(folder: Path, digests: set[str]) -> None:
    """What another process has removed meanwhile is no loss."""
    for file in (folder / PARTS).glob("*.safetensors"):
        if file.stem not in digests:
            file.unlink(missing_ok=True)
