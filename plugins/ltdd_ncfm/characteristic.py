"""Characteristic functions of features, and what NCFM and CSDM share.

The characteristic function of a set X of features at a frequency t is phi_X(t) = mean_{x in X} exp(i t.x); with all
frequencies it tells everything about a distribution, where a mean tells one thing.  Two of them differ in amplitude and
in phase,

    amplitude: (|phi_R| - |phi_S|)^2,    phase: 2 |phi_R| |phi_S| (1 - cos(angle between them)),

whose sum is |phi_R - phi_S|^2.  The first is about the spread of features (diversity), the second about where they lie
(realism).  Features are divided by their length.  The networks, the tiles and the cross-entropy are those of DANCE; the
pixels follow by AdamW, whose learning rate is halved where the loss has not fallen for some time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import Batch, Distillation, Network, class_means, embed_without_gradient, generator, option
from ltdd_dance.dance import PairMatcher

SMALLEST = 1e-12  # what a square root is taken of at least; NCFM's public code
FALLEN = 1e-4  # the share by which a loss is lower than the best one; torch's ReduceLROnPlateau


class Characteristic(NamedTuple):
    """The characteristic functions of some classes at some frequencies, as complex numbers."""

    real: Tensor
    """float32 ``[classes, frequencies]``."""
    imaginary: Tensor
    """As ``real``."""

    @property
    def amplitude(self) -> Tensor:
        """The absolute values, with a gradient of zero at zero."""
        return (self.real.square() + self.imaginary.square()).clamp(min=SMALLEST).sqrt()


def characteristic_functions(features: Tensor, counts: Tensor, frequencies: Tensor) -> Characteristic:
    """The characteristic function of each class, of its features divided by their lengths.

    Args:
        features: float32 ``[n, D]``, sorted by class.
        counts: images of each class, int64 ``[classes]``, each at least 1.
        frequencies: float32 ``[T, D]``.
    """
    angles = F.normalize(features, dim=1) @ frequencies.T
    return Characteristic(class_means(angles.cos(), counts), class_means(angles.sin(), counts))


def differences(one: Characteristic, other: Characteristic) -> tuple[Tensor, Tensor]:
    """In amplitude and in phase, each ``[classes, frequencies]`` and at least 1e-12."""
    amplitude = (one.amplitude - other.amplitude).square()
    aligned = one.real * other.real + one.imaginary * other.imaginary
    phase = 2 * (one.amplitude * other.amplitude - aligned)
    return amplitude.clamp(min=SMALLEST), phase.clamp(min=SMALLEST)


class CharacteristicMatcher(PairMatcher, ABC):
    """Match the characteristic functions of classes."""

    class Options(PairMatcher.Options):
        """Pixels and frequencies; defaults of NCFM's public code."""

        lr_img: float = option(
            0.01,
            "initial learning rate of the pixels, for colours from 0 to 1, by AdamW",
            source="NCFM, public code",
            gt=0,
        )
        momentum: float = option(
            0.9, "first beta of the AdamW that moves the pixels", source="NCFM, public code", ge=0, lt=1
        )
        weight_decay: float = option(
            5e-4, "weight decay of the AdamW that moves the pixels", source="NCFM, public code", ge=0
        )
        patience: int = option(
            500,
            "steps without a lower loss after which the learning rate of the pixels is halved",
            source="NCFM, public code",
            ge=1,
        )
        batch_real: int = option(
            256,
            "number of real images per class in a step; all images of a class that has fewer; NCFM's public code: 1024",
            ge=1,
        )
        frequencies: int = option(
            1024, "number of frequencies in a step", source="NCFM; its public code: 4096", ge=2, le=65536
        )
        scale: float = option(300.0, "factor of the matching loss", source="NCFM, public code", gt=0)

    frequencies: Tensor
    """Those of the step, float32 ``[options.frequencies, D]`` for features of D values, on the device."""

    @abstractmethod
    def draw_frequencies(self, noise: Tensor) -> Tensor:
        """Those of a step, of values from N(0, 1) in their shape, on the device."""

    @abstractmethod
    def discrepancy(self, amplitude: Tensor, phase: Tensor, classes: Tensor) -> Tensor:
        """How far classes differ, ``[classes]``.

        Args:
            amplitude: their differences in amplitude, ``[classes, frequencies]``.
            phase: their differences in phase, likewise.
            classes: which they are, int64.
        """

    def prepare(self, task: Distillation) -> None:
        """As in DANCE; the learning rate has a memory."""
        super().prepare(task)
        self.dimensions = self.pool.fresh(0).linear.in_features
        """D, the values of a feature."""
        self.plateau = torch.tensor([math.inf, 0.0, self.options.lr_img], dtype=torch.float64)
        """The lowest loss, the steps since then, and the learning rate."""
        self.keep(pixels=self.pixels, optimizer=self.mover, plateau=self.plateau)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        options = self.options
        betas = (options.momentum, 0.999)
        return torch.optim.AdamW([self.pixels], lr=options.lr_img, betas=betas, weight_decay=options.weight_decay)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """As in DANCE, with frequencies and a learning rate of the step."""
        draws = generator(self.task.seed, "frequencies", step)
        noise = torch.randn(self.options.frequencies, self.dimensions, generator=draws)
        self.frequencies = self.draw_frequencies(noise.to(self.task.device))
        self.mover.param_groups[0]["lr"] = float(self.plateau[2])
        found = super().step(step)
        follow(self.plateau, float(found["loss"]), self.options.patience)
        return found

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """The discrepancies of the classes, summed and scaled."""
        features = embed_without_gradient(network, real.images, self.task.chunk)
        target = characteristic_functions(features, real.counts, self.frequencies)
        current = characteristic_functions(network.embed(synthetic.images), synthetic.counts, self.frequencies)
        classes = synthetic.labels.unique_consecutive()
        return self.options.scale * self.discrepancy(*differences(target, current), classes).sum()


def follow(plateau: Tensor, loss: float, patience: int) -> None:
    """Halve a learning rate whose loss has not been lower for more than ``patience`` steps.

    Args:
        plateau: float64 ``[3]``: the lowest loss, the steps since then, the learning rate; changed in place.
        loss: of this step.
        patience: number of steps.
    """
    lowest, waited, lr = plateau.tolist()
    lowest, waited = (loss, 0) if loss < lowest * (1 - FALLEN) or math.isinf(lowest) else (lowest, waited + 1)
    if waited > patience:
        waited, lr = 0, lr / 2
    plateau.copy_(torch.tensor([lowest, waited, lr], dtype=torch.float64))
