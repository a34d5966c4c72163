"""A table of classifiers, and the folder that keeps it: what ``ltdd train`` and ``ltdd evaluate`` make."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltdd_core import ranks
from ltdd_core.config.model import Config, Selection
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.evaluation.predictions import PREDICTIONS, Scores, save_predictions
from ltdd_core.evaluation.quality import Quality, quality_of
from ltdd_core.evaluation.repeats import Repeated, repeated_rows
from ltdd_core.evaluation.table import about
from ltdd_core.networks.store import FOLDER as NETWORKS, NetworkStore
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.progress import Display
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.facts import data_facts, session_facts, versions
from ltdd_core.runs.folder import CLASSIFIERS, CONFIG, FACTS, RESULT, RunFolder
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.setup import Setup
from ltdd_core.storage import digest_of

MOST_SEEDS = 1000
"""Of a row; their names and scores are all in memory, and a deviation over more is no better known."""


@dataclass(frozen=True)
class Plan:
    """Which classifiers are trained, and on what.

    Raises:
        InputError: there would be no seed, or more than :data:`MOST_SEEDS`.
    """

    config: Config
    """The configuration, with the first head, the first network and the first seed."""
    networks: Sequence[Selection]
    """The networks; each is trained with each head."""
    heads: Sequence[Selection]
    """The classifier heads."""
    repeats: int
    """How many seeds, from the configured one on."""
    distilled: DistilledSet | None = None
    """The distilled set; None where only the original images train."""
    source: Path | None = None
    """The folder of the run that the distilled set is of, or its file."""
    controls: Sequence[str] = ()
    """What else is trained in the place of the distilled set, with its labels."""
    quality: bool = False
    """Whether the distilled set is also compared with the whole one and with random real images."""

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= MOST_SEEDS:
            raise InputError(f"{how_to_set('repeats')} is a number of seeds, 1 to {MOST_SEEDS}, not {self.repeats}.")

    def store(self, out: Path | None) -> Path | None:
        """The folder of the trained networks; None: they are kept in memory.

        It is that of the configuration, or that of the run if it can be written, or one in the folder of the result.

        Args:
            out: the folder of the result, if there is one.
        """
        if self.config.compute.store is not None:
            return self.config.compute.store
        if self.source is not None:
            there = (self.source if self.source.is_dir() else self.source.parent) / NETWORKS
            if there.is_dir() and os.access(there, os.W_OK):
                return there
        return None if out is None else out / NETWORKS


@dataclass(frozen=True)
class Results:
    """What a plan comes to."""

    lines: list[Repeated]
    """A line of the table for each head and network."""
    scores: list[Quality]
    """What the distilled set is compared with, for each network; none unless the plan says so."""

    def to_json(self) -> dict[str, Any]:
        """The ``rows`` of ``report.json``, and ``quality`` where it was asked for."""
        rows = {"rows": [line.to_json() for line in self.lines]}
        return {**rows, "quality": [score.to_json() for score in self.scores]} if self.scores else rows


def results_of(
    plan: Plan,
    out: Path | None = None,
    *,
    catalog: Catalog | None = None,
    display: Display | None = None,
    told: Callable[[Repeated], None] = lambda line: None,
) -> Results:
    """Train the classifiers of a plan.

    Args:
        plan: which classifiers.
        out: the folder that keeps configuration, table, predictions and, unless the configuration says otherwise,
            classifiers; they are not kept unless given.  What a process left there that was killed at the same work
            is finished, without training its networks again.
        catalog: where the configuration was resolved; made anew unless given.
        display: shows a user what happens; warnings only, unless given.
        told: called with each line as soon as it is known.

    Raises:
        InputError: the data or the folder cannot be used, or head and recipe do not go together.
        RunFailed: training diverged, memory ran out, or a file cannot be written.
    """
    began = time.monotonic()
    plan = replace(plan, config=in_one_precision(plan.config, out))
    store = NetworkStore(ranks.agreed(plan.store(out)))
    with Setup.open(plan.config, catalog=catalog, display=display, store=store) as setup:
        _warn_of_other_tests(plan.distilled, setup)
        if out is None:
            return _results(plan, setup, told)
        with _opened(out, plan, setup.display) as folder:
            with _unfinished_removed(out):
                data = data_facts(setup.data)
                session = session_facts(plan.config, setup.device, plan.config.run.plugins)
            folder.begin_session(data, session, distilled=_trained_on(plan))
            scores: dict[str, Scores] = {}
            with _unfinished_removed(out):
                results = _results(plan, setup, told, out, scores)
            save_predictions(out / PREDICTIONS, scores)
            facts = {"run": str(out), "seconds": round(time.monotonic() - began, 3), **_facts(plan)}
            folder.write_json(RESULT, {**facts, "data": data, **results.to_json()})
    return results


def _warn_of_other_tests(distilled: DistilledSet | None, setup: Setup) -> None:
    """Say it where the test images are not those of the run that made the set, as after a file of a folder is gone."""
    facts = None if distilled is None else distilled.origin.get("data")
    before = facts.get("test_digest") if isinstance(facts, Mapping) else None
    if None not in (before, setup.data.test_digest) and before != setup.data.test_digest:
        setup.display.warn(
            f"the test images of {setup.data.name!r} are others than those of the run that made the distilled set: do "
            "not compare these results with its own. Images that it was distilled from may be among them."
        )


def _results(
    plan: Plan,
    setup: Setup,
    told: Callable[[Repeated], None],
    out: Path | None = None,
    scores: dict[str, Scores] | None = None,
) -> Results:
    keep = None if out is None or not plan.config.compute.keep else out / CLASSIFIERS
    results = Results([], [])
    for line in repeated_rows(
        setup,
        plan.distilled,
        plan.networks,
        plan.repeats,
        heads=plan.heads,
        controls=plan.controls,
        keep=keep,
        scores=scores,
    ):
        results.lines.append(line)
        told(line)
    if plan.quality and plan.distilled is not None:
        results.scores.extend(quality_of(setup, plan.distilled, plan.networks, plan.repeats))
    return results


def _facts(plan: Plan) -> dict[str, Any]:
    """What ``report.json`` says of the work beside its results."""
    used = [versions(replace(plan.config, head=head, network=net)) for head in plan.heads for net in plan.networks]
    return {
        "versions": {name: version for each in used for name, version in each.items()},
        "heads": [head.to_tree() for head in plan.heads],
        "networks": [network.to_tree() for network in plan.networks],
        "distilled": _trained_on(plan),
        **({"controls": [*plan.controls]} if plan.controls else {}),
    }


def _trained_on(plan: Plan) -> dict[str, Any] | None:
    """The distilled set of the classifiers: where it is, what is known of it, and a digest of images and labels."""
    if plan.distilled is None:
        return None
    tensors = {"images": plan.distilled.images, "labels": plan.distilled.labels}
    if plan.distilled.soft_labels is not None:
        tensors["soft_labels"] = plan.distilled.soft_labels.values
    return {"run": str(plan.source), **about(plan.distilled), "digest": digest_of(tensors)}


@contextmanager
def _opened(out: Path, plan: Plan, display: Display) -> Iterator[RunFolder]:
    """A folder for this work alone: a new one, or that of a process that was killed at the same work.

    Raises:
        InputError: it holds something else, or a process is at work in it.
    """
    unfinished = (out / CONFIG).exists() and not (out / RESULT).exists()
    if unfinished:
        try:
            RunFolder(out).check_same(plan.config)
        except InputError as error:
            another = f"name another folder with {how_to_set('out')}"
            raise InputError(f"{error} It is not finished: {another}.") from error
    with RunFolder.open(out, plan.config, resume=unfinished, warn=display.warn) as folder:
        if (out / RESULT).exists():  # another process was faster
            folder.check(plan.config, resume=False)
        if folder.is_empty():
            folder.begin(plan.config)
        shutil.rmtree(out / CLASSIFIERS, ignore_errors=True)  # of a process that was killed; the store has more
        yield folder


@contextmanager
def _unfinished_removed(out: Path) -> Iterator[None]:
    """If the block fails, leave nothing but trained networks, with which any such work can begin in the folder."""
    try:
        yield
    except BaseException:
        shutil.rmtree(out / CLASSIFIERS, ignore_errors=True)
        for name in (FACTS, CONFIG):
            (out / name).unlink(missing_ok=True)
        raise
