"""CSDM (Wu et al., "Towards Principled Dataset Distillation: A Spectral Distribution Perspective", 2026).

The spectral distribution distance of a kernel k(x - y) = E_t cos(t.(x - y)) is E_t |phi_R(t) - phi_S(t)|^2, the squared
maximum mean discrepancy, where t follows the law that belongs to the kernel: N(0, I / h^2) for a Gaussian of bandwidth
h.  It is split into amplitude and phase, which are weighted by class,

    s sum_c mean_t ( alpha_c amplitude_c(t) + (1 - alpha_c) phase_c(t) ),

see :mod:`ltdd_ncfm.characteristic`.  Classes of the tail have a smaller alpha: their real images are too few to say how
far features spread, so that realism counts more.

The values of alpha_c, the kernel, its bandwidth, the networks and the optimizer of the paper are not known here.  Here
alpha_c goes along log n_c from ``amplitude_tail`` for the rarest class to ``amplitude_head`` for the commonest.  All
else is that of NCFM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import Distillation, option
from ltdd_ncfm.characteristic import CharacteristicMatcher


class SpectralMatcher(CharacteristicMatcher):
    """Match characteristic functions, in phase rather than in amplitude where a class is rare."""

    citation = """@misc{wu2026csdm,
  title = {Towards Principled Dataset Distillation: A Spectral Distribution Perspective},
  author = {Wu, Ruixi and Wang, Shaobo and Chen, Jiahuan and Liu, Zhiyuan and Yang, Yicun and Chen, Zhaorun and
            Li, Zekai and Li, Kaixin and Wang, Xinming and Yi, Hongzhu and Wang, Kai and Zhang, Linfeng},
  eprint = {2603.01698},
  archivePrefix = {arXiv},
  year = {2026}
}"""
    quick_preset = "csdm-quick"

    class Options(CharacteristicMatcher.Options):
        """The kernel, and the weights at both ends of the tail."""

        bandwidth: float = option(1.0, "bandwidth h of the Gaussian kernel, for features of length 1", gt=0)
        amplitude_head: float = option(0.7, "weight alpha of the amplitude for the commonest class", ge=0, le=1)
        amplitude_tail: float = option(0.3, "weight alpha of the amplitude for the rarest class", ge=0, le=1)

    def prepare(self, task: Distillation) -> None:
        """As in DANCE, and the weight of each class."""
        super().prepare(task)
        self.alpha = amplitude_weights(task.data.counts, self.options.amplitude_head, self.options.amplitude_tail).to(
            task.device
        )

    def draw_frequencies(self, noise: Tensor) -> Tensor:
        """N(0, I / h^2)."""
        return noise / self.options.bandwidth

    def discrepancy(self, amplitude: Tensor, phase: Tensor, classes: Tensor) -> Tensor:
        """The mean of the weighted sums."""
        alpha = self.alpha[classes, None]
        return (alpha * amplitude + (1 - alpha) * phase).mean(1)


def amplitude_weights(counts: tuple[int, ...], head: float, tail: float) -> Tensor:
    """The alpha of each class, float32 ``[classes]``: from tail to head along the logarithm of its images.

    Args:
        counts: images of each class, at least 1.
        head: of the classes with the most images; of all, where they have the same number.
        tail: of those with the fewest.
    """
    logs = torch.tensor(counts, dtype=torch.float64).log()
    spread = logs.max() - logs.min()
    share = (logs - logs.min()) / spread if spread > 0 else torch.ones_like(logs)
    return (tail + (head - tail) * share).float()
