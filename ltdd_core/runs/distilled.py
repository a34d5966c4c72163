"""Distilled sets, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.normalisation import Normalisation, stored_normalisation
from ltdd_core.errors import InputError
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.storage import load_tensors, save_tensors

Decoder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stored images and labels -> those that a network sees."""


@dataclass(frozen=True)
class DistilledSet:
    """The synthetic images with their labels, and how they were made."""

    images: Tensor
    """float32 ``[n, C, H, W]`` on the CPU, as stored (see ``decoder``)."""
    labels: Tensor
    """int64 ``[n]``, or float32 ``[n, classes]``."""
    class_names: tuple[str, ...]
    normalisation: Normalisation
    ipc: int
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


DISTILLED = "distilled.safetensors"


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
