"""What the training loop trains: one network, or several of one shape as a single model.

Several networks are one model whose parameters have a further dimension, the first: ``[K, ...]`` for K networks.
``torch.func.vmap`` takes their batches through it, so that the K convolutions of a layer are one.  A network of them is
a view of the model and has its values at any time.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.network import Network
from ltdd_core.seeding import generator
from ltdd_core.training.gradient import gradient_of
from ltdd_core.training.objective import Objective

Batch = Sequence[tuple[Tensor, Objective]]
"""For each network its images ``[n, C, H, W]`` of a step, and what it lowers; n is the same for all."""
OF_THE_OPTIMISER = "optimizer: "
"""How the names of what an optimiser remembers begin in the state of a training."""
STEP = "step"
"""The number of steps that an optimiser counts, which is one for all networks."""

TRIED, NEAR = 2, 0.02
"""Images of a network that is tried, and how far its logits may be from those alone, as a share of the largest."""


class Single:
    """One network.

    Args:
        network: on the device; its parameters that require gradients learn.
        precision: ``bf16`` computes features in mixed precision.
        compiled: whether it is compiled.
        at_once: images at once; all with batch normalisation.
    """

    def __init__(self, network: Network, precision: str, compiled: bool, at_once: int) -> None:
        self.networks = [network]
        self.learning: list[Tensor] = [value for value in network.parameters() if value.requires_grad]
        self._faster = CompiledNetwork(network, precision, compiled)
        self._batch_norm = _batch_norm(network)
        self._at_once = None if self._batch_norm else at_once
        self._shared = not self._batch_norm and not draws_in_training(network)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights and buffers that are numbers with a fraction, by name."""
        return _with_fraction(self.networks[0].state_dict())

    def gradient(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradient of a batch in what learns, and what the batch lowers, ``[1]``."""
        ((images, objective),) = batch
        _train_mode(self.networks[0], self._batch_norm, len(images))
        at_once = self._at_once or len(images)
        gradient, value = gradient_of(self._faster, self.learning, images, objective, at_once, shared=self._shared)
        return gradient, value.view(1)

    def finite(self) -> list[bool]:
        """Whether its weights are finite."""
        return [all(bool(torch.isfinite(value).all()) for value in self.learning)]

    def of_one(self, values: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        """Values of the model as those of a network."""
        return values

    def memory_of_one(self, optimizer: torch.optim.Optimizer, number: int) -> Any:
        """What an optimiser remembers of a network, as a part of a state."""
        return optimizer

    def joined_memory(self, states: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What an optimiser remembers of the model, from the states of its networks."""
        return states[0]


class Stacked:
    """Several networks that differ in nothing but the values of their parameters and buffers.

    Until :meth:`release` they are views of the model.

    Args:
        networks: on the device.
        precision: as of :class:`Single`.
        at_once: images of each network at once; all with batch normalisation.
    """

    def __init__(self, networks: Sequence[Network], precision: str, at_once: int) -> None:
        self.networks = list(networks)
        self._parameters = {
            name: _stacked([dict(network.named_parameters())[name] for network in networks])
            for name, _ in networks[0].named_parameters()
        }
        self._buffers = {
            name: _stacked([dict(network.named_buffers())[name] for network in networks])
            for name, _ in networks[0].named_buffers()
        }
        self.learning: list[Tensor] = [value for value in self._parameters.values() if value.requires_grad]
        self._model = CompiledNetwork(networks[0], precision, compiled=False)
        self._batch_norm = _batch_norm(networks[0])
        self._at_once = None if self._batch_norm else at_once

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers that are numbers with a fraction, ``[K, ...]``, by name."""
        kept = self.networks[0].state_dict()
        return _with_fraction({name: value for name, value in self._values().items() if name in kept})

    def logits(self, images: Tensor) -> Tensor:
        """Those of each network for its images: ``[K, n, outputs]`` of ``[K, n, C, H, W]``."""
        values = {f"inner.{name}": value for name, value in self._values().items()}

        def of_one(values: dict[str, Tensor], images: Tensor) -> Tensor:
            # A layer that is in two places is filled once: torch would not put back what it had in both.
            logits: Tensor = functional_call(self._model, values, (images,), tie_weights=False)
            return logits

        found: Tensor = vmap(of_one)(values, images)
        return found

    def gradient(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradients of the batches of all networks in what learns, and what each lowers, ``[K]``."""
        images = torch.stack([images for images, _ in batch])
        count = images.shape[1]
        _train_mode(self.networks[0], self._batch_norm, count)
        total: tuple[Tensor, ...] = ()
        lowered = torch.zeros(len(batch), device=images.device)
        every = torch.arange(count, device=images.device)
        for rows in every.tensor_split(math.ceil(count / (self._at_once or count))):
            logits = self.logits(images if len(rows) == count else images[:, rows])
            each = torch.stack([objective(own, rows) for (_, objective), own in zip(batch, logits, strict=True)])
            share = torch.autograd.grad(each.sum(), self.learning, materialize_grads=True)
            total, lowered = tuple(map(torch.add, total, share)) if total else share, lowered + each.detach()
        return total, lowered

    def finite(self) -> list[bool]:
        """Of each network whether its weights are finite."""
        found: list[bool] = torch.stack([value.isfinite().flatten(1).all(1) for value in self.learning]).all(0).tolist()
        return found

    def of_one(self, values: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        """As of :class:`Single`."""
        return {name: value[number] for name, value in values.items()}

    def memory_of_one(self, optimizer: torch.optim.Optimizer, number: int) -> Any:
        """As of :class:`Single`."""
        return {
            index: {
                name: value if name == STEP else value[number]
                for name, value in optimizer.state.get(parameter, {}).items()
                if value is not None
            }
            for index, parameter in enumerate(self.learning)
        }

    def joined_memory(self, states: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """As of :class:`Single`."""
        return {
            name: value if name.endswith(f": {STEP}") else torch.stack([state[name] for state in states])
            for name, value in states[0].items()
            if name.startswith(OF_THE_OPTIMISER)
        }

    def release(self) -> None:
        """Give each network tensors of its own."""
        for network in self.networks:
            for value in (*network.parameters(), *network.buffers()):
                value.data = value.data.clone()

    def _values(self) -> dict[str, Tensor]:
        return {**self._parameters, **self._buffers}


def can_be_stacked(networks: Sequence[Network], shape: tuple[int, int, int], precision: str) -> bool:
    """Whether two networks do as one model what each does alone; tried on copies, with two images each.

    torch cannot take every network through ``vmap``, and takes some through it slowly, with a warning.  Others are not
    the same in something that no parameter or buffer says.

    Args:
        networks: two or more, on the device.
        shape: ``(C, H, W)`` of images.
        precision: as of :class:`Single`.
    """
    device = next(networks[0].parameters()).device
    images = torch.randn(2, TRIED, *shape, generator=generator(0, "images to try networks with")).to(device)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            copies = copy.deepcopy(list(networks[:2]))
            each = [CompiledNetwork(own, precision, compiled=False).train() for own in copies]
            expected = torch.stack([own(some) for own, some in zip(each, images, strict=True)])
            found = Stacked(copies, precision, TRIED).logits(images)
    except Exception:  # networks raise anything
        return False
    return bool((found - expected).abs().max() <= NEAR * expected.abs().max())


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one tensor ``[K, ...]``, of which they become views."""
    stacked = torch.stack([value.detach() for value in values])
    for value, view in zip(values, stacked, strict=True):
        value.data = view
    return stacked.requires_grad_(values[0].requires_grad)


def _with_fraction(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if value.is_floating_point()}


def _batch_norm(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def draws_in_training(network: nn.Module) -> bool:
    """Whether the network draws random numbers while it is trained: dropout."""
    return any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in network.modules())


def _train_mode(network: Network, batch_norm: Sequence[nn.Module], images: int) -> None:
    """Training mode; batch normalisation of a single image, which has no variance, stays with its averages."""
    network.train()
    if images == 1:
        for layer in batch_norm:
            layer.eval()
