"""The work of ``ltdd compare-methods``: measure the methods, make their runs, score their classifiers.

Everything is kept in one folder: ``plan.json`` has the steps of each method, ``METHOD-seedN`` are runs as
``ltdd distill`` makes them, ``networks`` is the network store of all.  What is there is not done again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltdd_core import (
    Config,
    Display,
    InputError,
    LongTailedSet,
    Result,
    RunFailed,
    distill,
    load_classifier,
    write_atomically,
    writing,
)
from ltdd_methods.budget import Measured, measure
from ltdd_methods.contest import Entry

PLAN = "plan.json"
NO_TIME = "it has not taken a step when the time is over"
DISTILLED = "distilled"

HALF = 0.5
"""Share of the time that a method may prepare itself with its usual options, if it has a quick preset."""

Configure = Callable[[str, int, int, str], Config]
"""``(method, seed, iterations, preset) -> configuration``; with 0 iterations, as many as there are unless given; with
an empty preset, none of the method.

Raises:
    InputError: the method cannot be had.
"""
Report = Callable[[str], None]


@dataclass
class Plan:
    """What is compared in a folder, and how many steps each method takes."""

    path: Path
    asked: Mapping[str, Any]
    """All that every run of the folder has in common, as JSON."""
    methods: dict[str, Measured | None] = field(default_factory=dict)
    """None of a method that has no time for a step."""

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any]) -> Plan:
        """The plan of a folder; a new one where there is none.

        Raises:
            InputError: something else is compared in the folder, or the plan is damaged.
        """
        path = folder / PLAN
        if not path.exists():
            return cls(path, asked)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            methods = {name: known and Measured(**known) for name, known in stored["methods"].items()}
            before = stored["asked"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged: delete it, and the methods are measured again.") from error
        now = json.loads(json.dumps(asked))
        if differing := [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]:
            raise InputError(f"{folder} has a comparison with another {' and '.join(differing)}: name another --out.")
        return cls(path, asked, methods)

    def write(self) -> None:
        """Keep what the methods do in their time.

        Raises:
            InputError: the file cannot be written.
        """
        known = {name: one and asdict(one) for name, one in self.methods.items()}
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps({"asked": self.asked, "methods": known}, indent=1) + "\n").encode())


@dataclass
class Outcome:
    """What became of the methods."""

    runs: dict[str, list[Result]]
    """The runs of each method, a seed after the other."""
    left_out: dict[str, str]
    """Why a method has no time for a step."""
    failed: dict[str, str]
    """Why a method, or a run, failed."""
    quick: dict[str, str] = field(default_factory=dict)
    """The quick preset of a method whose usual preparation takes too long."""


def compare(
    methods: Sequence[str],
    seeds: Sequence[int],
    configure: Configure,
    plan: Plan,
    data: LongTailedSet,
    seconds: float,
    *,
    display: Display | None,
    report: Report,
) -> Outcome:
    """Measure each method that is not measured yet, then make the runs that are not there; one that fails is noted.

    Args:
        methods: names of matchers.
        seeds: of the runs; methods are measured with the first.
        configure: gives configurations.
        plan: from :meth:`Plan.open`.
        data: the long-tailed set.
        seconds: that each method may take to distil.
        display: shows what happens inside a run; one line unless given.
        report: takes a line for each method and each run.

    Raises:
        Interrupted: a signal came; what is finished is kept.
        InputError: the plan cannot be written.
    """
    outcome = Outcome({}, {}, {})
    for method in methods:
        if method not in plan.methods:
            with _noting(outcome, method, report):
                plan.methods[method] = _measured(method, seeds[0], configure, data, seconds)
            if method in plan.methods:
                plan.write()
                report(f"{method}: {in_words(plan.methods[method])}")
    outcome.quick = {method: one.preset for method in methods if (one := plan.methods.get(method)) and one.preset}
    outcome.left_out = {method: NO_TIME for method in methods if method in plan.methods and not plan.methods[method]}
    todo = [(seed, method) for seed in seeds for method in methods if plan.methods.get(method)]
    for number, (seed, method) in enumerate(todo, start=1):
        measured = plan.methods[method]
        if measured is None or method in outcome.failed:
            continue
        report(f"run {number}/{len(todo)}: {method}, seed {seed}")
        with _noting(outcome, method, report):
            config = configure(method, seed, measured.iterations, measured.preset)
            found = distill(config, plan.path.parent / run_name(method, seed), resume=True, display=display)
            outcome.runs.setdefault(method, []).append(found)
    for method in outcome.failed:
        outcome.runs.pop(method, None)  # a mean over some of the seeds would be none
    return outcome


def _measured(method: str, seed: int, configure: Configure, data: LongTailedSet, seconds: float) -> Measured | None:
    """What a method does in its time: as it is where it begins early enough, else with its quick preset."""
    usual = configure(method, seed, 0, "")
    matcher = usual.matcher.component
    if not matcher.quick_preset:
        return measure(usual, data, seconds)
    patience = HALF * seconds if matcher.iterative else seconds
    if found := measure(usual, data, patience):
        return found.with_more(seconds - patience)
    quick = measure(configure(method, seed, 0, matcher.quick_preset), data, seconds)
    return quick and replace(quick, preset=matcher.quick_preset)


def in_words(measured: Measured | None) -> str:
    """What a method does in its time."""
    if measured is None:
        return f"left out: {NO_TIME}"
    before = f" after {measured.beforehand:.1f} s of preparation" if measured.beforehand >= 0.1 else ""
    preset = f", with the preset {measured.preset}" if measured.preset else ""
    if not measured.iterations:
        return f"takes no steps{before}{preset}"
    return f"{measured.iterations} steps of {measured.step:.3g} s fit in{before}{preset}"


def run_name(method: str, seed: int) -> str:
    """The folder of a run."""
    return f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', method)}-seed{seed}"


@contextmanager
def _noting(outcome: Outcome, method: str, report: Report) -> Iterator[None]:
    """Note why a method failed, a bug in a plugin say, and go on with the others."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, InputError | RunFailed)
        outcome.failed[method] = str(error) if known else f"{type(error).__name__}: {error}"
        report(f"failed: {method}: {outcome.failed[method]}")


def entries_of(outcome: Outcome, data: LongTailedSet) -> list[Entry]:
    """An entry for each line of each method that distilled images train, and one for each other line.

    Raises:
        InputError: a run kept no classifiers, or one of them is damaged.
    """
    found: dict[tuple[str, str], Entry] = {}
    for method, runs in outcome.runs.items():
        for row in runs[0].rows:
            sees = DISTILLED in load_classifier(runs[0].run, row.name).facts["sets"]
            key = (method if sees else "", row.name)
            if key not in found:
                found[key] = _entry(*key, runs, data)
    return sorted(found.values(), key=lambda entry: not entry.method)


def _entry(method: str, line: str, runs: Sequence[Result], data: LongTailedSet) -> Entry:
    rows = [next(row for row in run.rows if row.name == line) for run in runs]
    return Entry(
        method,
        line,
        np.stack([_right(run, line, data) for run in runs]),
        tuple(row.accuracy for row in rows),
        tuple(row.std for row in rows),
        tuple(row.worst for row in rows),
    )


def _right(run: Result, line: str, data: LongTailedSet) -> np.ndarray:
    """Which validation images a classifier has right, bool ``[N]``."""
    images, labels = data.validation_images, data.validation_labels
    if images is None or labels is None:
        raise InputError("there are no validation images to choose with.")
    said = load_classifier(run.run, line).log_probabilities_of(images)
    right: np.ndarray = (said.argmax(1) == labels.cpu()).numpy()
    return right


def seconds_of(runs: Sequence[Result]) -> float | None:
    """Seconds of distilling, with networks that were trained beforehand; the mean over runs, None if not known."""
    known = []
    for run in runs:
        if run.saving is None or run.saving.distilling_seconds is None or run.saving.beforehand_seconds is None:
            return None
        known.append(run.saving.distilling_seconds + run.saving.beforehand_seconds)
    return float(np.mean(known))
