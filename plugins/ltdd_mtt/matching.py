"""What the methods that follow experts have in common: MTT, TESLA, DATM and LAD.

Each step picks an expert and an epoch t of its training, lets a student take N steps on the synthetic images from
there, and lowers the distance between where the student arrives and where the expert was M epochs later, relative
to how far the expert went (written out in ``trajectory.py``).  Pixels, the student's step size and, in some methods,
the labels follow the gradient, by SGD.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.filesize import decimal
from torch import Tensor

from ltdd_core import (
    BaseOptions,
    Distillation,
    InputError,
    Matcher,
    RunFailed,
    Synthetic,
    Trajectories,
    generator,
    how_to_set,
    option,
)
from ltdd_mtt.experts import ExpertOptions, Pace, experts_of, train_experts
from ltdd_mtt.student import Student
from ltdd_mtt.trajectory import InnerBatch, InnerLoop, MatchingGradient, Memory

SAY_EVERY = 5
"""Epochs of an expert between lines about its training."""
LARGEST_GROWTH = 100.0
"""A learned step size that many times its initial value has left what the student can be trained with; the
published runs end within a factor of ten."""


class MatchingOptions(BaseOptions):
    """Students, optimisers, experts."""

    syn_steps: int = option(
        20, "number N of steps of the student on the synthetic images", source="MTT, public code", ge=1, le=1000
    )
    expert_epochs: int = option(
        3, "number M of epochs of the expert that the student has to match", source="MTT, public code", ge=1
    )
    max_start_epoch: int | None = option(
        None,
        "epoch of the expert below which every student starts; unless given, as late as the experts allow",
        ge=1,
    )
    batch_syn: int | None = option(
        None,
        "number of synthetic images per step of the student; all unless given",
        source="MTT, public code",
        ge=1,
    )
    syn_lr: float = option(0.01, "initial step size of the student", source="MTT, public code", gt=0)
    lr_img: float = option(10.0, "learning rate of the pixels; MTT's public code: 1000", gt=0)
    lr_lr: float = option(1e-6, "learning rate of the step size, 0 leaves it alone; MTT's public code: 1e-5", ge=0)
    momentum: float = option(0.5, "momentum of the SGD of pixels and step size", source="MTT, public code", ge=0, lt=1)
    experts_dir: Path | None = option(
        None, "folder of a network store that has the experts; unless given, that of --store, or runs/networks"
    )
    experts: ExpertOptions = option(ExpertOptions(), "the experts; those that are not in the store are trained")


class GradientOptions(MatchingOptions):
    """Students, optimisers, experts, and the way to a gradient."""

    memory: Memory = option(
        "checkpoint",
        "way to compute the gradient through the N steps: autograd, which keeps the activations of all steps "
        "(unroll); the same gradient with the activations of one step (checkpoint); TESLA's approximation (tesla)",
    )


class ExpertMatcher(Matcher):
    """A method that follows experts.

    A method says what the student's labels are (:meth:`labels_of`) and may say more: where students start
    (:meth:`window`), and what is matched (:meth:`match`).
    """

    options: MatchingOptions
    memory: Memory = "tesla"
    """Way to compute the gradient."""

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images; find the experts, and train those that are not there.

        Raises:
            InputError: the experts are too short for the options, or the file of one is damaged.
            RunFailed: an expert diverged.
            Interrupted: while training experts; what is done is saved.
        """
        self.task, options = task, self.options
        self.memory = options.memory if isinstance(options, GradientOptions) else self.memory
        self.starts = self._starts(options.experts.epochs)  # before the long work
        self.experts, self.numbers = self._trained(), list(range(options.experts.count))
        self.student = self.new_student()
        self.images, self.classes = task.initial_images.clone(), task.initial_labels
        self.lr = torch.tensor(options.syn_lr, device=task.device)
        self.velocity, self.lr_velocity = torch.zeros_like(self.images), torch.zeros_like(self.lr)

    @abstractmethod
    def labels_of(self, expert: int, start: int) -> Tensor:
        """What a student learns: classes, int64 ``[n]``, or probabilities, float32 ``[n, classes]``.

        Args:
            expert: that it follows.
            start: epoch from which it does.
        """

    def window(self, step: int) -> tuple[int, int]:
        """The first epoch that a student of a step may start from, and the one after the last."""
        return 0, self.starts

    def match(self, step: int, expert: int, start: int) -> MatchingGradient:
        """The loss of a step and its derivatives."""
        return self._loop(step, expert, start).gradient(self.memory)

    def move(self, found: MatchingGradient) -> None:
        """Move pixels and step size, by SGD with momentum."""
        options = self.options
        self.velocity.mul_(options.momentum).add_(self.task.without_kept(found.images))
        self.images.sub_(self.velocity, alpha=options.lr_img)
        self.lr_velocity.mul_(options.momentum).add_(found.lr)
        self.lr.sub_(self.lr_velocity, alpha=options.lr_lr)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """Those of all steps of a student; a gradient through them costs some three times the steps themselves."""
        images = sum(ipc_of_class)
        return 4 * self.options.syn_steps * min(images, self.options.batch_syn or images)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Follow one stretch of one expert's trajectory.

        Raises:
            RunFailed: the loss is not finite, or the step size went where no student can be trained.
        """
        draws = generator(self.task.seed, "trajectory", step)
        expert = self.numbers[int(torch.randint(len(self.numbers), (), generator=draws))]
        start = int(torch.randint(*self.window(step), (), generator=draws))
        found = self.match(step, expert, start)
        self._check_loss(found, step, expert, start)
        self.move(found)
        self._check_lr(step)
        return {"loss": found.loss, "syn_lr": self.lr.clone(), "start_epoch": float(start)}

    def state(self) -> dict[str, Tensor]:
        """Pixels, step size, their momentum, and which experts they were matched with."""
        return {
            "images": self.images,
            "velocity": self.velocity,
            "syn_lr": self.lr,
            "syn_lr_velocity": self.lr_velocity,
            "experts": torch.tensor(self.numbers),
            "starts": torch.tensor(self.starts),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume with the same experts, even if there are more by now.

        Raises:
            InputError: there are fewer.
        """
        numbers, starts = state["experts"].tolist(), int(state["starts"])
        needed = starts + self.options.expert_epochs - 1
        if any(self.experts[number].epochs() < needed for number in numbers):
            raise InputError(
                f"{self.experts.folder}: the run began with {len(numbers)} experts of {needed} epochs or more, and "
                "they are not all there any more; train them again with ltdd experts train."
            )
        self.numbers, self.starts = numbers, starts
        self.images.copy_(state["images"])
        self.velocity.copy_(state["velocity"])
        self.lr.copy_(state["syn_lr"])
        self.lr_velocity.copy_(state["syn_lr_velocity"])

    def distilled(self) -> Synthetic:
        """The pixels and their classes."""
        return Synthetic(self.images, self.classes)

    def recipe(self) -> Mapping[str, float]:
        """The learned step size is the learning rate to train with."""
        return {"lr": float(self.lr)}

    # ---- experts ---------------------------------------------------------------------------------

    @property
    def expert_task(self) -> Distillation:
        """The task, with the store that has the experts."""
        folder = self.options.experts_dir
        return self.task if folder is None else replace(self.task, shared=folder)

    def new_student(
        self, *, weights: Tensor | None = None, shift: Tensor | None = None, layer_only: bool = False
    ) -> Student:
        """A student of the run's network; the arguments are those of :class:`Student`."""
        networks = self.task.networks
        return Student(
            networks.new("student"),
            precision=networks.precision,
            compiled=networks.compiled and self.memory != "unroll",
            chunk=self.task.chunk,
            weights=weights,
            shift=shift,
            layer_only=layer_only,
        )

    def _trained(self) -> Trajectories:
        """Experts as the options describe them, trained now unless they are there."""
        options, task, pace = self.options.experts, self.task, Pace(self.options.experts)
        experts = experts_of(self.expert_task, options)
        size = decimal(options.count * experts[0].size(options.epochs))

        def report(number: int, epochs: int) -> None:
            begins = pace.note(number, epochs)
            if (begins or epochs % SAY_EVERY == 0) and epochs < options.epochs:
                left = f"{pace.left()} left for all" if pace.left() else f"{size} for all, in {experts.folder}"
                what = f"expert {number + 1} of {options.count}, {epochs} of {options.epochs} epochs done"
                task.display.training(f"{what}, {left}")

        train_experts(task, options, experts, report)
        return experts

    def _starts(self, epochs: int) -> int:
        """How many epochs a student may start from, when experts have so many.

        Raises:
            InputError: fewer than the options ask for.
        """
        options, most = self.options, epochs - self.options.expert_epochs + 1
        wanted = options.max_start_epoch or max(1, most)
        if wanted > most:
            needed = wanted + options.expert_epochs - 1
            raise InputError(
                f"matcher.max_start_epoch {wanted} and expert_epochs {options.expert_epochs} need experts of {needed} "
                f"epochs, and they have {epochs}: train them longer ({how_to_set('experts.epochs', needed)}), or lower "
                "the two."
            )
        return wanted

    # ---- one step --------------------------------------------------------------------------------

    def _loop(self, step: int, expert: int, start: int) -> InnerLoop:
        """The inner loop of a step, everything random in it a function of the step."""
        first, second = self.experts[expert].rows(start, start + self.options.expert_epochs)
        return InnerLoop(
            student=self.student,
            start=first.to(self.task.device),
            target=second.to(self.task.device),
            images=self.images,
            labels=self.labels_of(expert, start),
            lr=self.lr,
            steps=self.options.syn_steps,
            batch=self.batches("student", step),
        )

    def batches(self, student: str, step: int) -> Callable[[int], InnerBatch]:
        """The batches of all steps of a student.

        Args:
            student: names the random draws.
            step: of the run.
        """
        task, options = self.task, self.options
        size = min(options.batch_syn or len(self.images), len(self.images))
        order = _epochs(len(self.images), size, options.syn_steps, generator(task.seed, f"{student} batches", step))
        return partial(_batch, task, student, step, order)

    def _check_loss(self, found: MatchingGradient, step: int, expert: int, start: int) -> None:
        known = (found.loss, found.images, found.lr, *(() if found.labels is None else (found.labels,)))
        if all(bool(value.isfinite().all()) for value in known):
            return
        raise RunFailed(
            f"step {step}: the student that starts from epoch {start} of expert {expert} diverges, loss "
            f"{float(found.loss):g}, with step size {float(self.lr):.3g}. In a new run try a smaller matcher.lr_img "
            "or matcher.lr_lr, a smaller matcher.syn_lr, or fewer matcher.syn_steps; --precision fp32 if it was bf16."
        )

    def _check_lr(self, step: int) -> None:
        value, first = float(self.lr), self.options.syn_lr
        if 0 < value <= LARGEST_GROWTH * first:
            return
        what = "is not positive any more" if value <= 0 else f"is over {LARGEST_GROWTH:g} times its initial {first:g}"
        raise RunFailed(
            f"step {step}: the learned step size, {value:.3g}, {what}. In a new run try a smaller matcher.lr_lr than "
            f"{self.options.lr_lr:g} (0 leaves it alone), or a smaller matcher.lr_img than {self.options.lr_img:g}."
        )


def _batch(task: Distillation, student: str, step: int, order: Sequence[Tensor], k: int) -> InnerBatch:
    """The batch of step k of a student."""
    task.keep_going()
    draws = generator(task.seed, f"{student} augmentation, step {k}", step)
    return InnerBatch(order[k].to(task.device), task.augmentation.draw(task.data.image_shape, draws, len(order[k])))


def _epochs(images: int, size: int, steps: int, draws: torch.Generator) -> list[Tensor]:
    """Batches of ``size`` from one shuffling of the images after another, the last one of each maybe smaller."""
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += torch.randperm(images, generator=draws).split(size)
    return batches[:steps]
