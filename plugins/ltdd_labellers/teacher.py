"""Teachers: what classifiers of the long-tailed set say of the synthetic images."""

from __future__ import annotations

from torch import Tensor

from ltdd_core import BaseOptions, Labeller, Labelling, Named, SoftLabels, Teachers, option


class TeacherTrainingOptions(BaseOptions):
    """Training of the teacher; what is not given is as for the run's classifiers of the long-tailed set."""

    epochs: int | None = option(None, "number of epochs; unless given, training.original.epochs", ge=1)
    lr: float | None = option(None, "initial learning rate; unless given, training.original.lr", gt=0)
    weight_decay: float | None = option(None, "weight decay; unless given, training.original.weight_decay", ge=0)
    batch: int | None = option(None, "number of images per step; unless given, training.original.batch", ge=1)
    mixup: float | None = option(None, "alpha of mixup; unless given, training.original.mixup", ge=0)
    cutmix: float | None = option(None, "alpha of CutMix; unless given, training.original.cutmix", ge=0)


class TeacherLabeller(Labeller):
    """The mean of the logits of several teachers."""

    class Options(Labeller.Options):
        """The teachers."""

        network: Named | None = option(
            None, "kind of network of the teachers; unless given, that of the run", component="network"
        )
        head: Named = option(
            "balanced-softmax",
            "classifier head that trains the teachers; linear makes plain ones, which forget rare classes",
            component="head",
        )
        sampler: Named | None = option(
            None, "sampler that orders the epochs of the teachers; unless given, that of the run", component="sampler"
        )
        teachers: int = option(1, "number of teachers, which differ in their seeds", ge=1)
        training: TeacherTrainingOptions = option(TeacherTrainingOptions(), "training of the teachers")

    def prepare(self, task: Labelling) -> None:
        """Train the teachers, or find them."""
        options = self.options
        self.teachers: Teachers = task.trained(
            network=options.network,
            head=options.head,
            sampler=options.sampler,
            training={key: value for key, value in dict(options.training).items() if value is not None},
            seeds=range(task.seed, task.seed + options.teachers),
        )

    def label(self, images: Tensor) -> SoftLabels:
        """The mean logits of the teachers."""
        return self.teachers.soft_labels(images)

    def teacher_bytes(self) -> int:
        """The parameters of all teachers in float32."""
        return self.teachers.bytes
