"""What the classifiers of a run say of its test images: how reliable they are, and where they are sure and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ltdd_core import LongTailedSet, Reliability, at_temperature, reliability
from ltdd_report.reading import PREDICTIONS, RunRecord, check_predictions, predictions, temperatures


@dataclass(frozen=True)
class Tested:
    """The test images of a run, and what its classifiers say of them."""

    images: Tensor
    """uint8 ``[N, C, H, W]``."""
    labels: Tensor
    """int64 ``[N]``."""
    log_p: Mapping[str, Tensor]
    """Log-probabilities of each line before calibration, float32 ``[N, classes]``."""
    temperatures: Mapping[str, float]
    """What calibrates each line that is calibrated."""

    def calibrated(self, line: str) -> Tensor:
        """Log-probabilities of a line, calibrated where the line is, ``[N, classes]``."""
        log_p, temperature = self.log_p[line], self.temperatures.get(line)
        return log_p if temperature is None else at_temperature(log_p, temperature)

    def reliability(self, line: str) -> tuple[Reliability, Reliability | None]:
        """How reliable a line is before and after its calibration; None where it has none."""
        right = self.log_p[line].argmax(1) == self.labels
        after = reliability(self.calibrated(line), right) if line in self.temperatures else None
        return reliability(self.log_p[line], right), after


@dataclass(frozen=True)
class Mistake:
    """A test image that a classifier takes for another class."""

    image: Tensor
    """uint8 ``[C, H, W]``."""
    label: int
    """Its class."""
    predicted: int
    """The class that the classifier takes it for."""
    probability: float
    """How sure the classifier is of that, from 0 to 1."""


def tested(run: RunRecord, data: LongTailedSet | str) -> Tested | str:
    """What the classifiers say of the test images; where that cannot be had, why, in a sentence.

    Args:
        run: whose classifiers.
        data: the set of the run, or why it is not at hand.

    Raises:
        InputError: the predictions are damaged, or not those of the table.
    """
    if not (run.path / PREDICTIONS).exists():
        return f"The folder of the run has no {PREDICTIONS}."
    log_p, fitted = predictions(run), temperatures(run)
    if isinstance(data, str):
        return f"The test images are not at hand: {data}"
    for name, said in log_p.items():
        check_predictions(run, name, said, data.test_labels.numpy())
    return Tested(data.test_images, data.test_labels, log_p, fitted)


def mistakes(found: Tested, line: str, each: int) -> list[list[Mistake]]:
    """For each class, at most ``each`` test images that a line takes for another one, the surest first."""
    probability, predicted = found.calibrated(line).exp().max(1)
    by_class: list[list[Mistake]] = []
    for label in range(found.log_p[line].shape[1]):
        wrong = ((found.labels == label) & (predicted != label)).nonzero().flatten()
        surest = wrong[probability[wrong].argsort(descending=True, stable=True)][:each].tolist()
        by_class.append([Mistake(found.images[i], label, int(predicted[i]), float(probability[i])) for i in surest])
    return by_class
