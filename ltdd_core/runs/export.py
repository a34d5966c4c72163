"""Distilled sets in the formats of other tools: DD-Ranking, image folders, numpy."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ltdd_core.errors import InputError, either, how_to_set
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.runs.distilled import DistilledSet, load_distilled
from ltdd_core.runs.named import as_folder_names
from ltdd_core.storage import json_text, write_atomically, writing
from ltdd_core.training.options import TrainingOptions

CERTAIN = 200.0
"""Logit of a hard label: e^-200 is nothing beside 1 in float32, so that its softmax is one-hot to the last bit."""
LARGEST_RATE = 1e30
"""A learning rate above it is damage."""


def export_distilled(
    distilled: Path | str, kind: str, out: Path | str | None = None, *, catalog: Catalog | None = None
) -> Path:
    """Write a distilled set for another tool.

    Args:
        distilled: the folder of a run, or its ``distilled.safetensors``.
        kind: ``ddranking``, ``folder`` or ``npz``, as :func:`ltdd_core.export` describes them.
        out: a folder, or the file for npz; ``export-KIND`` beside the distilled set unless given.
        catalog: where the matcher is found whose decoder the set needs.

    Returns:
        Where it is.

    Raises:
        InputError: there is no such set, it does not suit the format, or ``out`` is there already or cannot be
            written.
    """
    distilled_set = _decoded(load_distilled(distilled), catalog)
    source = Path(distilled)
    folder = source if source.is_dir() else source.parent
    target = Path(out) if out is not None else folder / (f"export-{kind}" + (".npz" if kind == "npz" else ""))
    check_target(target)
    FORMATS[kind](distilled_set, target)
    return target


def check_target(target: Path) -> None:
    """Refuse to write in the place of something, unless it is an empty folder.

    Raises:
        InputError: something is there.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} is there already: remove it, or name another place with {how_to_set('out')}.")


def format_of(kind: str) -> str:
    """A format as the one who reads a message asks for it."""
    return either(f"--format {kind}", how_to_set("kind", kind))


def _decoded(distilled: DistilledSet, catalog: Catalog | None) -> DistilledSet:
    """What a network sees, sorted by class."""
    seen = distilled.decoded(catalog)
    order = seen.labels.argsort(stable=True)
    soft = None if seen.soft_labels is None else seen.soft_labels[order]
    return replace(seen, images=seen.images[order], labels=seen.labels[order], soft_labels=soft)


def to_logits(distilled: DistilledSet) -> Tensor:
    """Logits float32 ``[n, classes]`` whose softmax is the soft label of an image, or else its class."""
    if distilled.soft_labels is not None:
        return distilled.soft_labels.logits()
    return torch.nn.functional.one_hot(distilled.labels, len(distilled.class_names)).float() * CERTAIN


def _ddranking(distilled: DistilledSet, target: Path) -> None:
    classes = len(distilled.class_names)
    counts = torch.bincount(distilled.labels, minlength=classes)
    if len(counts.unique()) > 1:
        raise InputError(
            f"DD-Ranking wants the same number of images of each class, and this set has {int(counts.min())} to "
            f"{int(counts.max())}: export it as folder or npz."
        )
    tensors = {
        "images": distilled.images,
        "labels": to_logits(distilled),
        "lr": torch.tensor(_learning_rate(distilled)),
    }

    def fill(folder: Path) -> None:
        for name, tensor in tensors.items():
            torch.save(tensor.clone(), folder / f"{name}.pt")  # the format of the other tool; it holds tensors only

    written_as_a_whole(target, fill)


def _folder(distilled: DistilledSet, target: Path) -> None:
    names = as_folder_names(distilled.class_names)
    pixels = (distilled.normalisation.invert(distilled.images) * 255).round().to(torch.uint8)
    labels = distilled.labels

    def fill(folder: Path) -> None:
        for label, name in enumerate(names):
            (folder / name).mkdir()
            for number, image in enumerate(pixels[labels == label]):
                plain = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
                Image.fromarray(plain).save(folder / name / f"{number:04}.png")

    written_as_a_whole(target, fill)


def _npz(distilled: DistilledSet, target: Path) -> None:
    facts = {**distilled.normalisation.to_json(), "recipe": dict(distilled.recipe)}
    soft = distilled.soft_labels
    arrays: dict[str, Any] = {
        "images": distilled.images.numpy(),
        "labels": distilled.labels.numpy(),
        **({} if soft is None else {f"soft_{soft.kind}": soft.values.numpy()}),
        "class_names": np.array(distilled.class_names),
        "normalisation": np.array(json_text(facts)),
        **{name: tensor.numpy() for name, tensor in distilled.normalisation.tensors().items()},
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content.getvalue())


FORMATS: dict[str, Callable[[DistilledSet, Path], None]] = {"ddranking": _ddranking, "folder": _folder, "npz": _npz}


def written_as_a_whole(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside the target and rename it: nobody sees half of it.

    Raises:
        WriteError: it cannot be written; nothing is left behind.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            fill(unfinished)
            unfinished.chmod(0o777 & ~_umask())
            unfinished.replace(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _umask() -> int:
    """What new folders are not allowed; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _learning_rate(distilled: DistilledSet) -> float:
    """The learned one; else that of the configuration, where there is a usable one; else the default."""
    if "lr" in distilled.recipe:
        return float(distilled.recipe["lr"])
    rate: Any = distilled.origin
    for key in ("configuration", "training", "distilled", "lr"):
        rate = rate.get(key) if isinstance(rate, Mapping) else None
    usable = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < LARGEST_RATE
    return float(rate) if usable else TrainingOptions().lr
