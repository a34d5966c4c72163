"""Distilled sets, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from torch import Tensor

from ltdd_core.config.resolve import select
from ltdd_core.config.validation import validate_options
from ltdd_core.data.normalisation import Normalisation, stored_normalisation
from ltdd_core.data.pictures import in_notebook
from ltdd_core.errors import InputError, brief
from ltdd_core.plugging.catalog import SESSION, Catalog, installed
from ltdd_core.runs.named import DISTILLED_FILE as DISTILLED_FILE, file_of_set
from ltdd_core.storage import all_finite, digest_of, load_tensors, save_tensors
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.soft_labels import SoftLabels

Decode = Callable[[Tensor], Tensor]
"""Stored images, float32 ``[n, C, h, w]`` -> what a network sees of each, float32 ``[n, f, C, H, W]``, f at least 1."""


@dataclass(frozen=True)
class DistilledSet:
    """The synthetic images with their labels, and how they were made."""

    images: Tensor
    """float32 ``[n, C, H, W]`` on the CPU, as stored (see ``decoder``)."""
    labels: Tensor
    """The class of each image, int64 ``[n]``."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""
    normalisation: Normalisation
    """Turns raw images into the colours of the synthetic ones; its ``invert`` turns those into pictures."""
    ipc: int | tuple[int, ...]
    """Synthetic images per class that were asked for: one number, or those of each class where they differ."""
    soft_labels: SoftLabels | None = None
    """What a teacher says of each image, float32 ``[n, classes]`` on the CPU, if there is one.  Where an image decodes
    to f images there may be ``[n f, classes]``, those of an image one after another."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How the method wants networks to be trained on the images, such as ``{"lr": 0.013}``: options of
    :class:`ltdd_core.TrainingOptions`, which stand in for the defaults of ``training.distilled``."""
    labeller: Mapping[str, Any] | None = None
    """The labeller whose teacher labels each view while a network is trained, ``{"name": ..., option: value}``; None:
    there is none, and ``soft_labels`` hold."""
    teacher_bytes: int = 0
    """What storing its teachers takes; 0 without one."""
    decoder: Mapping[str, Any] | None = None
    """The matcher that turns stored images into network inputs, ``{"name": ..., option: value}``; None: they are the
    same."""
    kept: int = 0
    """How many of the images are real ones that were kept, as ``--init keep`` asks."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Configuration, class counts and versions behind it."""

    @property
    def ipc_of_class(self) -> tuple[int, ...]:
        """What ``ipc`` says of each class."""
        return (self.ipc,) * len(self.class_names) if isinstance(self.ipc, int) else self.ipc

    @property
    def has_soft_labels(self) -> bool:
        """Whether a teacher says more of its images than their classes: of each, or of each view of one."""
        return self.soft_labels is not None or self.labeller is not None

    def ipc_in_words(self) -> str:
        """``10 images a class``, ``1 image a class``, or ``1 to 20 images a class (100 in all)``."""
        if isinstance(self.ipc, int):
            return f"{self.ipc} image{'' if self.ipc == 1 else 's'} a class"
        return f"{min(self.ipc)} to {max(self.ipc)} images a class ({sum(self.ipc)} in all)"

    def summary(self) -> str:
        """Method, where it is known, and sizes in one line."""
        configuration = self.origin.get("configuration") if isinstance(self.origin, Mapping) else None
        matcher = configuration.get("matcher") if isinstance(configuration, Mapping) else None
        method = f"by {matcher['name']}: " if isinstance(matcher, Mapping) and "name" in matcher else ""
        shape = "x".join(map(str, self.images.shape[1:]))
        soft = ", soft labels" if self.has_soft_labels else ""
        kept = f", {self.kept} of them real" if self.kept else ""
        return f"{method}{self.ipc_in_words()} of {len(self.class_names)} classes, {shape}{kept}{soft}"

    def __repr__(self) -> str:
        return f"DistilledSet({self.summary()})"

    def _repr_html_(self) -> str:
        try:
            seen = self.decoded()
        except InputError as error:  # whose decoder is not installed
            return f"{escape(self.summary())}<br>{escape(str(error))}"
        picture = in_notebook(seen.normalisation.invert(seen.images), seen.labels, seen.class_names)
        return f"{escape(self.summary())}<br>{picture}"

    def label_budget(self) -> dict[str, int]:
        """What the labels take beside the classes: numbers of soft labels, and bytes of teachers that label views."""
        soft = 0 if self.soft_labels is None else self.soft_labels.values.numel()
        return {"soft_label_numbers": soft, "teacher_bytes": self.teacher_bytes}

    def decoded(self, catalog: Catalog | None = None) -> DistilledSet:
        """The same set as a network sees it: where images are stored encoded, each becomes one image or several.

        Args:
            catalog: where the matcher is found that decodes them; what is installed unless given.

        Raises:
            InputError: as :meth:`find_decoder`.
        """
        decode = None if self.decoder is None else self.find_decoder(catalog or installed())
        if decode is None:
            return self
        images = decode(self.images)
        count, soft = images.shape[1], self.soft_labels
        if soft is not None and len(soft) == len(self.images):
            soft = soft.repeated(count)
        labels = self.labels.repeat_interleave(count)
        return replace(self, images=images.flatten(0, 1), labels=labels, soft_labels=soft, decoder=None)

    def find_decoder(self, catalog: Catalog) -> Decode | None:
        """What decodes the images of the set, or None if they are stored as they are.

        Args:
            catalog: where the matcher is found that decodes them.

        Raises:
            InputError: that matcher is not installed, or is blocked or broken, or its options are not those of the set.
        """
        if self.decoder is None:
            return None
        if self.decoder["name"] not in catalog.names("matcher"):
            raise InputError(self._without_decoder(catalog))
        decode: Decode = select(catalog, "matcher", self.decoder).make().decode
        return decode

    def _without_decoder(self, catalog: Catalog) -> str:
        name = self.decoder["name"] if self.decoder else ""
        needs = f"this distilled set needs the decoder of matcher {name!r}"
        versions = self.origin.get("versions")
        made_with = str(versions.get(f"matcher {name}", "")) if isinstance(versions, Mapping) else ""
        distribution = made_with.rpartition(" ")[0]
        if made_with == str(SESSION):
            return f"{needs}, which was registered in a Python session: register it again."
        if not distribution:
            return f"{needs}, which no installed plugin offers."
        for plugin in catalog.plugins.listed:
            if plugin.distribution == distribution and plugin.state in ("blocked", "broken"):
                return f"{needs}, and plugin {plugin.name!r} ({plugin}) is {plugin.state}. {plugin.reason}".rstrip()
        return f"{needs}. It was made with {made_with}: install {distribution}."


def ipc_of_set(numbers: Sequence[int]) -> int | tuple[int, ...]:
    """Numbers of images of each class as :attr:`DistilledSet.ipc` has them: one where all are the same."""
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


FORMAT = "ltdd-distilled"
FORMAT_VERSION = 2
"""Version 1 had soft labels in the place of classes, and of the recipe the learning rate alone."""


def _can_be_written(name: str) -> str:
    if name != name.encode(errors="replace").decode():
        raise ValueError(f"{name!r} is no text that can be written")
    return name


Number = Annotated[int, Field(ge=1, le=10**9)]


class _Facts(BaseModel):
    """The metadata of the file, but for its format."""

    model_config = ConfigDict(strict=True)

    class_names: list[Annotated[str, AfterValidator(_can_be_written)]] = Field(min_length=1)
    normalisation: dict[str, Any]
    ipc: Annotated[
        Annotated[Number, Tag("number")] | Annotated[list[Number], Tag("numbers")],
        Discriminator(lambda value: "numbers" if isinstance(value, list) else "number"),
    ]
    kept: int = Field(default=0, ge=0)
    soft_labels: Literal["probabilities", "logits"] | None = None
    labeller: dict[str, Any] | None = None
    teacher_bytes: int = Field(default=0, ge=0)
    recipe: dict[str, Any] = {}
    decoder: dict[str, Any] | None
    origin: dict[str, Any]
    digest: str | None = None
    """Of the tensors; None in a file of an earlier version."""


def save_distilled(path: Path | str, distilled: DistilledSet) -> None:
    """Write a distilled set for people who may never install ltdd; see docs/file-formats.md.

    Args:
        path: of the file, which is replaced where there is one.
        distilled: the set.

    Raises:
        WriteError: the file cannot be written.
    """
    tensors = {"images": distilled.images, "labels": distilled.labels, **distilled.normalisation.tensors()}
    if distilled.soft_labels is not None:
        tensors["soft_labels"] = distilled.soft_labels.values
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class_names": list(distilled.class_names),
        "normalisation": distilled.normalisation.to_json(),
        "ipc": distilled.ipc,
        **({"kept": distilled.kept} if distilled.kept else {}),
        "soft_labels": None if distilled.soft_labels is None else distilled.soft_labels.kind,
        "labeller": None if distilled.labeller is None else dict(distilled.labeller),
        "teacher_bytes": distilled.teacher_bytes,
        "recipe": dict(distilled.recipe),
        "decoder": None if distilled.decoder is None else dict(distilled.decoder),
        "origin": distilled.origin,
        "digest": digest_of(tensors),
    }
    save_tensors(Path(path), tensors, facts)


def load_distilled(path: Path | str) -> DistilledSet:
    """Read a distilled set, from its file or from the folder of its run.

    Raises:
        InputError: there is none, it is damaged, or its contents do not fit together.
    """
    path = file_of_set(Path(path))
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        raise InputError(f"{path}: a safetensors file, but not a distilled set of ltdd.")
    version = facts.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(f"{path}: format version {brief(version)}; this ltdd reads 1 to {FORMAT_VERSION}.")
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
    if metadata.get("format_version") == 1:
        metadata = _upgraded(metadata)
    facts: _Facts = validate_options((), _Facts, metadata)
    if facts.digest not in (None, digest_of(tensors)):
        raise InputError("damaged: its tensors are not those that were written.")
    if metadata.get("format_version") == 1:
        tensors, facts = _with_classes(tensors, facts)
    for name in ("images", "labels", *(["soft_labels"] if facts.soft_labels else [])):
        if name not in tensors:
            raise InputError(f"the tensor {name!r} is missing.")
    if isinstance(facts.ipc, list) and len(facts.ipc) != len(facts.class_names):
        raise InputError(f"ipc has {len(facts.ipc)} numbers for {len(facts.class_names)} classes.")
    validate_options(("recipe",), TrainingOptions, facts.recipe)
    for kind, named in (("decoder", facts.decoder), ("labeller", facts.labeller)):
        if named is not None and not isinstance(named.get("name"), str):
            raise InputError(f"the {kind} has no name.")
    return DistilledSet(
        images=tensors["images"],
        labels=tensors["labels"],
        class_names=tuple(facts.class_names),
        normalisation=stored_normalisation(facts.normalisation, tensors),
        ipc=facts.ipc if isinstance(facts.ipc, int) else ipc_of_set(facts.ipc),
        kept=facts.kept,
        soft_labels=SoftLabels(tensors["soft_labels"], facts.soft_labels) if facts.soft_labels else None,
        labeller=facts.labeller,
        teacher_bytes=facts.teacher_bytes,
        recipe=facts.recipe,
        decoder=facts.decoder,
        origin=facts.origin,
    )


def _upgraded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of version 1 as version 2 has them."""
    decoder = metadata.get("decoder")
    decoder = {"name": decoder} if isinstance(decoder, str) else decoder
    rest = {key: value for key, value in metadata.items() if key != "training"}
    return {**rest, "recipe": metadata.get("training", {}), "decoder": decoder}


def _with_classes(tensors: Mapping[str, Tensor], facts: _Facts) -> tuple[dict[str, Tensor], _Facts]:
    """The tensors of version 1 as version 2 has them: the class of a soft label is its likeliest one."""
    labels = tensors.get("labels")
    if labels is None or labels.dim() != 2 or not labels.numel() or not labels.is_floating_point():
        return dict(tensors), facts
    upgraded = {**tensors, "labels": labels.argmax(1), "soft_labels": labels}
    return upgraded, facts.model_copy(update={"soft_labels": "probabilities"})


def check_distilled(distilled: DistilledSet) -> None:
    """See that images, labels and normalisation fit together.

    Raises:
        InputError: saying what does not.
    """
    images, labels, classes = distilled.images, distilled.labels, len(distilled.class_names)
    if len({*distilled.class_names}) < classes:
        raise InputError("two classes have the same name.")
    if images.dim() != 4 or images.dtype != torch.float32 or not all_finite(images):
        raise InputError("images must be finite float32 [n, C, H, W].")
    if not images.numel():
        raise InputError("it holds no images.")
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise InputError("labels must be int64 [n], one for each image.")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"a label is not one of the {classes} classes.")
    if distilled.soft_labels is not None:
        _check_soft(distilled.soft_labels, len(images), classes)
        if distilled.decoder is None and len(distilled.soft_labels) != len(images):
            raise InputError("there must be one soft label for each image.")
    misfit = distilled.normalisation.misfit(tuple(images.shape[1:]))
    if misfit and distilled.decoder is None:
        raise InputError(f"{misfit}.")


def _check_soft(soft: SoftLabels, images: int, classes: int) -> None:
    values = soft.values
    fits = values.dim() == 2 and values.shape[1] == classes and len(values) > 0 and len(values) % images == 0
    if values.dtype != torch.float32 or not fits or not torch.isfinite(values).all():
        raise InputError(f"soft labels must be finite float32 [n, {classes}].")
    if soft.kind == "probabilities" and (values.min() < 0 or (values.sum(1) - 1).abs().max() > 1e-3):
        raise InputError("soft labels must be probabilities, which sum to 1, or say that they are logits.")
