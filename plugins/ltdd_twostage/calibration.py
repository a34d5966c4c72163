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
LEAST, MOST = -10.0, 30.0  # of the margin


class Corrected(Classifier):
    """Softmax of log p(c) / T + o_c.

    A temperature above 1 makes it less sure of itself; the offsets are those of :func:`offsets`, or none.

    Args:
        classifier: what is corrected.
        offset: of each class, float ``[classes]``.
        temperature: T.
    """

    def __init__(self, classifier: Classifier, offset: Tensor | None = None, *, temperature: float = 1.0) -> None:
        self.classifier, self.offset, self.temperature = classifier, offset, temperature

    def log_probabilities(self, images: Tensor) -> Tensor:
        """As the classifier's, corrected."""
        log_p = self.classifier.log_probabilities(images)
        return corrected(log_p, 0.0 if self.offset is None else self.offset.to(log_p), self.temperature)


def corrected(log_p: Tensor, offset: Tensor | float, temperature: float = 1.0) -> Tensor:
    """Log-softmax of log p(c) / T + o_c, ``[N, classes]``."""
    return (log_p / temperature + offset).log_softmax(1)


def offsets(counts: Tensor, margin: float, debias: float = 0.0) -> Tensor:
    """What a class gets for being rare: margin n_c^(-1/4) - debias log pi_c, float64 ``[classes]``.

    A network learns a few images by heart, so a loss that is to be free of class frequencies still leaves unseen images
    of rare classes too little.  The margin by which classes of n_c images are to be favoured so that the bound of their
    error is smallest goes with n_c^(-1/4) (Cao et al., NeurIPS 2019, LDAM, equation 13): it fades where even the rarest
    class has many images.  The other term is post-hoc logit adjustment (Menon et al., ICLR 2021), which knows ratios of
    counts only.

    Args:
        counts: images of each class, above 0.
        margin: 0 for none.
        debias: 0 for none.
    """
    n = counts.double()
    return margin * n**-0.25 - debias * (n / n.sum()).log()


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


def best_correction(log_p: Tensor, labels: Tensor, counts: Tensor, debias: float = 0.0) -> tuple[float, float]:
    """T and margin that together make the class-balanced likelihood of the labels largest.

    Args:
        log_p: ``[N, classes]``, of images that the classifier was not trained on.
        labels: int64 ``[N]``.
        counts: images of each class that it was trained on, ``[classes]``.
        debias: of :func:`offsets`.
    """

    def nll(x: Any) -> float:
        return balanced_nll(corrected(log_p.double(), offsets(counts, x[1], debias), math.exp(x[0])), labels)

    bounds = [(math.log(COLDEST), math.log(HOTTEST)), (LEAST, MOST)]
    found = minimize(nll, [0.0, 0.0], bounds=bounds, method="L-BFGS-B").x
    return math.exp(float(found[0])), float(found[1])
