"""The options of teachers, the same for every method and labeller that has some."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from ltdd_core.options import BaseOptions, Named, option
from ltdd_core.training.options import Epochs, check_milestones, unset_option

APART = {"network", "head", "sampler", "count"}
"""What says which teachers there are; the other options say how each is trained."""


def _of_the_run(name: str) -> Any:
    return unset_option(name, "as in training.original", source="")


class TeacherTrainingOptions(BaseOptions):
    """How teachers are trained; what is not given is as for the run's classifiers of the long-tailed set."""

    head: Named = option(
        "linear", "classifier head that trains the teachers; a plain one forgets rare classes", component="head"
    )
    sampler: Named | None = option(
        None, "sampler that orders the epochs of the teachers", component="sampler", unless_given="that of the run"
    )
    count: int = option(1, "number of teachers of each kind of network, which differ in their seeds", ge=1)
    epochs: Epochs | None = _of_the_run("epochs")
    optimizer: Literal["sgd", "adamw"] | None = _of_the_run("optimizer")
    lr: float | None = _of_the_run("lr")
    momentum: float | None = _of_the_run("momentum")
    weight_decay: float | None = _of_the_run("weight_decay")
    batch: int | None = _of_the_run("batch")
    schedule: Literal["step", "cosine", "constant"] | None = _of_the_run("schedule")
    milestones: tuple[float, ...] | None = _of_the_run("milestones")
    gamma: float | None = _of_the_run("gamma")
    warmup: int | None = _of_the_run("warmup")
    augment: Named | None = _of_the_run("augment")
    mixup: float | None = _of_the_run("mixup")
    cutmix: float | None = _of_the_run("cutmix")
    label_smoothing: float | None = _of_the_run("label_smoothing")
    average: float | None = _of_the_run("average")

    @model_validator(mode="after")
    def _have_a_use_for_milestones(self) -> Self:
        check_milestones(self.schedule, self.milestones)
        return self

    def training(self) -> dict[str, Any]:
        """The options of :class:`ltdd_core.TrainingOptions` that are given."""
        return {name: value for name, value in dict(self).items() if name not in APART and value is not None}


class TeacherOptions(TeacherTrainingOptions):
    """Teachers of one kind of network."""

    network: Named | None = option(
        None, "kind of network of the teachers", component="network", unless_given="that of the run"
    )
