"""TESLA (Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023).

The loss of trajectory matching, separated over the steps of the student.  With theta_N = theta*_t - b sum_k g_k it is

    L = || theta*_t - b sum_k g_k - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2,

and each g_k depends on the images of its step.  A first pass sums G = sum_k g_k.  A second one takes the gradient of
one step after another, the parameters of the student held fixed,

    dL/dX_k = 2 / || theta*_t - theta*_{t+M} ||^2 * d/dX_k [ (b (theta*_{t+M} - theta*_t) + b^2 G) . g_k ],

so that memory does not grow with N.  How an image changes the steps after its own is left out.

Soft labels are assigned without training: the student learns softmax(f(X; theta*_{t+M})), what the expert
says of the images at the end of the stretch.  The stored set has the mean of what all experts say at the latest epoch
that a student may have to reach; the public code stores what the expert of its last step said.  Defaults are those of
MTT, which the public code of TESLA took over; its README has the values of the preset tesla-paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import SoftLabels, Synthetic, option
from ltdd_mtt.matching import ExpertMatcher, MatchingOptions


class TeslaMatcher(ExpertMatcher):
    """Match the trajectories of experts in constant memory, with soft labels of the experts."""

    citation = """@inproceedings{cui2023tesla,
  title = {Scaling Up Dataset Distillation to {ImageNet-1K} with Constant Memory},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2023}
}"""
    quick_preset = "tesla-quick"

    class Options(MatchingOptions):
        """Students, optimisers, experts, labels."""

        soft_labels: bool = option(
            True,
            "whether students learn what the expert says of the images at the end of the stretch, and the set keeps "
            "such labels; else the classes, as in TESLA's public code for CIFAR",
            source="Cui et al. 2023",
        )

    options: Options

    def labels_of(self, expert: int, start: int) -> Tensor:
        """Probabilities of the expert M epochs later, or the classes."""
        if not self.options.soft_labels:
            return self.classes
        return self._said(expert, start + self.options.expert_epochs)

    def distilled(self) -> Synthetic:
        """The pixels, their classes, and the mean of what all experts say of them."""
        if not self.options.soft_labels:
            return super().distilled()
        last = self.starts - 1 + self.options.expert_epochs
        mean = torch.stack([self._said(expert, last) for expert in self.numbers]).mean(0)
        return Synthetic(self.images, self.classes, SoftLabels(mean))

    def _said(self, expert: int, epoch: int) -> Tensor:
        """Probabilities ``[n, classes]`` of an expert after an epoch."""
        (row,) = self.experts[expert].rows(epoch)
        return self.student.logits(row.to(self.task.device), self.images).softmax(1)
