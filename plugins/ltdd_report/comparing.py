"""Compare classifiers of several runs on the same test images, with the noise of test images and of seeds.

Runs whose configurations differ only in the seed are one entry for each line of their tables.  An interval comes from
the bootstrap (Efron 1979): test images are drawn with replacement within each class, the same for all entries, so that
differences are paired; seeds are drawn with replacement within each entry.  An entry is among the best if its
difference from the most accurate one is not more than noise: the 95 per cent interval of the difference holds 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltdd_core import InputError, Interval, draw_test_images, interval_of, shares_of_classes
from ltdd_report.entrants import (
    COSTS,
    IMAGES,
    Cost,
    Difference,
    Entrant,
    differences_of,
    entrants_of,
    images_of,
    names_of,
    settings_by_name,
)
from ltdd_report.reading import Record, RunRecord, test_set
from ltdd_report.trained import TrainedRecord

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
    distributions: Mapping[str, Interval] = field(default_factory=dict)
    """The accuracy on each long-tailed test distribution that some run was asked for, by its name."""


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
                "test_distributions": {name: of(interval) for name, interval in entry.distributions.items()},
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
        for run, letter in zip(runs, images_of(runs), strict=True)
        for entrant in entrants_of(run, letter, labels)
    ]
    names = names_of(entrants)
    tables, about = _tables(entrants, names, labels)
    resampled = dict(zip(tables, bootstrap(list(tables.values()), labels), strict=True))
    measured = {name: class_accuracy(right, labels) for name, right in tables.items()}
    accuracy = accuracy_of(np.unique(labels, return_counts=True)[1])
    best = max(measured, key=lambda name: float(accuracy(measured[name]).mean()))
    data = runs[0].data
    under = distributions_of(runs, np.unique(labels))
    entries = []
    for name, (letter, seeds, cost) in about.items():
        found = (measured[name], resampled[name], measured[best], resampled[best])
        distributions = {each: resampled[name].interval(of, measured[name]) for each, of in under.items()}
        entry = _entry(name, seeds, accuracy, *found, letter)
        entries.append(replace(entry, cost=cost, distributions=distributions))
    for entry in entries:
        entry.per_class[:] = _of_all_classes(entry.per_class, labels, len(data["classes"]))
    ranked = sorted(entries, key=lambda entry: -entry.accuracy.value)
    differences = differences_of(settings_by_name(entrants, names))
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

    def interval(self, statistic: Statistic, measured: np.ndarray) -> Interval:
        """The mean of a statistic over the seeds, of what was measured, ``[seeds, classes]``, with its interval."""
        return interval_of(float(statistic(measured).mean()), self.of(statistic))


Statistic = Callable[[np.ndarray], np.ndarray]
"""Of per cent right ``[..., classes]``, over the classes."""


def accuracy_of(tests: np.ndarray) -> Statistic:
    """The share of all test images that are right, where the classes have so many, or such shares: ``[classes]``."""
    return lambda classes: np.asarray((classes * tests).sum(-1) / tests.sum())


def distributions_of(runs: Sequence[Record], tested: np.ndarray) -> dict[str, Statistic]:
    """The accuracy on each long-tailed test distribution that some run was asked for, by its name.

    All entries have it, asked or not: their predictions say it.

    Args:
        runs: of one data set.
        tested: the classes that have test images, int64.
    """
    imbalances = {float(factor) for run in runs for factor in run.config.get("test_imbalances", ())}
    if not imbalances:
        return {}
    shares = shares_of_classes(runs[0].data["counts"], sorted(imbalances))
    return {name: accuracy_of(share.numpy()[tested]) for name, share in shares.items()}


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
    behind = None
    if resampled is not best_resampled:
        gap = best_resampled.of(accuracy) - resampled.of(accuracy)
        behind = interval_of(float(accuracy(best).mean() - accuracy(measured).mean()), gap)
    return Entry(
        name,
        images,
        tuple(seeds),
        resampled.interval(accuracy, measured),
        resampled.interval(deviation, measured),
        resampled.interval(worst, measured),
        float(accuracy(measured).std()),
        measured.mean(0).tolist(),
        behind,
        behind is None or behind.low <= ROUNDING,
    )


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
