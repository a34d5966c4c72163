"""How far the steps of a run are from what the machine could do at most.

usage: python benchmarks/limit.py --data cifar10-lt-1k --root DIR [--precision fp32 bf16] [--only NAME ...]
       [--steps 3] [--clock cpu --threads 1] [--no-compile] [--profile NAME]

A step takes at least its multiply-adds at the highest rate at which the machine multiplies matrices: that is the
bound.  The multiply-adds are those of the convolutions and matrix products that torch's FlopCounterMode meets in the
step as ltdd does it, eager and in fp32 (a multiply-add is two of its operations); what a method does twice to save
memory is counted twice.  The rate is the highest of some sizes of torch.mm and of a large convolution, medians of
seven: where the library behind torch.mm does not know the processor, convolutions are the faster products.  All the
rest (normalisation, activation, pooling, augmentation, random weights, the optimiser) is not in the bound.

The parts are a DM step, a DC iteration of short loops, an MTT iteration of few steps, an epoch of a classifier on the
long-tailed set, and the pass of a classifier over the test images.  Eager and compiled steps take turns after one
step of each that is not counted; the seconds are medians.  Where other work runs on the machine, --clock cpu with
--threads 1 counts the seconds in which the processor worked for this process.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from measuring import (
    BF16,
    CLOCKS,
    COMPILED,
    FP32,
    Clock,
    add_clock,
    as_configured,
    clock_of,
    data_of,
    machine,
    options_of,
    with_compute,
)
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ltdd_core import CompiledNetwork, Config, amount, configure, cross_entropy, train
from ltdd_core.commands import open_setup, task_of
from ltdd_core.setup import Setup

Work = Callable[[], object]
PRECISIONS = {"fp32": (FP32, torch.float32), "bf16": (BF16, torch.bfloat16)}
SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Rows and columns of the matrices whose product is measured."""
CONVOLUTIONS = {"cpu": (32, 128, 16), "cuda": (2048, 256, 16)}
"""Images, channels and pixels a side of the 3x3 convolution that is measured."""
PRODUCTS = 7
"""Products of a size that are measured, after one that is not."""
OPERATORS = 12
"""Lines of a profile."""
FUSED = "fused by torch.compile"
"""What a profile calls the code that the compiler wrote: all but the products, which stay calls of a library."""


class Part(NamedTuple):
    """Something that a run does again and again."""

    title: str
    method: str
    work: Callable[[Setup], Work]
    """What is measured, in a setup."""


def of_matcher(setup: Setup) -> Work:
    """The steps of a matcher, one after another."""
    matcher = setup.config.matcher.make()
    matcher.prepare(task_of(setup))
    numbers = itertools.count()
    return lambda: matcher.step(next(numbers))


def of_training(setup: Setup) -> Work:
    """An epoch on the long-tailed set with the options and the augmentation of a run."""
    trainer, data, compute = setup.trainer(), setup.original, setup.config.compute
    options = setup.config.training.original.model_copy(update={"epochs": 1})
    network = setup.networks.new("classifier")

    def epoch() -> None:
        train(
            network.requires_grad_(True),
            data,
            options,
            loss=cross_entropy,
            augmentation=trainer.augmentation_of(options),
            seed=0,
            purpose="benchmark",
            device=setup.device,
            chunk=setup.chunk,
            precision=compute.precision,
            compiled=compute.compile is True,
        )

    return epoch


def of_evaluation(setup: Setup) -> Work:
    """What a classifier says of the test images."""
    compute = setup.config.compute
    network = setup.networks.new("classifier").requires_grad_(False)
    classifier = CompiledNetwork(network, compute.precision, compute.compile is True).eval()
    return lambda: setup.trainer().outputs(classifier, setup.test)


PARTS = {
    "dm": Part("DM step", "dm", of_matcher),
    "dc": Part("DC iteration", "dc", of_matcher),
    "mtt": Part("MTT iteration", "mtt", of_matcher),
    "epoch": Part("epoch of a classifier", "dm", of_training),
    "evaluation": Part("evaluation pass", "dm", of_evaluation),
}


def configuration(given: argparse.Namespace, method: str, store: str) -> Config:
    """The configuration of a method; experts are one epoch long, which does not matter for the speed."""
    experts = {"count": 1, "epochs": 1, "batch": 256, "lr": 0.01}
    matcher: Mapping[str, Mapping[str, Any]] = {
        "dc": {"outer_loop": given.outer, "inner_loop": given.inner},
        "mtt": {"syn_steps": given.syn_steps, "syn_lr": 1e-3, "lr_lr": 0, "expert_epochs": 1, "experts": experts},
    }
    return configure(
        method=method,
        data=data_of(given),
        ipc=given.ipc,
        network={"name": "convnet-d3", "width": given.width},
        matcher=matcher.get(method, {}),
        compute={"threads": given.threads, "store": store},
    )


# ---- measuring -----------------------------------------------------------------------------------


def seconds(work: Work, clock: Clock) -> float:
    """What some work takes, by a clock."""
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def medians(works: Mapping[str, Work], steps: int, clock: Clock) -> dict[str, float]:
    """Median seconds of some works, which take turns; the first time of each, which may compile, does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + steps):
        for name, work in works.items():
            taken[name].append(seconds(work, clock))
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def rate(dtype: torch.dtype, device: torch.device, clock: Clock) -> tuple[float, str]:
    """The most multiply-adds a second of the products of two square matrices and of a convolution; and of which."""
    works: dict[str, tuple[int, Work]] = {}
    for size in SIZES[device.type]:
        one, other = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        works[f"torch.mm, {size} x {size}"] = size**3, partial(torch.mm, one, other)
    count, channels, pixels = CONVOLUTIONS[device.type]
    maps = torch.ones(count, channels, pixels, pixels, dtype=dtype, device=device)
    weights = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device)
    convolve = torch.no_grad()(partial(torch.conv2d, maps, weights, padding=1))
    works[f"a convolution, {channels} channels"] = multiply_adds(convolve), convolve
    taken = medians({name: work for name, (_, work) in works.items()}, PRODUCTS, clock)
    return max((number / taken[name], name) for name, (number, _) in works.items())


def multiply_adds(work: Work) -> int:
    """Those of the convolutions and matrix products of some eager work in fp32, which is done once."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


# ---- tables --------------------------------------------------------------------------------------


class Limits:
    """Measures and prints, with the data, the threads and the clock of the options."""

    def __init__(self, given: argparse.Namespace, stack: ExitStack) -> None:
        self.given, self.stack, self.clock = given, stack, CLOCKS[given.clock]
        self.store = stack.enter_context(tempfile.TemporaryDirectory())  # of the expert
        base = configuration(given, "dm", self.store)
        stack.enter_context(as_configured(base))
        setup = stack.enter_context(open_setup(base))
        self.data, self.device = setup.data, setup.device
        self.rates: dict[str, float] = {}

    def work(self, name: str, compute: Mapping[str, Any]) -> Work:
        """What a part does, computed in a precision, compiled or not."""
        config = with_compute(configuration(self.given, PARTS[name].method, self.store), compute)
        return PARTS[name].work(self.stack.enter_context(open_setup(config, data=self.data)))

    def works(self, name: str, precision: str) -> dict[str, Work]:
        """The same part eager and, unless the options say otherwise, compiled."""
        eager, _ = PRECISIONS[precision]
        ways = {"eager": eager} if self.given.no_compile else {"eager": eager, "compiled": {**eager, **COMPILED}}
        return {way: self.work(name, compute) for way, compute in ways.items()}

    def print_rates(self) -> None:
        """How fast the machine multiplies matrices, a line for each precision."""
        for precision in self.given.precision:
            self.rates[precision], where = rate(PRECISIONS[precision][1], self.device, self.clock)
            print(f"{precision}: {amount(self.rates[precision])} multiply-adds a second ({where})", flush=True)

    def print_table(self) -> None:
        """A Markdown table: for each part and precision the bound, and what it takes."""
        print("\n| part | precision | multiply-adds | bound, s | eager, s | ratio | compiled, s | ratio |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in self.given.only:
            count = multiply_adds(self.work(name, FP32))
            for precision, highest in self.rates.items():
                bound, taken = count / highest, medians(self.works(name, precision), self.given.steps, self.clock)
                cells = [PARTS[name].title, precision, amount(count), f"{bound:.4g}"]
                for way in ("eager", "compiled"):
                    value = taken.get(way)
                    cells += ["", ""] if value is None else [f"{value:.4g}", f"{value / bound:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)

    def print_profile(self, name: str) -> None:
        """Where the time of a part goes, for each precision and way."""
        for precision in self.rates:
            for way, work in self.works(name, precision).items():
                work()
                print(f"\n{PARTS[name].title}, {precision}, {way}: operators by their own time (wall clock)")
                print_operators(work, self.device)


def print_operators(work: Work, device: torch.device) -> None:
    """A Markdown table of the operators that take most of the time, and the share of those that the bound counts."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        work()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    own: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiler.key_averages():
        key = FUSED if event.key.startswith("## Call CompiledFxGraph") else event.key
        own[key] += getattr(event, kind) / 1e6
        calls[key] += event.count
    total, counted = sum(own.values()), sum(taken for key, taken in own.items() if is_product(key))
    print("\n| operator | own s | share | calls |\n|---|---|---|---|")
    print(f"| all convolutions and matrix products | {counted:.4f} | {counted / total:.0%} | |")
    for key, taken in own.most_common(OPERATORS):
        print(f"| `{key}` | {taken:.4f} | {taken / total:.0%} | {calls[key]} |")


def is_product(operator: str) -> bool:
    """Whether it is a convolution or a matrix product, whatever library does it."""
    return "conv" in operator or "linear" in operator or operator.endswith("mm")


def main() -> None:
    """Print what the machine can do, a Markdown table of the parts, and perhaps a profile."""
    parser = options_of(__doc__)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each part")
    add_clock(parser)
    parser.add_argument("--no-compile", action="store_true", help="measure eager steps only")
    parser.add_argument("--outer", type=int, default=2, help="matchings of a DC iteration")
    parser.add_argument("--inner", type=int, default=10, help="epochs between two matchings of DC")
    parser.add_argument("--syn-steps", type=int, default=5, help="student steps of an MTT iteration")
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet")
    parser.add_argument("--profile", choices=PARTS, help="also print which operators this part spends its time in")
    given = parser.parse_args()
    with ExitStack() as stack:
        limits = Limits(given, stack)
        clock_of(given, parser)
        print(f"{machine(given.data)}, {given.clock} clock")
        limits.print_rates()
        limits.print_table()
        if given.profile:
            limits.print_profile(given.profile)


if __name__ == "__main__":
    main()
