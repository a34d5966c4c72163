"""A queue of networks that are trained on real images while they are matched in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltdd_core import CompiledNetwork, Distillation, Network, cross_entropy, gradient_in_chunks

FIRST = 3
"""Networks that the queue begins with, as in IDM's public code."""


class NetworkQueue:
    """Networks of all ages, the oldest first, each as its parameters and what its training remembers.

    The parameters lie in one vector each.  They are copied into one network to match in and into another one to train,
    so that a hundred networks take no more than their numbers, and are compiled once.

    Args:
        task: gives the networks and the real images.
        size: of the full queue.
        push: every so many steps a new network joins.
        lr: learning rate of the networks.
        momentum: of the SGD that trains them.
        weight_decay: likewise.
        balanced: add the log of the class counts to the logits in training.
    """

    def __init__(
        self,
        task: Distillation,
        *,
        size: int,
        push: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        balanced: bool,
    ) -> None:
        self.task, self.size, self.push = task, size, push
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        counts = torch.tensor(task.data.counts, device=task.device)
        self._shift = counts.log() if balanced else torch.zeros_like(counts)
        self._members: list[dict[str, Tensor]] = []
        self._pushed = torch.tensor(0)
        self._trainee: CompiledNetwork | None = None
        for _ in range(FIRST):
            self._append()

    @property
    def parts(self) -> Mapping[str, Any]:
        """All that the next step depends on, for :meth:`ltdd_core.Matcher.keep`."""
        return {"queue": self._members, "pushed": self._pushed}

    def resize(self, pushed: int) -> None:
        """Be as long as after so many networks have joined, to be filled with their state."""
        length = min(pushed, self.size)
        del self._members[length:]
        while len(self._members) < length:
            self._append()

    def renew(self, step: int) -> None:
        """Before a step: let a new network join, if it is time."""
        if step % self.push == 0:
            self._append()

    def drawn(self, draws: torch.Generator) -> list[int]:
        """The places of all networks, in random order."""
        order: list[int] = torch.randperm(len(self._members), generator=draws).tolist()
        return order

    def network(self, place: int, step: int) -> Network:
        """A network to match in, frozen; it shares its memory with the one before."""
        return self.task.networks.holding(self._members[place]["parameters"], step)

    def accuracy(self, place: int) -> Tensor:
        """Per cent of the images that a network had right while it was trained lately, a scalar; 0 before."""
        right, seen = self._members[place]["accuracy"]
        return 100 * right / seen.clamp(min=1)

    def forget_accuracies(self) -> None:
        """Measure all accuracies anew."""
        for member in self._members:
            member["accuracy"].zero_()

    def train(self, place: int, indices: Tensor) -> None:
        """One step of SGD on some real images.

        Args:
            place: of the network.
            indices: of the images, int64 ``[n]``.
        """
        task, member = self.task, self._members[place]
        network, whole = self._holding(member["parameters"])
        images = task.data.normalisation.apply(task.data.train_images[indices].to(task.device, non_blocking=True))
        labels = task.data.train_labels[indices].to(task.device)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            member["accuracy"][0] += (logits.detach().argmax(1) == labels).sum()
            return cross_entropy(logits + self._shift, labels)

        parameters = list(network.inner.parameters())
        gradient = gradient_in_chunks(network, parameters, images, labels, loss, len(images) if whole else task.chunk)
        slope = _in_a_row(gradient).add_(member["parameters"], alpha=self.weight_decay)
        member["velocity"].mul_(self.momentum).add_(slope)
        member["parameters"].sub_(member["velocity"], alpha=self.lr)
        member["accuracy"][1] += len(indices)

    def _append(self) -> None:
        """Let a new random network join; its weights are a function of the seed and of how many joined before."""
        number = int(self._pushed)
        parameters = _in_a_row(self.task.networks.new("queue", number).parameters())
        velocity, accuracy = torch.zeros_like(parameters), torch.zeros(2, dtype=torch.int64, device=parameters.device)
        self._members.append({"parameters": parameters, "velocity": velocity, "accuracy": accuracy})
        self._pushed += 1
        del self._members[: -self.size]

    def _holding(self, parameters: Tensor) -> tuple[CompiledNetwork, bool]:
        """The network that is trained, with these parameters, and whether it needs all images of a batch at once.

        It is in evaluation mode, since dropout would draw from a global generator, but for batch normalisation.
        """
        pool = self.task.networks
        if self._trainee is None:
            self._trainee = CompiledNetwork(pool.new("queue").eval(), pool.precision, pool.compiled)
        inner = self._trainee.inner
        normalising = [layer for layer in inner.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        for layer in normalising:
            layer.train()
        sizes = [value.numel() for value in inner.parameters()]
        with torch.no_grad():
            for value, part in zip(inner.parameters(), parameters.split(sizes), strict=True):
                value.copy_(part.view_as(value))
        return self._trainee, bool(normalising)


def _in_a_row(tensors: Iterable[Tensor]) -> Tensor:
    """All values of some tensors, ``[P]``, whatever their layout in memory: that of compiled gradients is their own."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
