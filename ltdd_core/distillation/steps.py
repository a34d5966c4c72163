"""The steps of a run: they are taken, logged and saved one by one, and the distilled set is what they come to."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ltdd_core.config.advice import against_divergence
from ltdd_core.config.model import Config
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.checkpoint import Before, restore
from ltdd_core.distillation.kept import count_kept, put_back
from ltdd_core.distillation.matcher import Matcher, Synthetic
from ltdd_core.distillation.spent import OwnSeconds
from ltdd_core.distillation.task import Distillation
from ltdd_core.errors import Interrupted, RunFailed, how_to_set
from ltdd_core.hookspecs import Run
from ltdd_core.plugging.loading import Observers
from ltdd_core.runs.checkpoint import CHECKPOINT
from ltdd_core.runs.distilled import DistilledSet, ipc_of_set
from ltdd_core.runs.facts import data_facts, versions
from ltdd_core.runs.folder import METRICS, TIMES, RunFolder
from ltdd_core.runs.pictures import save_picture
from ltdd_core.setup import Setup
from ltdd_core.storage import all_finite
from ltdd_core.training.soft_labels import SoftLabels

PICTURE = "distilled.png"
RISEN = 1.3  # of a loss, times what it began as; runs that worked ended at 1.02 or less
SLOW_STEP = 0.5
"""Seconds of a step for which remembering the state before it costs next to nothing."""
SECONDS_BETWEEN_PICTURES = 20.0  # while a run is at work; one takes some tenths of a second


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
            active.setup.keep_going()
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


def taken(active: ActiveRun, step: int, *, slow: bool) -> tuple[dict[str, float], float]:
    """Take a step: its metrics and its seconds.

    A signal ends a step that looks at it, or the death of another process does, and what the steps before came to is
    saved.

    Args:
        active: the run.
        step: the number of the step.
        slow: whether steps are slow enough to remember a state of any size.
    """
    matcher = active.matcher
    before = Before.of(matcher, slow=slow)
    began = time.monotonic()
    try:
        metrics = {name: float(value) for name, value in matcher.step(step).items()}
    except Interrupted:
        if before.is_back(matcher):
            save(matcher, active.folder, step, active.run.config)
        raise
    return metrics, time.monotonic() - began  # float() has waited for the device


def save(matcher: Matcher, folder: RunFolder, done: int, config: Config) -> None:
    """Write a checkpoint, unless the state has gone bad.

    Raises:
        RunFailed: a tensor is not finite; the checkpoint before stays.
    """
    state = matcher.state()
    bad = [name for name, tensor in state.items() if not all_finite(tensor)]
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


def loss_increase(losses: Sequence[float]) -> str | None:
    """What to say of a positive loss that goes up; of fewer than 20 steps nothing can be said."""
    if len(losses) < 20:
        return None
    part = len(losses) // 10
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    if first <= 0 or last <= RISEN * first:
        return None
    return f"the loss went up from {first:.4g} to {last:.4g} (means of the first and of the last tenth of these steps)"


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
        decoder=config.matcher.to_tree() if matcher.is_decoded(data.image_shape) else None,
        origin={"data": data_facts(data), "configuration": config.science(), "versions": versions(config)},
    )
