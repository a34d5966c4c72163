"""TGDD (Ran et al., "TGDD: Trajectory Guided Dataset Distillation with Balanced Distribution", AAAI 2026).

Some networks are trained beforehand, and their weights theta_0 .. theta_E after every epoch are kept.  Each step draws
a training and an epoch j of it, uniformly from 0 to E, and an epoch k from the window j .. j + L - 1, as far as there
are such epochs.  It lowers the sum of

    sum_c || mean_{x in T_c} f_j(A(x)) - mean_{s in S_c} f_j(A(s)) ||^2    (stage-wise matching)

and of alpha times the cross-entropy of the synthetic images in f_k (the constraint), see
:mod:`ltdd_dance.calibrated`.  The features of early stages tell little apart, and those of late ones much.  Both
gradients move the pixels in one step.  A trajectory here is that of plain SGD without momentum, which can resume from
any epoch; the learning rate of the published training, 0.01 with momentum 0.9, is about 0.1 without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import (
    BaseOptions,
    Batch,
    Distillation,
    InputError,
    Named,
    Network,
    OptionError,
    RunFailed,
    TrainingOptions,
    Trajectories,
    generator,
    how_to_set,
    name_of,
    option,
)
from ltdd_dance.calibrated import CalibratedMatcher
from ltdd_dance.dance import distance_of_means


class SnapshotOptions(BaseOptions):
    """The trainings whose epochs are kept; as short batches as suit sets of a few hundred images."""

    count: int = option(5, "number of trainings", source="TGDD", ge=1)
    epochs: int = option(60, "number of epochs of each", source="TGDD", ge=1)
    lr: float = option(0.1, "learning rate of the trainings, constant and without momentum", gt=0)
    batch: int = option(16, "number of images per step of a training", ge=1)
    weight_decay: float = option(0.0, "weight decay of the trainings; published: 5e-4", ge=0)
    sampler: Named = option("instance", "sampler that orders the epochs", component="sampler")
    head: Named = option(
        "balanced-softmax",
        "classifier head whose loss trains them; on classes of equal size this one is the plain loss",
        component="head",
    )


class TrajectoryGuidedMatcher(CalibratedMatcher):
    """Match the mean features of classes at every stage of a training, and calibrate with a later one."""

    citation = """@inproceedings{ran2026tgdd,
  title = {{TGDD}: Trajectory Guided Dataset Distillation with Balanced Distribution},
  author = {Ran, Fengli and Pu, Xiao and Liu, Bo and Bi, Xiuli and Xiao, Bin},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2026}
}"""
    quick_preset = "tgdd-quick"
    together = True

    class Options(CalibratedMatcher.Options):
        """The trainings, the window and the weight of the constraint."""

        calibration: float = option(
            2.5,
            "weight alpha of the cross-entropy beside the matching; 0 leaves it out",
            source="TGDD for 1 and 10 images a class; 0.5 for 50",
            ge=0,
        )
        window: int = option(
            7, "number L of epochs, from the one that is matched on, one of which calibrates", source="TGDD", ge=1
        )
        trajectories: SnapshotOptions = option(
            SnapshotOptions(), "the trainings; those that are not in the network store are carried out"
        )

    def prepare_networks(self, task: Distillation) -> None:
        """Train the networks, or find their trajectories.

        Raises:
            InputError: the head does not train one network from beginning to end, or a file is damaged.
            RunFailed: a training diverged.
            Interrupted: while training; what is done is saved.
        """
        options = self.options.trajectories
        training = TrainingOptions(
            epochs=options.epochs,
            lr=options.lr,
            momentum=0,
            weight_decay=options.weight_decay,
            batch=options.batch,
            schedule="constant",
        )
        try:
            self._trainings: Trajectories = task.trajectories(
                "expert", training=training, head=options.head, sampler=options.sampler
            )
        except OptionError as error:
            raise InputError(f"trajectories.head={name_of(options.head)}: {error}") from error

        def report(number: int, epochs: int) -> None:
            if epochs < options.epochs and epochs % SAY_EVERY == 0:
                done = f"{epochs} of {options.epochs} epochs done"
                task.display.training(f"network {number + 1} of {options.count}, {done}, in {self._trainings.folder}")

        try:
            self._trainings.train(options.count, report, task.keep_going)
        except RunFailed as error:
            raise RunFailed(
                f"{error} That is {how_to_set('trajectories.lr', '...')}; the trainings before it are kept."
            ) from error

    def weights(self, step: int) -> tuple[Tensor, Tensor]:
        """Those after a random epoch of a random training, and those after one of the epochs from there on."""
        options, draws = self.options.trajectories, generator(self.task.seed, "stage", step)
        training = int(torch.randint(options.count, (), generator=draws))
        stage = int(torch.randint(options.epochs + 1, (), generator=draws))
        last = min(stage + self.options.window - 1, options.epochs)
        later = int(torch.randint(stage, last + 1, (), generator=draws))
        matching, calibrating = self._trainings[training].rows(stage, later)
        return matching, calibrating

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """Squared distance of the class means, summed over classes and features."""
        return distance_of_means(network, real, synthetic, self.task.chunk)


SAY_EVERY = 10
"""Epochs of a training between lines about it."""
