"""What a run computes on: CPU threads or a GPU, and how much goes through a network at once."""

from __future__ import annotations

import os
import shutil

import torch

from ltdd_core.config.model import Config
from ltdd_core.errors import InputError

CPU_PIXELS = 32 * 32 * 32
GPU_PIXELS = 2048 * 32 * 32


def prepare_device(config: Config) -> torch.device:
    """The device of a run; sets the number of CPU threads, and makes fp32 on a GPU fp32.

    Raises:
        InputError: CUDA, or compilation, is asked for and cannot be had.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    available = torch.cuda.is_available()
    if config.compute.device == "cuda" and not available:
        raise InputError("--device cuda: this machine has no usable CUDA device; use --device cpu or auto.")
    on_gpu = available and config.compute.device != "cpu"
    if config.compute.compile and not any(map(shutil.which, compilers(on_gpu))):
        raise InputError("--compile needs a compiler: install g++ (gcc for a GPU) or clang, or leave --compile out.")
    if on_gpu:
        torch.cuda.init()
        torch.backends.cudnn.allow_tf32 = False  # torch's default rounds the inputs of convolutions to 10 bits
    return torch.device("cuda" if on_gpu else "cpu")


def chunk_size(config: Config, device: torch.device, image_shape: tuple[int, int, int]) -> int:
    """Images at once: what a cache holds on a CPU, plenty on a GPU."""
    if config.compute.chunk is not None:
        return config.compute.chunk
    _, height, width = image_shape
    return max(1, (CPU_PIXELS if device.type == "cpu" else GPU_PIXELS) // (height * width))


def compilers(on_gpu: bool) -> list[str]:
    """Commands that torch.compile may use, the first that is there."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang") if on_gpu else (os.environ.get("CXX"), "g++", "clang++")
    return [name for name in names if name]
