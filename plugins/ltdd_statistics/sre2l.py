"""SRe2L (Yin et al., NeurIPS 2023), and the crops of CDA (Yin & Shen, "Dataset Distillation in Large Data Era", 2023).

Images are recovered from one trained network, equation 5 of SRe2L: the cross-entropy of their classes and the distance
of the statistics that its batch normalisations see, see :mod:`ltdd_statistics.recovery`.  Then the network labels them.
With ``curriculum`` the views begin as whole images, and smaller and smaller parts join them (CDA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltdd_core import Named, TeacherOptions, option
from ltdd_statistics.recovery import RecoveryMatcher
from ltdd_statistics.students import batch_of
from ltdd_statistics.teachers import TEACHER


class SRe2LMatcher(RecoveryMatcher):
    """Recover images from the statistics of one trained network, which then labels them."""

    citation = """@inproceedings{yin2023sre2l,
  title = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},
  author = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2023}
}"""

    class Options(RecoveryMatcher.Options):
        """The teacher, and the learning rate of the public code for CIFAR-100, which also rolls images by 4 pixels."""

        lr_img: float = option(0.25, "initial learning rate of the pixels, by Adam", source="SRe2L, public code", gt=0)
        teacher: TeacherOptions = option(TEACHER, "the teachers")

    def kinds(self) -> Sequence[Named | None]:
        """One kind of network."""
        return [self.options.teacher.network]

    def recipe(self) -> Mapping[str, Any]:
        """The paper's for CIFAR, in smaller batches: Mixup, and the Kullback-Leibler divergence at temperature 30."""
        return {
            "epochs": 400,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": batch_of(len(self.images)),
            "schedule": "cosine",
            "mixup": 0.8,
            "soft_loss": "kl",
            "temperature": 30.0,
        }
