"""One configuration from many places: defaults < data source < preset < YAML file < command line.

A configuration is a tree such as::

    matcher: {name: dm, lr_img: 1.0}
    data: {name: cifar10-lt-1k, root: images}
    plugins: [twostage]
    ipc: 10

Every component declares its own options; here they are put together and validated, and what is wrong is
answered with where it was written and the nearest name that would have been right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from ltdd_core.catalog import Catalog
from ltdd_core.errors import InputError, unknown
from ltdd_core.interfaces import BaseOptions, option
from ltdd_core.training import TrainingOptions

Tree = dict[str, Any]
COMPONENTS = ("data", "sampler", "network", "matcher", "head", "recipe")
DEFAULT_NAMES = {
    "data": "digits-lt",
    "sampler": "instance",
    "network": "convnet-d3",
    "head": "linear",
    "recipe": "direct",
}


class RunOptions(BaseOptions):
    """What every run has."""

    ipc: int = option(10, "synthetic images per class", ge=1)
    iterations: int = option(1000, "steps of the matcher; the published lengths are in the presets", ge=1)
    init: str = option("real", "initial images: real (drawn by the sampler), or noise")
    augment: str = option(
        "color_crop_cutout_flip_scale_rotate",
        "differentiable augmentation in matching and training, operations joined by _, or none",
        source="DSA, public code",
    )
    seed: int = option(0, "of everything random but the cut to the long tail (data.seed)", ge=0)
    plugins: tuple[str, ...] = option((), "active plugins: they choose components and watch the run")


class OriginalTraining(TrainingOptions):
    """Training on the long-tailed set: fewer epochs, since each sees many more images."""

    epochs: int = option(60, "passes over the images", ge=1)
    lr: float = option(0.05, "initial learning rate", gt=0)


class DistilledTraining(TrainingOptions):
    """Training on the distilled set."""

    epochs: int = option(1000, "passes over the images", source="DSA, public code", ge=1)


class Training(BaseOptions):
    """How networks are trained on the original and on the distilled set."""

    original: OriginalTraining = OriginalTraining()
    distilled: DistilledTraining = DistilledTraining()


class Compute(BaseOptions):
    """What a run computes with; nothing here is part of the science."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto takes the GPU where there is one")
    threads: int | None = option(None, "CPU threads; all cores unless given", ge=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "of networks while matching; fp32 is the reference")
    compile: bool = option(False, "compile the network while matching (needs a C++ compiler on a CPU)")
    checkpoint_every: int = option(20, "steps between checkpoints", ge=1)
    chunk: int | None = option(None, "real images at once without gradient; 32 on a CPU, 2048 on a GPU", ge=1)


@dataclass(frozen=True)
class Selection:
    """A component that was chosen: its name, its validated options, its class and who offers it."""

    kind: str
    name: str
    options: Any
    component: Any
    owner: str

    def make(self) -> Any:
        """A new instance."""
        return self.component(self.options)

    def to_tree(self) -> Tree:
        """Name and all options, as in a configuration file."""
        return {"name": self.name, **self.options.model_dump(mode="json")}


@dataclass(frozen=True)
class Config:
    """A resolved configuration."""

    data: Selection
    sampler: Selection
    network: Selection
    matcher: Selection
    head: Selection
    recipe: Selection
    run: RunOptions
    training: Training
    compute: Compute

    def to_tree(self) -> Tree:
        """Everything spelt out; resolving it again gives the same configuration."""
        tree: Tree = {kind: getattr(self, kind).to_tree() for kind in COMPONENTS}
        tree.update(self.run.model_dump(mode="json"))
        tree["training"] = self.training.model_dump(mode="json")
        tree["compute"] = self.compute.model_dump(mode="json")
        return tree

    def science(self) -> Tree:
        """The part that decides the result: without folders, devices and the like."""
        tree = self.to_tree()
        tree["data"].pop("root", None)
        tree["compute"] = {key: tree["compute"][key] for key in ("precision", "compile")}
        return tree


@dataclass(frozen=True)
class Layer:
    """A tree and the place where the user wrote it, for messages."""

    origin: str
    tree: Tree


def resolve(catalog: Catalog, layers: Sequence[Layer], preset: str | None = None) -> Config:
    """Put layers together, later ones above earlier ones, and validate the result.

    Raises:
        InputError: an unknown name, an unknown option, a value out of range.
    """
    given = [Layer(layer.origin, _normal(layer)) for layer in layers]
    if preset is not None:
        given.insert(0, Layer(f"preset {preset!r}", _normal(Layer("", catalog.get("preset", preset).load()))))
    wanted = merged(given)
    given.insert(1 if preset is not None else 0, Layer("--plugin", _chosen_by_plugins(catalog, wanted)))
    given.insert(0, Layer("default", {kind: {"name": name} for kind, name in DEFAULT_NAMES.items()}))
    source = catalog.get("data", merged(given)["data"]["name"])
    given.insert(1, Layer(f"data source {source.name!r}", dict(source.load().suggested)))
    return _validated(catalog, merged(given), given)


def from_file(path: Path) -> Layer:
    """A YAML configuration file.

    Raises:
        InputError: it cannot be read, holds a tag or anything else that is not plain data.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not plain YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a configuration is a mapping, such as 'ipc: 10'.")
    return Layer(str(path), tree)


def from_assignments(assignments: Sequence[str]) -> list[Layer]:
    """One layer for each ``--set path.to.option=value``; the value is YAML.

    Raises:
        InputError: it is not of that form.
    """
    layers = []
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise InputError(f"--set {text}: write it as --set matcher.lr_img=1.0.")
        try:
            tree = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text}: the value is not plain YAML.") from error
        for key in reversed(path.split(".")):
            tree = {key: tree}
        layers.append(Layer(f"--set {path}", tree))
    return layers


def validate_options(what: str, model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Make an ``Options`` object.

    Raises:
        InputError: with every wrong value, and the nearest name for an unknown one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(" ".join(_explain(what, model, one) for one in error.errors())) from error


def _explain(what: str, model: type[BaseModel], error: Any) -> str:
    place = [part for part in error["loc"] if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        for part in place[:-1]:
            model = model.model_fields[part].annotation  # type: ignore[assignment]
        return str(unknown(f"option of {what}:", place[-1], model.model_fields))
    name = ".".join([what, *(str(part) for part in error["loc"])])
    return f"{name}: {error['msg'][0].lower() + error['msg'][1:]} (got {error['input']!r})."


def _normal(layer: Layer) -> Tree:
    """Short forms spelt out: ``method: dm``, ``plugin: twostage``, ``head: linear``."""
    tree = dict(layer.tree)
    if "method" in tree:
        tree["matcher"] = _merge({"name": tree.pop("method")}, tree.get("matcher") or {})
    if "plugin" in tree:
        tree["plugins"] = tree.pop("plugin")
    if isinstance(tree.get("plugins"), str):
        tree["plugins"] = [tree["plugins"]]
    for kind in COMPONENTS:
        if isinstance(tree.get(kind), str):
            tree[kind] = {"name": tree[kind]}
        if kind in tree and not isinstance(tree[kind], dict):
            raise InputError(f"{layer.origin}: {kind} is a name, or a mapping with a name and options.")
        if kind in tree and not isinstance(tree[kind].get("name", ""), str):
            raise InputError(f"{layer.origin}: {kind}.name must be a name.")
    return tree


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tree:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            other_component = key in COMPONENTS and value.get("name", below.get("name")) != below.get("name")
            merged[key] = dict(value) if other_component and "name" in below else _merge(below, value)
        else:
            merged[key] = value
    return merged


def merged(layers: Sequence[Layer]) -> Tree:
    """Later layers above earlier ones."""
    tree: Tree = {}
    for layer in layers:
        tree = _merge(tree, layer.tree)
    return tree


def _chosen_by_plugins(catalog: Catalog, wanted: Tree) -> Tree:
    names = wanted.get("plugins") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError("plugins must be a list of names.")
    chosen: dict[str, tuple[str, str]] = {}
    for plugin in catalog.plugins.named(names):
        answer = catalog.plugins.call(plugin, "ltdd_choose", config=wanted) or {}
        for kind, name in answer.items():
            if kind not in COMPONENTS:
                raise InputError(f"plugin {plugin.name!r} ({plugin}) chooses for {kind!r}, which does not exist.")
            if kind in chosen and chosen[kind][0] != name:
                raise InputError(
                    f"plugins {chosen[kind][1]!r} and {plugin.name!r} choose different {kind}s, "
                    f"{chosen[kind][0]!r} and {name!r}: name one with --set {kind}.name=NAME."
                )
            chosen[kind] = name, plugin.name
    return {kind: {"name": name} for kind, (name, _) in chosen.items()}


def _validated(catalog: Catalog, tree: Tree, layers: Sequence[Layer]) -> Config:
    sections = {*COMPONENTS, "training", "compute", *RunOptions.model_fields}
    for key in tree:
        if key not in sections:
            raise _located(layers, key, unknown("option", key, {*sections, "method", "plugin"} - {"matcher"}))
    if "name" not in tree.get("matcher", {}):
        raise InputError(f"name a method: --method {'|'.join(catalog.names('matcher'))}.")
    run = {key: value for key, value in tree.items() if key in RunOptions.model_fields}
    try:
        return Config(
            **{kind: select(catalog, kind, tree[kind]) for kind in COMPONENTS},
            run=validate_options("run", RunOptions, run),
            training=validate_options("training", Training, tree.get("training") or {}),
            compute=validate_options("compute", Compute, tree.get("compute") or {}),
        )
    except InputError as error:
        raise _located(layers, str(error), error) from error


def select(catalog: Catalog, kind: str, section: Mapping[str, Any]) -> Selection:
    """A component of a kind from its section: ``{"name": ..., option: value, ...}``.

    Raises:
        InputError: an unknown name or option, a value out of range.
    """
    entry = catalog.get(kind, section["name"])
    component = entry.load()
    values = {key: value for key, value in section.items() if key != "name"}
    options = validate_options(f"{kind} {entry.name}", component.Options, values)
    return Selection(kind, entry.name, options, component, str(entry.owner))


def _located(layers: Sequence[Layer], text: str, error: InputError) -> InputError:
    """Put in front of a message the file or option that wrote what it complains about, if one can tell."""
    for layer in reversed(layers):
        if layer.origin.startswith(("default", "--plugin", "data source")):
            continue
        leaves = _leaves(layer.tree)
        if any(f"'{leaf}'" in text or f".{leaf}:" in text or leaf == text for leaf in leaves):
            return InputError(f"{layer.origin}: {error}")
    return error


def _leaves(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in (str(key), *_leaves(value))]
    return [tree] if isinstance(tree, str) else []
