"""Which precision this machine trains networks in fastest, measured once and kept in the user's cache folder."""

from __future__ import annotations

import json
import platform
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from ltdd_core import ranks
from ltdd_core.config.model import MOST_TOGETHER, Compute, Config
from ltdd_core.errors import WriteError
from ltdd_core.networks.compiled import precision_context
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.runs.devices import computing, find_device
from ltdd_core.runs.folder import CONFIG, RunFolder
from ltdd_core.seeding import global_generator
from ltdd_core.storage import cache_folder, write_atomically

FILE = "precision.json"
FASTER = 1.1
"""Times as fast as fp32 that bf16 has to be to be worth its rounding."""
SHAPE, IMAGES = (3, 32, 32), {"cpu": 32, "cuda": 512}  # fewer would not keep a GPU busy
WARM_UP, REPEATS = 2, 5


def in_one_precision(config: Config, folder: Path | None = None) -> Config:
    """A configuration that names a precision: where it leaves that to the machine, the faster of bf16 and fp32.

    Args:
        config: the configuration.
        folder: of a run, which goes on in the precision that it began with, compiled if it was asked to be, and with as
            many networks at once.

    Raises:
        InputError: the device is asked for and cannot be had.
    """
    compute = config.compute
    if folder is not None and (folder / CONFIG).exists():
        compute = _as_begun(compute, folder)
    if compute.precision == "auto":
        faster = ranks.agreed("bf16" if bf16_speed(compute, find_device(compute)) >= FASTER else "fp32")
        compute = compute.model_copy(update={"precision": faster})
    return replace(config, compute=compute)


def _as_begun(compute: Compute, folder: Path) -> Compute:
    """What is left to the machine is as the run in a folder has it."""
    begun = RunFolder(folder).stored_config().get("compute", {})
    known = {
        "precision": ("fp32", "tf32", "bf16"),
        "compile": (True, False),
        "together": range(1, MOST_TOGETHER + 1),
    }
    left = [name for name in known if getattr(compute, name) == "auto"]
    return compute.model_copy(update={name: begun[name] for name in left if begun.get(name) in known[name]})


def bf16_speed(compute: Compute, device: torch.device) -> float:
    """How many times as fast as in fp32 a network is trained in bf16 here, measured once for a processor.

    0 where it cannot be measured, as on a GPU without bf16 or without room.

    Args:
        compute: says how many threads there are.
        device: where it is trained.
    """
    folder, machine = cache_folder(), name_of(device)
    known = _read(folder)
    if machine not in known:
        try:
            with computing(compute, device):
                known[machine] = round(_measured(device), 2)
        except RuntimeError:  # torch's, for either
            return 0.0
        _keep(folder, known)
    return known[machine]


def name_of(device: torch.device) -> str:
    """The name under which the measurement of a processor is kept, which others of its kind have too."""
    return f"{_processor(device)}, torch {torch.__version__}"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # where there is none of Linux's files
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _measured(device: torch.device) -> float:
    """The median time of a step of ConvNet-D3 in fp32 over that in bf16; the two take turns."""
    with global_generator(0, "a network to measure with"):
        network = ConvNet(SHAPE, 10, ConvNet.Options()).to(device)
    images = torch.zeros(IMAGES[device.type], *SHAPE, device=device)
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(WARM_UP + REPEATS):
        for precision, taken in seconds.items():
            began = time.perf_counter()
            with precision_context(precision, device):
                loss = network(images).float().square().sum()
            torch.autograd.grad(loss, list(network.parameters()))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - began)
    fp32, bf16 = (statistics.median(taken[WARM_UP:]) for taken in seconds.values())
    return fp32 / bf16


def _read(folder: Path | None) -> dict[str, float]:
    """The measurements so far; none where the file is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError):
        if folder is not None:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return {name: speed for name, speed in found.items() if isinstance(speed, int | float)}
    return {}


def _keep(folder: Path | None, known: dict[str, float]) -> None:
    """Keep the measurements, if that is possible: else the next command measures again."""
    with suppress(OSError, WriteError):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / FILE, json.dumps(known, indent=1).encode())
