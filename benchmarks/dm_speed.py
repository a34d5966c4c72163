"""Time, memory and accuracy of DM's step against a literal per-class loop.

usage: python benchmarks/dm_speed.py --data cifar10-lt-1k --root DIR [--steps 5] [--accuracy]

The literal loop is what the field's scripts do: class after class, real images through the network with a
graph that is thrown away, fp32, eager.  All variants run in this process, after a warm-up, and take turns, so
that whatever else the machine does hits all of them; peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ltdd_core import BatchMatcher, configure, distill, generator
from ltdd_core.commands import open_setup, task_of
from ltdd_core.config.model import Config
from ltdd_core.seeding import global_generator

VARIANTS = {
    "literal fp32": {},
    "ltdd fp32": {},
    "ltdd fp32 --compile": {"compile": True},
    "ltdd bf16": {"precision": "bf16"},
    "ltdd bf16 --compile": {"precision": "bf16", "compile": True},
}


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
    config = replace(base, compute=base.compute.model_copy(update=VARIANTS[name]))
    if name.startswith("literal"):
        chosen = {"network": config.network.component, "network_options": config.network.options}
        literal = type("LiteralDM", (LiteralDM,), chosen)
        config = replace(config, matcher=replace(config.matcher, component=literal))
    return config


def matcher_of(config: Config) -> BatchMatcher:
    """The matcher of a configuration, ready for step 0."""
    with open_setup(config) as setup:
        matcher: BatchMatcher = config.matcher.make()
        matcher.prepare(task_of(setup))
    return matcher


def steppers(base: Config, names: list[str]) -> dict[str, BatchMatcher]:
    """A matcher for each variant, ready for step 0."""
    return {name: matcher_of(variant_config(base, name)) for name in names}


def timed(matcher: BatchMatcher, step: int) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    float(matcher.step(step)["loss"])  # waits for the GPU
    return time.perf_counter() - began


def times(base: Config, steps: int) -> dict[str, float]:
    """Median seconds a step of each variant, taken in turns."""
    matchers = steppers(base, list(VARIANTS))
    seconds: dict[str, list[float]] = {name: [] for name in matchers}
    for step in range(2):
        for matcher in matchers.values():
            timed(matcher, step)
    for step in range(2, steps + 2):
        for name, matcher in matchers.items():
            seconds[name].append(timed(matcher, step))
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(base: Config, name: str) -> float:
    """MiB that the steps of this process's variant take at most, above what was there before them."""
    (matcher,) = steppers(base, [name]).values()
    if matcher.task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed(matcher, 0), timed(matcher, 1)
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far: loading the data
    before = status("VmRSS")
    timed(matcher, 0), timed(matcher, 1)
    return status("VmHWM") - before


def status(field: str) -> float:
    """MiB of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits-lt")
    parser.add_argument("--root")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--iterations", type=int, default=100, help="length of the runs of --accuracy")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = {"name": given.data, **({"root": given.root} if given.root else {})}
    compute = {"threads": given.threads}
    settings = {"ipc": given.ipc, "iterations": given.iterations, "compute": compute}
    training = {"original": {"epochs": 1}}  # its line of the table is not looked at here
    base = configure(method="dm", data=data, training=training, **settings)
    if given.memory_of:
        print(json.dumps(peak_memory(base, given.memory_of)))
        return
    seconds = times(base, given.steps)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {given.data}\n")
    print("| variant | s a step | times faster | peak MiB |\n|---|---|---|---|")
    for name, value in seconds.items():
        memory = subprocess.run(
            [sys.executable, *sys.argv, "--memory-of", name], check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1]
        ratio = seconds["literal fp32"] / value
        print(f"| {name} | {value:.3f} | {ratio:.2f} | {float(memory):.0f} |", flush=True)
    if given.accuracy:
        print("\n| variant | accuracy %, seeds 0, 1, 2 | mean |\n|---|---|---|")
        for name in ("literal fp32", "ltdd fp32", "ltdd fp32 --compile", "ltdd bf16 --compile"):
            values = accuracies(base, name)
            shown = ", ".join(f"{value:.1f}" for value in values)
            print(f"| {name} | {shown} | {statistics.mean(values):.1f} |", flush=True)


if __name__ == "__main__":
    main()
