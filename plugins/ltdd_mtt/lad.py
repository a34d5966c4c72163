"""LAD (Zhao et al., "Distilling Long-tailed Datasets", CVPR 2025; its public code calls the method DAMED).

DATM on a long-tailed set meets two troubles.  A student learns from images of equal classes and should go where an
expert went that learned from unequal ones; and such an expert knows the tail so little that its labels are wrong there.

*Distribution-agnostic matching*: the student's loss makes its classes as unequal as the expert's.  With n_c real images
of class c it is

    l = -1/B sum_i sum_c w_c y_ic log p_ic,    w_c = n_c / sum_j n_j,

as in the public code (``student_loss=weighted``).  The paper writes of adjusted logits instead: ``shifted`` is the
cross-entropy of softmax(z - log w), under which a student of equal classes comes to the logits of an expert of unequal
ones.

*Expert decoupling*: experts have two stages.  In the first all of the network is trained on the long-tailed set.  In
the second the backbone stays as it is, and the last layer goes on with class-balanced draws.  A step has two students,

    L = lambda_1 L_backbone + lambda_2 L_layer.

The first follows a first stage with the loss l, from an epoch of DATM's window, and only the parameters of the backbone
are compared.  The second moves the last layer alone, with the plain cross-entropy, from the beginning of a second stage
to where that was M epochs later.

Labels begin as the logits of the experts at the end of their second stage; they, the windows and the rest are DATM's.
The public code draws n_max images of each class for an epoch of a second stage, here the sampler draws as many images
as there are.  It trains both stages with sharpness-aware steps (GSAM), here they are plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ltdd_core import (
    BaseOptions,
    Distillation,
    Named,
    Network,
    RunFailed,
    TrainingOptions,
    Trajectories,
    Trajectory,
    how_to_set,
    option,
)
from ltdd_mtt.datm import WindowMatcher, WindowOptions
from ltdd_mtt.student import LAST_LAYER, in_last_layer, layout_of, named
from ltdd_mtt.trajectory import InnerLoop, MatchingGradient


class LayerOptions(BaseOptions):
    """How the second stage of experts is trained: the last layer alone.

    Learning rate and batch are those of the first stage.
    """

    epochs: int = option(10, "number of epochs of the last layer", source="LAD, public code", ge=1)
    sampler: Named = option(
        "class-balanced", "sampler that orders these epochs", source="LAD, public code", component="sampler"
    )
    lr: float = option(0.1, "learning rate of the last layer, constant; LAD's public code: 0.01", gt=0)


class DecoupledOptions(WindowOptions):
    """Students, optimisers, experts of two stages, windows of epochs, labels that are learned."""

    student_loss: Literal["weighted", "shifted", "plain"] = option(
        "weighted",
        "loss of the student that follows the backbone: classes weighted by their shares of the real images "
        "(weighted), logits shifted by the logarithms of these shares (shifted), or the cross-entropy (plain)",
        source="LAD, public code",
    )
    backbone_weight: float = option(
        0.5, "weight lambda_1 of the loss of the backbone", source="LAD, public code, imbalance factor 100", gt=0
    )
    layer_weight: float = option(
        1.0, "weight lambda_2 of the loss of the last layer", source="LAD, public code, imbalance factor 100", ge=0
    )
    layer: LayerOptions = option(LayerOptions(), "the second stage of the experts")

    @model_validator(mode="after")
    def _layers_are_long_enough(self) -> Self:
        if self.layer.epochs < self.expert_epochs:
            raise ValueError(
                f"layer.epochs {self.layer.epochs} is less than expert_epochs {self.expert_epochs}, which a student "
                "has to match"
            )
        return self


class DecoupledMatcher(WindowMatcher):
    """Match the backbones of long-tailed experts and the last layers of balanced ones."""

    citation = """@inproceedings{zhao2025lad,
  title = {Distilling Long-tailed Datasets},
  author = {Zhao, Zhenghao and Wang, Haoxuan and Shang, Yuzhang and Wang, Kai and Yan, Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2025}
}"""
    quick_preset = "lad-quick"
    Options = DecoupledOptions
    options: DecoupledOptions

    def prepare(self, task: Distillation) -> None:
        """As for DATM, with experts of two stages.

        Raises:
            InputError: the experts are too short for the options, or the file of one is damaged.
            RunFailed: an expert diverged.
            Interrupted: while training experts; what is done is saved.
        """
        super().prepare(task)
        self.in_layer = in_last_layer(self.student.network).to(task.device)
        share = torch.tensor(task.data.counts, dtype=torch.float32, device=task.device)
        share = share / share.sum()
        kind = self.options.student_loss
        self.student = self.new_student(
            weights=share if kind == "weighted" else None, shift=share.log() if kind == "shifted" else None
        )
        self.layer_student = self.new_student(layer_only=True)

    def match(self, step: int, expert: int, start: int) -> MatchingGradient:
        """Both losses of a step and their derivatives."""
        backbone = replace(self._loop(step, expert, start), compared=~self.in_layer)
        found = backbone.gradient(self.memory).times(self.options.backbone_weight)
        if not self.options.layer_weight:
            return found
        layer = self._layer_loop(step, expert).gradient(self.memory)
        return found.plus(layer.times(self.options.layer_weight))

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """Those of both students; derivatives of the last layer cost half as much as those of everything."""
        return 3 * super().images_per_step(counts, ipc_of_class) // 2

    def teachers(self) -> list[Tensor]:
        """The parameters ``[P]`` of the experts at the end of their second stage."""
        return [self.layers[number].rows(self.options.layer.epochs)[0] for number in self.numbers]

    def _layer_loop(self, step: int, expert: int) -> InnerLoop:
        """The inner loop of the last layer, everything random in it a function of the step."""
        rows = self.layers[expert].rows(0, self.options.expert_epochs)
        first, second = (row.to(self.task.device) for row in rows)
        return InnerLoop(
            student=self.layer_student,
            start=first[self.in_layer],
            target=second[self.in_layer],
            images=self.images,
            labels=self.labels_of(expert, 0),
            lr=self.lr,
            steps=self.options.syn_steps,
            batch=self.batches("student of the layer", step),
            fixed=first[~self.in_layer],
        )

    def _trained(self) -> Trajectories:
        """Both stages of the experts, trained now unless they are there."""
        experts = super()._trained()
        self.layers = layers_of(self.expert_task, self.options, experts)
        count = self.options.experts.count

        def report(number: int, epochs: int) -> None:
            if epochs == 0:
                self.task.display.training(f"last layer of expert {number + 1} of {count}, with balanced classes")

        try:
            self.layers.train(count, report, self.task.keep_going)
        except RunFailed as error:
            raise RunFailed(f"{error} That is {how_to_set('matcher.layer.lr', '...')}.") from error
        return experts


@dataclass(frozen=True)
class Continued:
    """Makes an expert as it was after an epoch, whose last layer alone learns on."""

    make: Callable[[tuple[int, int, int], int], Network]
    """Makes a network of the expert's kind."""
    expert: Trajectory
    epoch: int

    def __call__(self, shape: tuple[int, int, int], outputs: int) -> Network:
        """The network, its backbone frozen."""
        network = self.make(shape, outputs)
        (row,) = self.expert.rows(self.epoch)
        network.load_state_dict(named(row, layout_of(network)), strict=False)
        for name, value in network.named_parameters():
            value.requires_grad_(name.startswith(LAST_LAYER))
        return network

    def __ltdd_identity__(self) -> Any:
        """All that decides the network."""
        return [self.make, self.expert.key, self.epoch]


def layers_of(task: Distillation, options: DecoupledOptions, experts: Trajectories) -> Trajectories:
    """The second stages of trained experts, trained or not.

    Args:
        task: what they are trained for.
        options: how.
        experts: trained to the end.
    """
    training = TrainingOptions(
        epochs=options.layer.epochs,
        lr=options.layer.lr,
        momentum=0,
        weight_decay=0,
        batch=options.experts.batch,
        schedule="constant",
    )
    return task.trajectories(
        "last layer of expert",
        training=training,
        head=options.experts.head,
        sampler=options.layer.sampler,
        numbers=options.experts.store,
        make=lambda number: Continued(task.trainer.make, experts[number], options.experts.epochs),
    )
