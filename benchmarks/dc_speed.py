"""Time and memory of an iteration of DC or DSA against a literal per-class loop.

usage: python benchmarks/dc_speed.py --data cifar10-lt-1k --root DIR [--method dsa] [--outer 2 --inner 10] [--steps 3]

The literal loop is what the field's scripts do: class after class, all real images of a batch through the network
at once, gradients of every parameter, fp32, eager.  All variants run in this process, after a warm-up, and take
turns, so that whatever else the machine does hits all of them; peak memory is that of a process of its own for
each.  At published loops most of the time goes into training the networks; fewer and shorter loops
show the matching.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace

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
from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core import configure, generator
from ltdd_core.config.model import Config
from ltdd_core.seeding import global_generator
from ltdd_dc.matcher import DatasetCondensation, SiameseCondensation

MATCHERS = {"dc": DatasetCondensation, "dsa": SiameseCondensation}


class Literal:
    """One class after another, as in the field's scripts; mixed into the matcher whose draws it takes."""

    network: type
    network_options: object

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """A fresh network, matched and trained in turns."""
        task, losses = self.task, []
        with global_generator(task.seed, "network", step):
            network = self.network(task.data.image_shape, task.data.classes, self.network_options).to(task.device)
        for matching in range(self.outer_loop):
            number = step * self.outer_loop + matching
            loss = self._match(network, number)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
            if matching + 1 < self.outer_loop:
                self._train(network, generator(task.seed, "network training", number))
        return {"loss": torch.stack(losses).mean() / task.data.classes}

    def _match(self, network: nn.Module, number: int) -> Tensor:
        task, data = self.task, self.task.data
        draws, augmenting = generator(task.seed, "real batch", number), generator(task.seed, "augment", number)
        parameters = list(network.parameters())
        loss = torch.zeros((), device=task.device)
        for label in range(data.classes):
            chosen = task.sampler.of_class(label, self.options.batch_real, draws)
            transform = task.augmentation.draw(data.image_shape, augmenting)
            real = transform(data.normalisation.apply(data.train_images[chosen].to(task.device)))
            synthetic = transform(self.images[self.labels == label])
            targets = torch.full((len(real),), label, device=task.device)
            expected = torch.autograd.grad(F.cross_entropy(network(real), targets), parameters)
            own = F.cross_entropy(network(synthetic), self.labels[self.labels == label])
            current = torch.autograd.grad(own, parameters, create_graph=True)
            loss = loss + sum(distance(a, b.detach()) for a, b in zip(current, expected, strict=True) if a.dim() > 1)
        return loss

    def _train(self, network: nn.Module, draws: torch.Generator) -> None:
        task, images = self.task, self.images.detach()
        optimizer = torch.optim.SGD(network.parameters(), lr=self.options.lr_net)
        for _ in range(self.inner_loop):
            for indices in torch.randperm(len(images), generator=draws).split(self.options.batch_train):
                transform = task.augmentation.draw(task.data.image_shape, draws, len(indices))
                own = indices.to(task.device)
                optimizer.zero_grad()
                F.cross_entropy(network(transform(images[own])), self.labels[own]).backward()
                optimizer.step()


def distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cos of each row, summed."""
    one, other = one.flatten(1), other.flatten(1)
    return (1 - (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1e-6)).sum()


def variant_config(base: Config, name: str) -> Config:
    """The configuration of a variant."""
    config = with_compute(base, VARIANTS[name])
    if name.startswith("literal"):
        chosen = {"network": config.network.component, "network_options": config.network.options}
        literal = type("LiteralMatcher", (Literal, MATCHERS[config.matcher.name]), chosen)
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def main() -> None:
    """Print a Markdown table."""
    parser = options_of(__doc__)
    parser.add_argument("--method", choices=MATCHERS, default="dc")
    parser.add_argument("--outer", type=int, help="matchings an iteration; the published number unless given")
    parser.add_argument("--inner", type=int, help="epochs between two; the published number unless given")
    parser.add_argument("--gradients", choices=("auto", "loop", "batched"), default="auto")
    parser.add_argument("--steps", type=int, default=3)
    add_choice_of_variants(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    matcher = {"outer_loop": given.outer, "inner_loop": given.inner, "gradients": given.gradients}
    settings = {"ipc": given.ipc, "matcher": matcher, "compute": {"threads": given.threads}}
    base = configure(method=given.method, data=data_of(given), **settings)
    with as_configured(base):
        if given.memory_of:
            measured = matcher_of(variant_config(base, given.memory_of))
            print(json.dumps(peak_memory(lambda: timed(measured, 0))))
            return
        print(f"{machine(given.data)}\n")
        matchers = {name: matcher_of(variant_config(base, name)) for name in given.only}
        print_table("an iteration", times(matchers, given.steps, warm_up=1), memory=not given.no_memory)


if __name__ == "__main__":
    main()
