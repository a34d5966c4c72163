"""The classifiers that are compared: what tells their configurations apart, and how each is called."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ltdd_core import InputError, configure, how_to_set
from ltdd_report.reading import NO_METHOD, Record, RunRecord, check_predictions, predictions
from ltdd_report.trained import TrainedRecord, classifiers

Cost = Mapping[str, float | None]
"""What training a classifier costs, by the key of a row."""
COSTS = ("images_seen", "training_seconds", "multiply_adds")
Settings = Mapping[str, str]
"""The options of a configuration by path, but for the seed and for where it ran; with :data:`IMAGES` if they differ."""
OTHER_IMAGES = (
    "A letter after images= marks runs on the same images. All have the same test images; the training images or the "
    "sizes of images differ."
)
IMAGES, DISTILLED = "images", "distilled"
"""No options: the letter of the images of a run, where not all runs are on the same; the run that was evaluated."""
PLUGINS, BETWEEN = "plugins", ", "
"""The option that takes several values, and what stands between them."""


@dataclass(frozen=True)
class Entrant:
    """Classifiers of one configuration and one seed."""

    method: str
    settings: Settings
    unusual: frozenset[str] | None
    """The options that a command has to name beside the method and the plugins; None where that is not known."""
    seed: int
    said: Mapping[str, Tensor]
    """The log-probabilities of each line, float32 ``[N, classes]``."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """What training each line cost, where it is known."""


def entrants_of(record: RunRecord | TrainedRecord, letter: str, labels: np.ndarray) -> Iterator[Entrant]:
    """What a folder has to compare: a run its lines, a table of classifiers each row with each seed."""
    settings = {**_settings(record), **({IMAGES: letter} if letter else {})}
    if isinstance(record, RunRecord):
        said = predictions(record)
        for line, log_p in said.items():
            check_predictions(record, line, log_p, labels)
        seed = int(record.config["seed"])
        costs = {row["name"]: _cost(row) for row in record.rows}
        yield Entrant(record.config["matcher"]["name"], settings, _unusual(record), seed, said, costs)
        return
    chosen = list(record.chosen())
    method = "train" if record.method is None else f"evaluate {record.method}"
    distilled = {} if record.method is None else {DISTILLED: record.report["distilled"]["run"]}
    for number, seed, log_p in classifiers(record, labels):
        row, head, network = chosen[number]
        shared = {key: value for key, value in settings.items() if key.partition(".")[0] not in ("head", "network")}
        own = {**shared, **distilled, **_flat({"head": head, "network": network})}
        yield Entrant(method, own, None, seed, {row["name"]: log_p}, {row["name"]: _cost(row)})


def _cost(row: Mapping[str, Any]) -> Cost:
    return {key: row.get(key) for key in COSTS}


@dataclass(frozen=True)
class Difference:
    """An option that some configurations have different values of."""

    option: str
    """Its path: ``matcher.lr_img``."""
    values: Mapping[str, str]
    """Its value in each configuration that has it, by what tells the configurations apart; "" of none."""


def images_of(runs: Sequence[Record]) -> list[str]:
    """A letter for the images of each run, A for those of the first; "" where all are the same.

    A run of an earlier version has no digest of its images, and is taken to be on those of the first.
    """
    digests = [run.data.get("digest") for run in runs]
    first = next((digest for digest in digests if digest is not None), None)
    known = list(dict.fromkeys(digest or first for digest in digests))
    return ["" if len(known) == 1 else _letter(known.index(digest or first)) for digest in digests]


def _letter(index: int) -> str:
    """A to Z, then A1, B1 and so on."""
    round_, place = divmod(index, 26)
    return f"{chr(ord('A') + place)}{round_ or ''}"


def names_of(entrants: Sequence[Entrant]) -> list[str]:
    """What tells each from those that differ from it in more than the seed: the method, and what else differs."""
    identities = {(entrant.method, *entrant.settings.items(), entrant.seed, *entrant.said) for entrant in entrants}
    if len(identities) < len(entrants):
        raise InputError("a run is given twice, or two runs have the same configuration and seed.")
    names = [_name(entrant, entrants) for entrant in entrants]
    pairs = itertools.combinations(zip(names, entrants, strict=True), 2)
    if any(name == other and one.settings != two.settings and _alike(one, two) for (name, one), (other, two) in pairs):
        return [_name(replace(entrant, unusual=None), entrants) for entrant in entrants]
    return names


def _alike(one: Entrant, other: Entrant) -> bool:
    """Whether their names have to tell them apart: the method is the same, and so is a line."""
    return one.method == other.method and bool(one.said.keys() & other.said.keys())


def _name(entrant: Entrant, entrants: Sequence[Entrant]) -> str:
    """The method, and the options in which it differs from the others of the method that have a line of that name.

    They stand as the command line has them, and what it need not say is left out where that is known.
    """
    flat = entrant.settings
    alike = [other for other in entrants if _alike(entrant, other)]
    listed = []
    for key in flat:
        component = _component(key)
        have_it = [
            other.settings
            for other in alike
            if key == component or other.settings.get(component) == flat.get(component)
        ]
        differs = any(setting.get(key) != flat[key] for setting in have_it)
        if entrant.unusual is not None and key != IMAGES:
            differs = key in entrant.unusual and (differs or len(have_it) < len(alike))
        if differs:
            listed.append(written(key, flat[key]))
    told = " ".join(filter(None, listed))
    return f"{entrant.method} ({told})" if told else entrant.method


def written(option: str, value: str) -> str:
    """An option with its value as the command line takes it; "" of one without a value.

    Args:
        option: its path, as in :attr:`Difference.option`.
        value: as in :attr:`Difference.values`.
    """
    if option in (IMAGES, DISTILLED):
        return f"{option}={value}"
    values = value.split(BETWEEN) if option == PLUGINS else [value]
    return " ".join(how_to_set(option, one) for one in values if one)


def _component(option: str) -> str:
    """The option that names the component which an option is of, if it is of one: ``head.name`` for ``head.a``."""
    return f"{option.partition('.')[0]}.name"


def _unusual(run: RunRecord) -> frozenset[str] | None:
    """The options that a command has to name to get the configuration of a run; None where a plugin is not here."""
    data = {key: run.config["data"][key] for key in ("name", "root") if key in run.config["data"]}
    least = {"data": data, "matcher": run.config["matcher"]["name"], PLUGINS: run.config.get(PLUGINS, [])}
    try:
        changes, usual = _flat(configure(**run.config).changes()), _flat(configure(**least).to_tree())
    except InputError:
        return None
    return frozenset([PLUGINS, *(option for option, value in changes.items() if usual.get(option) != value)])


def settings_by_name(entrants: Sequence[Entrant], names: Sequence[str]) -> dict[str, Settings]:
    """The options by what tells the configurations apart; one that the rows of a table differ in has all its values."""
    values: dict[str, dict[str, dict[str, None]]] = {}
    for entrant, name in zip(entrants, names, strict=True):
        for option, value in entrant.settings.items():
            values.setdefault(name, {}).setdefault(option, {})[value] = None
    return {name: {option: " or ".join(found) for option, found in of.items()} for name, of in values.items()}


def differences_of(settings: Mapping[str, Settings]) -> list[Difference]:
    """The options with different values; that a component has options that another one lacks is no difference.

    That a run has a component where another has none is one.
    """
    found = []
    for option in dict.fromkeys(option for setting in settings.values() for option in setting if option != IMAGES):
        name = _component(option)
        by_component: dict[str | None, set[str]] = {}
        for setting in settings.values():
            if option in setting:
                component = None if option == name else setting.get(name)
                by_component.setdefault(component, set()).add(setting[option])
        lacking = option == name and any(option not in setting for setting in settings.values())
        if lacking or any(len(values) > 1 for values in by_component.values()):
            values = {which: setting[option] for which, setting in settings.items() if option in setting}
            found.append(Difference(option, values))
    return found


NO_PART = ("seed", "compute", "test_imbalances")
"""Of a configuration, what tells no classifiers apart."""


def _settings(record: Record) -> Settings:
    """The options of a run, or those that the rows of a table of classifiers share."""
    tree = {key: value for key, value in record.config.items() if key not in NO_PART and value != NO_METHOD}
    tree["data"] = {key: value for key, value in tree["data"].items() if key not in ("root", "title")}
    if not isinstance(record, RunRecord):  # its configuration has the defaults of a distillation, which nobody ran
        tree = {key: value for key, value in tree.items() if key not in ("ipc", "iterations", "init")}
    return _flat(tree)


def _flat(tree: Any, path: str = "") -> dict[str, str]:
    """``{"a": {"b": 1}}`` as ``{"a.b": "1"}``, values as ``--set`` takes them; "" for None and for no plugin."""
    if path == PLUGINS:
        return {path: BETWEEN.join(tree)}
    if not isinstance(tree, dict):
        return {path: "" if tree is None else tree if isinstance(tree, str) else json.dumps(tree)}
    branches = (_flat(branch, f"{path}.{key}" if path else str(key)) for key, branch in tree.items())
    return {key: value for branch in branches for key, value in branch.items()}
