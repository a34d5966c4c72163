"""What a run computes on: CPU threads or a GPU, and how much goes through a network at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch

from ltdd_core.config.model import Compute
from ltdd_core.errors import InputError, how_to_set

CPU_PIXELS = 32 * 32 * 32
GPU_PIXELS = 2048 * 32 * 32


SHARE_OF_DATA = 0.3
"""Share of the free memory of a GPU that images may take; more stay on the CPU, and go there batch by batch."""


def find_device(compute: Compute) -> torch.device:
    """The device that a run asks for.

    Raises:
        InputError: CUDA, TF32 or compilation is asked for and cannot be had.
    """
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        asked, instead = (how_to_set("compute.device", name) for name in ("cuda", "cpu"))
        raise InputError(f"{asked}: this machine has no usable CUDA device; use {instead} or auto.")
    on_gpu = available and compute.device != "cpu"
    device = torch.device("cuda" if on_gpu else "cpu")
    if compute.precision == "tf32" and not on_gpu:
        asked, instead = (how_to_set("compute.precision", name) for name in ("tf32", "fp32"))
        raise InputError(f"{asked} is for NVIDIA GPUs, and this run computes on the CPU; use {instead} or auto.")
    if compute.compile is True and not has_compiler(device):
        asked = how_to_set("compute.compile", True)
        raise InputError(f"{asked} needs a compiler: install g++ (gcc for a GPU) or clang, or leave {asked} out.")
    return device


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of the GNU C library
KEPT, LARGEST_KEPT, LARGEST_OF_OLD = 512 * 2**20, 256 * 2**20, 32 * 2**20
"""Bytes of freed memory that are kept; of the largest block among them, and that in versions before 2.35."""


@cache
def keep_freed_memory() -> None:
    """Let the C library keep freed memory for what is allocated next, once for the process.

    It gives large blocks back to the system at once unless told otherwise.  The maps of a network are such blocks, and
    a training in fp32 on a CPU then spends a quarter of its time, or more, on getting them again.  Who sets
    ``MALLOC_...`` has said what should happen; other C libraries are left alone.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        if not mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
            mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLD)


def give_back_freed_memory() -> None:
    """Let the system have what was kept, between two parts of a run: the next needs blocks of other sizes.

    What lies free between blocks that are used is given back, too.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def computing(compute: Compute, device: torch.device) -> Iterator[None]:
    """The CPU threads that a run asks for, and on a GPU TF32 only where it asks for that; both as before afterwards."""
    keep_freed_memory()
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    threads, before = torch.get_num_threads(), (convolutions.allow_tf32, products.allow_tf32)
    torch.set_num_threads(compute.threads or usual_threads())
    if device.type == "cuda":
        torch.cuda.init()
        # torch's default rounds the inputs of convolutions to 10 bits
        convolutions.allow_tf32 = products.allow_tf32 = compute.precision == "tf32"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        convolutions.allow_tf32, products.allow_tf32 = before


def usual_threads() -> int:
    """CPU threads where nobody says how many: as many as torch would take, but no more than a container may use.

    A container with one CPU of a machine with 64 would else compute with 64 threads that wait for one another.
    """
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:  # somebody has said how many
        return threads
    from joblib import cpu_count  # reads the quota of the control group

    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this machine that share the run
    return max(1, min(threads, cpu_count()) // sharing)


def chunk_size(compute: Compute, device: torch.device, image_shape: tuple[int, int, int]) -> int:
    """Images at once: what a cache holds on a CPU, plenty on a GPU."""
    if compute.chunk is not None:
        return compute.chunk
    _, height, width = image_shape
    return max(1, (CPU_PIXELS if device.type == "cpu" else GPU_PIXELS) // (height * width))


def has_room(device: torch.device, size: int) -> bool:
    """Whether a device has room for so many bytes and still has most of its memory for the work; a CPU always has."""
    return device.type != "cuda" or SHARE_OF_DATA * torch.cuda.mem_get_info(device)[0] >= size


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def peak_memory() -> int | None:
    """Bytes that this process has used at most so far: of the GPU where it has used one, else of the machine.

    None where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs for a device."""
    return any(map(shutil.which, compilers(on_gpu=device.type == "cuda")))


def compilers(on_gpu: bool) -> list[str]:
    """Commands that torch.compile may use, the first that is there."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang") if on_gpu else (os.environ.get("CXX"), "g++", "clang++")
    return [name for name in names if name]
