"""Calibrated probabilities: the temperature of a classifier (Guo et al., ICML 2017).

A classifier that says p(c) becomes one that says softmax(log p(c) / T).  T is one number for all classes, so the
likeliest class stays the likeliest.  It is the one with the largest likelihood of the validation images, which trained
nothing.  Unlike in the paper every class weighs the same, since a rare class may have a single validation image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLDEST, HOTTEST = 0.01, 100.0


def at_temperature(log_p: Tensor, temperature: float) -> Tensor:
    """Log-softmax of log p(c) / T, ``[N, classes]``; what is -inf stays so.

    Args:
        log_p: log-probabilities, float ``[N, classes]``; in no row all are -inf.
        temperature: T, above 0; above 1 it makes a classifier less confident.
    """
    return (log_p / temperature).log_softmax(1)


def balanced_nll(log_p: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the mean of -log p(class) over their images.

    Args:
        log_p: ``[N, classes]``.
        labels: int64 ``[N]``.
    """
    losses = -log_p.gather(1, labels[:, None])[:, 0].double()
    return float(torch.stack([losses[labels == label].mean() for label in labels.unique()]).mean())


def best_temperature(log_p: Tensor, labels: Tensor) -> float:
    """T between 0.01 and 100 that makes the class-balanced likelihood of the labels largest.

    An image whose class is ruled out (-inf) has no say, since no temperature helps it.  Where no image has one, T is 1.

    Args:
        log_p: log-probabilities of images that the classifier was not trained on, float ``[N, classes]``.
        labels: the class of each image, int64 ``[N]``.
    """
    from scipy.optimize import minimize_scalar  # takes half a second

    possible = log_p.gather(1, labels[:, None])[:, 0].isfinite()
    if not possible.any():
        return 1.0
    log_p, labels = log_p[possible].double(), labels[possible]

    def nll(log_t: float) -> float:
        return balanced_nll(at_temperature(log_p, math.exp(log_t)), labels)

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp(float(minimize_scalar(nll, bounds=bounds, method="bounded").x))
