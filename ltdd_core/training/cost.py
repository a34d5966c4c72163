"""What training costs: images seen, seconds, and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from ltdd_core.identity import digest
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.job import Key
from ltdd_core.networks.network import Network

BACKWARD = 2
"""Forward passes that a backward pass is worth: the gradients of the layers' inputs, and those of their weights."""
FORWARD_AND_BACKWARD = 1 + BACKWARD


@checked_dataclass(frozen=True)
class TrainingCost:
    """What it costs to train a classifier, all of its networks together, wherever they were trained."""

    images_seen: int = Field(ge=0)
    """Epochs times images."""
    seconds: float | None = Field(ge=0, allow_inf_nan=False)
    """Of training, measured where each network was trained; None where that is not known of one of them."""
    multiply_adds: int = Field(ge=0)
    """Of the convolutions and matrix products of all training steps: three forward passes for each image seen."""


def total(costs: Iterable[TrainingCost]) -> TrainingCost:
    """What several trainings cost together; nothing where there are none."""
    costs = list(costs)
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return TrainingCost(
        sum(cost.images_seen for cost in costs),
        sum(seconds, 0.0) if len(seconds) == len(costs) else None,
        sum(cost.multiply_adds for cost in costs),
    )


@dataclass
class Ledger:
    """What the networks cost that something needs, each noted once."""

    costs: dict[str, TrainingCost] = field(default_factory=dict)
    """By what decides a network."""
    spent: float = 0.0
    """Seconds that this process has taken to train them, to find them, or to wait for those who train them."""

    def note(self, key: Key | None, cost: Callable[[], TrainingCost]) -> None:
        """Note what a network cost, unless that is noted; a network without a key is another one each time."""
        name = f"without a key: {len(self.costs)}" if key is None else digest(key)
        if name not in self.costs:
            self.costs[name] = cost()

    @contextmanager
    def spending(self) -> Iterator[None]:
        """The block trains networks, or finds them; so may blocks inside it."""
        began, before = monotonic(), self.spent
        try:
            yield
        finally:
            self.spent = before + monotonic() - began

    @property
    def total(self) -> TrainingCost:
        """All of it."""
        return total(self.costs.values())


def multiply_adds(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products of the forward pass of one image.

    Args:
        network: in evaluation mode.
        image_shape: ``(C, H, W)``.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes a tenth of a second

    plain: Any = network.inner if isinstance(network, CompiledNetwork) else network
    image = torch.zeros(1, *image_shape, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(image)
    return counter.get_total_flops() // 2
