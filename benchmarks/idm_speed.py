"""Time and memory of IDM's step against the loop of its public code.

usage: python benchmarks/idm_speed.py --data cifar10-lt-1k --root DIR [--train-steps N] [--steps 5]

The literal loop goes class after class: real images through the network with a graph that is thrown away, the synthetic
ones through it twice, for the features and for the logits, and a step on the pixels after each class.  Then it trains
two networks with a batch at once, fp32, eager.  All variants run in this process, after a warm-up, and take turns, so
that whatever else the machine does hits all of them; peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from measuring import (
    VARIANTS,
    add_choice_of_variants,
    as_configured,
    data_of,
    machine,
    matcher_of,
    options_of,
    peak_memory,
    print_table,
    timed,
    times,
    with_compute,
)
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import configure, generator
from ltdd_core.config.model import Config


class Literal:
    """The loop of the public code, mixed into the matcher whose initial images and options it takes."""

    def step(self: Any, step: int) -> Mapping[str, Tensor | float]:
        """Matching class by class, then the training of two networks."""
        task, options = self.task, self.options
        if not hasattr(self, "members"):
            networks = [task.networks.new("queue", number) for number in range(4)]
            self.members = [
                (net, torch.optim.SGD(net.parameters(), lr=options.lr_net, momentum=0.9, weight_decay=5e-4))
                for net in networks
            ]
            self.pixels = torch.optim.SGD([self.images], lr=options.lr_img, momentum=options.momentum)
        draws, total = generator(task.seed, "literal", step), 0.0
        network, _ = self.members[step % len(self.members)]
        for label in range(task.data.classes):
            loss = self._of_class(network, label, draws)
            self.pixels.zero_grad()
            loss.backward()
            self.pixels.step()
            total += float(loss.detach())
        for turn in range(options.trained):
            self._train(*self.members[(step + turn) % len(self.members)], draws)
        return {"loss": total}

    def _of_class(self: Any, network: Any, label: int, draws: torch.Generator) -> Tensor:
        task, data = self.task, self.task.data
        chosen = task.sampler.of_class(label, self.options.batch_real, draws)
        transform = task.augmentation.draw(data.image_shape, draws)
        real = transform(data.normalisation.apply(data.train_images[chosen].to(task.device)))
        own, factor = self.images[self.labels == label], self.factor_of(data.image_shape)
        tiles = [tile for row in own.tensor_split(factor, 2) for tile in row.tensor_split(factor, 3)]
        seen = transform(torch.cat([F.interpolate(tile, own.shape[2:], mode="bilinear") for tile in tiles]))
        distance = (network.embed(real).detach().mean(0) - network.embed(seen).mean(0)).square().sum()
        classes = torch.full((len(seen),), label, device=task.device)
        return distance + self.options.cross_entropy * F.cross_entropy(network(seen), classes)

    def _train(self: Any, network: Any, optimizer: torch.optim.Optimizer, draws: torch.Generator) -> None:
        task, data = self.task, self.task.data
        for _ in range(self.options.train_steps):
            chosen = torch.randperm(len(data.train_labels), generator=draws)[: self.options.batch_train]
            images = data.normalisation.apply(data.train_images[chosen].to(task.device))
            loss = F.cross_entropy(network(images), data.train_labels[chosen].to(task.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def variant_config(base: Config, name: str) -> Config:
    """The configuration of a variant."""
    config = with_compute(base, VARIANTS[name])
    if name.startswith("literal"):
        literal = type("LiteralIDM", (Literal, config.matcher.component), {})
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def main() -> None:
    """Print a Markdown table."""
    parser = options_of(__doc__)
    parser.add_argument("--train-steps", type=int, default=10, help="training steps of each network after a step")
    parser.add_argument("--steps", type=int, default=5)
    add_choice_of_variants(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    settings = {"ipc": given.ipc, "compute": {"threads": given.threads}}
    base = configure(method="idm", data=data_of(given), matcher={"train_steps": given.train_steps}, **settings)
    with as_configured(base):
        if given.memory_of:
            measured = matcher_of(variant_config(base, given.memory_of))
            print(json.dumps(peak_memory(lambda: (timed(measured, 0), timed(measured, 1)))))
            return
        print(f"{machine(given.data)}\n")
        matchers = {name: matcher_of(variant_config(base, name)) for name in given.only}
        print_table("a step", times(matchers, given.steps, warm_up=2), memory=not given.no_memory)


if __name__ == "__main__":
    main()
