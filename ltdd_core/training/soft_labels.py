"""Soft labels: what a teacher says of each image, beside its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

LEAST = 1e-12
"""Probability that stands for 0 where a logarithm is taken."""

Kind = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class SoftLabels:
    """A vector for each image of a set, beside the class that each has."""

    values: Tensor
    """float32 ``[n, classes]``."""
    kind: Kind = "probabilities"
    """What the values are: probabilities, which sum to 1 over the classes, or logits."""

    def __repr__(self) -> str:
        return f"SoftLabels({self.kind} {list(self.values.shape)})"

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Probabilities ``[n, classes]``: softmax of the logits over T; probabilities themselves are left as they are.

        Args:
            temperature: T, above 0; larger ones make the labels softer.
        """
        if self.kind == "probabilities" and temperature == 1:
            return self.values
        return (self.logits() / temperature).softmax(1)

    def logits(self) -> Tensor:
        """Logits ``[n, classes]`` with mean 0 over the classes; a probability of 0 counts as 1e-12."""
        logits = self.values if self.kind == "logits" else self.values.clamp(min=LEAST).log()
        return logits - logits.mean(1, keepdim=True)

    def __getitem__(self, rows: Tensor) -> SoftLabels:
        """Those of some images, by indices or a mask."""
        return replace(self, values=self.values[rows])

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> SoftLabels:
        """The same on a device."""
        return replace(self, values=self.values.to(device, non_blocking=True))

    @staticmethod
    def joined(parts: Sequence[SoftLabels]) -> SoftLabels:
        """Soft labels of one kind, one after another."""
        return replace(parts[0], values=torch.cat([part.values for part in parts]))

    def repeated(self, times: int) -> SoftLabels:
        """Each ``times`` times, one after another."""
        return replace(self, values=self.values.repeat_interleave(times, 0))
