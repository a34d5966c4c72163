"""What the scripts that measure speed share: variants, their matchers, the machine in words, memory, and options."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ltdd_core import Matcher
from ltdd_core.commands import open_setup, task_of
from ltdd_core.config.model import Config
from ltdd_core.runs.devices import computing, find_device
from ltdd_core.runs.precision import name_of

FP32, BF16 = {"precision": "fp32", "compile": False}, {"precision": "bf16", "compile": False}
"""What a variant computes in; said in full, since the defaults depend on the machine."""
COMPILED = {"compile": True}
Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
VARIANTS = {
    "literal fp32": FP32,
    "ltdd fp32": FP32,
    "ltdd fp32 --compile": FP32 | COMPILED,
    "ltdd bf16": BF16,
    "ltdd bf16 --compile": BF16 | COMPILED,
}


def options_of(about: str | None) -> argparse.ArgumentParser:
    """The options that the scripts have in common; ``about`` is the help text, laid out as it is."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits-lt", help="name of the long-tailed set")
    parser.add_argument("--root", type=lambda folder: Path(folder).resolve(), help="folder of its images")
    parser.add_argument("--ipc", type=int, default=10, help="synthetic images per class")
    parser.add_argument("--threads", type=int, help="CPU threads; unless given, as many as a run takes")
    return parser


def add_choice_of_variants(parser: argparse.ArgumentParser) -> None:
    """Options of the scripts that measure some of :data:`VARIANTS`."""
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to measure")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a process each")


def add_clock(parser: argparse.ArgumentParser) -> None:
    """The option of the scripts that can count what a process computed."""
    text = "cpu: seconds that this process computed, with --threads 1"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=text)


def clock_of(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Clock:
    """The clock that was asked for; call it where the threads are those of the measurement."""
    if given.clock == "cpu" and (torch.get_num_threads() != 1 or torch.cuda.is_available()):
        parser.error("--clock cpu adds up the seconds of all threads: use it with --threads 1, and not on a GPU")
    return CLOCKS[given.clock]


def data_of(given: argparse.Namespace) -> dict[str, str]:
    """The section ``data`` of a configuration."""
    return {"name": given.data, **({"root": str(given.root)} if given.root else {})}


@contextmanager
def as_configured(base: Config) -> Iterator[None]:
    """The threads of a configuration, and fp32 that is fp32 on a GPU, outside a setup too."""
    with computing(base.compute, find_device(base.compute)):
        yield


def with_compute(config: Config, compute: Mapping[str, Any]) -> Config:
    """The same configuration, computed in another way."""
    return replace(config, compute=config.compute.model_copy(update=dict(compute)))


def matcher_of(config: Config) -> Any:
    """The matcher of a configuration, ready for step 0."""
    with open_setup(config) as setup:
        matcher = config.matcher.make()
        matcher.prepare(task_of(setup))
    return matcher


def timed(matcher: Matcher, step: int, clock: Clock = time.perf_counter) -> float:
    """Seconds of a step, by a clock."""
    began = clock()
    float(matcher.step(step)["loss"])  # waits for the GPU
    return clock() - began


def times(
    matchers: Mapping[str, Matcher], steps: int, warm_up: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Median seconds a step of each matcher, taken in turns, after ``warm_up`` steps of each."""
    seconds: dict[str, list[float]] = {name: [] for name in matchers}
    for step in range(warm_up + steps):
        for name, matcher in matchers.items():
            seconds[name].append(timed(matcher, step, clock))
    return {name: statistics.median(values[warm_up:]) for name, values in seconds.items()}


def peak_memory(work: Callable[[], object]) -> float:
    """MiB that some work takes at most, above what was there before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far: loading the data
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(field: str) -> float:
    """MiB of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def print_table(unit: str, seconds: Mapping[str, float], *, memory: bool) -> None:
    """A Markdown table of seconds, and perhaps of the peak memory of each variant in a process of its own."""
    print(f"| variant | s {unit} | times faster{' | peak MiB' * memory} |\n|---|---|---|{'---|' * memory}")
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        taken = f" | {memory_of(name):.0f}" if memory else ""
        print(f"| {name} | {value:.3g} | {first / value:.2f}{taken} |", flush=True)


def memory_of(name: str) -> float:
    """MiB that a variant takes at most, in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(found.splitlines()[-1]))


def machine(data: str) -> str:
    """What was measured where and when, a line."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    return f"{name_of(device)}, ltdd {version('ltdd')}, {threads} CPU threads, {data}, {date.today().isoformat()}"
