"""How good a distilled set is beside its accuracy: the scores of DD-Ranking (Li et al., 2024), from fractions.

Accuracy alone rewards whatever else trains a classifier well: soft labels, augmentation, long training.  These scores
compare with the whole set under hard labels, and with as many random real images under the same training.

DD-Ranking 0.2.0 hands accuracies in per cent to the exponential functions below, which makes its scores 0 or 1; ours
are fractions, as the formulas want them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.model import Config, Selection
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import memory_in_words
from ltdd_core.evaluation.head import Softmax
from ltdd_core.evaluation.lines import check_fits, make_trainer, test_log_probabilities, training_sets
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.progress import Display
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.stop import StopRequest
from ltdd_core.seeding import generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer

WEIGHT = 0.5
"""Of either part of the two scores; DD-Ranking's default."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies on the test set, fractions from 0 to 1, of networks trained alike on six sets."""

    real: float
    """The long-tailed set, with the run's augmentation."""
    hard: float
    """The distilled set under hard labels."""
    distilled: float
    """The distilled set under its own labels."""
    random: float
    """IPC random real images of each class, or all of a class that has fewer."""
    distilled_plain: float
    """The distilled set, without augmentation."""
    random_plain: float
    """The random images, without augmentation."""

    def scores(self) -> dict[str, float]:
        """The four scores."""
        return {
            "hard_label_recovery": self.real - self.hard,
            "improvement_over_random": self.distilled - self.random,
            "label_robust_score": label_robust_score(self.real - self.hard, self.distilled - self.random),
            "augmentation_robust_score": augmentation_robust_score(
                self.distilled - self.random, self.distilled_plain - self.random_plain
            ),
        }


def label_robust_score(recovery: float, improvement: float, weight: float = WEIGHT) -> float:
    """LRS from 0 to 1: (e^a - e^-1) / (e - e^-1) with a = w IOR - (1 - w) HLR.

    Args:
        recovery: HLR, accuracy of the whole set less that of the distilled one under hard labels; a fraction.
        improvement: IOR, accuracy of the distilled set less that of random images; a fraction.
        weight: w.
    """
    return _stretched(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(with_augmentation: float, without: float, weight: float = WEIGHT) -> float:
    """ARS from 0 to 1: the same with a = g IOR (augmented) + (1 - g) IOR (not augmented).

    Args:
        with_augmentation: improvement over random images where both are augmented; a fraction.
        without: where neither is; a fraction.
        weight: g.
    """
    return _stretched(weight * with_augmentation + (1 - weight) * without)


def _stretched(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Quality:
    """Accuracies and scores over several seeds, all in per cent."""

    network: str
    mean: dict[str, float]
    deviation: dict[str, float]
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``ltdd evaluate --quality --json``."""
        return {**self.mean, "network": self.network, "repeats": self.repeats, "deviation": self.deviation}


def quality_of(
    config: Config,
    data: LongTailedSet,
    distilled: DistilledSet,
    *,
    networks: Sequence[Selection],
    repeats: int,
    device: torch.device,
    catalog: Catalog,
    display: Display,
) -> Iterator[Quality]:
    """Score a distilled set on each network, ``repeats`` seeds from ``config.run.seed`` on.

    Raises:
        InputError: the distilled set is not of this data set.
        RunFailed: training diverged.
    """
    check_fits(data, distilled)
    data = replace(data, normalisation=distilled.normalisation)
    for network in networks:
        changed = replace(config, network=network)
        found = []
        with StopRequest().listening() as stop, memory_in_words():
            for seed in range(config.run.seed, config.run.seed + repeats):
                augmented = make_trainer(
                    changed,
                    device,
                    data.image_shape,
                    seed=seed,
                    learned=distilled.training,
                    catalog=catalog,
                    stop=stop,
                    display=display,
                )
                found.append(accuracies(changed, data, distilled, augmented, catalog))
        rows = [{**vars(one), **one.scores()} for one in found]
        columns = {name: [100 * row[name] for row in rows] for name in rows[0]}
        mean = {name: fmean(values) for name, values in columns.items()}
        yield Quality(network.name, mean, {name: pstdev(values) for name, values in columns.items()}, repeats)


def accuracies(
    config: Config, data: LongTailedSet, distilled: DistilledSet, trainer: Trainer, catalog: Catalog
) -> Accuracies:
    """Train on the six sets with one seed; what is the same is trained once."""
    sets = training_sets(config, data, distilled, catalog)
    own, few = sets["distilled"], random_images(data, distilled.ipc, trainer.seed)
    hard = own if own.labels.dim() == 1 else replace(own, labels=own.hard_labels())
    plain = trainer if config.run.augment == "none" else trainer.with_augmentation(Augmentation("none"))
    return Accuracies(
        real=_accuracy(sets["original"], "classes", data, trainer),
        hard=_accuracy(hard, "classes" if hard is own else "hard classes", data, trainer),
        distilled=_accuracy(own, "classes", data, trainer),
        random=_accuracy(few, "classes of random images", data, trainer),
        distilled_plain=_accuracy(own, "classes", data, plain),
        random_plain=_accuracy(few, "classes of random images", data, plain),
    )


def random_images(data: LongTailedSet, ipc: int, seed: int) -> TrainingSet:
    """``min(ipc, n_c)`` random training images of each class, trained on as a distilled set is."""
    labels, chosen = data.train_labels.cpu(), []
    for label in range(data.classes):
        own = torch.nonzero(labels == label).flatten()
        chosen.append(own[torch.randperm(len(own), generator=generator(seed, "random images", label))[:ipc]])
    indices = torch.cat(chosen)
    images = data.normalisation.apply(data.train_images[indices])
    return TrainingSet("distilled", images, labels[indices], data.normalisation, data.classes)


def _accuracy(own: TrainingSet, purpose: str, data: LongTailedSet, trainer: Trainer) -> float:
    classifier = Softmax(trainer.train(own, outputs=data.classes, purpose=purpose))
    found: Tensor = test_log_probabilities(classifier, data, trainer).argmax(1)
    return float((found == data.test_labels).double().mean())
