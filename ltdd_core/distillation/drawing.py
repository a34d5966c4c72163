"""The real images of matching steps, as a sampler chooses them, by their features where it asks for those."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.network import Network
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.seeding import generator


@dataclass
class MatchingDraws:
    """What a sampler draws, which is a function of the seed, the number of the draw and the class.

    What it remembers spares work and changes nothing: a run that is resumed chooses the same images again.
    """

    data: LongTailedSet
    sampler: Sampler
    networks: NetworkPool
    seed: int
    device: torch.device
    chunk: int
    """Images at once through a network."""
    _chosen: dict[tuple[int, int], tuple[int, Tensor]] = field(default_factory=dict)
    """By class and size: the first draw that the last choice was for, and its images."""
    _network: tuple[int, Network] | None = None
    """The first draw that the last network was for, and the network."""

    def of_class(self, label: int, size: int, number: int) -> Tensor:
        """Indices of training images, int64 ``[min(size, n_c)]``, none twice.

        Args:
            label: the class.
            size: how many.
            number: of the draw.
        """
        first = number - number % self.sampler.interval
        known = self._chosen.get((label, size))
        if known is not None and known[0] == first:
            return known[1]
        draws = generator(self.seed, "real batch", first, label)
        indices = self.sampler.for_matching(label, size, draws, partial(self._embed, first))
        self._chosen[label, size] = first, indices
        return indices

    def _embed(self, first: int, indices: Tensor) -> Tensor:
        """Features ``[n, D]`` on the CPU, by the random network of a choice."""
        if self._network is None or self._network[0] != first:
            inner = self.networks.new("choice of real images", first).requires_grad_(False).eval()
            self._network = first, CompiledNetwork(inner, self.networks.precision, compiled=False)
        network, parts = self._network[1], []
        with torch.no_grad():
            for part in indices.split(self.chunk):
                images = self.data.normalisation.apply(self.data.train_images[part].to(self.device))
                parts.append(network.embed(images).float().cpu())
        return torch.cat(parts)
