"""Train experts, one after another, so that nothing finished is lost and several processes can share the work.

Everything random about expert i is a function of (seed, i, epoch), so it comes out the same in one go, after kill -9,
and when its training is made longer later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ltdd_core import (
    ClassifierHead,
    Distillation,
    InputError,
    Interrupted,
    LastLayer,
    Loss,
    LossSchedule,
    Network,
    RunFailed,
    Sampler,
    Trainer,
    TrainingOptions,
    TrainingSet,
    cross_entropy,
    name_of,
    train,
)
from ltdd_mtt.experts import STORES, ExpertFolder, ExpertOptions, Key, expert_key
from ltdd_mtt.student import fill_parameters, flat_parameters

SAVE_EVERY = 5
"""Epochs between writes: what kill -9 can cost."""
PATIENCE = 0.2
"""Seconds between looks at an expert that another process trains."""

Report = Callable[[int, int], None]
"""``(expert, epochs it has behind it)``; called when an expert is begun and after each epoch."""


def train_experts(task: Distillation, options: ExpertOptions, folder: ExpertFolder, report: Report) -> None:
    """All experts that are asked for; those that are there cost nothing, those of other processes are waited for.

    Raises:
        InputError: the folder holds other experts, or sampler or head do not suit.
        RunFailed: an expert diverged.
        Interrupted: ``task.keep_going`` said so; what is done is saved.
    """
    key = expert_key(task, options)
    folder.begin(key)
    waiting = list(range(options.count))
    school = School(task, options, folder, key, report)
    while waiting:
        others = []
        for index in waiting:
            task.keep_going()
            with folder.locked(index) as mine:
                if mine:
                    school.train(index)
                else:
                    others.append(index)
        if waiting := others:
            time.sleep(PATIENCE)


class School:
    """Where experts are trained, all in one network that is refilled."""

    def __init__(
        self, task: Distillation, options: ExpertOptions, folder: ExpertFolder, key: Key, report: Report
    ) -> None:
        self.task, self.options, self.folder, self.key, self.report = task, options, folder, key, report
        self.head: ClassifierHead = task.component("head", options.head)
        if self.head.stages != 1:
            raise InputError(f"experts.head={name_of(options.head)} trains several networks, and an expert is one.")
        sampler: Sampler = task.component("sampler", options.sampler)
        sampler.prepare(task.data)
        data = task.data
        images = data.normalisation.apply(data.train_images) if data.normalisation.once else data.train_images
        self.data = TrainingSet("original", images, data.train_labels, data.normalisation, data.classes, sampler.epoch)
        self.network = task.networks.new("expert")

    def train(self, index: int) -> None:
        """One expert, from where it is to the end."""
        record = Record.of(self, index)
        self.report(index, record.done)
        if record.done >= self.options.epochs:
            return
        trainer = ExpertTrainer(self, record)
        try:
            self.head.fit([self.data], trainer)
        except Interrupted:
            record.save()
            raise
        except RunFailed as error:
            raise RunFailed(f"{error} That is --set experts.lr=...; the experts before it are kept.") from error
        if not trainer.called:
            raise InputError(f"experts.head={name_of(self.options.head)} trains no network, so it makes no expert.")


class Record:
    """The trajectory of one expert as far as it is known; made with the network filled with its last row."""

    def __init__(self, school: School, index: int, rows: Tensor, done: int) -> None:
        self.school, self.index, self.rows, self.done = school, index, rows, done
        self.saved = done

    @classmethod
    def of(cls, school: School, index: int) -> Record:
        """From its file, or from its initial weights."""
        network, options = school.network, school.options
        network.requires_grad_(True).load_state_dict(school.task.networks.new("expert", index).state_dict())
        start = flat_parameters(network)
        stored = school.folder.load(index, len(start))
        if stored is None:
            stored = {"trajectory": start[None].to("cpu", STORES[options.store])}
        done = len(stored["trajectory"]) - 1
        rows = torch.empty(max(options.epochs, done) + 1, len(start), dtype=STORES[options.store])
        rows[: done + 1] = stored["trajectory"]
        if done:
            fill_parameters(network, stored.get("last", rows[done]).to(start.device))
            for name, buffer in network.named_buffers():
                buffer.copy_(stored[f"buffer: {name}"])
        return cls(school, index, rows, done)

    def add(self, done: int) -> None:
        """The epoch is over: keep where the network is."""
        self.rows[done], self.done = flat_parameters(self.school.network).cpu(), done
        if done - self.saved >= SAVE_EVERY or done == self.school.options.epochs:
            self.save()
        self.school.report(self.index, done)

    def save(self) -> None:
        """Write it down, with what it takes to resume exactly: full precision, averages of batch normalisation."""
        if self.done == self.saved:
            return
        network = self.school.network
        tensors = {"trajectory": self.rows[: self.done + 1]}
        tensors |= {f"buffer: {name}": buffer for name, buffer in network.named_buffers()}
        if self.rows.dtype != torch.float32:
            tensors["last"] = flat_parameters(network)
        self.school.folder.save(self.index, tensors, self.school.key)
        self.saved = self.done


class ExpertTrainer(Trainer):
    """Gives a head the expert for the one network it asks for."""

    def __init__(self, school: School, record: Record) -> None:
        task, options = school.task, school.options
        recipe = TrainingOptions(
            epochs=options.epochs, lr=options.lr, momentum=0, weight_decay=0, batch=options.batch, schedule="constant"
        )
        super().__init__(
            lambda shape, outputs: school.network,
            {"original": recipe},
            task.augmentation,
            seed=task.seed,
            device=task.device,
            chunk=task.chunk,
            precision=task.networks.precision,
            compiled=task.networks.compiled,
            keep_going=task.keep_going,
            component=self._no_other_head,
        )
        self.school, self.record, self.called = school, record, False

    def train(
        self,
        data: TrainingSet,
        *,
        outputs: int,
        purpose: str = "classes",
        loss: Loss = cross_entropy,
        loss_at: LossSchedule | None = None,
        layer: LastLayer | None = None,
    ) -> Network:
        """Train the expert; the loss is the head's.

        Raises:
            InputError: the head asks a second time, for a network of other classes or another last layer, or for a
                loss that depends on how long the training is.
            RunFailed: training diverged.
        """
        head, record = name_of(self.school.options.head), self.record
        if self.called or outputs != self.school.data.classes:
            raise InputError(
                f"experts.head={head} trains several networks, or not one logit a class; an expert is one network "
                "with a logit for each class."
            )
        if layer is not None or loss_at is not None:
            raise InputError(
                f"experts.head={head} changes the last layer, or the loss during training; an expert is the network "
                "as it is, and may be trained longer later."
            )
        self.called = True
        return train(
            self.school.network,
            data,
            self.options["original"],
            loss=loss,
            augmentation=self.augmentation,
            seed=self.seed,
            purpose=f"expert {record.index}",
            device=self.device,
            keep_going=self.keep_going,
            start=record.done,
            after_epoch=record.add,
            chunk=self.chunk,
            precision=self.precision,
            compiled=self.compiled,
        )

    def retrain(
        self,
        network: Network,
        data: TrainingSet,
        options: TrainingOptions,
        *,
        layer: LastLayer,
        purpose: str,
        loss: Loss = cross_entropy,
    ) -> Network:
        """Refuse.

        Raises:
            InputError: an expert is trained once.
        """
        head = name_of(self.school.options.head)
        raise InputError(f"experts.head={head} trains a last layer of its own; an expert is one network, trained once.")

    def _no_other_head(self, kind: str, named: str | Mapping[str, Any]) -> Any:
        head = name_of(self.school.options.head)
        raise InputError(f"experts.head={head} is made of other heads; an expert is one network.")
