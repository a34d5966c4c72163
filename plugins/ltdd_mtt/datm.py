"""DATM (Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024).

Experts learn easy patterns in early epochs and hard ones in late epochs.  A few images a class have room for easy
patterns only, and hard ones do them harm; many images a class gain from hard patterns.  So the window of epochs from
which students start is chosen for the number of images: early for few images, later for many.  Within a run the window
grows, easy patterns first: at step i students start in [T-, T(i)), with

    T(i) = T + (T+ - T) min(1, i / E),

rounded down, T the end of the first window, T+ that of the last, and E the steps in which it grows.

Labels are learned with the images.  The student learns softmax(v) of logits v for each image.  v begins as the mean of
the logits of those experts that classify the image correctly at their end, and follows the gradient of the loss of
trajectory matching by SGD with a learning rate of its own.  Images begin as real ones that an expert classifies
correctly, since of others the labels would be wrong.

Two cases in which the public code does not end or divides by zero are normal ones here.  If a class has fewer correct
images than it needs, its other images are taken.  If no expert is right about an image, its label begins as the mean
of all experts, the logit of its class exchanged with the largest one.

The paper trains experts with sharpness-aware steps (GSAM); here they are those of MTT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from ltdd_core import Distillation, InputError, SoftLabels, Synthetic, how_to_set, option
from ltdd_mtt.matching import ExpertMatcher, GradientOptions
from ltdd_mtt.trajectory import MatchingGradient


class WindowOptions(GradientOptions):
    """Students, optimisers, experts, windows of epochs, labels that are learned."""

    min_start_epoch: int = option(
        0, "first epoch T- of the expert that a student starts from", source="DATM, public code, CIFAR-10", ge=0
    )
    first_max_start_epoch: int | None = option(
        None,
        "end T of the window of epochs at the first step; unless given, half-way from min_start_epoch to "
        "max_start_epoch",
        ge=1,
    )
    growing_steps: int | None = option(
        None,
        "steps E in which the window grows to its end at max_start_epoch; 0: it is as long from the first step",
        source="DATM, public code, CIFAR-10: 1,000 of 10,000 steps",
        unless_given="a tenth of the number of iterations",
        follows="iterations",
        share=0.1,
        ge=0,
    )
    lr_label: float = option(
        2.0,
        "learning rate of the labels, as logits; 0 leaves them as they are",
        source="DATM, public code, CIFAR-10",
        ge=0,
    )
    momentum_label: float = option(0.9, "momentum of the SGD of the labels", source="DATM, public code", ge=0, lt=1)
    candidates: int = option(
        8, "real images of a class, for each one of the set, among which those are chosen that experts know", ge=1
    )
    skip_above: float | None = option(
        None, "loss above which a step moves nothing; DATM's public code for CIFAR-10: 1", gt=0
    )

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        for name, end in (
            ("first_max_start_epoch", self.first_max_start_epoch),
            ("max_start_epoch", self.max_start_epoch),
        ):
            if end is not None and end <= self.min_start_epoch:
                raise ValueError(
                    f"{name} {end} leaves no epoch to start from: min_start_epoch is {self.min_start_epoch}"
                )
        first, last = self.first_max_start_epoch, self.max_start_epoch
        if first is not None and last is not None and first > last:
            raise ValueError(f"first_max_start_epoch {first} is above max_start_epoch {last}: the window grows")
        return self


class WindowMatcher(ExpertMatcher):
    """Match growing windows of the trajectories of experts, and learn soft labels."""

    citation = """@inproceedings{guo2024datm,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2024}
}"""
    quick_preset = "datm-quick"
    Options = WindowOptions
    options: WindowOptions

    def prepare(self, task: Distillation) -> None:
        """Choose the initial images, and let the experts label them.

        Raises:
            InputError: the experts are too short for the options, or the file of one is damaged.
            RunFailed: an expert diverged.
            Interrupted: while training experts; what is done is saved.
        """
        super().prepare(task)
        self.images, said = self._chosen()
        self.logits = initial_labels(said, self.classes)
        self.label_velocity = torch.zeros_like(self.logits)

    def labels_of(self, expert: int, start: int) -> Tensor:
        """The labels as they are now."""
        return self.logits.softmax(1)

    def window(self, step: int) -> tuple[int, int]:
        """[T-, T(i)) of a step i."""
        options, last = self.options, self.starts
        first = options.first_max_start_epoch or math.ceil((options.min_start_epoch + last) / 2)
        first = min(max(first, options.min_start_epoch + 1), last)
        growing = options.growing_steps or 0
        grown = 1.0 if step >= growing else step / growing
        return options.min_start_epoch, first + int((last - first) * grown)

    def move(self, found: MatchingGradient) -> None:
        """Move pixels, step size and labels, unless the loss is too large."""
        options = self.options
        if options.skip_above is not None and float(found.loss) > options.skip_above:
            return
        assert found.labels is not None  # noqa: S101 - for the type checker; the labels are probabilities
        super().move(found)
        p = self.logits.softmax(1)
        by_logits = p * (found.labels - (p * found.labels).sum(1, keepdim=True))  # through the softmax
        self.label_velocity.mul_(options.momentum_label).add_(by_logits)
        self.logits.sub_(self.label_velocity, alpha=options.lr_label)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """As for MTT, and how far the window reaches.

        Raises:
            RunFailed: the loss is not finite, or the step size went where no student can be trained.
        """
        return {**super().step(step), "window_end": float(self.window(step)[1])}

    def state(self) -> dict[str, Tensor]:
        """That of MTT, the labels and their momentum."""
        return {**super().state(), "label_logits": self.logits, "label_velocity": self.label_velocity}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume with the same experts, even if there are more by now.

        Raises:
            InputError: there are fewer.
        """
        super().load_state(state)
        self.logits.copy_(state["label_logits"])
        self.label_velocity.copy_(state["label_velocity"])

    def distilled(self) -> Synthetic:
        """The pixels, their classes and their labels."""
        return Synthetic(self.images, self.classes, SoftLabels(self.logits, "logits"))

    def _starts(self, epochs: int) -> int:
        """As for MTT, with windows that fit.

        Raises:
            InputError: a window is empty, or reaches beyond the last one.
        """
        last, first = super()._starts(epochs), self.options.first_max_start_epoch or 0
        if self.options.min_start_epoch < last and first <= last:
            return last
        name = "min_start_epoch" if first <= last else "first_max_start_epoch"
        raise InputError(
            f"matcher.{name} {getattr(self.options, name)} does not fit: students start below epoch {last}, so use a "
            f"smaller one, or longer experts ({how_to_set('experts.epochs', '...')})."
        )

    # ---- the beginning ---------------------------------------------------------------------------

    def teachers(self) -> list[Tensor]:
        """The parameters ``[P]`` of the networks that label: the experts at their end."""
        epochs = self.options.experts.epochs
        return [self.experts[number].rows(epochs)[0] for number in self.numbers]

    def said(self, images: Tensor) -> Tensor:
        """Logits of all who label, float32 ``[experts, n, classes]``."""
        rows = self.teachers()
        return torch.stack([self.student.logits(row.to(self.task.device), images) for row in rows])

    def _chosen(self) -> tuple[Tensor, Tensor]:
        """The initial images, and what is said of them."""
        task, times = self.task, self.options.candidates
        if times == 1 or not bool(task.initial_real.any()):
            images = task.initial_images.clone()
            return images, self.said(images)
        images, real = task.draw_initial(times)
        ipc = torch.tensor(task.ipc_of_class)
        classes = torch.arange(len(ipc)).repeat_interleave(times * ipc).to(images.device)
        known = knowing(self.said(images), classes).any(0)
        places = [
            first_of(known[classes == label], real[classes == label], number) + times * int(ipc[:label].sum())
            for label, number in enumerate(task.ipc_of_class)
        ]
        chosen = images[torch.cat(places)]
        chosen[task.kept] = task.kept_images
        return chosen, self.said(chosen)


def knowing(said: Tensor, classes: Tensor) -> Tensor:
    """Which experts are right about which images, bool ``[experts, n]``.

    Args:
        said: logits ``[experts, n, classes]``.
        classes: int64 ``[n]``.
    """
    return said.argmax(2) == classes


def first_of(known: Tensor, real: Tensor, number: int) -> Tensor:
    """The places of so many candidates of a class, int64 ``[number]``.

    Real images that an expert knows come first, then other real ones, then repeats that it knows, then other repeats;
    of equals those that were drawn first.

    Args:
        known: bool ``[candidates]``.
        real: which are images as they are, and no repeats, bool ``[candidates]``.
        number: at most as many as there are candidates.
    """
    rank = 2 * (~real).long() + (~known).long()
    return rank.argsort(stable=True)[:number]


def initial_labels(said: Tensor, classes: Tensor) -> Tensor:
    """The mean logits of the experts that are right about an image, ``[n, classes]``.

    Where none is, the mean of all, the logit of the class exchanged with the largest.

    Args:
        said: logits ``[experts, n, classes]``.
        classes: int64 ``[n]``.
    """
    right = knowing(said, classes)[..., None].to(said.dtype)
    known = right.sum(0) > 0
    everybody = said.mean(0)
    largest, place = everybody.max(1, keepdim=True)
    own = everybody.gather(1, classes[:, None])
    exchanged = everybody.scatter(1, place, own).scatter(1, classes[:, None], largest)
    return torch.where(known, (right * said).sum(0) / right.sum(0).clamp(min=1), exchanged)
