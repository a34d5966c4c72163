"""Time and memory of trajectory matching: an epoch of an expert, and an iteration of the matcher.

usage: python benchmarks/mtt_speed.py --data cifar10-lt-1k --root DIR [--only NAME ...] [--memory 20 40 80]

The literal loops are what the field's scripts do: an expert's batch in one piece, and autograd through all N steps
of a student, fp32, eager.  Variants run one after another in this process, each after a warm-up that compiles; peak
memory is that of a process of its own for each variant and N, where the expert is there already, and none is started
that would need more memory than is free (the literal loop's is estimated from a run with N = 4).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from measuring import (
    BF16,
    COMPILED,
    FP32,
    VARIANTS as EXPERTS,
    as_configured,
    data_of,
    machine,
    matcher_of,
    options_of,
    peak_memory as peak_of,
    with_compute,
)
from torch.func import functional_call

from ltdd_core import TrainingSet, cross_entropy, generator
from ltdd_core.api import configure
from ltdd_core.config.model import Config
from ltdd_core.training.loop import train
from ltdd_core.training.options import TrainingOptions
from ltdd_mtt.matcher import TrajectoryMatcher

MATCHERS = {
    "literal fp32": ("unroll", FP32),
    "unroll fp32": ("unroll", FP32),
    "unroll bf16": ("unroll", BF16),
    "checkpoint fp32": ("checkpoint", FP32),
    "tesla fp32": ("tesla", FP32),
    "checkpoint fp32 --compile": ("checkpoint", FP32 | COMPILED),
    "checkpoint bf16": ("checkpoint", BF16),
    "checkpoint bf16 --compile": ("checkpoint", BF16 | COMPILED),
    "tesla bf16 --compile": ("tesla", BF16 | COMPILED),
}
IN_MEMORY = ("literal fp32", "unroll fp32", "checkpoint fp32", "tesla fp32", "checkpoint bf16 --compile")
PROBE = 4
ROOM = 0.7
"""Share of the free memory that a variant may take."""


def trajectory_matcher(base: Config, memory: str, compute: dict, steps: int) -> TrajectoryMatcher:
    """A matcher whose experts are one epoch long, which does not matter for its speed."""
    options = base.matcher.options.model_copy(update={"memory": memory, "syn_steps": steps})
    return matcher_of(with_compute(replace(base, matcher=replace(base.matcher, options=options)), compute))


def literal_step(matcher: TrajectoryMatcher) -> None:
    """The loss of one step and its gradient with autograd through everything."""
    loop, network = matcher._loop(0, 0, 0), matcher.student.network
    sizes = [value.numel() for value in network.parameters()]
    names = [(name, value.shape) for name, value in network.named_parameters()]
    pixels, lr = loop.images.clone().requires_grad_(True), loop.lr.clone().requires_grad_(True)
    students = [loop.start.clone().requires_grad_(True)]
    for k in range(loop.steps):
        indices, transform = loop.batch(k)
        parts = students[-1].split(sizes)
        values = {name: part.view(shape) for (name, shape), part in zip(names, parts, strict=True)}
        loss = cross_entropy(functional_call(network, values, (transform(pixels[indices]),)), loop.labels[indices])
        (gradient,) = torch.autograd.grad(loss, students[-1], create_graph=True)
        students.append(students[-1] - lr * gradient)
    far = (students[-1] - loop.target).square().sum() / loop.distance()
    by_lr = torch.autograd.grad(far, (pixels, lr))[1]
    print(float(by_lr), file=sys.stderr)


def step_of(base: Config, name: str, steps: int) -> Callable[[], None]:
    """One iteration of a variant."""
    memory, compute = MATCHERS[name]
    matcher = trajectory_matcher(base, memory, compute, steps)
    if name.startswith("literal"):
        return lambda: literal_step(matcher)
    return lambda: print(float(matcher._loop(0, 0, 0).gradient(memory).lr), file=sys.stderr)


def epoch_of(base: Config, name: str) -> Callable[[], None]:
    """One epoch of an expert as published: batches of 256."""
    matcher = trajectory_matcher(base, "checkpoint", FP32, 1)
    task, compute = matcher.task, EXPERTS[name]
    data = task.data
    original = TrainingSet("original", data.train_images, data.train_labels, data.normalisation, data.classes)
    options = TrainingOptions(epochs=1, lr=0.01, momentum=0, weight_decay=0, batch=256, schedule="constant")
    network = task.networks.new("expert")

    def literal() -> None:
        draws = generator(0, "epoch")
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for indices in torch.randperm(len(original), generator=draws).split(256):
            images, labels = original.batch(indices, task.device)
            optimizer.zero_grad()
            cross_entropy(
                network(task.augmentation.draw(data.image_shape, draws, len(images))(images)), labels
            ).backward()
            optimizer.step()

    def ours() -> None:
        train(
            network.requires_grad_(True),
            original,
            options,
            loss=cross_entropy,
            augmentation=task.augmentation,
            seed=0,
            purpose="benchmark",
            device=task.device,
            chunk=task.chunk,
            precision=compute["precision"],
            compiled=compute["compile"],
        )

    return literal if name.startswith("literal") else ours


def seconds(work: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Of the first time, which compiles, and the least of the others."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return taken[0], min(taken[1:])


def table(title: str, names: list[str], make: Callable[[str], Callable[[], None]], repeats: int) -> None:
    """A Markdown table of seconds."""
    print(f"\n| {title} | s | times faster | first, s |\n|---|---|---|---|")
    literal = 0.0
    for name in names:
        first, best = seconds(make(name), repeats)
        literal = literal or best
        print(f"| {name} | {best:.2f} | {literal / best:.2f} | {first:.1f} |", flush=True)


def peak_memory(base: Config, name: str, steps: int) -> float:
    """MiB that an iteration in this process takes at most, above what was there before."""
    work = step_of(base, name, steps)
    if "--compile" in name:
        work()  # the compiler's own memory is not the method's
    return peak_of(work)


def memory_table(lengths: list[int], folder: str) -> None:
    """A Markdown table of MiB; what would not fit is not tried."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    print(f"\n| peak MiB | {' | '.join(f'N = {steps}' for steps in lengths)} |\n|---|{'---|' * len(lengths)}")
    for name in IN_MEMORY:
        a_step = measured(name, PROBE, folder) / PROBE
        cells = []
        for steps in lengths:
            grows = MATCHERS[name][0] == "unroll"
            fits = not grows or a_step * steps < ROOM * free
            cells.append(f"{measured(name, steps, folder):.0f}" if fits else f"about {a_step * steps:.0f}, not tried")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def measured(name: str, steps: int, folder: str) -> float:
    """Peak memory in a process of its own, which finds its expert in a folder."""
    command = [sys.executable, *sys.argv, "--folder", folder, "--memory-of", name, str(steps)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(found.splitlines()[-1])


def main() -> None:
    """Print Markdown tables."""
    parser = options_of(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="N")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="variants of the matcher")
    parser.add_argument("--no-experts", action="store_true")
    parser.add_argument("--memory", nargs="*", type=int, default=[], metavar="N", help="measure memory too")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    matcher = {"expert_epochs": 1, "syn_lr": 1e-3, "experts": {"count": 1, "epochs": 1, "batch": 256, "lr": 0.01}}
    with ExitStack() as stack:
        folder = given.folder or stack.enter_context(tempfile.TemporaryDirectory())  # where the expert is kept
        compute = {"threads": given.threads, "store": folder}
        base = configure(method="mtt", data=data_of(given), ipc=given.ipc, matcher=matcher, compute=compute)
        stack.enter_context(as_configured(base))
        if given.memory_of:
            name, steps = given.memory_of
            print(peak_memory(base, name, int(steps)))
            return
        print(machine(given.data))
        if not given.no_experts:
            table("an epoch of an expert", list(EXPERTS), lambda name: epoch_of(base, name), given.repeats)
        names = given.only or list(MATCHERS)
        table(f"an iteration, N = {given.steps}", names, lambda name: step_of(base, name, given.steps), given.repeats)
        if given.memory:
            memory_table(given.memory, folder)


if __name__ == "__main__":
    main()
