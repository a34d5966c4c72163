"""Controls: what classifiers come to with the same labels and the same training, on other images than the distilled.

They tell what the images of a method add, and what its labels and its training recipe do.  A control is the
real images that a sampler takes for representatives (``random`` or ``herding``, say), the ``whole`` long-tailed set, or
the ``teacher`` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.resolve import select
from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError, unknown
from ltdd_core.evaluation.labeller import Labeller
from ltdd_core.evaluation.labelling import as_labelled, labeller_of, labelling_of, prepared
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.seeding import generator
from ltdd_core.setup import DISTILLED, Setup
from ltdd_core.training.sets import TrainingSet, ViewLabels
from ltdd_core.training.soft_labels import SoftLabels

WHOLE, TEACHER = "whole", "teacher"
TINIEST = 1e-30  # of a probability that is 0


def check_control(control: Any, catalog: Catalog) -> None:
    """Refuse a control that there is not.

    Raises:
        InputError: listing those that there are.
    """
    known = [WHOLE, TEACHER, *catalog.names("sampler")]
    if control not in known:
        raise unknown("control", str(control), known)


def images_of_control(control: str, data: LongTailedSet, distilled: DistilledSet | None) -> int:
    """How many images train the classifier of a control."""
    if control in (WHOLE, TEACHER) or distilled is None:
        return len(data.train_labels)
    return sum(map(min, distilled.ipc_of_class, data.counts))


def control_set(control: str, setup: Setup, distilled: DistilledSet) -> TrainingSet:
    """The images of a control, with labels as the distilled set has them.

    Args:
        control: its name, and not ``teacher``.
        setup: in the colours of the distilled set.
        distilled: the distilled set.

    Raises:
        InputError: nothing installed can label other images as those of the distilled set are labelled.
        RunFailed: the training of a teacher diverged.
    """
    data, seed = setup.data, setup.config.run.seed
    if control == WHOLE:
        images = replace(setup.original, name=DISTILLED)
    else:
        sampler: Sampler = setup.prepared(setup.component("sampler", control))

        def chosen(label: int, ipc: int) -> Tensor:
            return sampler.representatives(label, ipc, generator(seed, "initial images", label=label), setup.features)

        images = _real_images(data, distilled.ipc_of_class, chosen)
    label = teacher_of(setup, distilled)
    if label is None:
        return images
    if distilled.labeller is not None:
        return replace(images, view_labels=label)
    parts = [label(images.batch(indices, setup.device)[0]) for indices in torch.arange(len(images)).split(setup.chunk)]
    soft = SoftLabels.joined(parts)
    return replace(images, soft_labels=replace(soft, values=soft.values.detach().float().cpu()))


def teacher_scores(setup: Setup, distilled: DistilledSet) -> Tensor:
    """Log-probabilities of the teacher of a distilled set on the test images, float32 ``[N, classes]``.

    Raises:
        InputError: the set has no soft labels, or nothing installed gives such labels.
    """
    label = teacher_of(setup, distilled)
    if label is None:
        raise InputError("the distilled set has no soft labels, so there is no teacher to compare with.")
    return setup.trainer().outputs(lambda images: label(images).probabilities().clamp(min=TINIEST).log(), setup.test)


def teacher_of(setup: Setup, distilled: DistilledSet) -> ViewLabels | None:
    """What labels images as those of a distilled set are labelled; None where these have hard labels.

    That is the labeller of its run, which has seen the distilled images, or else the teacher of its method; trained, or
    found in the network store.

    Args:
        setup: in the colours of the distilled set.
        distilled: the distilled set.

    Raises:
        InputError: neither is installed, or the method does not name its teacher.
    """
    if not distilled.has_soft_labels:
        return None
    stored = distilled.origin.get("configuration")
    stored = stored if isinstance(stored, Mapping) else {}
    named = distilled.labeller or stored.get("labeller") or {"name": "none"}
    before, seen = as_labelled(setup, distilled), distilled.decoded(setup.catalog)
    if named["name"] != "none":
        labeller: Labeller = prepared(before, labeller_of(setup, named), seen)
        return labeller.label
    method: Any = stored.get("matcher")
    if isinstance(method, Mapping):
        matcher = select(setup.catalog, "matcher", method).make()
        label: ViewLabels | None = matcher.teacher(labelling_of(before, seen))
        if label is not None:
            return label
    raise InputError(
        "the soft labels of the distilled set come from a method that does not say what labels other images, so there "
        "is no control with the same labels: relabel the set first, or leave out its controls."
    )


def random_images(data: LongTailedSet, ipc_of_class: Sequence[int], seed: int) -> TrainingSet:
    """``min(IPC, n_c)`` random training images of each class, trained on as a distilled set is."""
    labels = data.train_labels.cpu()

    def chosen(label: int, ipc: int) -> Tensor:
        members = torch.nonzero(labels == label).flatten()
        return members[torch.randperm(len(members), generator=generator(seed, "random images", label))[:ipc]]

    return _real_images(data, ipc_of_class, chosen)


def _real_images(data: LongTailedSet, ipc_of_class: Sequence[int], chosen: Callable[[int, int], Tensor]) -> TrainingSet:
    """The real images of each class that ``(label, ipc)`` chooses, trained on as a distilled set is."""
    indices = torch.cat([chosen(label, ipc) for label, ipc in enumerate(ipc_of_class)])
    images = data.normalisation.apply(data.train_images[indices])
    return TrainingSet(DISTILLED, images, data.train_labels.cpu()[indices], data.normalisation, data.classes)
