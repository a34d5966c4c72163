"""Time, memory and accuracy of DM's step against a literal per-class loop.

usage: python benchmarks/dm_speed.py --data cifar10-lt-1k --root DIR [--steps 5] [--accuracy]

The literal loop is what the field's scripts do: class after class, real images through the network with a
graph that is thrown away, fp32, eager.  All variants run in this process, after a warm-up, and take turns, so
that whatever else the machine does hits all of them; peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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

from ltdd_core import BatchMatcher, configure, distill, generator
from ltdd_core.config.model import Config
from ltdd_core.seeding import global_generator


class LiteralDM(BatchMatcher):
    """One class after another, as in the field's scripts."""

    network: type
    network_options: object

    def loss(self, network, real, synthetic):  # noqa: ANN001, ANN201 - never called: the step is its own
        raise NotImplementedError

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """A fresh network, then class by class."""
        task, data = self.task, self.task.data
        with global_generator(task.seed, "network", step):
            network = self.network(data.image_shape, data.classes, self.network_options).to(task.device)
        for parameter in network.parameters():
            parameter.requires_grad = False
        draws, augmenting = generator(task.seed, "real batch", step), generator(task.seed, "augment", step)
        loss = torch.zeros((), device=task.device)
        for label in range(data.classes):
            chosen = task.sampler.of_class(label, self.options.batch_real, draws)
            transform = task.augmentation.draw(data.image_shape, augmenting)
            real = transform(data.normalisation.apply(data.train_images[chosen].to(task.device)))
            synthetic = transform(self.images[self.labels == label])
            target = network.embed(real).detach().mean(0)
            loss = loss + ((target - network.embed(synthetic).mean(0)) ** 2).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


def variant_config(base: Config, name: str) -> Config:
    """The configuration of a variant."""
    config = with_compute(base, VARIANTS[name])
    if name.startswith("literal"):
        chosen = {"network": config.network.component, "network_options": config.network.options}
        literal = type("LiteralDM", (LiteralDM,), chosen)
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def accuracies(base: Config, name: str) -> list[float]:
    """Accuracy of the distilled set, three seeds."""
    found = []
    for seed in range(3):
        config = replace(variant_config(base, name), run=base.run.model_copy(update={"seed": seed}))
        with tempfile.TemporaryDirectory() as place:
            rows = distill(config, Path(place) / "run").rows
        found.append(next(row.accuracy for row in rows if row.name == "distilled, direct"))
    return found


def main() -> None:
    """Print a Markdown table."""
    parser = options_of(__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=100, help="length of the runs of --accuracy")
    parser.add_argument("--accuracy", action="store_true")
    add_choice_of_variants(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    settings = {"ipc": given.ipc, "iterations": given.iterations, "compute": {"threads": given.threads}}
    training = {"original": {"epochs": 1}}  # its line of the table is not looked at here
    base = configure(method="dm", data=data_of(given), training=training, **settings)
    with as_configured(base):
        if given.memory_of:
            matcher = matcher_of(variant_config(base, given.memory_of))
            print(json.dumps(peak_memory(lambda: (timed(matcher, 0), timed(matcher, 1)))))
            return
        print(f"{machine(given.data)}\n")
        matchers = {name: matcher_of(variant_config(base, name)) for name in given.only}
        print_table("a step", times(matchers, given.steps, warm_up=2), memory=not given.no_memory)
        if given.accuracy:
            print_accuracies(base)


def print_accuracies(base: Config) -> None:
    """A Markdown table of the accuracies of some variants."""
    print("\n| variant | accuracy %, seeds 0, 1, 2 | mean |\n|---|---|---|")
    for name in ("literal fp32", "ltdd fp32", "ltdd fp32 --compile", "ltdd bf16 --compile"):
        values = accuracies(base, name)
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {shown} | {statistics.mean(values):.1f} |", flush=True)


if __name__ == "__main__":
    main()
