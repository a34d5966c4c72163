"""NCFM (Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025).

Each step lowers

    s sum_c mean_t sqrt( alpha amplitude_c(t) + (1 - alpha) phase_c(t) ),

the differences of the characteristic functions of real and synthetic features of class c, see
:mod:`ltdd_ncfm.characteristic`, in a network between initial and trained weights.  Then the trained network calibrates,
as in DANCE.  Frequencies t are drawn from N(0, I), as in all settings of the public code; the discrepancy is then
close to a maximum mean discrepancy with a Gaussian kernel.  Or a small network psi makes them of such noise, and
follows the gradient of the same loss upwards: the paper's minmax game,

    min_S max_psi sum_c mean_{t = psi(noise)} sqrt(...).

The public code draws frequencies for each class, and four rows of noise for 64 frequencies; here all classes of a step
have the same frequencies, each from a row of noise of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ltdd_core import Distillation, generator, option, seeded_by, summed_over_processes
from ltdd_ncfm.characteristic import CharacteristicMatcher


class NCFMatcher(CharacteristicMatcher):
    """Match the characteristic functions of classes, in amplitude and in phase."""

    citation = """@inproceedings{wang2025ncfm,
  title = {Dataset Distillation with Neural Characteristic Function: A Minmax Perspective},
  author = {Wang, Shaobo and Yang, Yicun and Liu, Zhiyuan and Sun, Chenghao and Hu, Xuming and He, Conghui and
            Zhang, Linfeng},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2025}
}"""
    quick_preset = "ncfm-quick"

    class Options(CharacteristicMatcher.Options):
        """Amplitude and phase, and where frequencies come from."""

        amplitude: float = option(
            0.5,
            "weight alpha of the difference in amplitude; that in phase has 1 - alpha",
            source="NCFM, public code",
            ge=0,
            le=1,
        )
        sampling: Literal["gaussian", "network"] = option(
            "gaussian",
            "where frequencies come from: a normal distribution, or a small network that learns to tell real from "
            "synthetic features (network)",
            source="NCFM, public code; the paper's is network",
        )
        lr_sampling: float = option(
            1e-3, "learning rate of the network that makes frequencies", source="NCFM, public code", gt=0
        )

    def prepare(self, task: Distillation) -> None:
        """As in DANCE, and the network that makes frequencies, if there is one."""
        super().prepare(task)
        self.psi: nn.Module | None = None
        if self.options.sampling == "network":
            with seeded_by(generator(task.seed, "sampling network")):
                psi = sampling_network(self.dimensions)
            self.psi = psi.to(task.device)
            self.ascent = torch.optim.SGD(self.psi.parameters(), lr=self.options.lr_sampling, maximize=True)
            self.keep(pixels=self.pixels, optimizer=self.mover, plateau=self.plateau, psi=self.psi)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """The images go down, and then psi goes up, both by the gradients of this step."""
        found = super().step(step)
        if self.psi is not None:
            summed_over_processes(self._uphill)  # each of which has had other classes
            self._made.backward(self._uphill)
            self.ascent.step()
            self.ascent.zero_grad()
        return found

    def draw_frequencies(self, noise: Tensor) -> Tensor:
        """The noise, or what psi makes of it."""
        if self.psi is None:
            return noise
        self._made: Tensor = self.psi(noise)
        frequencies = self._made.detach().requires_grad_(True)
        frequencies.grad = self._uphill = torch.zeros_like(frequencies)  # classes add to it one after another
        return frequencies

    def discrepancy(self, amplitude: Tensor, phase: Tensor, classes: Tensor) -> Tensor:
        """The mean of the roots of the weighted sums."""
        alpha = self.options.amplitude
        return (alpha * amplitude + (1 - alpha) * phase).sqrt().mean(1)


def sampling_network(dimensions: int) -> nn.Module:
    """Three linear layers with batch normalisation, from noise to frequencies between -1 and 1, ``[n, dimensions]``."""
    layers: list[nn.Module] = []
    for activation in (nn.LeakyReLU(0.2), nn.LeakyReLU(0.2), nn.Tanh()):
        layers += [nn.Linear(dimensions, dimensions), nn.BatchNorm1d(dimensions), activation]
    return nn.Sequential(*layers)
