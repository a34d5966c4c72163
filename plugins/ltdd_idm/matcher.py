"""Improved distribution matching (Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023).

Each step takes a network of a queue, with features f and logits g, and lowers

    sum_c || mean_{x in T_c} f(A(x; w_c)) - mean_{s in S_c} f(A(s; w_c)) ||^2
          + lambda a mean_{s in S_c} CE(g(A(s; w_c)), c),

where T_c are up to 256 real images of class c, S_c are the tiles of its synthetic images at full size (partition and
expansion), and A is the differentiable augmentation with one draw w_c per class.  a is the accuracy, in per cent, of
the network on the batches that it was trained with lately: a network that knows little says little about classes.

The queue begins with three random networks.  Every ``push`` steps a new one joins, and the oldest leaves a full queue.
After each step two random networks of the queue are trained for ten steps on random real images, not augmented, by SGD.
Defaults are those of the authors' public code for ten images a class.

That code moves the images of one class after another with the one optimizer, whose momentum m goes on moving the
images of all C classes.  Between two gradients of a class lie C steps of it, which is the same as one step with the
learning rate lr (1 - m^C) / (1 - m) and the momentum m^C.  So here all classes go through the network together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    Batch,
    BatchMatcher,
    Distillation,
    Network,
    class_means,
    embed_without_gradient,
    generator,
    option,
)
from ltdd_idm.queue import NetworkQueue


class ImprovedDistributionMatcher(BatchMatcher):
    """Match mean features in networks that are trained meanwhile, and let them classify the images."""

    citation = """@inproceedings{zhao2023idm,
  title = {Improved Distribution Matching for Dataset Condensation},
  author = {Zhao, Ganlong and Li, Guanbin and Qin, Yipeng and Yu, Yizhou},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023}
}"""
    usual_factor = 2
    sums_over_classes = True

    class Options(BatchMatcher.Options):
        """Pixels, tiles, cross-entropy and the queue of networks."""

        lr_img: float = option(
            0.2,
            "learning rate of the pixels, as if the classes took their steps one after another",
            source="IDM, public code",
            gt=0,
        )
        factor: int | None = option(
            None,
            "tiles beside and below each other in a stored image, each of which a network sees at full size",
            source="IDM, public code: 2",
            ge=1,
            unless_given="2, or 1 where tiles would have fewer than 8x8 pixels",
        )
        cross_entropy: float = option(
            0.5,
            "weight of the cross-entropy of the synthetic images, times the accuracy of the network in per cent",
            source="IDM, public code: 0.5, or 0.1 at IPC 50",
            ge=0,
        )
        meter: int = option(
            100,
            "number of steps after which the accuracies of all networks are measured anew",
            source="IDM, public code: 100, or 500 at IPC 50",
            ge=1,
        )
        networks: int = option(100, "number of networks in a full queue", source="IDM, public code", ge=1)
        push: int = option(
            30,
            "number of steps after which a new random network joins the queue",
            source="IDM, public code: 30, or 5 at IPC 1",
            ge=1,
        )
        trained: int = option(2, "number of networks that are trained after each step", source="IDM, public code", ge=0)
        train_steps: int = option(
            10, "number of training steps that each of them takes", source="IDM, public code", ge=1
        )
        batch_train: int = option(
            256, "number of real images per step of network training", source="IDM, public code", ge=2
        )
        loss: Literal["plain", "balanced"] = option(
            "balanced",
            "loss that trains the networks: cross-entropy, which forgets rare classes (plain), or cross-entropy with "
            "the log of the class counts added to the logits (balanced)",
            source="Ren et al., NeurIPS 2020; IDM, public code: plain",
        )
        lr_net: float = option(0.01, "learning rate of the networks", source="IDM, public code", gt=0)
        momentum_net: float = option(
            0.9, "momentum of the SGD that trains the networks", source="IDM, public code", ge=0, lt=1
        )
        weight_decay: float = option(5e-4, "weight decay of the networks", source="IDM, public code", ge=0)

    queue: NetworkQueue
    """The networks, from :meth:`prepare` on."""

    def prepare(self, task: Distillation) -> None:
        """Start from tiles of the initial images, and with the first networks of the queue.

        Raises:
            InputError: the tiles do not fit into an image.
        """
        super().prepare(task)
        options, classes = self.options, task.data.classes
        momentum = options.momentum**classes
        lr = options.lr_img * (1 - momentum) / (1 - options.momentum)
        self.optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        self.queue = NetworkQueue(
            task,
            size=options.networks,
            push=options.push,
            lr=options.lr_net,
            momentum=options.momentum_net,
            weight_decay=options.weight_decay,
            balanced=options.loss == "balanced",
        )
        self._of_cross_entropy = torch.zeros((), device=task.device)
        self.keep(images=self.images, optimizer=self.optimizer, **self.queue.parts)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """The real images and the tiles that are matched, and the images that train the networks."""
        training = self.options.trained * self.options.train_steps * min(self.options.batch_train, sum(counts))
        return super().images_per_step(counts, ipc_of_class) + training

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Match in a random network of the queue, then train some of them."""
        options, seed = self.options, self.task.seed
        if step % options.meter == 0:
            self.queue.forget_accuracies()
        self.queue.renew(step)
        place, *_ = self.queue.drawn(generator(seed, "network to match in", step))
        accuracy = self.queue.accuracy(place)
        self._of_cross_entropy = options.cross_entropy * accuracy
        loss = self.match(self.queue.network(place, step), step)
        for turn, place in enumerate(self.queue.drawn(generator(seed, "networks to train", step))[: options.trained]):
            draws = generator(seed, f"batches of network {turn}", step)
            for _ in range(options.train_steps):
                self.task.keep_going()
                indices = self.task.sampler.epoch(0.0, draws)[: options.batch_train]
                self.queue.train(place, indices)
        return {"loss": loss, "network_accuracy": accuracy}

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """The squared distance of the class means, and the cross-entropy of each class, summed over classes."""
        target = class_means(embed_without_gradient(network, real.images, self.task.chunk), real.counts)
        features = network.embed(synthetic.images)
        distance = (target - class_means(features, synthetic.counts)).square().sum()
        wrong = F.cross_entropy(network.linear(features), synthetic.labels, reduction="none")
        return distance + self._of_cross_entropy * class_means(wrong[:, None], synthetic.counts).sum()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back, to a queue of as many networks as there were."""
        self.queue.resize(int(state["pushed"]))
        super().load_state(state)
