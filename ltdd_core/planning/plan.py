"""The plan of a run: multiply-adds, memory, disk and time of each of its parts, and their sum, before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.filesize import decimal

from ltdd_core.config.model import Config
from ltdd_core.evaluation.shown import amount
from ltdd_core.planning.counting import Work
from ltdd_core.planning.dry import hollow_set
from ltdd_core.planning.parts import Counted, LineOf, Part, counted
from ltdd_core.planning.rates import Rates, rates_here, rates_of_card
from ltdd_core.planning.sizes import DataSizes
from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.progress import clock_time
from ltdd_core.runs.devices import chunk_size, find_device
from ltdd_core.runs.precision import in_one_precision

BASE = 10**9
"""Bytes that a process at work takes beside its tensors, about: torch, and freed memory that it keeps.  A run of DM on
digits, whose tensors take 10 MB, has a peak of 1.08 GB."""
DECODING = 0.004
"""Seconds that a photograph takes to be decoded where nobody has measured it; assumed."""


@dataclass(frozen=True)
class PlannedPart:
    """A part of a run, as it is planned."""

    name: str
    """What it does."""
    multiply_adds: float
    """Of its convolutions and matrix products."""
    memory: int
    """Bytes of its tensors at their peak, on each GPU if there are several; of data, those of images that are not
    mapped from the cache of decoded ones."""
    disk: int
    """Bytes that it leaves on the disk."""
    seconds: float
    """On so many GPUs as there are."""


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    title: str
    """The run, in words."""
    parts: tuple[PlannedPart, ...]
    """In the order of the run."""
    seconds: float
    """Of all parts."""
    host_memory: int
    """Bytes that a process needs at its peak, beside a GPU."""
    device_memory: int | None
    """Bytes that it needs on a GPU; None where it computes on the CPU."""
    rates: Rates
    """How fast the machine is taken to be."""
    gpus: int
    """How many there are."""
    precision: str
    """``fp32`` or ``bf16``."""
    remarks: tuple[str, ...]
    """What is estimated, and how, a sentence each."""

    @property
    def multiply_adds(self) -> float:
        """Of all parts."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def disk(self) -> int:
        """Bytes that all parts leave on the disk."""
        return sum(part.disk for part in self.parts)

    def summary(self) -> str:
        """The sum, in a line."""
        longest = max(self.parts, key=lambda part: part.seconds)
        memory = self.host_memory if self.device_memory is None else self.device_memory
        return (
            f"this run is expected to take about {clock_time(self.seconds)}, {clock_time(longest.seconds)} of it for "
            f"{longest.name!r}: {amount(self.multiply_adds)} multiply-adds, {decimal(memory)} of memory, "
            f"{decimal(self.disk)} on the disk; the same options after `ltdd plan` say more"
        )

    def to_json(self) -> dict[str, Any]:
        """The document that ``ltdd plan --json`` prints."""
        return {
            "title": self.title,
            "parts": [asdict(part) for part in self.parts],
            "multiply_adds": self.multiply_adds,
            "disk": self.disk,
            "seconds": self.seconds,
            "host_memory": self.host_memory,
            "device_memory": self.device_memory,
            "gpus": self.gpus,
            "precision": self.precision,
            "rates": asdict(self.rates),
            "remarks": list(self.remarks),
        }


def plan(
    config: Config,
    sizes: DataSizes,
    *,
    on: str | None = None,
    gpus: int = 1,
    catalog: Catalog | None = None,
    lines: Sequence[LineOf] | None = None,
) -> Plan:
    """Plan a run: nothing is read, trained or kept, and no GPU is needed.

    Args:
        config: of the run.
        sizes: how much data it has.
        on: a card, whose data sheet says how fast it is; this machine unless given.
        gpus: how many of them there are.
        catalog: where the configuration was resolved; made anew unless given.
        lines: of the table; those of the configuration unless given.

    Raises:
        InputError: an unknown card, or what a run would refuse.
    """
    if on is None:
        config = in_one_precision(config)
        rates = rates_here(config.compute, find_device(config.compute))
    else:
        rates = rates_of_card(on)
    config = _to_count(config, rates, sizes.image_shape)
    data = hollow_set(sizes.title, sizes.counts, sizes.image_shape, sizes.tests, sizes.class_names)
    found = counted(config, data, catalog or installed(), lines, gpus=gpus)
    return _plan(config, sizes, rates, gpus, found)


def _to_count(config: Config, rates: Rates, image_shape: tuple[int, int, int]) -> Config:
    """The configuration of a dry run, which counts on the CPU what the machine or the card would do."""
    compute, device = config.compute, torch.device("cuda" if rates.on_gpu else "cpu")
    precision = compute.precision
    if precision == "auto":
        precision = "bf16" if rates.bf16 else "fp32"
    elif precision == "tf32":  # the CPU that counts has none; as fp32 it is planned from above
        precision = "fp32"
    chunk = chunk_size(compute, device, image_shape)
    changed = {"device": "cpu", "precision": precision, "chunk": chunk, "compile": False}
    return replace(config, compute=compute.model_copy(update=changed))


def _plan(config: Config, sizes: DataSizes, rates: Rates, gpus: int, found: Counted) -> Plan:
    data, computed = _data(sizes), [*found.beforehand, *found.method, *found.lines]
    pixels = math.prod(sizes.image_shape)
    planned = [_planned(part, rates) for part in computed]
    parts, images = [data, *planned], sizes.images * pixels
    peak = max((part.memory for part in planned), default=0)
    return Plan(
        f"{config.matcher.shown} on {sizes.title}: {sizes.images} training images of {len(sizes.counts)} classes, "
        f"{'x'.join(map(str, sizes.image_shape))}",
        tuple(parts),
        sum(part.seconds for part in parts),
        BASE + data.memory + (0 if rates.on_gpu else peak),
        images + peak if rates.on_gpu else None,
        rates,
        gpus,
        config.compute.precision,
        (*_about(rates, gpus), *found.remarks, *_about_data(sizes)),
    )


def _data(sizes: DataSizes) -> PlannedPart:
    """Decoding, and the images: in memory, or mapped from the cache of decoded ones."""
    images = sizes.images + sizes.tests
    held = images * math.prod(sizes.image_shape)
    decoding = DECODING if sizes.decoding is None else sizes.decoding
    if not decoding:
        return PlannedPart("data", 0, held, 0, 0.0)
    return PlannedPart("data", 0, 0, held, images * decoding)


def _planned(part: Part, rates: Rates) -> PlannedPart:
    """A part, as long as the first GPU takes for its share."""
    seconds = rates.seconds(_at_least_nothing(part.own))
    return PlannedPart(part.name, part.work.multiply_adds, part.peak, part.disk, seconds)


def _at_least_nothing(work: Work) -> Work:
    """A straight line may lead below 0 where a method does the same for any number of classes."""
    return Work(*(max(0.0, value) for value in (work.fp32, work.bf16, work.moved, work.calls, work.small)))


def side_by_side(seconds: Sequence[float], gpus: int) -> float:
    """How long some jobs take on so many GPUs, the longest first, each on one."""
    busy = [0.0] * gpus
    for job in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += job
    return max(busy)


def _about(rates: Rates, gpus: int) -> list[str]:
    half = f" in fp32, {amount(rates.bf16)} in bf16" if rates.bf16 else " in fp32"
    speed = f"{amount(rates.fp32)} multiply-adds a second{half}"
    rest = f"{amount(rates.bandwidth)} bytes a second, {rates.call * 1e6:.2g} microseconds an operation"
    if rates.factor == 1:
        how = "shares of its data sheet that are assumed (40 % of the multiply-adds, 60 % of the bandwidth)"
    else:
        how = f"as measured here, times {rates.factor:.2g}, as a training step was measured"
    said = [
        f"The times are estimates for {rates.name}: {speed}, {rest}; {how}. They may be off by a factor of three.",
        "Multiply-adds are counted; memory is what the tensors take, without what the allocator leaves unused. Nothing "
        "is taken to be trained already, and nothing to be compiled.",
    ]
    if gpus > 1:
        said.append(
            f"On {gpus} GPUs each does what a process of the run does: some of the classes, of a batch's images or of "
            "several teachers where the run shares them, and else all. What they send each other is left out."
        )
    return said


def _about_data(sizes: DataSizes) -> list[str]:
    if sizes.decoding is None:
        return [f"Decoding is taken to need {DECODING:g} s an image, by one process; nobody has measured it."]
    return []
