"""Whether a step of a training fits into memory, where its images have to go through the network together.

Batch normalisation sees a batch as a whole, so no chunk makes such a step smaller.  On a GPU torch says that memory ran
out; on a CPU the system would end the process without a word.
"""

from __future__ import annotations

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ltdd_core.data.memory import memory_of_machine
from ltdd_core.errors import DoesNotFit
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.network import Network

TRIED = 3  # images


def check_step_fits(network: Network, shape: tuple[int, int, int], images: int, precision: str, what: str) -> None:
    """Refuse a step for which the machine does not have the memory.

    Args:
        network: to be trained; it stays as it is.
        shape: ``(C, H, W)`` of the images.
        images: of the step.
        precision: of the features, ``fp32`` or ``bf16``.
        what: is trained, in words.

    Raises:
        DoesNotFit: it does not fit.
    """
    there = memory_of_machine()
    on_cpu = next(network.parameters()).device.type == "cpu"
    if there is None or not on_cpu or not any(isinstance(layer, _BATCH_NORM) for layer in network.modules()):
        return
    needed = bytes_of_step(network, shape, images, precision)
    if needed > there:
        raise DoesNotFit(
            f"{what}: a step of {images} images of {shape[2]}x{shape[1]} pixels takes about {decimal(needed)} of "
            f"memory, and there are {decimal(there)}. Batch normalisation sees a batch as a whole, so use a smaller "
            "batch, a narrower network or smaller images."
        )


_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def bytes_of_step(network: Network, shape: tuple[int, int, int], images: int, precision: str) -> int:
    """About what a step takes: the maps that are kept for the gradient, and gradients as large as one of them.

    Args:
        network: one image after another would go through it as well as all at once.
        shape: ``(C, H, W)`` of the images.
        images: of the step.
        precision: of the features.
    """
    kept = dict[int, Tensor]()  # the tensors themselves, so that none has the place of another

    def note(value: Tensor) -> Tensor:
        if value.dim() and len(value) == TRIED:  # weights and statistics are kept once, however many images there are
            kept[value.untyped_storage().data_ptr()] = value
        return value

    training, first = network.training, next(network.parameters())
    network.eval()  # draws nothing, and leaves running statistics alone
    try:
        with torch.enable_grad(), saved_tensors_hooks(note, lambda value: value):
            CompiledNetwork(network, precision, compiled=False)(first.new_zeros(TRIED, *shape))
    finally:
        network.train(training)
    most = before = 0
    for value in kept.values():  # when the gradient comes to a map, those before it are there, and two gradients
        size = value.untyped_storage().nbytes()
        before += size
        most = max(most, before + 2 * size)
    return round(most * images / TRIED)
