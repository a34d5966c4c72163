"""What a user wrote, and where: the layers of a configuration, before anything is validated.

A layer is a tree such as::

    matcher: {name: dm, lr_img: 1.0}
    data: {name: cifar10-lt-1k, root: images}
    plugins: [twostage]
    ipc: 10

together with the file or option it comes from.  This module imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltdd_core.errors import InputError, OptionError, brief

Tree = dict[str, Any]
Presets = str | Sequence[str] | None
"""The name of a preset, or the names of several, of which a later one overrides the earlier ones."""
DEEPEST, MOST_VALUES = 50, 1_000_000
"""Of a configuration: levels, of which four are used, and values on one of them."""
SHOWN = 100
"""Letters of a wrong ``--set`` in a message."""
COMPONENTS = ("data", "sampler", "network", "matcher", "labeller", "head", "recipe")
BUDGET = {"rule", "total"}
"""The keys of ``ipc`` that share a number of images between the classes; its others say the number of some classes."""


@dataclass(frozen=True)
class Layer:
    """A tree and the place where the user wrote it, for messages."""

    origin: str
    tree: Tree

    def sets(self, place: Sequence[str]) -> bool:
        """Whether the value at ``place`` (a path of keys) is written here."""
        tree: Any = self.tree
        for key in place:
            if not isinstance(tree, dict) or key not in tree:
                return False
            tree = tree[key]
        return True


def from_file(path: Path) -> Layer:
    """A YAML configuration file.

    Raises:
        InputError: it cannot be read, holds a tag or anything else that is not plain data.
    """
    origin = _printable(str(path))
    try:
        tree = _plain_yaml(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {origin}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: not plain YAML: {_short(error)}.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{origin}: a configuration is a mapping, such as 'ipc: 10'.")
    return Layer(origin, tree)


def from_assignments(assignments: Sequence[str]) -> list[Layer]:
    """One layer for each ``--set path.to.option=value``; the value is YAML.

    Raises:
        InputError: it is not of that form.
    """
    layers = []
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = path.split(".")
        if not equals or not all(keys) or not path.isprintable() or len(keys) > DEEPEST:
            raise InputError(f"--set {_shown(text)}: write it as --set matcher.lr_img=1.0.")
        try:
            tree = _plain_yaml(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {_shown(text)}: the value is not plain YAML: {_short(error)}.") from error
        for key in reversed(keys):
            tree = {key: tree}
        layers.append(Layer(f"--set {_shown(path)}", tree))
    return layers


def said_again(layers: Sequence[Layer]) -> dict[str, Any]:
    """The last value of each ``--set`` whose option an earlier one has set to another value, by its ``--set PATH``."""
    last: dict[str, Any] = {}
    again: dict[str, Any] = {}
    for layer in layers:
        for path, value in flat(layer.tree).items():
            if last.setdefault(path, value) != value:
                again[f"--set {path}"] = value
            last[path] = value
    return again


def check_said_once(layers: Sequence[Layer]) -> None:
    """Refuse what would silently undo a ``--set``: an option that stands above it, or a ``--set`` of another form.

    Options stand below ``--set``, but for those that may be repeated, such as ``--network``.  The same ``--set`` again
    is no mistake: the last one counts.

    Args:
        layers: with all short forms spelt out, the lowest first; what is from the command line has its flag as origin.

    Raises:
        InputError: naming the option.
    """
    said: dict[tuple[str, ...], tuple[Layer, Any]] = {}
    for layer in layers:
        for path in paths(layer.tree) if layer.origin.startswith("--") else ():
            value: Any = layer.tree
            for key in path:
                value = value[key]
            if path in said:
                before, other = said[path]
                if value != other and layer.origin != before.origin:
                    raise InputError(
                        f"{layer.origin} says {brief(value)}, and {before.origin} {brief(other)}: keep one."
                    )
            if layer.origin.startswith("--set "):
                said[path] = layer, value


def _printable(text: str) -> str:
    """Text as a part of one line, whatever a terminal would make of it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _shown(text: str) -> str:
    """The same, and not all of it if it is long."""
    return _printable(text) if len(text) <= SHOWN else f"{_printable(text[:SHOWN])}..."


def normalised(layer: Layer) -> Layer:
    """The same with short forms spelt out: ``method: dm``, ``plugin: twostage``, ``head: linear``.

    Raises:
        InputError: a component is neither a name nor a mapping, or something is said twice.
    """
    tree = dict(layer.tree)
    for short, full in (("method", "matcher"), ("plugin", "plugins")):
        if short not in tree:
            continue
        written = tree.pop(short)
        if short == "method" and isinstance(tree.get(full), dict) and "name" not in tree[full]:
            tree[full] = {"name": written, **tree[full]}
        elif full in tree:
            raise InputError(f"{layer.origin}: {short!r} and {full!r} say the same; keep one.")
        else:
            tree[full] = written
    if isinstance(tree.get("plugins"), str):
        tree["plugins"] = [tree["plugins"]]
    for kind in COMPONENTS:
        if isinstance(tree.get(kind), str):
            tree[kind] = {"name": tree[kind]}
        if kind in tree and not isinstance(tree[kind], dict):
            raise InputError(f"{layer.origin}: {kind} is a name, or a mapping with a name and options.")
        if kind in tree and not isinstance(tree[kind].get("name", ""), str):
            raise InputError(f"{layer.origin}: {kind}.name must be a name, not {brief(tree[kind]['name'])}.")
    return Layer(layer.origin, tree)


def merged(layers: Sequence[Layer]) -> Tree:
    """Later layers above earlier ones.

    Who names another component drops the options that were written for the one before; those of a layer that
    names none, such as a preset's ``data: {normalisation: zca}``, are for whichever it will be.
    """
    tree: Tree = {}
    for_any: Tree = {kind: {} for kind in COMPONENTS}
    for layer in layers:
        for kind in COMPONENTS:
            section = layer.tree.get(kind, {})
            if "name" not in section:
                for_any[kind] = _merge(for_any[kind], section)
            elif kind in tree and section["name"] != tree[kind].get("name", section["name"]):
                tree[kind] = for_any[kind]
        if "ipc" in tree and isinstance(layer.tree.get("ipc"), dict):
            tree["ipc"] = _ipc_below(tree["ipc"], layer.tree["ipc"])
        tree = _merge(tree, layer.tree)
    return tree


def located(layers: Sequence[Layer], error: OptionError) -> OptionError:
    """The same error, each fault with the origin of the layer that wrote it: the highest one that did."""
    faults = {}
    for place, text in error.faults.items():
        origin = next((layer.origin for layer in reversed(layers) if layer.sets(place)), None)
        faults[place] = text if origin is None else f"{origin}: {text}"
    return OptionError(faults)


def paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The path of keys to everything in a tree that is not itself a tree."""
    for key, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from ((key, *path) for path in paths(branch))
        else:
            yield (key,)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        path: value
        for key, branch in tree.items()
        for path, value in flat(branch, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tree:
    both = dict(lower)
    for key, value in upper.items():
        below = both.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _other_component(below, value):
            both[key] = _merge(below, value)
        else:
            both[key] = value
    return both


def _ipc_below(lower: Any, upper: Tree) -> Tree:
    """What holds of lower numbers of images per class: one number is that of all classes, and a budget is none."""
    numbers = lower if isinstance(lower, dict) else {"all": lower}
    return numbers if bool(BUDGET & numbers.keys()) == bool(BUDGET & upper.keys()) else {}


def _other_component(lower: Tree, upper: Tree) -> bool:
    """Whether a section names another component, for which the options below it are not meant."""
    return "name" in lower and upper.get("name", lower["name"]) != lower["name"]


class _Loader(yaml.SafeLoader):
    """Plain data only, and no key twice: YAML's own loader keeps the last one and says nothing."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; of one that claims to be a number or a date, and is none, YAML raises anything."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"a value that cannot be read as {kind}", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are names."""
        if not isinstance(node, yaml.MappingNode):  # "!!map x"
            return super().construct_mapping(node, deep)  # says so
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # "<<", resolved by our parent
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"a key must be a name, not {key!r}: put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is there twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _plain_yaml(content: bytes | str) -> Any:
    try:
        tree = yaml.load(content, Loader=_Loader)  # noqa: S506 - a SafeLoader
        _check_size(tree)
    # Nested deeper than Python's stack; a date that does not exist; a number of thousands of digits.
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    return tree


def _check_size(tree: Any) -> None:
    """Refuse what anchors can build in a few lines: a tree that holds itself, or one of billions of values.

    Raises:
        yaml.YAMLError: saying which of both.
    """
    level = [tree]
    for _ in range(DEEPEST):
        inside = (
            value
            for branch in level
            if isinstance(branch, dict | list | tuple)  # a tuple is an item of YAML's !!omap
            for value in (branch.values() if isinstance(branch, dict) else branch)
        )
        level = list(itertools.islice(inside, MOST_VALUES + 1))
        if not level:
            return
        if len(level) > MOST_VALUES:
            raise yaml.YAMLError("too many values")
    raise yaml.YAMLError("nested too deeply")


def _short(error: yaml.YAMLError) -> str:
    """What is wrong and in which line, without the excerpt."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return _shown(f"line {error.problem_mark.line + 1}: {error.problem}")
    return _printable(" ".join(str(error).split())).rstrip(".")
