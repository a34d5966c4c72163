"""Distilled sets, in memory and on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from ltdd_core.config.validation import brief, validate_options
from ltdd_core.data.normalisation import Normalisation, stored_normalisation
from ltdd_core.errors import InputError
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.storage import digest_of, load_tensors, save_tensors
from ltdd_core.training.options import TrainingOptions

Decoder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stored images and labels -> those that a network sees."""


@dataclass(frozen=True)
class DistilledSet:
    """The synthetic images with their labels, and how they were made."""

    images: Tensor
    """float32 ``[n, C, H, W]`` on the CPU, as stored (see ``decoder``)."""
    labels: Tensor
    """Hard labels, int64 ``[n]``, or soft ones, float32 ``[n, classes]``."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""
    normalisation: Normalisation
    """Turns raw images into the colours of the synthetic ones; its ``invert`` turns those into pictures."""
    ipc: int
    """Synthetic images per class."""
    training: Mapping[str, float] = field(default_factory=dict)
    """Training options that the method learned with the images, such as ``{"lr": 0.013}``; they stand in for
    the defaults of ``training.distilled``."""
    decoder: str | None = None
    """The matcher whose decoder turns stored images into network inputs; None: they are the same."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Configuration, class counts and versions behind it."""

    def decoded(self, catalog: Catalog) -> tuple[Tensor, Tensor]:
        """What a network sees: images float32 ``[n, C, H, W]`` and their labels, decoded where they are stored encoded.

        Raises:
            InputError: as :meth:`find_decoder`.
        """
        decoder = self.find_decoder(catalog)
        return (self.images, self.labels) if decoder is None else decoder(self.images, self.labels)

    def find_decoder(self, catalog: Catalog) -> Decoder | None:
        """The decoder that the set needs, or None if it needs none.

        Args:
            catalog: where the matcher is found whose decoder it is.

        Raises:
            InputError: that matcher is not installed, or is blocked or broken, or has no decoder any more.
        """
        if self.decoder is None:
            return None
        if self.decoder not in catalog.names("matcher"):
            raise InputError(self._without_decoder(catalog))
        entry = catalog.get("matcher", self.decoder)
        decoder: Decoder | None = entry.load().decoder
        if decoder is None:
            raise InputError(
                f"matcher {entry.name!r} of {entry.owner} has no decoder, and this distilled set needs it."
            )
        return decoder

    def _without_decoder(self, catalog: Catalog) -> str:
        needs = f"this distilled set needs the decoder of matcher {self.decoder!r}"
        versions = self.origin.get("versions")
        made_with = str(versions.get(f"matcher {self.decoder}", "")) if isinstance(versions, Mapping) else ""
        distribution = made_with.rpartition(" ")[0]
        if not distribution:
            return f"{needs}, which no installed plugin offers."
        for plugin in catalog.plugins.listed:
            if plugin.distribution == distribution and plugin.state in ("blocked", "broken"):
                return f"{needs}, and plugin {plugin.name!r} ({plugin}) is {plugin.state}. {plugin.reason}".rstrip()
        return f"{needs}. It was made with {made_with}: install {distribution}."


FORMAT = "ltdd-distilled"
FORMAT_VERSION = 1
DISTILLED_FILE = "distilled.safetensors"


def _can_be_written(name: str) -> str:
    if name != name.encode(errors="replace").decode():
        raise ValueError(f"{name!r} is no text that can be written")
    return name


class _Facts(BaseModel):
    """The metadata of the file, but for its format."""

    model_config = ConfigDict(strict=True)

    class_names: list[Annotated[str, AfterValidator(_can_be_written)]] = Field(min_length=1)
    normalisation: dict[str, Any]
    ipc: int = Field(ge=1, le=10**9)
    training: dict[str, float] = {}
    decoder: str | None
    origin: dict[str, Any]
    digest: str | None = None
    """Of the tensors; None in a file of an earlier version."""


def save_distilled(path: Path, distilled: DistilledSet) -> None:
    """Write a distilled set for people who may never install ltdd; see docs/file-formats.md.

    Args:
        path: of the file, which is replaced where there is one.
        distilled: the set.

    Raises:
        WriteError: the file cannot be written.
    """
    tensors = {"images": distilled.images, "labels": distilled.labels, **distilled.normalisation.tensors()}
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class_names": list(distilled.class_names),
        "normalisation": distilled.normalisation.to_json(),
        "ipc": distilled.ipc,
        "training": dict(distilled.training),
        "decoder": distilled.decoder,
        "origin": distilled.origin,
        "digest": digest_of(tensors),
    }
    save_tensors(path, tensors, facts)


def load_distilled(path: Path | str) -> DistilledSet:
    """Read a distilled set, from its file or from the folder of its run.

    Raises:
        InputError: there is none, it is damaged, or its contents do not fit together.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is none
        path = path / DISTILLED_FILE
        if not path.is_file():
            raise InputError(f"{path.parent}: no {DISTILLED_FILE} in this folder; did the run finish?")
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        raise InputError(f"{path}: a safetensors file, but not a distilled set of ltdd.")
    if facts.get("format_version") != FORMAT_VERSION:
        version = brief(facts.get("format_version"))
        raise InputError(f"{path}: format version {version}; this ltdd reads {FORMAT_VERSION}.")
    try:
        distilled = _distilled(tensors, facts)
        check_distilled(distilled)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return distilled


def _distilled(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> DistilledSet:
    """What the file says; whether images and labels fit it is another question.

    Raises:
        InputError: something is missing, malformed or impossible.
    """
    facts: _Facts = validate_options((), _Facts, metadata)
    for name in ("images", "labels"):
        if name not in tensors:
            raise InputError(f"the tensor {name!r} is missing.")
    if facts.digest not in (None, digest_of(tensors)):
        raise InputError("damaged: its tensors are not those that were written.")
    validate_options(("training",), TrainingOptions, facts.training)
    return DistilledSet(
        images=tensors["images"],
        labels=tensors["labels"],
        class_names=tuple(facts.class_names),
        normalisation=stored_normalisation(facts.normalisation, tensors),
        ipc=facts.ipc,
        training=facts.training,
        decoder=facts.decoder,
        origin=facts.origin,
    )


def check_distilled(distilled: DistilledSet) -> None:
    """See that images, labels and normalisation fit together.

    Raises:
        InputError: saying what does not.
    """
    images, labels, classes = distilled.images, distilled.labels, len(distilled.class_names)
    if len({*distilled.class_names}) < classes:
        raise InputError("two classes have the same name.")
    if images.dim() != 4 or images.dtype != torch.float32 or not torch.isfinite(images).all():
        raise InputError("images must be finite float32 [n, C, H, W].")
    if not images.numel():
        raise InputError("it holds no images.")
    hard = labels.dtype == torch.int64 and labels.dim() == 1
    soft = labels.dtype == torch.float32 and labels.shape[1:] == (classes,)
    if not (hard or soft) or len(labels) != len(images):
        raise InputError(f"labels must be int64 [n] or float32 [n, {classes}].")
    if hard and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"a label is not one of the {classes} classes.")
    if not torch.isfinite(labels).all():
        raise InputError("the labels must be finite.")
    misfit = distilled.normalisation.misfit(tuple(images.shape[1:]))
    if misfit and distilled.decoder is None:
        raise InputError(f"{misfit}.")
