"""Trained classifiers in the formats of other tools: torch.export programs, ONNX, weights with a config.json."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ltdd_core.errors import InputError, reason_of
from ltdd_core.evaluation.card import model_card
from ltdd_core.evaluation.head import Softmax
from ltdd_core.evaluation.stored import TrainedClassifier, load_classifier
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.cosine import CosineLinear
from ltdd_core.networks.network import Network
from ltdd_core.runs.distilled import DISTILLED_FILE
from ltdd_core.runs.export import check_target, format_of, written_as_a_whole
from ltdd_core.runs.folder import CLASSIFIERS
from ltdd_core.storage import json_text
from ltdd_core.training.trainer import FrozenBody

IMAGES, PROBABILITIES = "images", "probabilities"
"""What the input and the output of a graph are called."""
CARD, CONFIG, WEIGHTS, WHITENING = "model-card.md", "config.json", "model.safetensors", "normalisation.safetensors"
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_classifier(path: Path | str, kind: str, out: Path | str | None = None, line: str | None = None) -> Path:
    """Write a trained classifier for another tool, with a model card beside it.

    Args:
        path: the folder of a run or of ``ltdd train``, a folder of classifiers, or the file of a classifier.
        kind: ``torch``, ``onnx`` or ``state-dict``, as :func:`ltdd_core.export` describes them.
        out: a folder; ``export-KIND`` in the folder of the run unless given.
        line: of the result table of a run; the last one unless given.

    Returns:
        The folder.

    Raises:
        InputError: there is no such classifier, it does not suit the format, a package is missing, or ``out`` is
            there already or cannot be written.
    """
    path = Path(path)
    if path.name == DISTILLED_FILE:
        raise InputError(
            f"{path} is a distilled set, and {format_of(kind)} is for a classifier: "
            f"name the folder of the run, or a file in its folder {CLASSIFIERS}."
        )
    target = Path(out) if out is not None else _folder_of(path) / f"export-{kind}"
    check_target(target)
    if kind == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise InputError(f"{missing[0]} is not installed: pip install 'ltdd[onnx]'.")
    trained = load_classifier(path, line)
    prepared = FORMATS[kind](trained)

    def fill(folder: Path) -> None:
        prepared(folder)
        (folder / CARD).write_text(model_card(trained, kind, config_of(trained)), encoding="utf-8")

    written_as_a_whole(target, fill)
    return target


def _folder_of(path: Path) -> Path:
    """The run that a file or a folder of classifiers belongs to."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == CLASSIFIERS else folder


# ---- graphs ----------------------------------------------------------------------------------------


class Graph(nn.Module):
    """From raw images to probabilities.

    Args:
        trained: the classifier.
    """

    def __init__(self, trained: TrainedClassifier) -> None:
        super().__init__()
        self.normalise, self.classifier = trained.normalisation.layer(), trained

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities, float32 ``[n, classes]``.

        Args:
            images: float32 ``[n, C, H, W]`` in [0, 1].
        """
        return self.classifier(self.normalise(images)).float().exp()


def program_of(trained: TrainedClassifier) -> torch.export.ExportedProgram:
    """The graph of a classifier on the CPU, for any number of images.

    Args:
        trained: the classifier, on the CPU.

    Raises:
        InputError: torch cannot make a graph of it, since it branches on what a tensor holds, say.
    """
    images = torch.zeros(2, *trained.image_shape)
    shapes = {IMAGES: {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad():
            return torch.export.export(Graph(trained).eval(), (images,), dynamic_shapes=shapes)
    except Exception as error:  # whatever the code of whoever wrote the head leads torch to
        raise InputError(
            f"torch can make no graph of the classifier {trained.line!r}: use {format_of('state-dict')}, or ltdd "
            f"predict. It said: {reason_of(error):.200}."
        ) from error


def about(trained: TrainedClassifier) -> dict[str, Any]:
    """What goes into the file of a graph beside the graph."""
    return {
        "class_names": list(trained.class_names),
        "line": trained.line,
        IMAGES: "float32 [n, channels, height, width] from 0 to 1, not normalised",
        PROBABILITIES: "float32 [n, classes]",
    }


def _torch(trained: TrainedClassifier) -> Callable[[Path], None]:
    program = program_of(trained)

    def write(folder: Path) -> None:
        torch.export.save(program, folder / "classifier.pt2", extra_files={"about.json": json_text(about(trained))})

    return write


def _onnx(trained: TrainedClassifier) -> Callable[[Path], None]:
    program = program_of(trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its libraries will change
        graph = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[IMAGES],
            output_names=[PROBABILITIES],
            dynamic_shapes={IMAGES: {0: "batch"}},
            verbose=False,
        )
    if graph is None:  # torch's signature allows it
        raise InputError(f"torch made no ONNX graph of the classifier {trained.line!r}: use {format_of('torch')}.")
    texts = {name: value if isinstance(value, str) else json_text(value) for name, value in about(trained).items()}
    graph.model.metadata_props.update(texts)
    return lambda folder: graph.save(folder / "classifier.onnx")


# ---- weights ---------------------------------------------------------------------------------------


def _state_dict(trained: TrainedClassifier) -> Callable[[Path], None]:
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in weights_of(trained).items()}
    whitening = trained.normalisation.tensors()

    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(safetensors_bytes(weights, {"format": "pt"}))  # as the hub marks its own files
        if whitening:
            (folder / WHITENING).write_bytes(safetensors_bytes(whitening, {"format": "pt"}))
        (folder / CONFIG).write_text(json_text(config_of(trained), indent=2) + "\n", encoding="utf-8")

    return write


FORMATS: Mapping[str, Callable[[TrainedClassifier], Callable[[Path], None]]] = {
    "torch": _torch,
    "onnx": _onnx,
    "state-dict": _state_dict,
}
"""What each format makes of a classifier; the result writes it into a folder."""


def weights_of(trained: TrainedClassifier) -> dict[str, Tensor]:
    """Parameters and buffers by name; those of a classifier that is one network have the names of that network."""
    return dict(_tensors(_root(trained), ""))


def config_of(trained: TrainedClassifier) -> dict[str, Any]:
    """``config.json`` in the layout of timm and the Hugging Face hub; what is of ltdd alone is under ``ltdd``."""
    facts = trained.facts
    options = dict(facts.get("network") or {})
    name = options.pop("name", None)
    options.pop("weights", None)  # a file of pretrained weights; those that became of them are written here
    networks = [_about_network(prefix, network) for prefix, network in _networks(_root(trained), "")]
    normalisation = trained.normalisation.to_json()
    return {
        "architecture": name,
        "num_classes": len(trained.class_names),
        "num_features": networks[0]["num_features"] if networks else None,
        "label_names": list(trained.class_names),
        "model_args": options,
        "pretrained_cfg": {
            "architecture": name,
            "input_size": list(trained.image_shape),
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": normalisation.get("mean"),
            "std": normalisation.get("std"),
            "num_classes": len(trained.class_names),
            "classifier": "linear",
        },
        "ltdd": {
            "line": trained.line,
            "networks": networks,
            "normalisation": normalisation,
            "groups": None if trained.groups is None else trained.groups.tolist(),
            "counts": list(trained.counts),
            **{key: facts[key] for key in ("head", "sets", "seed", "versions", "calibration") if key in facts},
        },
    }


def _root(trained: TrainedClassifier) -> nn.Module:
    """The one network that a classifier is the softmax of; else the classifier."""
    classifier = trained.classifier
    if isinstance(classifier, Softmax) and isinstance(classifier.logits, Network):
        return classifier.logits
    return classifier


def _networks(module: nn.Module, prefix: str) -> Iterator[tuple[str, Network]]:
    """The networks in a module, and what the names of their tensors begin with."""
    if isinstance(module, Network):
        yield prefix, module
        return
    for name, part in module._modules.items():  # named_children() leaves out what occurs twice
        if part is not None:
            yield from _networks(part, f"{prefix}{name}.")


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a module, in which a network has the names that it has when nothing stands around it."""
    if isinstance(module, Network):
        yield from ((f"{prefix}{name}", tensor) for name, tensor in _of_network(module).items())
        return
    for own in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield from ((f"{prefix}{name}", tensor) for name, tensor in own)
    for name, part in module._modules.items():
        if part is not None:
            yield from _tensors(part, f"{prefix}{name}.")


def _of_network(network: Network) -> dict[str, Tensor]:
    """The state dict of a network; one in mixed precision or under a new last layer has the names of its body."""
    inside = _inside(network)
    if inside is None:
        return network.state_dict()
    body = {name: tensor for name, tensor in _of_network(inside).items() if not name.startswith("linear.")}
    return body | {f"linear.{name}": tensor for name, tensor in network.linear.state_dict().items()}


def _inside(network: Network) -> Network | None:
    if isinstance(network, CompiledNetwork):
        return network.inner
    return network.body if isinstance(network, FrozenBody) else None


def _about_network(prefix: str, network: Network) -> dict[str, Any]:
    last = network.linear
    scale = {"scale": last.scale} if isinstance(last, CosineLinear) else {}
    size = {"num_classes": last.out_features, "num_features": last.in_features}
    return {"prefix": prefix, **size, "last_layer": type(last).__name__, **scale}
