"""What classifiers said about the test images, kept so that no classifier is trained twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ltdd_core.errors import InputError
from ltdd_core.storage import load_tensors, save_tensors
from ltdd_core.training.cost import TrainingCost

PREDICTIONS = "predictions.safetensors"
GROUPS, TEMPERATURE = ": groups", ": temperature"
TRAIN_AGAIN = "Delete the file, and the classifiers are trained again."


@dataclass(frozen=True)
class Scores:
    """What a classifier said about the test images."""

    log_probabilities: Tensor
    """float32 ``[N, classes]``."""
    groups: Tensor | None
    """The partition of the classes, int64 ``[classes]``, if the classifier has one."""
    temperature: float | None = None
    """What calibrates the probabilities, which are kept as they are; None where there are no validation images."""
    cost: TrainingCost | None = field(default=None, compare=False)
    """Of training the classifier, where it is known; it is not kept with the predictions."""

    def __repr__(self) -> str:
        images, classes = self.log_probabilities.shape
        groups = "" if self.groups is None else f", {int(self.groups.max()) + 1} groups"
        calibrated = "" if self.temperature is None else f", temperature {self.temperature:.4g}"
        return f"Scores({images} test images, {classes} classes{groups}{calibrated})"

    def check(self, images: int | None = None, classes: int | None = None) -> None:
        """See that these can be scores.

        Args:
            images: how many test images there are; None: any number.
            classes: how many classes there are; None: any number.

        Raises:
            InputError: saying what is wrong.
        """
        scores = self.log_probabilities
        if scores.dtype != torch.float32 or scores.dim() != 2 or not scores.numel():
            raise InputError("predictions must be float32 [test images, classes].")
        if len(scores) != (images or len(scores)) or scores.shape[1] != (classes or scores.shape[1]):
            raise InputError(f"predictions {list(scores.shape)}; there are {images} test images of {classes} classes.")
        best = scores.max(1).values
        if torch.isnan(scores).any() or not torch.isfinite(best).all():
            raise InputError("predictions must be log-probabilities, finite or -inf, and not -inf for every class.")
        if self.groups is not None:
            check_groups(self.groups, scores.shape[1])
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InputError(f"a temperature is a number above 0, not {self.temperature:g}.")


def check_groups(groups: Tensor, classes: int) -> None:
    """See that a partition can be one.

    Raises:
        InputError: it is not int64 ``[classes]``, or has numbers that no group has.
    """
    if groups.dtype != torch.int64 or groups.shape != (classes,):
        raise InputError(f"groups must be int64 [{classes}].")
    if groups.min() < 0 or groups.max() >= classes:
        raise InputError(f"a group is none of the at most {classes}.")


def save_predictions(path: Path, known: Mapping[str, Scores]) -> None:
    """Write the scores of classifiers by name."""
    tensors = {name: scores.log_probabilities for name, scores in known.items()}
    for name, scores in known.items():
        if scores.groups is not None:
            tensors[f"{name}{GROUPS}"] = scores.groups
        if scores.temperature is not None:
            tensors[f"{name}{TEMPERATURE}"] = torch.tensor([scores.temperature], dtype=torch.float64)
    save_tensors(path, tensors, {"about": "test log-probabilities of each line of the table"})


def load_predictions(path: Path, images: int | None = None, classes: int | None = None) -> dict[str, Scores]:
    """The scores of classifiers by name; none if there is no file.

    Args:
        path: of the file.
        images: how many test images there are; None: any number.
        classes: how many classes there are; None: any number.

    Raises:
        InputError: the file is damaged, or of other data.
    """
    if not path.exists():
        return {}
    tensors, _ = load_tensors(path)
    known = {}
    for name in tensors:
        if name.endswith((GROUPS, TEMPERATURE)):
            continue
        try:
            temperature = _number(tensors.get(f"{name}{TEMPERATURE}"))
            known[name] = Scores(tensors[name], tensors.get(f"{name}{GROUPS}"), temperature)
            known[name].check(images, classes)
        except InputError as error:
            raise InputError(f"{path}: {name!r}: {error} {TRAIN_AGAIN}") from error
    return known


def _number(tensor: Tensor | None) -> float | None:
    if tensor is None:
        return None
    if tensor.dtype != torch.float64 or tensor.shape != (1,):
        raise InputError("a temperature must be float64 [1].")
    return float(tensor)
