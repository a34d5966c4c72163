"""EDC (Shao et al., "Elucidating the Design Space of Dataset Condensation", NeurIPS 2024).

Real images are moved by several trained networks of different kinds in turn, half by the statistics of the whole set
and half by those of the classes in the batch, each compared with a moving average of the batches'; see
:mod:`ltdd_statistics.recovery`.  The mean of the logits of all networks labels them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltdd_core import Named, TeacherTrainingOptions, option
from ltdd_statistics.recovery import RecoveryMatcher
from ltdd_statistics.students import labelled_recipe
from ltdd_statistics.teachers import DEBIASED
from ltdd_statistics.windows import OF_THE_SIZE

OBSERVERS: tuple[Named, ...] = tuple(
    {"name": "convnet-d3", "norm": "batch", **size} for size in ({"depth": 2, "width": 64}, {}, {"width": 32})
)
"""Three of different widths: on images of 8x8 pixels all of them have two blocks."""


class EDCOptions(RecoveryMatcher.Options):
    """The defaults of EDC's public code for CIFAR, which Uni-level follows."""

    class_weight: float = option(
        0.5, "share w of the statistics of the classes in the batch", source="EDC, public code", ge=0, le=1
    )
    average: float = option(
        0.8,
        "decay of the moving average of the batches' statistics; 0: none",
        source="EDC, public code",
        ge=0,
        lt=1,
    )
    smallest: float | None = option(
        None,
        "smallest share of the area of an image that a view has; 1: views are not cropped",
        source="EDC, public code: 0.08",
        unless_given=OF_THE_SIZE,
        gt=0,
        le=1,
    )


class EDCMatcher(RecoveryMatcher):
    """Move images by the statistics of trained networks of several kinds in turn, which then label them together."""

    citation = """@inproceedings{shao2024edc,
  title = {Elucidating the Design Space of Dataset Condensation},
  author = {Shao, Shitong and Zhou, Zikai and Chen, Huanran and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2024}
}"""
    quick_preset = "edc-quick"

    class Options(EDCOptions):
        """The observers, beside what Uni-level has as well."""

        observers: tuple[Named, ...] = option(
            OBSERVERS, "kinds of network, with batch normalisation, that observe and label", min_length=1
        )
        teacher: TeacherTrainingOptions = option(TeacherTrainingOptions(head=DEBIASED), "the training of the observers")

    def kinds(self) -> Sequence[Named | None]:
        """All kinds of observers."""
        found: tuple[Named, ...] = self.options.observers
        return found

    def recipe(self) -> Mapping[str, Any]:
        """The paper's for CIFAR."""
        return labelled_recipe(len(self.images))
