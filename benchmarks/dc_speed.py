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
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core import configure, generator
from ltdd_core.commands import open_setup, task_of
from ltdd_core.config.model import Config
from ltdd_core.seeding import global_generator
from ltdd_dc.matcher import DatasetCondensation, GradientMatcher, SiameseCondensation

VARIANTS = {
    "literal fp32": {},
    "ltdd fp32": {},
    "ltdd fp32 --compile": {"compile": True},
    "ltdd bf16": {"precision": "bf16"},
    "ltdd bf16 --compile": {"precision": "bf16", "compile": True},
}
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
    config = replace(base, compute=base.compute.model_copy(update=VARIANTS[name]))
    if name.startswith("literal"):
        chosen = {"network": config.network.component, "network_options": config.network.options}
        literal = type("LiteralMatcher", (Literal, MATCHERS[config.matcher.name]), chosen)
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def matcher_of(config: Config) -> GradientMatcher:
    """The matcher of a configuration, ready for step 0."""
    with open_setup(config) as setup:
        matcher: GradientMatcher = config.matcher.make()
        matcher.prepare(task_of(setup))
    return matcher


def steppers(base: Config, names: list[str]) -> dict[str, GradientMatcher]:
    """A matcher for each variant, ready for step 0."""
    return {name: matcher_of(variant_config(base, name)) for name in names}


def timed(matcher: GradientMatcher, step: int) -> float:
    """Seconds of an iteration."""
    began = time.perf_counter()
    float(matcher.step(step)["loss"])  # waits for the GPU
    return time.perf_counter() - began


def times(base: Config, steps: int) -> dict[str, float]:
    """Median seconds an iteration of each variant, taken in turns."""
    matchers = steppers(base, list(VARIANTS))
    seconds: dict[str, list[float]] = {name: [] for name in matchers}
    for matcher in matchers.values():
        timed(matcher, 0)
    for step in range(1, steps + 1):
        for name, matcher in matchers.items():
            seconds[name].append(timed(matcher, step))
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(base: Config, name: str) -> float:
    """MiB that the iterations of this process's variant take at most, above what was there before them."""
    (matcher,) = steppers(base, [name]).values()
    if matcher.task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed(matcher, 0)
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far: loading the data
    before = status("VmRSS")
    timed(matcher, 0)
    return status("VmHWM") - before


def status(field: str) -> float:
    """MiB of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=MATCHERS, default="dc")
    parser.add_argument("--data", default="digits-lt")
    parser.add_argument("--root")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--outer", type=int, help="matchings an iteration; the published number unless given")
    parser.add_argument("--inner", type=int, help="epochs between two; the published number unless given")
    parser.add_argument("--gradients", choices=("auto", "loop", "batched"), default="auto")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = {"name": given.data, **({"root": given.root} if given.root else {})}
    matcher = {"outer_loop": given.outer, "inner_loop": given.inner, "gradients": given.gradients}
    base = configure(method=given.method, data=data, ipc=given.ipc, matcher=matcher, compute={"threads": given.threads})
    if given.memory_of:
        print(json.dumps(peak_memory(base, given.memory_of)))
        return
    seconds = times(base, given.steps)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {given.data}\n")
    print("| variant | s an iteration | times faster | peak MiB |\n|---|---|---|---|")
    for name, value in seconds.items():
        memory = subprocess.run(
            [sys.executable, *sys.argv, "--memory-of", name], check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1]
        ratio = seconds["literal fp32"] / value
        print(f"| {name} | {value:.3f} | {ratio:.2f} | {float(memory):.0f} |", flush=True)


if __name__ == "__main__":
    main()
