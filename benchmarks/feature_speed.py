"""Time and memory of a step of DANCE, TGDD, NCFM or CSDM against a literal per-class loop.

usage: python benchmarks/feature_speed.py --data cifar10-lt-1k --root DIR [--method dance] [--batch-real N] [--steps 5]
       [--clock cpu --threads 1]

The literal loop is what the field's scripts do: class after class, real images through the network with a graph that
is thrown away, a step on the pixels after each class, fp32, eager.  A network is trained for one epoch beforehand: how
good it is does not matter here.  All variants run in this process, after a warm-up, and take turns, so that whatever
else the machine does hits all of them; peak memory is that of a process of its own for each.
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
    add_clock,
    as_configured,
    clock_of,
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

METHODS = ("dance", "tgdd", "ncfm", "csdm")
ONE_TRAINING = {"count": 1, "epochs": 1}


class Literal:
    """One class after another, as in the field's scripts; mixed into the matcher whose draws and networks it takes."""

    made: Any
    network_options: object

    def step(self: Any, step: int) -> Mapping[str, Tensor | float]:
        """Matching class by class, then the cross-entropy class by class."""
        task, data = self.task, self.task.data
        matching, calibrating = (self._network(weights) for weights in self.weights(step))
        draws, total = generator(task.seed, "real batch", step), 0.0
        for label in range(data.classes):
            chosen = task.sampler.of_class(label, self.options.batch_real, draws)
            transform = task.augmentation.draw(data.image_shape, draws)
            real = transform(data.normalisation.apply(data.train_images[chosen].to(task.device)))
            features = matching.embed(real).detach(), matching.embed(transform(self._tiles(label)))
            total += self._descend(self._distance(*features, label, draws))
        for label in range(data.classes):
            transform = task.augmentation.draw(data.image_shape, draws)
            logits = calibrating(transform(self._tiles(label)))
            classes = torch.full((len(logits),), label, device=task.device)
            total += self._descend(self.options.calibration * F.cross_entropy(logits, classes))
        return {"loss": total}

    def _network(self: Any, weights: Tensor) -> nn.Module:
        network = self.made(self.task.data.image_shape, self.task.data.classes, self.network_options)
        nn.utils.vector_to_parameters(weights, network.parameters())
        return network.requires_grad_(False).eval().to(self.task.device)

    def _tiles(self: Any, label: int) -> Tensor:
        own = self._normalise(self.pixels[self.labels == label])
        factor = 2 if min(own.shape[2:]) >= 16 else 1
        quarters = [quarter for half in own.chunk(factor, 2) for quarter in half.chunk(factor, 3)]
        return torch.cat([F.interpolate(quarter, own.shape[2:], mode="bilinear") for quarter in quarters])

    def _distance(self: Any, real: Tensor, synthetic: Tensor, label: int, draws: torch.Generator) -> Tensor:
        if not hasattr(self, "plateau"):
            return (real.mean(0) - synthetic.mean(0)).square().sum()
        frequencies = torch.randn(self.options.frequencies, real.shape[1], generator=draws).to(real.device)
        one, other = (torch.exp(1j * (F.normalize(x) @ frequencies.T)).mean(0) for x in (real, synthetic))
        amplitude = (one.abs() - other.abs()).square()
        phase = 2 * (one.abs() * other.abs() - one.real * other.real - one.imag * other.imag)
        weighted = (0.5 * amplitude + 0.5 * phase).clamp(min=1e-12)
        return self.options.scale * weighted.sqrt().mean()

    def _descend(self: Any, loss: Tensor) -> float:
        self.mover.zero_grad()
        loss.backward()
        self.mover.step()
        with torch.no_grad():
            self.pixels.clamp_(0, 1)
        return float(loss.detach())


def variant_config(base: Config, name: str) -> Config:
    """The configuration of a variant."""
    config = with_compute(base, VARIANTS[name])
    if name.startswith("literal"):
        chosen = {"made": config.network.component, "network_options": config.network.options}
        literal = type("LiteralMatcher", (Literal, config.matcher.component), chosen)
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def main() -> None:
    """Print a Markdown table."""
    parser = options_of(__doc__)
    parser.add_argument("--method", choices=METHODS, default="dance")
    parser.add_argument("--batch-real", type=int, help="real images a class; the default of the method unless given")
    parser.add_argument("--steps", type=int, default=5)
    add_clock(parser)
    add_choice_of_variants(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    matcher = {"trajectories" if given.method == "tgdd" else "teacher": ONE_TRAINING}
    if given.batch_real:
        matcher["batch_real"] = given.batch_real
    settings = {"ipc": given.ipc, "matcher": matcher, "compute": {"threads": given.threads}}
    base = configure(method=given.method, data=data_of(given), **settings)
    with as_configured(base):
        if given.memory_of:
            measured = matcher_of(variant_config(base, given.memory_of))
            print(json.dumps(peak_memory(lambda: (timed(measured, 0), timed(measured, 1)))))
            return
        clock = clock_of(given, parser)
        print(f"{given.method}, {machine(given.data)}, {given.clock} clock\n")
        matchers = {name: matcher_of(variant_config(base, name)) for name in given.only}
        seconds = times(matchers, given.steps, warm_up=2, clock=clock)
        print_table("a step", seconds, memory=not given.no_memory)


if __name__ == "__main__":
    main()
