"""How good a distilled set is beside its accuracy: the scores of DD-Ranking (Li et al., 2024), from fractions.

Accuracy alone rewards whatever else trains a classifier well: soft labels, augmentation, long training.  These scores
compare with the whole set under hard labels, and with as many random real images under the same training.

DD-Ranking 0.2.0 hands accuracies in per cent to the exponential functions below, which makes its scores 0 or 1; ours
are fractions, as the formulas want them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

from ltdd_core.config.model import Selection
from ltdd_core.evaluation.controls import random_images
from ltdd_core.evaluation.labelling import training_set_of
from ltdd_core.evaluation.repeats import repeated, trained_apart
from ltdd_core.evaluation.shown import NumberTable
from ltdd_core.evaluation.table import fitted
from ltdd_core.networks.network import Network
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.setup import Setup
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.together import Ask
from ltdd_core.training.trainer import Trainer

WEIGHT = 0.5
"""Of either part of the two scores; DD-Ranking's default."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies on the test set, fractions from 0 to 1, of networks that are trained in the same way on six sets."""

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


QUALITY = {
    "real": "the long-tailed set",
    "distilled": "the distilled set",
    "hard": "... under hard labels",
    "random": "random real images",
    "distilled_plain": "the distilled set, not augmented",
    "random_plain": "random real images, not augmented",
    "hard_label_recovery": "hard-label recovery (0 is best)",
    "improvement_over_random": "improvement over random",
    "label_robust_score": "label-robust score",
    "augmentation_robust_score": "augmentation-robust score",
}
"""What a table calls the accuracies and the scores."""


@dataclass(frozen=True)
class Quality:
    """Accuracies and scores over several seeds, all in per cent."""

    network: str
    """The name of the network."""
    mean: dict[str, float]
    """Means over the seeds, by the name of an accuracy or a score."""
    deviation: dict[str, float]
    """Population standard deviations over the seeds, by the same names."""
    repeats: int
    """Number of seeds."""

    def to_json(self) -> dict[str, Any]:
        """The document of ``ltdd evaluate --quality --json``."""
        return {**self.mean, "network": self.network, "repeats": self.repeats, "deviation": self.deviation}

    @staticmethod
    def table(scores: Sequence[Quality]) -> NumberTable:
        """Accuracies that a distilled set is compared with, and what they come to; a column for each network."""
        body = [
            [
                name,
                *(f"{score.mean[key]:.1f}{f'±{score.deviation[key]:.1f}' * (score.repeats > 1)}" for score in scores),
            ]
            for key, name in QUALITY.items()
        ]
        head = ["trained on, score", *(score.network for score in scores)]
        keys = ["name", *(score.network for score in scores)]
        return NumberTable("quality beside accuracy; per cent, plain linear head", keys, head, body)

    def __repr__(self) -> str:
        scores = ", ".join(f"{QUALITY[key]} {self.mean[key]:.1f}" for key in list(QUALITY)[-4:])
        return f"Quality({self.network}: {scores})"

    def _repr_html_(self) -> str:
        return Quality.table([self]).html()


def quality_of(setup: Setup, distilled: DistilledSet, networks: Sequence[Selection], repeats: int) -> Iterator[Quality]:
    """Score a distilled set on each network and seed.

    Raises:
        InputError: the distilled set is not of this data set.
        RunFailed: training diverged.
    """
    setup = fitted(setup, distilled)

    def asks(variant: Setup) -> list[Ask]:
        return [Ask(*of_one) for of_one in _trainings(variant, distilled).values()]

    trained_apart([setup], networks, repeats, lambda _, variant: asks(variant))
    for name, measured in repeated(setup, networks, repeats, lambda variant: accuracies(variant, distilled), asks):
        rows = [{**vars(of_seed), **of_seed.scores()} for of_seed in measured]
        columns = {key: [100 * row[key] for row in rows] for key in rows[0]}
        mean = {key: fmean(values) for key, values in columns.items()}
        yield Quality(name, mean, {key: pstdev(values) for key, values in columns.items()}, repeats)


def accuracies(setup: Setup, distilled: DistilledSet) -> Accuracies:
    """Train on the six sets with one seed; what is the same is trained once."""
    found = {}
    for name, (trainer, network_of) in _trainings(setup, distilled).items():
        predicted = trainer.outputs(network_of(trainer), setup.test).argmax(1)
        found[name] = float((predicted == setup.data.test_labels).double().mean())
    return Accuracies(**found)


def _trainings(setup: Setup, distilled: DistilledSet) -> dict[str, tuple[Trainer, Callable[[Trainer], Network]]]:
    """For each accuracy the trainer of its network, and what gives the network."""
    as_distilled = training_set_of(setup, distilled)
    random_real = random_images(setup.data, distilled.ipc_of_class, setup.config.run.seed)
    hard = replace(as_distilled, soft_labels=None, view_labels=None)
    trainer = setup.trainer(distilled.recipe)
    plain = trainer.changed(augmentation=Augmentation("none"))

    def on(data: TrainingSet, purpose: str = "classes") -> Callable[[Trainer], Network]:
        return lambda trainer: trainer.train(data, outputs=setup.data.classes, purpose=purpose)

    of_random = "classes of random images"
    return {
        "real": (trainer, on(setup.original)),
        "hard": (trainer, on(hard)),
        "distilled": (trainer, on(as_distilled)),
        "random": (trainer, on(random_real, of_random)),
        "distilled_plain": (plain, on(as_distilled)),
        "random_plain": (plain, on(random_real, of_random)),
    }
