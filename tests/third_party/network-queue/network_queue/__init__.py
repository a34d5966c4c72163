"""Matching in a queue of networks that are trained meanwhile: IDM without its tiles.

Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023: sum_c || mean_{x in T_c} F(x) -
mean_{s in S_c} F(s) ||^2 + lambda CE(f(S), y), with networks of all ages.
"""

import torch
from torch.nn import functional as F

from ltdd_core import BatchMatcher, class_means, hookimpl, option, precision_context


class NetworkQueue(BatchMatcher):
    """Match in the next network of a queue, then train it by one step; old ones make way for new ones."""

    class Options(BatchMatcher.Options):
        """The queue."""

        networks: int = option(5, "number of networks in the queue", ge=1)
        life: int = option(20, "steps that a network is trained before a new one takes its place", ge=1)
        lr_net: float = option(0.01, "learning rate of the networks", gt=0)
        cross_entropy: float = option(0.1, "weight of the cross-entropy of the synthetic images", ge=0)

    def prepare(self, task):
        """Fill the queue."""
        super().prepare(task)
        self.queue = [task.networks.new("queue", number) for number in range(self.options.networks)]
        self.training = [
            torch.optim.SGD(network.parameters(), lr=self.options.lr_net, momentum=0.9) for network in self.queue
        ]
        self.keep(images=self.images, optimizer=self.optimizer, queue=self.queue, training=self.training)

    def step(self, step):
        """Match, then train."""
        place, round_ = step % len(self.queue), step // len(self.queue)
        network, training = self.queue[place], self.training[place]
        if round_ and (round_ + place) % self.options.life == 0:
            network.load_state_dict(self.task.networks.new("queue", len(self.queue) + step).state_dict())
            training.state.clear()
        real, synthetic = self.batches(step)
        loss = self.loss(network, real, synthetic)
        (self.images.grad,) = torch.autograd.grad(loss, self.images)
        self.optimizer.step()
        training.zero_grad()
        F.cross_entropy(self._logits(network, real.images)[1], real.labels).backward()
        training.step()
        return {"loss": loss.detach()}

    def loss(self, network, real, synthetic):
        """Squared distance of the class means, and the cross-entropy of the synthetic images."""
        with torch.no_grad():
            features, _ = self._logits(network, real.images)
        own, logits = self._logits(network, synthetic.images)
        distance = (class_means(features, real.counts) - class_means(own, synthetic.counts)).square().sum()
        return distance + self.options.cross_entropy * F.cross_entropy(logits, synthetic.labels)

    def _logits(self, network, images):
        """Features ``[n, D]`` and logits ``[n, classes]``."""
        with precision_context(self.task.networks.precision, images.device):
            features = network.embed(images)
            return features.float(), network.linear(features).float()


@hookimpl
def ltdd_register_matchers(register):
    """``--method network-queue``."""
    register("network-queue", NetworkQueue)
