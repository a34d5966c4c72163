"""The parts of a run, counted in a dry run: what is trained beforehand, the method, the labels, each classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ltdd_core import ranks
from ltdd_core.config.model import Config
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.matcher import Matcher
from ltdd_core.errors import InputError, RunFailed
from ltdd_core.evaluation.labelling import labelled
from ltdd_core.evaluation.lines import Line, lines_of
from ltdd_core.evaluation.table import trained
from ltdd_core.planning.counting import NOTHING, Counting, Work, hollow
from ltdd_core.planning.dry import FP32, DrySetup, DryStore, PlannedTraining
from ltdd_core.planning.method import Matched, MethodCount
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.progress import Display
from ltdd_core.runs.distilled import DistilledSet, ipc_of_set
from ltdd_core.runs.stop import StopRequest
from ltdd_core.training.soft_labels import SoftLabels


@dataclass(frozen=True)
class Part:
    """A part of a run, before it runs."""

    name: str
    work: Work = NOTHING
    peak: int = 0
    """Bytes of the tensors that there are at once, on each GPU if there are several."""
    disk: int = 0
    """Bytes that it leaves on the disk."""
    own: Work = NOTHING
    """What one GPU has to do of it: all where there is no other."""


@dataclass
class Counted:
    """What a dry run came to."""

    beforehand: list[Part] = field(default_factory=list)
    method: list[Part] = field(default_factory=list)
    lines: list[Part] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What could not be counted, and what was counted in part, a sentence each."""


LineOf = tuple[Line, Config]
"""A line of a table, and the configuration that its classifier is trained with."""


def counted(
    config: Config, data: LongTailedSet, catalog: Catalog, lines: Sequence[LineOf] | None = None, *, gpus: int = 1
) -> Counted:
    """Take the way of a run with hollow images, and count: alone, and as the first of its processes if there are more.

    Args:
        config: to be computed on the CPU, not compiled, in one precision and with a chunk of its own.
        data: hollow.
        catalog: where it was resolved.
        lines: of the table; those of the configuration unless given.
        gpus: how many there are, each of which has a process of the run.

    Raises:
        InputError: what a run would refuse.
    """
    alone = _counted(config, data, catalog, lines)
    if gpus == 1:
        return alone
    with ranks.as_first_of(gpus):
        first = _counted(config, data, catalog, lines)
    for parts, own in ((alone.beforehand, first.beforehand), (alone.method, first.method), (alone.lines, first.lines)):
        # a share of the images at once grows with the classes that are counted, so the line may lead above all of them
        pairs = list(zip(parts, own, strict=True))
        parts[:] = [replace(part, own=one.own, peak=min(part.peak, one.peak)) for part, one in pairs]
    return replace(alone, remarks=first.remarks)


def _counted(config: Config, data: LongTailedSet, catalog: Catalog, lines: Sequence[LineOf] | None) -> Counted:
    """What this process does."""
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
    return _made(f"{count}{training.what}", training.work, training.peak, training.disk)


def _made(name: str, work: Work, peak: int, disk: int = 0) -> Part:
    """A part that this process does."""
    return Part(name, work, peak, disk, work)


def _method(setup: DrySetup, store: DryStore, found: Counted) -> Matched:
    config = setup.config
    matched, remarks = MethodCount(setup, store).result()
    found.remarks += remarks
    steps = config.run.iterations if config.matcher.component.iterative else 0
    name = f"{config.matcher.shown}, {steps} steps" if steps else config.matcher.shown
    work = matched.beside + matched.step * steps
    found.method.append(_made(name, work, matched.peak, matched.disk))
    return matched


def _distilled(setup: DrySetup, matched: Matched) -> DistilledSet:
    """The distilled set of all classes, hollow."""
    made, data, config = matched.made, setup.data, setup.config
    labels = made.labels
    if int(labels.max()) + 1 < data.classes:  # some of the classes were counted
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
    found.method.append(_made(f"labels, {chosen.shown}", labels.work, labels.peak))
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
    return _made(
        line.name,
        sum((part.work for part in parts), own.work),
        max([own.peak, *(part.peak for part in parts)]),
        kept + sum(part.disk for part in parts),
    )
