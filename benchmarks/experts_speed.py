"""Time and memory of a step of TESLA, DATM and LAD, beside the literal loops of the public codes.

usage: python benchmarks/experts_speed.py --data cifar10-lt-1k --root DIR [--only lad] [--steps N] [--no-memory]
       [--repeats 3] [--clock cpu --threads 1]

DATM's literal loop is autograd through all N steps.  Those of TESLA and LAD go through the steps twice, the second time
with a graph for each step; LAD's second student has the gradient of all parameters and drops those of the backbone.
They are fp32, eager, a batch in one piece.  Variants take turns in this process, each after a first step that compiles;
the seconds are medians.  Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import torch
from measuring import (
    BF16,
    COMPILED,
    FP32,
    Clock,
    add_clock,
    as_configured,
    clock_of,
    data_of,
    machine,
    matcher_of,
    options_of,
    peak_memory as peak_of,
    with_compute,
)
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ltdd_core.api import configure
from ltdd_core.config.model import Config
from ltdd_mtt.lad import DecoupledMatcher
from ltdd_mtt.matching import ExpertMatcher
from ltdd_mtt.trajectory import InnerLoop

METHODS = ("tesla", "datm", "lad")
VARIANTS = {
    "literal fp32": FP32,
    "ltdd fp32": FP32,
    "ltdd bf16": BF16,
    "ltdd bf16 --compile": BF16 | COMPILED,
}


class Stretch(NamedTuple):
    """A student that follows an expert, all parameters in one vector."""

    loop: InnerLoop
    start: Tensor
    target: Tensor
    moving: Tensor
    """Which parameters move, 0 or 1."""
    compared: Tensor
    """Which parameters the loss compares, 0 or 1."""
    weights: Tensor | None
    factor: float


def stretches(matcher: ExpertMatcher) -> list[Stretch]:
    """Those of a step."""
    loop = matcher._loop(0, 0, 0)
    all_of_them = torch.ones_like(loop.start)
    if not isinstance(matcher, DecoupledMatcher):
        return [Stretch(loop, loop.start, loop.target, all_of_them, all_of_them, None, 1.0)]
    layer, options, second = matcher.in_layer.float(), matcher.options, matcher._layer_loop(0, 0)
    rows = (row.to(loop.start) for row in matcher.layers[0].rows(0, options.expert_epochs))
    return [
        Stretch(loop, loop.start, loop.target, all_of_them, 1 - layer, loop.student._weights, options.backbone_weight),
        Stretch(second, *rows, layer, layer, None, options.layer_weight),
    ]


class Literal:
    """The loops of the public codes.  ``twice``: the gradient goes through the steps twice, in constant memory."""

    def __init__(self, matcher: ExpertMatcher, *, twice: bool) -> None:
        self.matcher, self.twice, self.network = matcher, twice, matcher.student.network
        self.layout = [(name, value.shape, value.numel()) for name, value in self.network.named_parameters()]
        self.pixels = matcher.images.clone().requires_grad_(True)
        self.lr = matcher.lr.clone().requires_grad_(True)

    def step(self) -> None:
        """The derivatives of one step."""
        for stretch in stretches(self.matcher):
            soft = stretch.loop.labels.is_floating_point()
            labels = stretch.loop.labels.clone().requires_grad_(soft)
            found = (self._twice if self.twice else self._unrolled)(stretch, labels)
            print(float(found), file=sys.stderr)

    def _gradient(self, stretch: Stretch, theta: Tensor, labels: Tensor, k: int) -> Tensor:
        indices, transform = stretch.loop.batch(k)
        parts = theta.split([size for _, _, size in self.layout])
        values = {name: part.view(shape) for (name, shape, _), part in zip(self.layout, parts, strict=True)}
        logits = functional_call(self.network, values, (transform(self.pixels[indices]),))
        own = labels[indices]
        loss = F.cross_entropy(logits, own, weight=stretch.weights, reduction="sum") / len(own)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        return gradient * stretch.moving

    def _unrolled(self, stretch: Stretch, labels: Tensor) -> Tensor:
        theta = stretch.start.clone().requires_grad_(True)
        for k in range(stretch.loop.steps):
            theta = theta - self.lr * self._gradient(stretch, theta, labels, k)
        far, went = theta - stretch.target, stretch.start - stretch.target
        loss = (far * stretch.compared).square().sum() / (went * stretch.compared).square().sum()
        return torch.autograd.grad(loss * stretch.factor, (self.pixels, self.lr, labels))[1]

    def _twice(self, stretch: Stretch, labels: Tensor) -> Tensor:
        thetas, b = [stretch.start.clone().requires_grad_(True)], self.lr.detach()
        for k in range(stretch.loop.steps):
            g = self._gradient(stretch, thetas[-1], labels, k).detach()
            thetas.append((thetas[-1] - b * g).detach().requires_grad_(True))
        went = ((stretch.start - stretch.target) * stretch.compared).square().sum()
        a = 2 * stretch.factor * (thetas[-1].detach() - stretch.target) * stretch.compared / went
        learned = (self.pixels, *((labels,) if labels.requires_grad else ()))
        sums = [torch.zeros_like(value) for value in learned]
        for k in range(stretch.loop.steps):
            g = self._gradient(stretch, thetas[k], labels, k)
            for total, part in zip(sums, torch.autograd.grad(-b * (a @ g), learned), strict=True):
                total += part
        return sums[0].norm()


class Step:
    """One step of a variant of a method; a callable, so that what it needs is made once."""

    def __init__(self, base: Config, variant: str) -> None:
        self.matcher = matcher_of(with_compute(base, VARIANTS[variant]))
        literal = variant.startswith("literal")
        self.literal = Literal(self.matcher, twice=base.matcher.name != "datm") if literal else None

    def __call__(self) -> None:
        if self.literal is not None:
            self.literal.step()
        else:
            print(float(self.matcher.match(0, 0, 0).lr), file=sys.stderr)


def memory_of(method: str, variant: str, folder: str) -> float:
    """MiB that a step takes at most, in a process of its own, which finds the experts in a folder."""
    command = [sys.executable, *sys.argv, "--folder", folder, "--memory-of", method, variant]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(found.splitlines()[-1])


def in_turns(works: Mapping[str, Callable[[], None]], times: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each work, one after another, so many times."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            began = clock()
            work()
            taken[name].append(clock() - began)
    return taken


def table(base: Config, given: argparse.Namespace, folder: str, clock: Clock) -> None:
    """A Markdown table of a method."""
    method = base.matcher.name
    print(f"\n{machine(given.data)}, {given.clock} clock\n")
    print(f"| {method}, N = {given.steps} | s | times faster | first, s | peak MiB |\n|---|---|---|---|---|")
    seconds = in_turns({variant: Step(base, variant) for variant in VARIANTS}, 1 + given.repeats, clock)
    usual = {variant: statistics.median(taken[1:]) for variant, taken in seconds.items()}
    literal = next(iter(usual.values()))
    for variant, (first, *_) in seconds.items():
        memory = "" if given.no_memory else f"{memory_of(method, variant, folder):.0f}"
        times = f"{usual[variant]:.2f} | {literal / usual[variant]:.2f}"
        print(f"| {variant} | {times} | {first:.1f} | {memory} |", flush=True)


def main() -> None:
    """Print a Markdown table for each method."""
    parser = options_of(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="N")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of each variant")
    add_clock(parser)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS, help="methods to measure")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a process each")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    experts = {"count": 1, "epochs": 2, "batch": 256, "lr": 0.01}
    with ExitStack() as stack:
        folder = given.folder or stack.enter_context(tempfile.TemporaryDirectory())  # where the experts are kept
        compute = {"threads": given.threads, "store": folder}
        for method in (given.memory_of[0],) if given.memory_of else given.only:
            matcher = {"expert_epochs": 1, "syn_lr": 1e-3, "syn_steps": given.steps, "experts": experts}
            matcher |= {"layer": {"epochs": 1}, "memory": "tesla"} if method == "lad" else {}
            base = configure(method=method, data=data_of(given), ipc=given.ipc, matcher=matcher, compute=compute)
            with as_configured(base):
                if given.memory_of:
                    work = Step(base, given.memory_of[1])
                    if "--compile" in given.memory_of[1]:
                        work()  # the compiler's own memory is not the method's
                    print(peak_of(work))
                else:
                    table(base, given, folder, clock_of(given, parser))


if __name__ == "__main__":
    main()
