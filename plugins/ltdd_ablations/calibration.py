"""Corrections of a stage that need no test image: out-of-fold predictions, temperature, margin and debias.

Every likelihood here is class-balanced, so that the few images of rare classes count: the mean over classes of the mean
over the images of a class.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from ltdd_core import Classifier, ClassifierHead, Trainer, TrainingSet, balanced_nll, generator
from ltdd_twostage.margin import margins

COLDEST, HOTTEST = 0.1, 10.0
LEAST, MOST = -10.0, 30.0  # of the margin


class Corrected(Classifier):
    """Softmax of log p(c) / T + o_c.

    Args:
        classifier: gives p.
        offset: o, of each class, float ``[classes]``, from :func:`offsets`; None for none.
        temperature: T; above 1 it makes the classifier less confident.
    """

    def __init__(self, classifier: Classifier, offset: Tensor | None = None, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.classifier, self.temperature = classifier, temperature
        self.offset = None if offset is None else nn.Buffer(offset)

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-probabilities ``[n, classes]`` of images ``[n, C, H, W]``, normalised."""
        log_p = self.classifier.log_probabilities(images)
        return corrected(log_p, 0.0 if self.offset is None else self.offset.to(log_p), self.temperature)


def corrected(log_p: Tensor, offset: Tensor | float, temperature: float = 1.0) -> Tensor:
    """Log-softmax of log p(c) / T + o_c, ``[N, classes]``."""
    return (log_p / temperature + offset).log_softmax(1)


def offsets(counts: Tensor, margin: float, debias: float = 0.0) -> Tensor:
    """What is added to the log-probability of each class: margin n_c^(-1/4) - debias log pi_c, float64 ``[classes]``.

    The first term is :func:`ltdd_twostage.margin.margins`.  The second is post-hoc logit adjustment (Menon et al., ICLR
    2021) with the class frequencies pi: it depends on ratios of counts only, so more images of every class leave it as
    it is.

    Args:
        counts: images of each class, above 0, ``[classes]``.
        margin: 0 for none.
        debias: 0 for none.
    """
    frequencies = counts.double() / counts.double().sum()
    return margins(counts, margin) - debias * frequencies.log()


def out_of_fold(head: ClassifierHead, data: TrainingSet, folds: int, trainer: Trainer, name: str) -> Tensor:
    """Log-probabilities ``[N, classes]`` of each image by a classifier that was not trained on it.

    Every fold has its share of each class.  A class with one image is missing from the training set of one fold.

    Args:
        head: trains the classifiers.
        data: the set of the stage.
        folds: number of folds.
        trainer: of the whole head.
        name: of the stage, for :meth:`ltdd_core.Trainer.part`.
    """
    fold = _folds(data.labels, folds, generator(trainer.seed, "folds"))
    result = torch.empty(len(data), data.classes)
    for index in range(folds):
        out = fold == index
        part = trainer.part(f"{name}, without fold {index + 1} of {folds}")
        fitted = head.fit([data.only(~out)], part)
        result[out] = trainer.outputs(fitted.log_probabilities, data.only(out))
    return result


def _folds(labels: Tensor, folds: int, draws: torch.Generator) -> Tensor:
    """The fold of each image, int64 ``[N]``; the number of images of a class differs by at most one between folds."""
    order = torch.randperm(len(labels), generator=draws)
    order = order[labels[order].argsort(stable=True)]
    result = torch.empty(len(labels), dtype=torch.int64)
    result[order] = torch.arange(len(labels)) % folds
    return result


def best_correction(log_p: Tensor, labels: Tensor, counts: Tensor, debias: float = 0.0) -> tuple[float, float]:
    """T and margin that make the class-balanced likelihood of the labels largest.

    Args:
        log_p: ``[N, classes]``, of images that the classifier was not trained on.
        labels: int64 ``[N]``.
        counts: images of each class that it was trained on, ``[classes]``.
        debias: of :func:`offsets`.
    """

    def nll(x: Any) -> float:
        return balanced_nll(corrected(log_p.double(), offsets(counts, x[1], debias), math.exp(x[0])), labels)

    bounds = [(math.log(COLDEST), math.log(HOTTEST)), (LEAST, MOST)]
    best = minimize(nll, [0.0, 0.0], bounds=bounds, method="L-BFGS-B").x
    return math.exp(float(best[0])), float(best[1])
