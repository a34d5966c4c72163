"""Uni-level (Cui et al., "Rethinking Long-tailed Dataset Distillation", AAAI 2026, arXiv 2511.18858).

It puts the pieces of the family together, each without the bias of a long-tailed set:

- The teacher is debiased.  Here a head does that, balanced softmax unless another is named; the paper trains one of its
  own, with two views of each image.
- The statistics are taken class by class and count the same.  The paper averages the means and the variances of the
  classes (``statistics=averaged``), which leaves out the variance between classes; the default has it.
- The images start from crops that the teacher is sure of, several of one real image where a class has few.
- They are recovered as EDC recovers them, from one network.
- The teacher gives each image one fixed soft label.

The paper leaves out the values of its recovery and of its recipe; these are EDC's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ltdd_core import Named, TeacherOptions, option
from ltdd_statistics.edc import EDCOptions
from ltdd_statistics.recovery import RecoveryMatcher
from ltdd_statistics.students import labelled_recipe
from ltdd_statistics.teachers import TEACHER


class UniLevelMatcher(RecoveryMatcher):
    """Recover images from crops by the class-balanced statistics of a debiased teacher, which then labels them."""

    citation = """@inproceedings{cui2026unilevel,
  title = {Rethinking Long-tailed Dataset Distillation: A Uni-Level Framework with Unbiased Recovery and Relabeling},
  author = {Cui, Xiao and Qin, Yulei and Li, Xinyue and Zhou, Wengang and Li, Hongsheng and Li, Houqiang},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2026},
  eprint = {2511.18858},
  archivePrefix = {arXiv}
}"""

    class Options(EDCOptions):
        """The teacher, and EDC's defaults where the paper gives none."""

        start: Literal["initial", "crops"] = option(
            "crops",
            "images to start from: those of --init (initial), or the crops that the teachers are surest of",
            source="Uni-level",
        )
        teacher: TeacherOptions = option(TEACHER, "the teachers")

    def kinds(self) -> Sequence[Named | None]:
        """One kind of network."""
        return [self.options.teacher.network]

    def recipe(self) -> Mapping[str, Any]:
        """EDC's."""
        return labelled_recipe(len(self.images))
