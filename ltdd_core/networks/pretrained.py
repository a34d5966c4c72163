"""Pretrained weights: a file of tensors by name, and how a network takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltdd_core.errors import InputError, how_to_set
from ltdd_core.storage import read_tensors

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth")
"""Endings of the files that are read."""
PARALLEL = "module."
"""What DataParallel puts in front of all names."""
WITHIN = "state_dict"
"""Where checkpoints of training scripts have the weights."""
LAYER = "linear."
"""What the names of the last layer of a network begin with."""
NOT_NEEDED = "num_batches_tracked"
"""A count that batch normalisation keeps and files of earlier versions of torch do not have."""
SHOWN = 3
"""Names in a message."""
DIGEST = re.compile("[0-9a-f]{32}")
"""What stands for a file of weights where it does not matter where the file lies."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, on the CPU; no code in it is run.

    Args:
        path: of a safetensors file, or of a state dict that ``torch.save`` wrote, perhaps under ``state_dict``.

    Raises:
        InputError: there is no such file, it is damaged, or it holds anything else than tensors by name; or the name is
            a digest, as a distilled set remembers weights by.
    """
    if DIGEST.fullmatch(str(path)):
        raise InputError(
            "the networks begin with pretrained weights, of which a distilled set knows no more than a digest: name "
            f"their file with {how_to_set('network.weights', 'FILE')}."
        )
    if path.suffix not in (*SAFETENSORS, *TORCH):
        raise InputError(f"{path}: weights are a file {', '.join((*SAFETENSORS, *TORCH))}.")
    tensors = read_tensors(path)[0] if path.suffix in SAFETENSORS else _state_dict(path)
    if not tensors:
        raise InputError(f"{path}: it holds no tensor.")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path}: a weight is not finite.")
    return {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file it raises anything; its own text advises to run the code in the file
        raise InputError(f"{path}: damaged, or it holds more than tensors, which is not read.") from error
    if isinstance(content, Mapping) and isinstance(content.get(WITHIN), Mapping):
        content = content[WITHIN]
    if not (isinstance(content, Mapping) and all(_plain(name, value) for name, value in content.items())):
        raise InputError(f"{path}: it is no state dict, which is tensors by name.")
    return dict(content)


def _plain(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided


def take_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefixes: Mapping[str, str]) -> None:
    """Put pretrained weights into a network; the last layer takes its own only where they fit.

    Args:
        network: its last layer is ``linear``.
        tensors: from :func:`read_weights`.
        path: the file, for messages.
        prefixes: what the file calls tensors whose own names begin so, unless it uses the own names.

    Raises:
        InputError: tensors of the body are missing, left over, or of another shape.
    """
    own = network.state_dict()
    if any(name in tensors for name in own if not name.startswith(LAYER)):
        prefixes = {}
    wanted = {_renamed(name, prefixes): tensor for name, tensor in own.items()}
    layer = prefixes.get(LAYER, LAYER)
    body = [name for name in wanted if not name.startswith(layer)]
    missing = [name for name in body if name not in tensors and not name.endswith(NOT_NEEDED)]
    left = [name for name in tensors if name not in wanted and not name.startswith(layer)]
    misfits = {name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape}
    reshaped = [f"{name} is {_shape(tensors[name])} and not {_shape(wanted[name])}" for name in body if name in misfits]
    parts = (_listed(missing, "missing"), _listed(left, "left over"), _listed(reshaped, "of another shape"))
    if faults := [part for part in parts if part]:
        raise InputError(f"{path}: not the weights of this network: {'; '.join(faults)}.")
    fits = all(name in tensors and name not in misfits for name in wanted if name.startswith(layer))
    with torch.no_grad():
        for name in wanted if fits else body:
            if name in tensors:
                wanted[name].copy_(tensors[name])


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """What a file calls a tensor of a network."""
    own = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefixes.get(own, "") + name.removeprefix(own)


def _listed(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
