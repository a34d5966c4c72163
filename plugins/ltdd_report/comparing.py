"""Compare classifiers of several runs on the same test images, with the noise of test images and of seeds.

Runs whose configurations differ only in the seed are one entry for each line of their tables.  An interval comes from
the bootstrap (Efron 1979): test images are drawn with replacement within each class, the same for all entries, so that
differences are paired; seeds are drawn with replacement within each entry.  An entry is among the best if its
difference from the most accurate one is not more than noise: the 95 per cent interval of the difference holds 0.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltdd_core import InputError, Interval, configure, draw_test_images, how_to_set, interval_of
from ltdd_report.reading import NO_METHOD, Record, RunRecord, check_predictions, predictions, test_set
from ltdd_report.trained import TrainedRecord, classifiers

Cost = Mapping[str, float | None]
"""What training a classifier costs, by the key of a row."""
COSTS = ("images_seen", "training_seconds", "multiply_adds")
DRAWS = 2000
LEVEL = 95.0  # per cent, of the intervals of ltdd_core
ROUNDING = 1e-9  # of a difference, in points


@dataclass(frozen=True)
class Entry:
    """One classifier over its seeds."""

    name: str
    images: str
    """The letter of the images that its runs trained on; "" where all runs trained on the same."""
    seeds: tuple[int, ...]
    accuracy: Interval
    std: Interval
    worst: Interval
    deviation: float
    """The accuracy's deviation (population) over the seeds, in points; 0 of a single one."""
    per_class: list[float | None]
    """None for a class without a test image, which counts nowhere."""
    behind: Interval | None
    """Points of accuracy behind the most accurate entry; None for that one."""
    among_best: bool
    cost: Cost = field(default_factory=dict)
    """Of training it, the mean over its seeds; None where that is not known."""


@dataclass(frozen=True)
class Difference:
    """An option that some configurations have different values of."""

    option: str
    """Its path: ``matcher.lr_img``."""
    values: Mapping[str, str]
    """Its value in each configuration that has it, by what tells the configurations apart; "" of none."""


@dataclass(frozen=True)
class Comparison:
    """All classifiers of some runs."""

    data: str
    class_names: list[str]
    counts: list[int]
    test_images: int
    entries: list[Entry]
    differences: list[Difference]
    """What differs between the configurations, but for seeds and for where they ran."""

    def to_json(self) -> dict[str, Any]:
        """What ``ltdd compare --json`` prints."""

        def of(interval: Interval | None) -> Any:
            return None if interval is None else [interval.value, interval.low, interval.high]

        rows = [
            {
                "name": entry.name,
                "images": entry.images or None,
                "seeds": list(entry.seeds),
                "accuracy": of(entry.accuracy),
                "std": of(entry.std),
                "worst": of(entry.worst),
                "deviation": entry.deviation,
                "per_class": entry.per_class,
                "behind": of(entry.behind),
                "among_best": entry.among_best,
                **{key: entry.cost.get(key) for key in COSTS},
            }
            for entry in self.entries
        ]
        differences = [{"option": found.option, "values": dict(found.values)} for found in self.differences]
        return {
            "data": self.data,
            "test_images": self.test_images,
            "draws": DRAWS,
            "level": LEVEL,
            "rows": rows,
            "differences": differences,
        }


def compare_runs(runs: Sequence[RunRecord | TrainedRecord]) -> Comparison:
    """Every line of every run, the most accurate first; runs that differ only in the seed are one entry.

    The rows of a folder of ``ltdd train`` or ``ltdd evaluate`` are entries of as many seeds as they have repeats.

    Raises:
        InputError: the runs have different test images, classes or counts, one is given twice, or the predictions of
            one are damaged or not those of its table.
    """
    labels = _common_labels(runs)
    entrants = [
        entrant
        for run, letter in zip(runs, _images_of(runs), strict=True)
        for entrant in _entrants(run, letter, labels)
    ]
    names = _names(entrants)
    tables, about = _tables(entrants, names, labels)
    resampled = dict(zip(tables, bootstrap(list(tables.values()), labels), strict=True))
    measured = {name: class_accuracy(right, labels) for name, right in tables.items()}
    accuracy = accuracy_of(np.unique(labels, return_counts=True)[1])
    best = max(measured, key=lambda name: float(accuracy(measured[name]).mean()))
    data = runs[0].data
    entries = []
    for name, (letter, seeds, cost) in about.items():
        found = (measured[name], resampled[name], measured[best], resampled[best])
        entries.append(replace(_entry(name, seeds, accuracy, *found, letter), cost=cost))
    for entry in entries:
        entry.per_class[:] = _of_all_classes(entry.per_class, labels, len(data["classes"]))
    ranked = sorted(entries, key=lambda entry: -entry.accuracy.value)
    differences = _differences(_by_name(entrants, names))
    return Comparison(data["name"], list(data["classes"]), list(data["counts"]), len(labels), ranked, differences)


@dataclass(frozen=True)
class Drawn:
    """An entry under the bootstrap."""

    classes: np.ndarray
    """Per cent right, ``[draws, seeds, classes]``, of the classes that have test images."""
    weights: np.ndarray
    """How often each seed was drawn, as a share, ``[draws, seeds]``."""

    def of(self, statistic: Statistic) -> np.ndarray:
        """A statistic of the classes, the mean over the seeds of a draw, ``[draws]``."""
        return np.asarray((statistic(self.classes) * self.weights).sum(1))


Statistic = Callable[[np.ndarray], np.ndarray]
"""Of per cent right ``[..., classes]``, over the classes."""


def accuracy_of(tests: np.ndarray) -> Statistic:
    """The share of all test images that are right, where the classes have so many: int ``[classes]``."""
    return lambda classes: np.asarray((classes * tests).sum(-1) / tests.sum())


def deviation(classes: np.ndarray) -> np.ndarray:
    """The deviation over classes (population)."""
    return np.asarray(classes.std(-1))


def worst(classes: np.ndarray) -> np.ndarray:
    """The worst class."""
    return np.asarray(classes.min(-1))


def bootstrap(tables: Sequence[np.ndarray], labels: np.ndarray, draws: int = DRAWS, seed: int = 0) -> list[Drawn]:
    """Draw test images within each class, the same for all entries, and the seeds of each entry, with replacement.

    Args:
        tables: for each entry bool ``[seeds, N]``: which test images each of its seeds has right.
        labels: int ``[N]``; a class that does not occur is left out.
        draws: how many times.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    resampled = draw_test_images(tables, labels, random, draws)
    weights = [random.multinomial(len(t), np.full(len(t), 1 / len(t)), size=draws) / len(t) for t in tables]
    return [Drawn(shares, weight) for shares, weight in zip(resampled, weights, strict=True)]


def class_accuracy(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per cent right of each class that has test images, ``[seeds, classes]``, of bool ``[seeds, N]``."""
    return np.stack([100 * right[:, labels == label].mean(1) for label in np.unique(labels)], 1)


def _of_all_classes(values: Sequence[float | None], labels: np.ndarray, classes: int) -> list[float | None]:
    """Values of the classes that have test images at the places of all, None for the others."""
    tested = dict(zip(np.unique(labels).tolist(), values, strict=True))
    return [tested.get(label) for label in range(classes)]


def _entry(
    name: str,
    seeds: list[int],
    accuracy: Statistic,
    measured: np.ndarray,
    resampled: Drawn,
    best: np.ndarray,
    best_resampled: Drawn,
    images: str = "",
) -> Entry:
    def interval(statistic: Statistic) -> Interval:
        return interval_of(float(statistic(measured).mean()), resampled.of(statistic))

    behind = None
    if resampled is not best_resampled:
        gap = best_resampled.of(accuracy) - resampled.of(accuracy)
        behind = interval_of(float(accuracy(best).mean() - accuracy(measured).mean()), gap)
    return Entry(
        name,
        images,
        tuple(seeds),
        interval(accuracy),
        interval(deviation),
        interval(worst),
        float(accuracy(measured).std()),
        measured.mean(0).tolist(),
        behind,
        behind is None or behind.low <= ROUNDING,
    )


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


def _entrants(record: RunRecord | TrainedRecord, letter: str, labels: np.ndarray) -> Iterator[Entrant]:
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


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean over seeds; None where it is not known of each."""
    columns = {key: [cost.get(key) for cost in costs] for key in COSTS}
    known = {key: [value for value in values if value is not None] for key, values in columns.items()}
    return {key: fmean(values) if len(values) == len(costs) else None for key, values in known.items()}


def _tables(
    entrants: Sequence[Entrant], names: Sequence[str], labels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, list[int], Cost]]]:
    """For each entry which test images each of its seeds has right; and the letter of its images, seeds and cost."""
    by_line: dict[str, dict[str, list[tuple[int, Tensor]]]] = {}
    costs: dict[tuple[str, str], list[Cost]] = {}
    for entrant, method in zip(entrants, names, strict=True):
        for line, log_p in entrant.said.items():
            by_line.setdefault(line, {}).setdefault(method, []).append((entrant.seed, log_p))
            costs.setdefault((line, method), []).append(entrant.costs.get(line, {}))
    letters = {name: entrant.settings.get(IMAGES, "") for name, entrant in zip(names, entrants, strict=True)}
    tables: dict[str, np.ndarray] = {}
    about: dict[str, tuple[str, list[int], Cost]] = {}
    for line, by_method in by_line.items():
        shared = len(by_method) > 1 and _all_same(list(by_method.values()))
        for method, by_seed in list(by_method.items())[: 1 if shared else None]:
            name = line if shared or len(letters) == 1 else f"{method}: {line}"
            tables[name] = np.stack([log_p.argmax(1).numpy() == labels for _, log_p in by_seed])
            about[name] = letters[method], [seed for seed, _ in by_seed], _mean_cost(costs[line, method])
    return tables, about


def _all_same(classifiers: Sequence[Sequence[tuple[int, Tensor]]]) -> bool:
    """Whether all methods have the same seeds and predictions, as they have of classifiers of the original images."""
    first, *rest = classifiers
    return all(
        len(classifier) == len(first)
        and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(classifier, first, strict=True))
        for classifier in rest
    )


def _common_labels(runs: Sequence[Record]) -> np.ndarray:
    """The labels of the test images that all runs share, int64 ``[N]``."""
    first = runs[0]
    for run in runs[1:]:
        for key in ("classes", "test_images", "counts"):
            if run.data[key] != first.data[key]:
                difference = key.replace("_", " ")
                raise InputError(f"{run.path} and {first.path} cannot be compared: they differ in {difference}.")
    images, labels = test_set(first)
    for run in runs[1:]:
        if _same_test_images(run, first):
            continue
        other_images, other_labels = test_set(run)
        if not torch.equal(other_labels, labels) or not torch.equal(other_images, images):
            raise InputError(f"{run.path} and {first.path} cannot be compared: they have different test images.")
    return labels.numpy()


def _same_test_images(run: Record, first: Record) -> bool:
    """Whether the files of two runs say so; if not, the images themselves have to be looked at.

    Another size of the images is no other test set: the digest of the test images is of what the source has.
    """
    if run.data.get("test_digest") is not None and run.data["test_digest"] == first.data.get("test_digest"):
        return True
    return bool(run.config["data"] == first.config["data"] and run.data.get("digest") == first.data.get("digest"))


def _images_of(runs: Sequence[Record]) -> list[str]:
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


def _names(entrants: Sequence[Entrant]) -> list[str]:
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


def _by_name(entrants: Sequence[Entrant], names: Sequence[str]) -> dict[str, Settings]:
    """The options by what tells the configurations apart; one that the rows of a table differ in has all its values."""
    values: dict[str, dict[str, dict[str, None]]] = {}
    for entrant, name in zip(entrants, names, strict=True):
        for option, value in entrant.settings.items():
            values.setdefault(name, {}).setdefault(option, {})[value] = None
    return {name: {option: " or ".join(found) for option, found in of.items()} for name, of in values.items()}


def _differences(settings: Mapping[str, Settings]) -> list[Difference]:
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
