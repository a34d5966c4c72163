"""The margin of stage 1 for rare classes.

A network learns the few images of a rare class by heart.  So even a loss that is meant to remove the preference for
frequent classes leaves unseen images of rare classes a probability that is too small.  The margins that make the bound
of the class-balanced error smallest are proportional to n_c^(-1/4), n_c the images of class c (Cao et al., NeurIPS
2019, LDAM, equation 13).  They fade where even the rarest class has many images.
"""

from __future__ import annotations

from torch import Tensor, nn

from ltdd_core import Classifier


def margins(counts: Tensor, margin: float) -> Tensor:
    """What is added to the log-probability of each class: margin n_c^(-1/4), float64 ``[classes]``.

    Args:
        counts: images of each class, above 0, ``[classes]``.
        margin: 0 for none.
    """
    return margin * counts.double() ** -0.25


class WithOffsets(Classifier):
    """Softmax of log p(c) + o_c.

    Args:
        classifier: gives p.
        offsets: o, of each class, ``[classes]``.
    """

    def __init__(self, classifier: Classifier, offsets: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.offsets = nn.Buffer(offsets)

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-probabilities ``[n, classes]`` of images ``[n, C, H, W]``, normalised."""
        log_p = self.classifier.log_probabilities(images)
        return (log_p + self.offsets.to(log_p)).log_softmax(1)
