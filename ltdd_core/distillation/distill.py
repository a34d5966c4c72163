"""The main job: distil a long-tailed set, step by step, then train classifiers on the result and score them.

Read :func:`distill` from top to bottom: it is the way the data go.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor

from ltdd_core.config.advice import against_divergence
from ltdd_core.config.model import Config
from ltdd_core.data.drawing import lettering
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.checkpoint import restore
from ltdd_core.distillation.kept import count_kept, put_back
from ltdd_core.distillation.matcher import Distillation, Matcher, Synthetic
from ltdd_core.distillation.spent import OwnSeconds
from ltdd_core.distillation.task import task_of
from ltdd_core.errors import InputError, Interrupted, RunFailed, how_to_set
from ltdd_core.evaluation.estimate import training_ahead
from ltdd_core.evaluation.intervals import RowIntervals, may_be_chance
from ltdd_core.evaluation.labelling import labelled, try_labeller
from ltdd_core.evaluation.lines import ResultTable, check_recipe, kept_scores, lines_of, result_table
from ltdd_core.evaluation.metrics import Row, WithRows
from ltdd_core.evaluation.predictions import PREDICTIONS
from ltdd_core.evaluation.saving import Saving
from ltdd_core.evaluation.shown import Table
from ltdd_core.hookspecs import Run
from ltdd_core.networks.store import FOLDER as NETWORKS, NetworkStore
from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.plugging.loading import Observers
from ltdd_core.progress import Display, usual_display
from ltdd_core.runs.checkpoint import CHECKPOINT
from ltdd_core.runs.costs import COSTS, note_costs
from ltdd_core.runs.distilled import (
    DISTILLED_FILE,
    DistilledSet,
    check_distilled,
    ipc_of_set,
    load_distilled,
    save_distilled,
)
from ltdd_core.runs.facts import data_facts, session_facts, versions
from ltdd_core.runs.folder import CLASSIFIERS, METRICS, RESULT, TIMES, RunFolder
from ltdd_core.runs.pictures import save_picture
from ltdd_core.runs.steplog import seconds_logged
from ltdd_core.setup import Setup
from ltdd_core.training.soft_labels import SoftLabels

PICTURE = "distilled.png"
RISEN = 1.3  # of a loss, times what it began as; runs that worked ended at 1.02 or less
SLOW_STEP, SMALL_STATE = 0.5, 16 * 2**20
"""Seconds of a step, or bytes of a state, for which a copy of the state costs next to nothing."""
SECONDS_BETWEEN_PICTURES = 20.0  # while a run is at work; one takes some tenths of a second


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

    Raises:
        InputError: the data or the folder cannot be used; nothing was written.
        RunFailed: the loss, or a classifier, is no longer finite, or memory ran out; the last good checkpoint
            is in ``out``.
        Interrupted: a signal came; the state is saved.
    """
    began, display, out = time.monotonic(), display or usual_display(), Path(out)
    catalog = catalog or installed()
    observers = Observers(catalog.plugins, catalog.plugins.named(config.run.plugins), display.warn)
    check_recipe(config)
    lines_of(config, catalog)  # that each can be had, before the work begins
    RunFolder(out).check(config, resume=resume)
    if not RunFolder(out).is_empty():
        with RunFolder(out).locked(display.warn):
            pass  # another process may be at work here: say so before the data are read and networks are trained
    store = store or NetworkStore(config.compute.store or out / NETWORKS)
    with Setup.open(config, catalog=catalog, display=display, store=store) as setup:
        size = decimal(setup.data.train_images.nbytes)
        display.data(f"{setup.data.summary()}; {size} of training images on {setup.device.type}")
        if note := lettering(setup.data.class_names).note():
            display.note(note)
        matcher: Matcher = config.matcher.make()
        own = OwnSeconds(setup.beforehand)
        setup.check_network()
        task = task_of(setup)
        if not (out / DISTILLED_FILE).exists() or RunFolder(out).has_other_length(config):
            display.ahead(lambda: classifiers_ahead(setup, matcher, task, out))
            with own.counted():
                matcher.prepare(task)
            try_labeller(setup)
        with RunFolder.open(out, config, resume=resume, warn=display.warn) as folder:
            if folder.has_other_length(config):
                begin_other_length(folder, config)
            checkpoint = folder.load_checkpoint()
            start = checkpoint[0] if checkpoint else 0
            session = session_facts(config, setup.device, [str(plugin) for plugin in observers.active])
            folder.begin_session(
                data_facts(setup.data), {"from_step": start, "to_step": config.run.iterations, **session}
            )
            run = Run(config, folder.path, setup.data, start)
            observers.tell("ltdd_run_started", run=run)
            try:
                active = ActiveRun(run, folder, matcher, task, setup, observers, own)
                distilled = finished_set(active, checkpoint)
                table = score(active, distilled)
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


def begin_other_length(folder: RunFolder, config: Config) -> None:
    """Make a run one of another number of steps; what followed from its last step goes.

    The configuration is written last: a process that is killed before leaves an unfinished run of the old number.
    """
    for name in (RESULT, PREDICTIONS, COSTS, DISTILLED_FILE, PICTURE):
        (folder.path / name).unlink(missing_ok=True)
    shutil.rmtree(folder.path / CLASSIFIERS, ignore_errors=True)
    folder.begin(config)


def write_report(folder: RunFolder, result: Result, observers: Observers) -> None:
    """The result, and which plugins had to be left out while it came about."""
    folder.write_json(RESULT, {**result.to_json(), "detached_plugins": observers.detached})


@dataclass(frozen=True)
class ActiveRun:
    """A run at work: its public face, its folder, and what the steps and the evaluation need."""

    run: Run
    folder: RunFolder
    matcher: Matcher
    task: Distillation
    setup: Setup
    observers: Observers
    own: OwnSeconds


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


def match(active: ActiveRun, checkpoint: tuple[int, dict[str, Tensor]] | None) -> None:
    """All remaining steps of the matcher, with a checkpoint now and then and at the end."""
    matcher, task, folder, config = active.matcher, active.task, active.folder, active.run.config
    if checkpoint is not None:
        restore(matcher, *checkpoint, total=config.run.iterations, path=folder.path / CHECKPOINT)
    start, total = active.run.start, config.run.iterations
    log, times = (folder.log_from(name, start, active.setup.display.warn) for name in (METRICS, TIMES))
    pictured, losses, seconds = time.monotonic(), list[float](), math.inf
    active.setup.display.steps(start, total)
    try:
        for step in range(start, total):
            if active.setup.stop.signal is not None:
                save(matcher, folder, step, config)
                active.setup.stop.check()
            metrics, seconds = taken(active, step, slow=seconds > SLOW_STEP)
            check_finite(metrics, step, folder, config)
            losses.append(metrics["loss"])
            log.add(step, metrics)
            times.add(step, {"seconds": round(seconds, 6)})
            active.observers.tell("ltdd_step_finished", run=active.run, step=step, metrics=metrics)
            active.setup.display.step(step, metrics)
            if (step + 1) % config.compute.checkpoint_every == 0 or step + 1 == total:
                save(matcher, folder, step + 1, config)
                if time.monotonic() - pictured > SECONDS_BETWEEN_PICTURES:
                    distilled = distilled_set_of(matcher, task, config, active.run.data)
                    save_picture(folder.path / PICTURE, distilled.decoded(active.setup.catalog), active.run.data.counts)
                    pictured = time.monotonic()
    finally:
        log.close()
        times.close()
        active.setup.display.steps_done()
    if text := loss_increase(losses):
        advice = against_divergence(config)
        active.setup.display.warn(f"{text}: the images may be worse than the initial ones; {advice}.")


def classifiers_ahead(setup: Setup, matcher: Matcher, task: Distillation, out: Path) -> dict[str, list[float]]:
    """A guess of the seconds that each training of a classifier takes, by the set that trains it.

    It is there to be shown, so nothing that goes wrong in it stops the run; what is wrong is said where it is used.
    """
    lines = lines_of(setup.config, setup.catalog)
    known = kept_scores(out, lines, setup.data)
    left = [line for line in lines if line.name not in known]
    recipe: Mapping[str, Any] = {}
    with suppress(Exception):  # a recipe that follows from what is prepared, or from steps that are not taken yet
        recipe = matcher.recipe()
    with suppress(Exception):
        return training_ahead(setup, left, task.ipc_of_class, recipe)
    return {}


def loss_increase(losses: Sequence[float]) -> str | None:
    """What to say of a positive loss that goes up; of fewer than 20 steps nothing can be said."""
    if len(losses) < 20:
        return None
    part = len(losses) // 10
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    if first <= 0 or last <= RISEN * first:
        return None
    return f"the loss went up from {first:.4g} to {last:.4g} (means of the first and of the last tenth of these steps)"


def score(active: ActiveRun, distilled: DistilledSet) -> ResultTable:
    """The run's table."""
    table = result_table(active.setup, distilled, active.folder.path)
    for row in table.rows:
        active.setup.display.row(row.name, row.accuracy, row.std)
        active.observers.tell("ltdd_evaluated", run=active.run, row=row)
    return table


def taken(active: ActiveRun, step: int, *, slow: bool) -> tuple[dict[str, float], float]:
    """Take a step: its metrics and its seconds.

    A signal ends a step that looks at it, and what the steps before came to is saved.

    Args:
        active: the run.
        step: the number of the step.
        slow: whether steps are slow enough for a copy of a state of any size.
    """
    matcher = active.matcher
    before = copied(matcher, slow=slow)
    began = time.monotonic()
    try:
        metrics = {name: float(value) for name, value in matcher.step(step).items()}
    except Interrupted:
        if before is not None:
            matcher.load_state(before)
            save(matcher, active.folder, step, active.run.config)
        raise
    return metrics, time.monotonic() - began  # float() has waited for the device


def copied(matcher: Matcher, *, slow: bool) -> dict[str, Tensor] | None:
    """The state before a step, to go back to if a signal ends the step; None where a copy would cost much of a step.

    Args:
        matcher: before the step.
        slow: whether its steps are slow enough for a copy of any size.
    """
    state = matcher.state()
    if not slow and sum(tensor.nbytes for tensor in state.values()) > SMALL_STATE:
        return None
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def save(matcher: Matcher, folder: RunFolder, done: int, config: Config) -> None:
    """Write a checkpoint, unless the state has gone bad.

    Raises:
        RunFailed: a tensor is not finite; the checkpoint before stays.
    """
    state = matcher.state()
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise RunFailed(_advice(f"{bad[0]} is not finite any more after step {done}", folder, config))
    folder.save_checkpoint(done, state)


def check_finite(metrics: Mapping[str, float], step: int, folder: RunFolder, config: Config) -> None:
    """Stop a run whose loss is NaN or infinite.

    Raises:
        RunFailed: with what to try.
    """
    if "loss" not in metrics or not math.isfinite(metrics["loss"]):
        raise RunFailed(_advice(f"the loss of step {step} is {metrics.get('loss')}", folder, config))


def _advice(failure: str, folder: RunFolder, config: Config) -> str:
    kept = folder.load_checkpoint()
    where = f"the checkpoint after {kept[0]} steps is kept in {folder.path}" if kept else "no checkpoint was due yet"
    exact = how_to_set("compute.precision", "fp32")
    return (
        f"{failure}; {where}. In a new run, {against_divergence(config)}, use {exact} if it was bf16, and look for "
        "damaged images with `ltdd data show`."
    )


def distilled_set_of(matcher: Matcher, task: Distillation, config: Config, data: LongTailedSet) -> DistilledSet:
    """The distilled set of a matcher that has taken its steps; what the run keeps is as it was."""
    made, soft = matcher.distilled(), None
    if not isinstance(made, Synthetic):
        raise RunFailed(f"method {config.matcher.name!r}: distilled() must return an ltdd_core.Synthetic.")
    made = put_back(task, made)
    if made.soft_labels is not None:
        soft = SoftLabels(made.soft_labels.values.detach().float().cpu(), made.soft_labels.kind)
    return DistilledSet(
        images=made.images.detach().float().cpu(),
        labels=made.labels.detach().cpu(),
        class_names=data.class_names,
        normalisation=data.normalisation,
        ipc=ipc_of_set(task.ipc_of_class),
        kept=count_kept(task, made),
        soft_labels=soft,
        recipe=dict(matcher.recipe()),
        decoder=config.matcher.to_tree() if type(matcher).decode is not Matcher.decode else None,
        origin={"data": data_facts(data), "configuration": config.science(), "versions": versions(config)},
    )
