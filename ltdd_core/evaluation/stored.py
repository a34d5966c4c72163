"""Trained classifiers in files: kept by every run, and loaded without the run and its data."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ltdd_core.config.model import Compute
from ltdd_core.config.validation import validate_options
from ltdd_core.data.normalisation import Normalisation, stored_normalisation
from ltdd_core.errors import InputError, brief, either, how_to_set
from ltdd_core.evaluation.calibration import at_temperature
from ltdd_core.evaluation.head import Classifier
from ltdd_core.evaluation.predictions import check_groups
from ltdd_core.networks.stored import Entry, FindClass, put_together, taken_apart
from ltdd_core.options import BaseOptions
from ltdd_core.plugging.loading import PluginFailed, Plugins, load_plugins, plugin_code
from ltdd_core.runs.devices import chunk_size, computing
from ltdd_core.runs.distilled import DISTILLED_FILE
from ltdd_core.runs.folder import CLASSIFIERS, CONFIG, RunFolder
from ltdd_core.storage import digest_of, json_text, load_tensors, save_tensors

FORMAT = "ltdd-classifier"
FORMAT_VERSION = 1
WEIGHT = "weight: "
"""What the name of a tensor of the classifier begins with; the others are those of the normalisation."""


class TrainedClassifier(nn.Module):
    """A trained classifier, and all that is needed to use it.

    Args:
        classifier: gives log-probabilities of normalised images.
        line: its line in the result table of the run.
        class_names: the name of each class.
        groups: the partition of the classes, int64 ``[classes]``; None where it has none.
        counts: training images of each class of the long-tailed set.
        images: how many images trained it, over all its stages.
        image_shape: ``(C, H, W)`` of its images.
        normalisation: turns raw images into its inputs.
        facts: how good it was on the test images of its run, and how it came about.
        temperature: what its log-probabilities are divided by; 1 where none was fitted.
    """

    groups: Tensor | None

    def __init__(
        self,
        classifier: Classifier,
        *,
        line: str,
        class_names: Sequence[str],
        groups: Tensor | None,
        counts: Sequence[int],
        images: int,
        image_shape: tuple[int, int, int],
        normalisation: Normalisation,
        facts: Mapping[str, Any],
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.classifier, self.temperature = classifier, temperature
        self.line, self.class_names, self.counts = line, tuple(class_names), tuple(counts)
        self.images, self.image_shape, self.normalisation = images, image_shape, normalisation
        self.facts = dict(facts)
        self.groups = None if groups is None else nn.Buffer(groups)

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities, float32 ``[n, classes]``; -inf where a class is ruled out.

        They are calibrated where a temperature was fitted to validation images.

        Args:
            images: float32 ``[n, C, H, W]``, normalised, on the device of the classifier.
        """
        log_p: Tensor = self.classifier(images)
        return log_p if self.temperature == 1 else at_temperature(log_p, self.temperature)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        calibrated = ", calibrated" if self.calibrated else ""
        return f"TrainedClassifier({self.line!r}: {len(self.class_names)} classes, images of {shape}{calibrated})"

    @property
    def calibrated(self) -> bool:
        """Whether a temperature was fitted to validation images; what it did is in ``facts["calibration"]``."""
        return "calibration" in self.facts

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities, float32 ``[n, classes]`` on the CPU, calibrated where the classifier is.

        Memory follows a chunk of the images, not all of them.

        Args:
            images: raw images ``[n, C, H, W]``, any number of them: uint8, or float in [0, 1].

        Raises:
            InputError: they are of another shape or type.
        """
        return self.log_probabilities_of(images).exp()

    def log_probabilities_of(self, images: Tensor) -> Tensor:
        """The logarithms of what :meth:`predict` gives."""
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(f"images are {list(images.shape)}; this classifier takes [n, {_shape(self.image_shape)}].")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(f"images are {images.dtype}; this classifier takes uint8, or floats in [0, 1].")
        parts, device = [], self._device()
        with torch.no_grad(), computing(Compute(), device):
            for part in images.split(self.chunk()):
                on_device = part.to(device)
                raw = on_device if part.dtype == torch.uint8 else on_device.float() * 255
                parts.append(self(self.normalisation.apply(raw)).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0, len(self.class_names))

    def chunk(self) -> int:
        """How many images pass it at once."""
        return chunk_size(Compute(), self._device(), self.image_shape)

    def _device(self) -> torch.device:
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device


class _Facts(BaseModel):
    """The metadata of the file, but for its format."""

    model_config = ConfigDict(strict=True)

    line: str
    class_names: list[str] = Field(min_length=1)
    groups: list[int] | None
    counts: list[int]
    images: int
    image_shape: list[int] = Field(min_length=3, max_length=3)
    normalisation: dict[str, Any]
    facts: dict[str, Any]
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    modules: list[dict[str, Any]]


def file_name(line: str) -> str:
    """The name of the file of a line of a result table: ``"original, direct"`` is in original-direct.safetensors."""
    return (re.sub(r"[^\w.]+", "-", line).strip("-.")[:100] or "classifier") + ".safetensors"


# ---- writing ---------------------------------------------------------------------------------------


def save_classifier(path: Path, trained: TrainedClassifier, find: FindClass | None = None) -> None:
    """Write a classifier, as safetensors and JSON; see docs/file-formats.md.

    Args:
        path: of the file, which is replaced where there is one.
        trained: the classifier.
        find: finds classes by name; those of ltdd and of installed plugins unless given.

    Raises:
        Unstorable: it is made of something that cannot be kept, such as a function.
        WriteError: the file cannot be written.
    """
    modules, weights = taken_apart(trained.classifier, find or class_finder(load_plugins()))
    tensors = {f"{WEIGHT}{name}": tensor for name, tensor in weights.items()} | trained.normalisation.tensors()
    facts = {
        "line": trained.line,
        "class_names": list(trained.class_names),
        "groups": None if trained.groups is None else trained.groups.tolist(),
        "counts": list(trained.counts),
        "images": trained.images,
        "image_shape": list(trained.image_shape),
        "normalisation": trained.normalisation.to_json(),
        "facts": trained.facts,
        "temperature": trained.temperature,
        "modules": modules,
    }
    about = {"format": FORMAT, "format_version": FORMAT_VERSION, "digest": _digest(tensors, facts)}
    save_tensors(path, tensors, {**about, **facts})


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Of the tensors, and of all that says what to do with them."""
    return hashlib.blake2b(f"{digest_of(tensors)} {json_text(dict(facts))}".encode(), digest_size=16).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------


def load_classifier(
    path: Path | str, line: str | None = None, *, device: torch.device | str = "cpu", find: FindClass | None = None
) -> TrainedClassifier:
    """A trained classifier, ready to use; neither the run nor its data are needed.

    Args:
        path: the folder of a run, or the file of a classifier.
        line: which line of the result table of the run; the last one, which is the head that was asked for, unless
            given.
        device: where it computes.
        find: finds classes by name; those of ltdd and of installed plugins unless given.

    Raises:
        InputError: there is none, the file is damaged, or it needs a package that is not installed.
    """
    path = classifier_file(Path(path), line)
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        raise InputError(f"{path}: a safetensors file, but not a classifier of ltdd.")
    if facts.get("format_version") != FORMAT_VERSION:
        version = brief(facts.get("format_version"))
        raise InputError(f"{path}: format version {version}; this ltdd reads {FORMAT_VERSION}.")
    try:
        return _trained(tensors, facts, find or class_finder(load_plugins())).to(device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _trained(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], find: FindClass) -> TrainedClassifier:
    content = {name: value for name, value in metadata.items() if name not in ("format", "format_version", "digest")}
    if metadata.get("digest") != _digest(tensors, content):
        raise InputError("damaged: it is not what was written.")
    facts: _Facts = validate_options((), _Facts, content)
    groups = None if facts.groups is None else torch.tensor(facts.groups)
    if groups is not None:
        check_groups(groups, len(facts.class_names))
    weights = {name.removeprefix(WEIGHT): tensor for name, tensor in tensors.items() if name.startswith(WEIGHT)}
    entries = [validate_options((), Entry, entry) for entry in facts.modules]
    classifier = put_together(entries, weights, find)
    if not isinstance(classifier, Classifier):
        raise InputError(f"{type(classifier).__name__} is no classifier.")
    normalisation = stored_normalisation(facts.normalisation, tensors)
    channels, height, width = facts.image_shape
    trained = TrainedClassifier(
        classifier,
        line=facts.line,
        class_names=facts.class_names,
        groups=groups,
        counts=facts.counts,
        images=facts.images,
        image_shape=(channels, height, width),
        normalisation=normalisation,
        facts=facts.facts,
        temperature=facts.temperature,
    )
    return trained.eval()


def class_finder(plugins: Plugins, *packages: str) -> FindClass:
    """Finds the classes that classifiers are made of: in ltdd, in the packages of plugins, and nowhere else.

    Args:
        plugins: those that are installed.
        packages: more packages that are taken.
    """
    owners = {plugin.target.partition(":")[0].partition(".")[0]: plugin for plugin in plugins.listed}
    usable = {
        "ltdd_core",
        *packages,
        *(package for package, plugin in owners.items() if plugin in list(plugins.usable)),
    }

    def find(name: str) -> type:
        module, _, qualified = name.partition(":")
        package = module.partition(".")[0]
        if package in owners and package not in usable:
            plugin = owners[package]
            raise InputError(f"it needs plugin {plugin.name!r} ({plugin}), which is {plugin.state}. {plugin.reason}")
        if package not in usable:
            raise InputError(f"it needs the package {package!r:.100}, which no installed plugin has.")
        try:
            with plugin_code():
                found: Any = importlib.import_module(module)
                for part in qualified.split("."):
                    found = getattr(found, part)
        except PluginFailed as failed:
            raise InputError(f"it needs {name!r:.200}, which cannot be imported: {failed}.") from failed.error
        if not isinstance(found, type) or not issubclass(found, nn.Module | BaseOptions):
            raise InputError(f"{name!r:.200} is no class of a classifier.")
        return found

    return find


def classifier_file(path: Path, line: str | None = None) -> Path:
    """The file of a line of a run.

    Args:
        path: the folder of the run, a folder of classifiers, or the file itself.
        line: as the table calls it, or as the file is called; None for the last of the table.

    Raises:
        InputError: there is none.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is none
        if line is not None:
            raise InputError(f"{path} is no folder; a line is one of a run, or of a folder of classifiers.")
        return path
    folder = path / CLASSIFIERS if (path / CLASSIFIERS).is_dir() or (path / CONFIG).is_file() else path
    kept = sorted(file.name for file in folder.glob("*.safetensors"))
    if not kept:
        raise InputError(f"{path}: there is no classifier in this folder.{_how_to_get_one(path)}")
    names = ", ".join(name.removesuffix(".safetensors") for name in kept)
    if line is not None:
        wanted = file_name(line)
        if wanted not in kept:
            raise InputError(f"{path} has no classifier of a line {line!r}; there are: {names}.")
        return folder / wanted
    lines = RunFolder(path).lines() if folder != path else []
    wanted = file_name(lines[-1]) if lines else kept[0]
    if wanted not in kept:
        raise InputError(f"{path} has no classifier of its line {lines[-1]!r}; name another one: {names}.")
    if not lines and len(kept) > 1:
        raise InputError(f"{path} has several classifiers; name one: {names}.")
    return folder / wanted


def _how_to_get_one(path: Path) -> str:
    if not (path / CONFIG).is_file():
        return ""
    again = either(f"ltdd evaluate {path} --out FOLDER", f"evaluate({str(path)!r}, out=FOLDER)")
    command = again if (path / DISTILLED_FILE).is_file() else "ltdd train"
    without = how_to_set("compute.keep", False)
    return f" The run was made with {without}, or by an earlier version: {command} makes one."


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
