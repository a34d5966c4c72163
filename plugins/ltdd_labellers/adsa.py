"""ADSA's calibration of soft labels (NeurIPS 2025, arXiv 2511.17914).

A teacher of a long-tailed set prefers frequent classes, and so do its soft labels.  With f its logits, pi the class
frequencies of the long-tailed set, and y_i the class of synthetic image i, the labels are

    softmax(f - tau log pi),   tau = argmin  std_c ( mean over i with y_i = c of softmax(f_i - tau log pi)_c ),

the standard deviation over classes of the mean confidence in the images' own class.  tau is one number, found on the
images as they are, and used for every view.  For tau to infinity all confidence goes to the rarest class and to minus
infinity to the most frequent one, so there is a minimum; it need not be the only one, so a grid is searched first, then
its best cell.  Range and grid are ours: the paper's are not public.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ltdd_core import Labelling, SoftLabels, TeacherOptions, option
from ltdd_labellers.teacher import TeacherLabeller

LEAST, MOST, CELLS = -1.0, 4.0, 50


class CalibratedLabeller(TeacherLabeller):
    """A teacher whose preference for frequent classes is calibrated away."""

    class Options(TeacherLabeller.Options):
        """The teachers and the calibration."""

        teacher: TeacherOptions = option(
            TeacherOptions(), "the teachers, plain ones: what they prefer is calibrated away"
        )
        tau: float | None = option(
            None,
            "factor tau of log pi_c, which is subtracted from the logit of a class with frequency pi_c; unless given, "
            "the one with the most equal confidence over the classes",
        )

    def prepare(self, task: Labelling) -> None:
        """Train or find the teachers, then calibrate."""
        super().prepare(task)
        counts = torch.tensor(task.counts, dtype=torch.float64)
        self.log_prior = (counts / counts.sum()).log()
        self.tau = self.options.tau
        if self.tau is None:
            self.tau = calibrated(self.teachers.logits(task.images), task.labels, self.log_prior)

    def label(self, images: Tensor) -> SoftLabels:
        """The teachers' logits less tau log pi."""
        plain = self.teachers.logits(images)
        return SoftLabels(plain - self.tau * self.log_prior.to(plain), "logits")


def calibrated(logits: Tensor, labels: Tensor, log_prior: Tensor) -> float:
    """tau: where the mean confidences of the classes differ least.

    Args:
        logits: of the synthetic images, ``[n, classes]``.
        labels: the class of each, int64 ``[n]``.
        log_prior: log pi, ``[classes]``.
    """
    f, y, prior = logits.double().cpu(), labels.cpu(), log_prior.double().cpu()

    def spread(tau: float) -> float:
        return spread_of_confidence(f - tau * prior, y)

    grid = torch.linspace(LEAST, MOST, CELLS + 1).tolist()
    best = min(grid, key=spread)
    cell = (MOST - LEAST) / CELLS
    found = minimize_scalar(spread, bounds=(best - cell, best + cell), method="bounded")
    return float(found.x) if found.fun < spread(best) else best


def spread_of_confidence(logits: Tensor, labels: Tensor) -> float:
    """The standard deviation over the classes that occur of the mean confidence in an image's own class.

    Args:
        logits: float ``[n, classes]``.
        labels: the class of each image, int64 ``[n]``.
    """
    confidence = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    means = torch.stack([confidence[labels == label].mean() for label in labels.unique()])
    return float(means.std(correction=0))
