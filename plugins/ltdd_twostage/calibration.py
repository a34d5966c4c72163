"""What can be known of a stage without test images: its predictions out of fold, its temperature and its bias.

A few tail images would drown among those of the head, so every likelihood here is class-balanced: the mean over classes
of the mean over the images of a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from ltdd_core import Classifier, ClassifierHead, Trainer, TrainingSet, generator

COLDEST, HOTTEST = 0.1, 10.0
LEAST, MOST = -1.0, 3.0  # of bias


class Corrected(Classifier):
    """Softmax of log p(c) / T - debias log pi_c.

    A temperature above 1 makes it less sure of itself.  ``debias`` takes away what is left of the class frequencies pi
    after a loss that was to be free of them (post-hoc logit adjustment, Menon et al., ICLR 2021, on top of it): a
    network learns a few tail images by heart, so the tail of unseen images still gets too little.

    Args:
        classifier: what is corrected.
        frequencies: of the classes, float ``[classes]``.
        temperature: T.
        debias: 0 for none.
    """

    def __init__(
        self, classifier: Classifier, frequencies: Tensor, *, temperature: float = 1.0, debias: float = 0.0
    ) -> None:
        self.classifier, self.frequencies = classifier, frequencies
        self.temperature, self.debias = temperature, debias

    def log_probabilities(self, images: Tensor) -> Tensor:
        """As the classifier's, corrected."""
        log_p = self.classifier.log_probabilities(images)
        return corrected(log_p, self.frequencies.to(log_p), self.temperature, self.debias)


def corrected(log_p: Tensor, frequencies: Tensor, temperature: float, debias: float) -> Tensor:
    """Log-softmax of log p(c) / T - debias log pi_c, ``[N, classes]``."""
    return (log_p / temperature - debias * frequencies.log()).log_softmax(1)


def predictions(classifier: Classifier, data: TrainingSet, trainer: Trainer) -> Tensor:
    """Log-probabilities ``[N, classes]`` of the images of a set as they are, float32 on the CPU."""
    parts = []
    with torch.no_grad():
        for indices in torch.arange(len(data)).split(trainer.chunk):
            trainer.keep_going()
            parts.append(classifier.log_probabilities(data.batch(indices, trainer.device)[0]).float().cpu())
    return torch.cat(parts)


def out_of_fold(
    head: ClassifierHead, data: TrainingSet, folds: int, trainer: Trainer, name: str, decided_by: Mapping[str, Any]
) -> Tensor:
    """Log-probabilities ``[N, classes]`` of each image by a classifier that was not trained on it.

    ``name`` and ``decided_by`` are those of the stage; see :meth:`ltdd_core.Trainer.part`.  Every fold has its share
    of each class; the one fold of a class with one image leaves its classifier none of it.
    """
    fold = _folds(data.hard_labels(), folds, generator(trainer.seed, "folds"))
    result = torch.empty(len(data), data.classes)
    for index in range(folds):
        out = fold == index
        part = trainer.part(f"{name}, without fold {index + 1} of {folds}", decided_by)
        fitted = head.fit([data.only(~out)], part)
        result[out] = predictions(fitted, data.only(out), trainer)
    return result


def _folds(labels: Tensor, folds: int, draws: torch.Generator) -> Tensor:
    """The fold of each image, int64 ``[N]``: of each class as many in one as in another, give or take one."""
    order = torch.randperm(len(labels), generator=draws)
    order = order[labels[order].argsort(stable=True)]
    result = torch.empty(len(labels), dtype=torch.int64)
    result[order] = torch.arange(len(labels)) % folds
    return result


def balanced_nll(log_p: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the mean of -log p(class) over their images."""
    own = -log_p.gather(1, labels[:, None])[:, 0].double()
    return float(torch.stack([own[labels == label].mean() for label in labels.unique()]).mean())


def best_temperature(log_p: Tensor, labels: Tensor) -> float:
    """T between 0.1 and 10 that makes the class-balanced likelihood of the labels largest (Guo et al., ICML 2017)."""

    def nll(log_t: float) -> float:
        return balanced_nll((log_p / math.exp(log_t)).log_softmax(1), labels)

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp(float(minimize_scalar(nll, bounds=bounds, method="bounded").x))


def best_correction(log_p: Tensor, labels: Tensor, frequencies: Tensor) -> tuple[float, float]:
    """T and debias of :class:`Corrected` that together make the class-balanced likelihood of the labels largest."""

    def nll(x: Any) -> float:
        return balanced_nll(corrected(log_p.double(), frequencies.double(), math.exp(x[0]), x[1]), labels)

    bounds = [(math.log(COLDEST), math.log(HOTTEST)), (LEAST, MOST)]
    found = minimize(nll, [0.0, 0.0], bounds=bounds, method="L-BFGS-B").x
    return math.exp(float(found[0])), float(found[1])
