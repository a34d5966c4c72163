"""The main job: distil a long-tailed set, step by step, then train classifiers on the result and score them.

Read :func:`distill` from top to bottom: it is the way the data go.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.config.model import Config
from ltdd_core.data.drawing import lettering
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.matcher import Matcher
from ltdd_core.distillation.spent import OwnSeconds
from ltdd_core.distillation.steps import PICTURE, ActiveRun, distilled_set_of, match
from ltdd_core.distillation.task import Distillation, task_of
from ltdd_core.errors import InputError, RunFailed
from ltdd_core.evaluation.class_table import CLASSES, MOST_NAMED, classes_csv
from ltdd_core.evaluation.estimate import training_ahead
from ltdd_core.evaluation.intervals import RowIntervals, may_be_chance
from ltdd_core.evaluation.labelling import labelled, try_labeller
from ltdd_core.evaluation.lines import Line, check_recipe, lines_of
from ltdd_core.evaluation.metrics import Row, WithRows
from ltdd_core.evaluation.predictions import PREDICTIONS
from ltdd_core.evaluation.saving import Saving
from ltdd_core.evaluation.shown import Table
from ltdd_core.evaluation.table import ResultTable, kept_scores, result_table
from ltdd_core.hookspecs import Run
from ltdd_core.networks.store import FOLDER as NETWORKS, NetworkStore
from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.plugging.loading import Observers
from ltdd_core.progress import Display, usual_display
from ltdd_core.runs.claim import claimed
from ltdd_core.runs.costs import COSTS, note_costs
from ltdd_core.runs.devices import give_back_freed_memory
from ltdd_core.runs.distilled import (
    DISTILLED_FILE,
    DistilledSet,
    check_distilled,
    load_distilled,
    save_distilled,
)
from ltdd_core.runs.facts import data_facts, other_machine, session_facts
from ltdd_core.runs.folder import CLASSIFIERS, RESULT, TIMES, RunFolder
from ltdd_core.runs.pictures import save_picture
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.runs.steplog import seconds_logged
from ltdd_core.setup import Setup


@dataclass(frozen=True, repr=False)
class Result(WithRows):
    """The result of a run."""

    run: Path
    """The folder of the run."""
    config: Config
    """Its configuration."""
    data: LongTailedSet
    """The long-tailed set that was distilled."""
    distilled: DistilledSet
    """The synthetic images with their labels."""
    rows: list[Row]
    """The lines of the result table, one for each classifier."""
    intervals: list[RowIntervals]
    """The 95 per cent intervals of each row, over the test images."""
    groups: Tensor | None
    """The partition of a multi-stage classifier, int64 ``[classes]``; None where there is none."""
    saving: Saving | None
    """What training on the distilled set saves; None where that is not known."""
    seconds: float
    """Seconds that the process took which finished the run."""

    def _title(self) -> str:
        return f"{self.config.matcher.shown} on {self.data.name}, {self.distilled.ipc_in_words()}, in {self.run}"

    def group_names(self) -> list[list[str]] | None:
        """The names of the classes in each group."""
        if self.groups is None:
            return None
        named = list(zip(self.data.class_names, self.groups.tolist(), strict=True))
        return [
            [name for name, class_group in named if class_group == group] for group in range(int(self.groups.max()) + 1)
        ]

    def chance(self) -> str | None:
        """A sentence where the test images cannot tell the two most accurate rows apart; None where they can."""
        return may_be_chance(self.to_json()["rows"], len(self.data.test_labels))

    def to_json(self) -> dict[str, Any]:
        """The document that ``ltdd distill --json`` prints."""
        return {
            "run": str(self.run),
            "method": self.config.matcher.name,
            "data": data_facts(self.data),
            "seconds": round(self.seconds, 3),
            "ipc": self.distilled.ipc,
            "kept": self.distilled.kept,
            "labels": self.distilled.label_budget(),
            "groups": self.group_names(),
            "saving": None if self.saving is None else self.saving.to_json(),
            "rows": [
                {**row.to_json(), **known.to_json()} for row, known in zip(self.rows, self.intervals, strict=True)
            ],
        }


def distill(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    display: Display | None = None,
    catalog: Catalog | None = None,
    store: NetworkStore | None = None,
    lines: Sequence[Line] | None = None,
    before: Callable[[Setup], None] = lambda setup: None,
) -> Result:
    """Distil, evaluate, and leave everything in the folder ``out``.

    Args:
        config: from :func:`ltdd_core.configure`.
        out: the folder of the run; it is made where there is none.
        resume: continue the run in ``out`` if there is one.  Its number of steps may be another now, if no more steps
            are taken already: no step depends on it, so the result is that of a run which had this number from its
            start.
        display: shows how far the work is; one line unless given, and ``Display()`` shows nothing.
        catalog: where ``config`` was resolved; made anew unless given.
        store: keeps the networks that are trained; that of the configuration unless given, or else the folder
            ``networks`` of the run.
        lines: the classifiers of the table; those of the configuration unless given.  With none, the run distils alone.
        before: called before the work begins that is not done yet, once the images are loaded.

    Raises:
        InputError: the data or the folder cannot be used; nothing was written.
        RunFailed: the loss, or a classifier, is no longer finite, or memory ran out; the last good checkpoint
            is in ``out``.
        Interrupted: a signal came; the state is saved.
    """
    began, display, out = time.monotonic(), display or usual_display(), Path(out)
    catalog = catalog or installed()
    watching = catalog.plugins.named(config.run.plugins) if ranks.rank() == 0 else []
    observers = Observers(catalog.plugins, watching, display.warn)
    check_recipe(config)
    lines = lines_of(config, catalog) if lines is None else lines  # that each can be had, before the work begins
    RunFolder(out).check(config, resume=resume)
    config = in_one_precision(config, out)
    store = store or NetworkStore(config.compute.store or out / NETWORKS)
    with (
        claimed(out, ""),  # and locked: another process must not do the same work at once
        RunFolder.open(out, config, resume=resume, warn=display.warn) as folder,
        Setup.open(
            config, catalog=catalog, display=display, store=store, began_compiled=folder.began_compiled()
        ) as setup,
    ):
        matcher: Matcher = config.matcher.make()
        own = OwnSeconds(setup.beforehand)
        setup.check_network()
        facts = data_facts(setup.data)
        folder.check_data(facts)
        task = task_of(setup)
        if not (out / DISTILLED_FILE).exists() or folder.has_other_length(config):
            before(setup)
            display.ahead(partial(classifiers_ahead, setup, lines, matcher, task, out))
            with own.counted():
                matcher.prepare(task)
            task.forget_initial_images()
            give_back_freed_memory()
            try_labeller(setup)
        say_what_is_distilled(setup)
        if folder.is_empty() or folder.is_scored_otherwise(config):
            folder.begin(config)
        if folder.has_other_length(config):
            begin_other_length(folder, config)
        checkpoint = folder.load_checkpoint()
        start = checkpoint[0] if checkpoint else 0
        begin_session(folder, setup, facts, start, [str(plugin) for plugin in observers.active])
        run = Run(config, folder.path, setup.data, start)
        observers.tell("ltdd_run_started", run=run)
        try:
            active = ActiveRun(run, folder, matcher, task, setup, observers, own)
            distilled = finished_set(active, checkpoint)
            del active, checkpoint, matcher, task  # they hold images several times, and are not needed any more
            give_back_freed_memory()
            table = score(run, setup, observers, distilled, lines)
            seconds = folder.seconds_taken() or time.monotonic() - began
            result = Result(
                folder.path,
                config,
                setup.data,
                distilled,
                Table(table.rows),
                table.intervals,
                table.groups,
                table.saving,
                seconds,
            )
            write_report(folder, result, observers)
        except BaseException as error:
            observers.tell("ltdd_run_failed", run=run, error=error)
            raise
        observers.tell("ltdd_run_finished", run=run, distilled=distilled)
        if observers.detached:
            write_report(folder, result, observers)
    return result


def say_what_is_distilled(setup: Setup) -> None:
    """The data and how they are computed with, and names of classes that pictures cannot show."""
    size = decimal(setup.data.train_images.nbytes)
    setup.display.data(
        f"{setup.data.summary()}; {size} of training images on {setup.placed.train_images.device.type}; "
        f"networks in {setup.config.compute.precision}{', compiled' * setup.matches_compiled}"
    )
    if note := lettering(setup.data.class_names).note():
        setup.display.note(note)


def begin_session(
    folder: RunFolder, setup: Setup, facts: Mapping[str, Any], start: int, plugins: Sequence[str]
) -> None:
    """Note what this process computes with, and say so if that is not what the one before it did."""
    now = {**session_facts(setup.config, setup.device, plugins), "compiled": setup.matches_compiled}
    steps = {"from_step": start, "to_step": setup.config.run.iterations}
    earlier = folder.begin_session(facts, {**steps, **now})
    said = other_machine(earlier[-1], now) if earlier and start else None
    if said is not None and not (folder.path / DISTILLED_FILE).exists():
        setup.display.warn(said)


def begin_other_length(folder: RunFolder, config: Config) -> None:
    """Make a run one of another number of steps; what followed from its last step goes.

    The configuration is written last: a process that is killed before leaves an unfinished run of the old number.
    """
    for name in (RESULT, CLASSES, PREDICTIONS, COSTS, DISTILLED_FILE, PICTURE):
        (folder.path / name).unlink(missing_ok=True)
    shutil.rmtree(folder.path / CLASSIFIERS, ignore_errors=True)
    folder.begin(config)


def write_report(folder: RunFolder, result: Result, observers: Observers) -> None:
    """The result, and which plugins had to be left out while it came about; the classes in a file if they are many."""
    names, counts = result.data.class_names, result.data.counts
    if len(names) > MOST_NAMED:
        folder.write_text(CLASSES, classes_csv(result.rows, names, counts, result.group_names()))
    folder.write_json(RESULT, {**result.to_json(), "detached_plugins": observers.detached})


def finished_set(active: ActiveRun, checkpoint: tuple[int, dict[str, Tensor]] | None) -> DistilledSet:
    """The distilled set of the run: as it is stored, or after all remaining steps."""
    path = active.folder.path
    if (path / DISTILLED_FILE).exists():
        distilled = load_distilled(path)
    else:
        if type(active.matcher).iterative:
            match(active, checkpoint)
        with active.own.counted():
            distilled = distilled_set_of(active.matcher, active.task, active.run.config, active.run.data)
            check_usable(distilled, active.run.config)
            distilled = labelled(active.setup, distilled)
        note_costs(path, distilling=active.own.cost(seconds_logged(path / TIMES)))
        save_distilled(path / DISTILLED_FILE, distilled)
    save_picture(path / PICTURE, distilled.decoded(active.setup.catalog), active.run.data.counts)
    return distilled


def check_usable(distilled: DistilledSet, config: Config) -> None:
    """Refuse to write what no command could read again.

    Raises:
        RunFailed: the images or labels that the method gave cannot be used.
    """
    try:
        check_distilled(distilled)
    except InputError as error:
        raise RunFailed(f"method {config.matcher.name!r} gave a distilled set that cannot be used: {error}") from error


def classifiers_ahead(
    setup: Setup, lines: Sequence[Line], matcher: Matcher, task: Distillation, out: Path
) -> dict[str, list[float]]:
    """A guess of the seconds that each training of a classifier takes, by the set that trains it.

    It is there to be shown, so nothing that goes wrong in it stops the run; what is wrong is said where it is used.
    """
    known = kept_scores(out, lines, setup.data)
    left = [line for line in lines if line.name not in known]
    recipe: Mapping[str, Any] = {}
    with suppress(Exception):  # a recipe that follows from what is prepared, or from steps that are not taken yet
        recipe = matcher.recipe()
    with suppress(Exception), ranks.alone():
        return training_ahead(setup, left, task.ipc_of_class, recipe)
    return {}


def score(run: Run, setup: Setup, observers: Observers, distilled: DistilledSet, lines: Sequence[Line]) -> ResultTable:
    """The run's table."""
    table = result_table(setup, distilled, run.path, lines)
    for row in table.rows:
        setup.display.row(row.name, row.accuracy, row.std)
        observers.tell("ltdd_evaluated", run=run, row=row)
    return table
