"""The parts of a run, counted in a dry run: what is trained beforehand, the method, the labels, each classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ltdd_core.config.model import Config
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.matcher import Distillation, Matcher, Synthetic
from ltdd_core.distillation.task import task_of
from ltdd_core.errors import InputError, RunFailed
from ltdd_core.evaluation.labelling import labelled
from ltdd_core.evaluation.lines import Line, lines_of
from ltdd_core.evaluation.table import trained
from ltdd_core.planning.counting import NOTHING, Counting, Work, hollow
from ltdd_core.planning.dry import FP32, DrySetup, DryStore, DryTask, PlannedTraining, thinned
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.progress import Display
from ltdd_core.runs.distilled import DistilledSet, ipc_of_set
from ltdd_core.runs.stop import StopRequest
from ltdd_core.training.soft_labels import SoftLabels

COUNTED_CLASSES = 64
"""Classes of which the method is counted; of more, the rest of them on a straight line through this many and half."""


@dataclass(frozen=True)
class Part:
    """A part of a run, before it runs."""

    name: str
    work: Work = NOTHING
    peak: int = 0
    """Bytes of the tensors that there are at once."""
    disk: int = 0
    """Bytes that it leaves on the disk."""
    shares: int = 1
    """Among how many GPUs it can be divided."""
    by_class: bool = False
    """Whether what is divided are classes, and with them the tensors."""


@dataclass
class Counted:
    """What a dry run came to."""

    beforehand: list[Part] = field(default_factory=list)
    method: list[Part] = field(default_factory=list)
    lines: list[Part] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What could not be counted, and what was counted in part, a sentence each."""


@dataclass(frozen=True)
class _Matched:
    """What a method does for some classes."""

    beside: Work
    """Before and after its steps."""
    step: Work
    peak: int
    disk: int
    """Bytes of a checkpoint and of the distilled set."""
    made: Synthetic
    recipe: dict[str, Any]


LineOf = tuple[Line, Config]
"""A line of a table, and the configuration that its classifier is trained with."""


def counted(config: Config, data: LongTailedSet, catalog: Catalog, lines: Sequence[LineOf] | None = None) -> Counted:
    """Take the way of a run with hollow images, and count.

    Args:
        config: to be computed on the CPU, not compiled, in one precision and with a chunk of its own.
        data: hollow.
        catalog: where it was resolved.
        lines: of the table; those of the configuration unless given.

    Raises:
        InputError: what a run would refuse.
    """
    counting, found = Counting(), Counted()
    store = DryStore(counting)
    with (
        DrySetup.open(config, catalog=catalog, display=Display(), stop=StopRequest(), store=store, data=data) as setup,
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        counting,
    ):
        warnings.simplefilter("ignore")  # of those who find that all images are equal
        vars(setup)["shared"] = store
        setup.check_network()
        matched = _method(setup, store, found)
        found.beforehand = [_part(training) for training in store.trainings]
        distilled = _labelled(setup, store, _distilled(setup, matched), found)
        for line, way in [(line, config) for line in lines_of(config, catalog)] if lines is None else lines:
            changed = setup.changed(config=replace(way, compute=config.compute))
            vars(changed)["shared"] = store
            found.lines.append(_line(line, changed, store, distilled, found))
    return found


def _part(training: PlannedTraining) -> Part:
    count = f"{training.count} x " if training.count > 1 else ""
    return Part(f"{count}{training.what}", training.work, training.peak, training.disk, training.count)


def _method(setup: DrySetup, store: DryStore, found: Counted) -> _Matched:
    """Count the method on all classes, or on two numbers of them and on from there."""
    config, classes = setup.config, setup.data.classes
    matched = _matched(setup, store, COUNTED_CLASSES)
    if classes > COUNTED_CLASSES:
        noted, half = len(store.trainings), COUNTED_CLASSES // 2
        fewer = _matched(setup, store, half)
        del store.trainings[noted:]
        matched = _further(fewer, matched, (classes - COUNTED_CLASSES) / half)
        found.remarks.append(
            f"The method was counted on {half} and on {COUNTED_CLASSES} of {classes} classes, and on a straight line "
            "from there."
        )
    steps = config.run.iterations if config.matcher.component.iterative else 0
    name = f"{config.matcher.shown}, {steps} steps" if steps else config.matcher.shown
    work = matched.beside + matched.step * steps
    found.method.append(Part(name, work, matched.peak, matched.disk, classes, by_class=True))
    return matched


def _further(fewer: _Matched, more: _Matched, times: float) -> _Matched:
    """On a straight line through two numbers of classes."""
    return replace(
        more,
        beside=more.beside + (more.beside - fewer.beside) * times,
        step=more.step + (more.step - fewer.step) * times,
        peak=round(more.peak + (more.peak - fewer.peak) * times),
        disk=round(more.disk + (more.disk - fewer.disk) * times),
    )


def _matched(setup: DrySetup, store: DryStore, classes: int) -> _Matched:
    """Count what the method does for some of the classes."""
    matcher: Matcher = setup.config.matcher.make()
    task, counting, step = _task(setup, classes), store.counting, NOTHING
    with counting.apart() as all_of_it:
        matcher.prepare(task)
        if type(matcher).iterative:
            with counting.apart() as one:
                matcher.step(0)
            step = one.work
        made = matcher.distilled()
        state = sum(value.numel() * value.itemsize for value in matcher.state().values())
    disk = state + FP32 * made.images.numel()
    return _Matched(all_of_it.work, step, all_of_it.peak, disk, made, dict(matcher.recipe()))


def _task(setup: DrySetup, classes: int) -> Distillation:
    """What a matcher works with for some of the classes; networks are those of all classes."""
    data, kept = thinned(setup.data, classes)
    few = setup.changed()
    vars(few).update(
        data=data,
        shared=setup.shared,
        ipc_of_class=tuple(setup.ipc_of_class[label] for label in kept),
        features=lambda label: setup.features(kept[label]),
    )
    whole, task = task_of(setup), task_of(few)
    of_all = {name: getattr(whole, name) for name in ("networks", "pool", "trained", "trainer", "original")}
    return DryTask(**{**vars(task), **of_all})


def _distilled(setup: DrySetup, matched: _Matched) -> DistilledSet:
    """The distilled set of all classes, hollow."""
    made, data, config = matched.made, setup.data, setup.config
    labels = made.labels
    if data.classes > COUNTED_CLASSES:
        labels = torch.arange(data.classes).repeat_interleave(torch.tensor(setup.ipc_of_class))
    images, soft = hollow(len(labels), *made.images.shape[1:]), made.soft_labels
    if soft is not None:
        soft = SoftLabels(hollow(len(labels) * len(soft) // len(made.labels), data.classes), soft.kind)
    decodes = config.matcher.component.decode is not Matcher.decode
    return DistilledSet(
        images=images,
        labels=labels,
        class_names=data.class_names,
        normalisation=data.normalisation,
        ipc=ipc_of_set(setup.ipc_of_class),
        soft_labels=soft,
        recipe=matched.recipe,
        decoder=config.matcher.to_tree() if decodes else None,
    )


def _labelled(setup: DrySetup, store: DryStore, distilled: DistilledSet, found: Counted) -> DistilledSet:
    """The set with the labels of the configured labeller, if there is one."""
    chosen, noted = setup.config.labeller, len(store.trainings)
    if chosen.component is None:
        return distilled
    with store.counting.apart() as labels:
        distilled = labelled(setup, distilled)
    found.beforehand += [_part(training) for training in store.trainings[noted:]]
    found.method.append(Part(f"labels, {chosen.shown}", labels.work, labels.peak))
    return distilled


def _line(line: Line, setup: DrySetup, store: DryStore, distilled: DistilledSet, found: Counted) -> Part:
    """The classifier of a line, and its pass over the test images."""
    noted, kept = len(store.trainings), 0
    with store.counting.apart() as own:
        try:
            classifier, scores = trained(line, setup, distilled)
        except (InputError, RunFailed):
            raise
        except Exception as error:  # of a head that asks more of features than that they are there
            found.remarks.append(f"{line.name!r} is not counted in full: {type(error).__name__}: {error}")
        else:
            kept = FP32 * scores.log_probabilities.numel()
            if setup.config.compute.keep and classifier is not None:
                kept += FP32 * sum(value.numel() for value in classifier.state_dict().values())
    parts: Sequence[PlannedTraining] = store.trainings[noted:]
    return Part(
        line.name,
        sum((part.work for part in parts), own.work),
        max([own.peak, *(part.peak for part in parts)]),
        kept + sum(part.disk for part in parts),
    )
