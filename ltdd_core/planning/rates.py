"""How fast a machine is: as measured here, or by the data sheet of a card.

The time of some work is taken to be a sum: its multiply-adds over the rate of convolutions and matrix products, the
bytes that all other operations move over the bandwidth of the memory, and a time for each operation, in which Python
and torch start it.  Of a small network on a fast card it is the last that counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ltdd_core.config.model import Compute
from ltdd_core.errors import WriteError, unknown
from ltdd_core.networks.compiled import precision_context
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.planning.counting import Counting, Work, hollow
from ltdd_core.runs.devices import computing, machine_memory
from ltdd_core.runs.precision import name_of
from ltdd_core.seeding import global_generator
from ltdd_core.storage import cache_folder, write_atomically

FILE = "rates.json"
WARM_UP, REPEATS, LONG = 2, 10, 1.0
"""Repetitions that do not count, those that do, and seconds after which there are no more."""
CHANNELS, SIDE, DEPTH, IMAGES = 128, 32, 3, {"cpu": 32, "cuda": 512}
"""Of the network, of its maps, and of the convolution that is measured alone."""
MANY = 200
"""Small operations that are measured together."""


@dataclass(frozen=True)
class Rates:
    """How fast a machine or a card is."""

    name: str
    """What it is called."""
    fp32: float
    """Multiply-adds a second of convolutions in fp32."""
    bf16: float
    """Those in bf16; 0 where it has none."""
    bandwidth: float
    """Bytes a second that other operations move."""
    call: float
    """Seconds that it takes to start an operation on images, maps or gradients, autograd among it."""
    small: float
    """Seconds of an operation on a few numbers, such as a random draw, on the CPU."""
    memory: int | None = None
    """Bytes of memory of the card or of the machine; None where nobody knows."""
    on_gpu: bool = False
    """Whether it is a card beside the memory of a host."""
    factor: float = 1.0
    """Times as long as that sum a training step takes."""

    def seconds(self, work: Work) -> float:
        """What some work takes."""
        products = work.fp32 / self.fp32 + work.bf16 / (self.bf16 or self.fp32)
        calls = work.calls * self.call + work.small * self.small
        return self.factor * (products + work.moved / self.bandwidth + calls)


# ---- by data sheet -------------------------------------------------------------------------------

SHARE_OF_PRODUCTS, SHARE_OF_BANDWIDTH, CALL, SMALL = 0.4, 0.6, 3e-5, 5e-6
"""Shares of the data sheet that a training reaches, which are assumed, and seconds of an operation on the card and
beside it, which are such that steps of DM, DC, MTT and of a training that were measured on an H200 come out within a
factor of two (docs/results/speed.md, docs/scale.md)."""
CARDS: dict[str, tuple[str, float, float, float, float]] = {
    "h100": ("NVIDIA H100 SXM, 80 GB", 67, 989, 3.35, 80),
    "h200": ("NVIDIA H200 SXM, 141 GB", 67, 989, 4.8, 141),
    "a100": ("NVIDIA A100 SXM, 80 GB", 19.5, 312, 2.039, 80),
    "v100": ("NVIDIA V100 SXM2, 32 GB", 15.7, 0, 0.9, 32),
    "l40s": ("NVIDIA L40S, 48 GB", 91.6, 362, 0.864, 48),
    "rtx4090": ("NVIDIA GeForce RTX 4090, 24 GB", 82.6, 165.2, 1.008, 24),
    "rtx3090": ("NVIDIA GeForce RTX 3090, 24 GB", 35.6, 71, 0.936, 24),
    "t4": ("NVIDIA T4, 16 GB", 8.1, 0, 0.32, 16),
}
"""By data sheet: name, 10^12 operations a second in fp32 (without TF32) and in bf16 (dense, sums in fp32; 0: none),
10^12 bytes a second, GB.  A multiply-add is two operations.

Sources: NVIDIA's data sheets of the H100, H200, A100 (80GB SXM), V100, L40S and T4 Tensor Core GPUs; the white papers
"NVIDIA Ada GPU Architecture" and "NVIDIA Ampere GA102 GPU Architecture".
"""


def rates_of_card(card: str) -> Rates:
    """The rates of a card by its data sheet, with the assumed shares of it.

    Args:
        card: as in :data:`CARDS`, in upper or lower case.

    Raises:
        InputError: an unknown card.
    """
    key = card.lower().replace(" ", "").replace("-", "")
    if key not in CARDS:
        raise unknown("card", card, CARDS)
    name, fp32, bf16, bandwidth, memory = CARDS[key]
    half_share = SHARE_OF_PRODUCTS * 1e12 / 2
    return Rates(
        name,
        fp32 * half_share,
        bf16 * half_share,
        SHARE_OF_BANDWIDTH * bandwidth * 1e12,
        CALL,
        SMALL,
        int(memory * 1e9),
        True,
    )


# ---- measured ------------------------------------------------------------------------------------


def rates_here(compute: Compute, device: torch.device) -> Rates:
    """The rates of this machine, measured in a few seconds once and kept in the user's cache folder.

    Args:
        compute: says how many threads there are, and in which precision networks are trained.
        device: where a run computes.
    """
    precision = compute.precision
    with computing(compute, device):
        threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
        key = f"{name_of(device)}{threads}, {precision}"
        known = _read()
        if key not in known:
            rates = _measured(device, f"{name_of(device).split(', torch')[0]}{threads}")
            known[key] = asdict(replace(rates, factor=_factor(rates, precision, device)))
            _keep(known)
    return Rates(**{**known[key], "memory": _memory(device)})


def _factor(rates: Rates, precision: str, device: torch.device) -> float:
    """How many times as long as by the other rates a training step takes, of a ConvNet, counted and measured."""
    step = _Step(IMAGES[device.type], SIDE, CHANNELS, precision, device)
    return _seconds(step.take, device) / rates.seconds(step.work())


class _Step:
    """Forward and backward pass of a ConvNet, to count and to measure."""

    def __init__(self, images: int, side: int, width: int, precision: str, device: torch.device) -> None:
        self.shape, self.precision, self.device = (images, 3, side, side), precision, device
        with global_generator(0, "a network to measure with"):
            self.network = ConvNet((3, side, side), 10, ConvNet.Options(width=width, depth=DEPTH)).to(device)
        self.images = torch.zeros(self.shape, device=device)

    def take(self, images: torch.Tensor | None = None) -> None:
        """Take the step."""
        images = self.images if images is None else images
        with precision_context(self.precision, images.device):
            loss = self.network(images).float().square().sum()
        torch.autograd.grad(loss, list(self.network.parameters()))

    def work(self) -> Work:
        """Count it."""
        self.network.cpu()
        with Counting() as counting:
            self.take(hollow(*self.shape))
        self.network.to(self.device)
        return counting.work.so_far()


def _measured(device: torch.device, name: str) -> Rates:
    maps = torch.ones(IMAGES[device.type], CHANNELS, SIDE, SIDE, device=device)
    few, tiny = torch.ones(8), _Step(2, 8, 8, "fp32", device)

    def convolutions(dtype: torch.dtype) -> float:
        inputs, weights = maps.to(dtype), torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=dtype, device=device)
        number = maps.numel() * CHANNELS * 9
        return number / _seconds(lambda: torch.conv2d(inputs, weights, padding=1), device)

    def many_small() -> None:
        for _ in range(MANY):
            few.add(1)

    with torch.no_grad():
        try:
            half = convolutions(torch.bfloat16)
        except RuntimeError:  # a card without bf16
            half = 0.0
        fp32, moved = convolutions(torch.float32), 2 * maps.numel() * maps.itemsize
        bandwidth, small = moved / _seconds(maps.relu, device), _seconds(many_small, device) / MANY
    call = _seconds(tiny.take, device) / tiny.work().calls
    return Rates(name, fp32, half, bandwidth, call, small, on_gpu=device.type == "cuda")


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The least time of some work, since whatever else runs makes it longer."""
    taken: list[float] = []
    while len(taken) < WARM_UP + REPEATS and (len(taken) <= WARM_UP or sum(taken) < LONG):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[WARM_UP:])


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def _read() -> dict[str, dict[str, Any]]:
    """The measurements so far; none where the file is missing, damaged or of another version."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        folder = cache_folder()
        if folder is not None:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return {key: asdict(Rates(**rates)) for key, rates in found.items()}
    return {}


def _keep(known: dict[str, dict[str, Any]]) -> None:
    """Keep the measurements, if that is possible: else the next command measures again."""
    with suppress(OSError, WriteError):
        folder = cache_folder()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / FILE, json.dumps(known, indent=1).encode())
