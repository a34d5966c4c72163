"""Experts: networks trained on the long-tailed set, their parameters kept after every epoch.

The recipe is that of the buffers in MTT's public code (Cazenavette et al., CVPR 2022): SGD with a constant learning
rate, without momentum and weight decay, differentiable augmentation with strengths of its own for each image.  A
folder holds ``experts.json``, which says of which data, network and recipe they are, and a file for each expert with
the tensor ``trajectory`` ``[epochs + 1, P]``: row e holds all parameters after e epochs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ltdd_core import (
    BaseOptions,
    Distillation,
    InputError,
    Named,
    load_tensors,
    option,
    save_tensors,
    write_atomically,
    writing,
)
from ltdd_mtt.student import layout_of

FORMAT = "ltdd-experts"
FORMAT_VERSION = 1
KEY = "experts.json"
HOME = Path("runs/experts")
STORES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

SHOWN = ("num_groups", "kernel_size", "stride", "padding", "negative_slope", "p")

Key = dict[str, Any]
_repr = Repr()
_repr.maxstring = _repr.maxother = 80


class ExpertOptions(BaseOptions):
    """How experts are trained, and how many.

    Count, learning rate and batch suit sets of a few hundred images, on which the published ones hardly leave
    their initial weights; those are in the preset mtt-paper.
    """

    count: int = option(4, "experts; MTT's public code: 100", ge=1)
    epochs: int = option(50, "epochs of each", source="MTT, public code", ge=1)
    lr: float = option(0.1, "learning rate, constant; MTT's public code: 0.01", gt=0)
    batch: int = option(16, "images a step; MTT's public code: 256", ge=1)
    store: Literal["fp32", "fp16", "bf16"] = option("fp32", "numbers on disk; the others take half the room")
    sampler: Named = option(
        "instance", "sampler that orders the epochs", source="MTT, public code", component="sampler"
    )
    head: Named = option(
        "linear", "classifier head whose loss trains them", source="MTT, public code", component="head"
    )


class ExpertFolder:
    """Reads and writes experts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[int, Any] = {}

    def file(self, index: int) -> Path:
        """The file of an expert."""
        return self.path / f"expert-{index:04}.safetensors"

    def begin(self, key: Key) -> None:
        """Make the folder, or see that it holds experts of this key.

        Raises:
            InputError: they are of another one, or it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._lock("begin", wait=True):
            if not (self.path / KEY).exists():
                document = {"format": FORMAT, "format_version": FORMAT_VERSION, **key}
                write_atomically(self.path / KEY, (json.dumps(document, indent=1) + "\n").encode())
        self.check(key, tuple(key))

    def check(self, key: Key, sections: tuple[str, ...]) -> None:
        """See that the experts are of this key, in the sections that matter.

        Raises:
            InputError: there are none, or naming the first difference.
        """
        try:
            stored = json.loads((self.path / KEY).read_text(encoding="utf-8"))
            if stored["format"] != FORMAT or stored["format_version"] != FORMAT_VERSION:
                raise InputError(f"{self.path / KEY}: of another version of ltdd.")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} holds no experts: train some with ltdd experts train --out DIR.") from error
        wanted = json.loads(json.dumps(key))
        for section in sections:
            difference = _difference(section, stored.get(section), wanted[section])
            if difference:
                raise InputError(f"{self.path} holds experts of another kind: {difference}.")

    def numbers(self) -> list[int]:
        """The experts that are there, complete or not."""
        names = [path.stem.removeprefix("expert-") for path in self.path.glob("expert-*.safetensors")]
        return sorted(int(name) for name in names if name.isdecimal())

    def epochs(self, index: int) -> int:
        """Epochs that an expert has behind it; 0 where there is none.

        Raises:
            InputError: its file is damaged.
        """
        return self._shape(index)[0] - 1 if self.file(index).exists() else 0

    def rows(self, index: int, first: int, second: int) -> tuple[Tensor, Tensor]:
        """The parameters after some epochs and after some others, float32 ``[P]`` each, on the CPU."""
        if index not in self._open:
            self._open[index] = safe_open(self.file(index), framework="pt")
        stored = self._open[index].get_slice("trajectory")
        return stored[first].float(), stored[second].float()

    def load(self, index: int, parameters: int) -> dict[str, Tensor] | None:
        """All of an expert as :meth:`save` got it, or None where there is none.

        Raises:
            InputError: its file is damaged, or of another network.
        """
        if not self.file(index).exists():
            return None
        if self._shape(index)[1] != parameters:
            raise InputError(f"{self.file(index)}: not an expert of this folder; delete it.")
        return load_tensors(self.file(index))[0]

    def save(self, index: int, tensors: Mapping[str, Tensor], key: Key) -> None:
        """Write an expert: ``trajectory``, and what it needs beside it to be trained further."""
        facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "expert": index, **key}
        save_tensors(self.file(index), tensors, facts)
        self._open.pop(index, None)

    @contextmanager
    def locked(self, index: int) -> Iterator[bool]:
        """Whether this process alone works on an expert, until the block ends."""
        with self._lock(f"{index:04}", wait=False) as mine:
            yield mine

    @contextmanager
    def _lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        path = self.path / f".{name}.lock"
        with writing(path):
            file = path.open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise InputError(f"{self.path} cannot be locked: {error.strerror}.") from error
            yield True

    def _shape(self, index: int) -> tuple[int, int]:
        try:
            with safe_open(self.file(index), framework="pt") as file:
                rows, columns = file.get_slice("trajectory").get_shape()
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{self.file(index)}: damaged, or no expert: {error}; delete it.") from error
        return rows, columns


# ---- which experts these are ---------------------------------------------------------------------


def expert_key(task: Distillation, options: ExpertOptions) -> Key:
    """All that the parameters of an expert depend on, beside its number: data, network and recipe.

    The number of epochs is not part of it, since the learning rate is constant and longer training begins like
    shorter training; unless the sampler orders epochs by how far the training is.
    """
    network = task.networks.new("expert")
    recipe = {
        **options.model_dump(include={"lr", "batch", "store", "sampler", "head"}),
        "augment": task.augmentation.name,
        "seed": task.seed,
        "precision": task.networks.precision,
        "compile": task.networks.compiled,
    }
    if _minds_progress(task, options):
        recipe["epochs"] = options.epochs
    return {
        "data": _data_facts(task),
        "network": _structure(network),
        "parameters": [[name, list(shape)] for name, shape in layout_of(network)],
        "recipe": recipe,
    }


def folder_for(task: Distillation, key: Key) -> Path:
    """Where experts are kept unless a user says where: every key has a place of its own."""
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=5).hexdigest()
    return HOME / f"{task.data.name}-{key['network'][0].lower()}-{digest}"


def bytes_on_disk(key: Key, options: ExpertOptions) -> int:
    """What the trajectories of all experts take."""
    parameters = sum(int(torch.Size(shape).numel()) for _, shape in key["parameters"])
    return options.count * (options.epochs + 1) * parameters * STORES[options.store].itemsize


def _data_facts(task: Distillation) -> dict[str, Any]:
    data = task.data
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (data.train_images, data.train_labels, *data.normalisation.tensors().values()):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return {
        "classes": list(data.class_names),
        "counts": list(data.counts),
        "image_shape": list(data.image_shape),
        "normalisation": data.normalisation.to_json(),
        "images": digest.hexdigest(),
    }


def _structure(network: nn.Module) -> list[str]:
    """The kinds of modules and what parameters do not show; spelt out, since ``repr`` differs between versions."""
    return [
        " ".join(
            [type(module).__name__, *(f"{name}={getattr(module, name)}" for name in SHOWN if hasattr(module, name))]
        )
        for module in network.modules()
    ]


def _minds_progress(task: Distillation, options: ExpertOptions) -> bool:
    """Whether the sampler orders an early epoch otherwise than a late one."""
    sampler = task.component("sampler", options.sampler)
    sampler.prepare(task.data)
    first, *others = (sampler.epoch(progress, torch.Generator().manual_seed(0)) for progress in (0.0, 0.5, 1.0))
    return not all(torch.equal(first, other) for other in others)


def _difference(place: str, before: Any, now: Any) -> str | None:
    """The first place where two documents differ, in words."""
    if before == now:
        return None
    if isinstance(before, dict) and isinstance(now, dict):
        differences = (_difference(f"{place}.{name}", before.get(name), now.get(name)) for name in {**before, **now})
        return next(found for found in differences if found)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = next((a, b) for a, b in zip(before, now, strict=True) if a != b)
    return f"{place} is {_repr.repr(before)} there and {_repr.repr(now)} here"
