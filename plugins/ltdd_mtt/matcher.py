"""Trajectory matching (Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022).

Each step lowers the distance between where a student arrives and where an expert was M epochs later (the paper's
equation 2; written out in ``trajectory.py``).  Students start from any epoch below ``max_start_epoch``, and learn the
classes of the images.  Most defaults are those of the authors' public code.  Its learning rates are for tens of
thousands of images: on a few hundred, students and experts take steps of other sizes, and the first update already
turns the learned step size negative.  So the learning rates here are careful ones, and experts few; the preset
mtt-paper has the published values.
"""

from __future__ import annotations

from torch import Tensor

from ltdd_mtt.matching import ExpertMatcher, GradientOptions


class TrajectoryMatcher(ExpertMatcher):
    """Match the trajectories of experts."""

    citation = """@inproceedings{cazenavette2022mtt,
  title = {Dataset Distillation by Matching Training Trajectories},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2022}
}"""
    quick_preset = "mtt-quick"
    Options = GradientOptions

    def labels_of(self, expert: int, start: int) -> Tensor:
        """The classes of the images."""
        return self.classes
