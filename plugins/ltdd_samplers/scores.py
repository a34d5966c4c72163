"""Coresets by scores: each image has a number that says how hard it is for networks that learn it.

An epoch of training has every image once.  The networks are plain classifiers, trained on the long-tailed set for the
scores alone; the images are not augmented when they are looked at.

- **EL2N** (Paul, Ganguli & Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, definition 2.2):
  the mean over networks of || softmax(logits) - one-hot label ||_2 early in training.
- **Forgetting** (Toneva et al., "An Empirical Study of Example Forgetting", ICLR 2019, section 2): how often an image
  that was right after one epoch is wrong after the next.  An image that is never right counts as forgotten in every
  epoch, so it comes before all others.  The paper looks at an image each time a batch has it; here all are looked at
  after each epoch, which does not depend on how often a sampler draws an image.

The papers keep the hardest images.  They keep large shares of a balanced set; of a few images for each class the
easiest are often the better ones (Sorscher et al., NeurIPS 2022).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import BaseOptions, ByClassSampler, Features, option

Keep = Literal["hardest", "easiest"]
KEEP = "images of a class that represent it: the hardest have the highest scores, the easiest the lowest"


class EL2NSampler(ByClassSampler):
    """Representatives by the error of networks early in training (EL2N); costs about one more training.

    With the defaults, ten networks are trained for a tenth of ``training.original`` each.
    """

    class Options(BaseOptions):
        """The trainings, and which images are kept."""

        keep: Keep = option("hardest", KEEP, source="Paul et al., NeurIPS 2021")
        networks: int = option(
            10, "networks whose errors are averaged; each costs a training", source="Paul et al., NeurIPS 2021", ge=1
        )
        part: float = option(
            0.1,
            "share of the epochs of training.original after which the errors are measured",
            source="Paul et al., NeurIPS 2021: epoch 20 of 200",
            gt=0,
            le=1,
        )

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The ``min(ipc, n_c)`` images with the highest or lowest scores; of equal scores, random ones."""
        options = self.options
        found = features.dynamics(label, error_norm, networks=options.networks, part=options.part)
        return self.members[label][ranked(found[:, -1].double().mean(0), ipc, options.keep, generator)]


class ForgettingSampler(ByClassSampler):
    """Representatives by how often training forgets an image; costs one more training.

    With the defaults, one network is trained as ``training.original`` says, with a forward pass of all training images
    after each epoch.
    """

    class Options(BaseOptions):
        """The trainings, and which images are kept."""

        keep: Keep = option("hardest", KEEP, source="Toneva et al., ICLR 2019")
        networks: int = option(1, "networks whose counts are averaged; each costs a training", ge=1)
        part: float = option(1.0, "share of the epochs of training.original that count", gt=0, le=1)

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The ``min(ipc, n_c)`` images with the highest or lowest counts; of equal counts, random ones."""
        options = self.options
        right = features.dynamics(label, is_right, networks=options.networks, part=options.part)
        return self.members[label][ranked(forgotten(right).mean(0), ipc, options.keep, generator)]


def error_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """|| softmax(logits) - one-hot label ||_2 of each image, ``[n]``, from 0 to the root of 2.

    Args:
        logits: ``[n, classes]``.
        labels: int64 ``[n]``.
    """
    return (logits.float().softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit is that of the label, bool ``[n]``.

    Args:
        logits: ``[n, classes]``.
        labels: int64 ``[n]``.
    """
    return logits.argmax(1) == labels


def forgotten(right: Tensor) -> Tensor:
    """How often each image was forgotten, float64 ``[networks, n]``; as many times as there are epochs if never right.

    Args:
        right: 1 where an image was right after an epoch, else 0: ``[networks, epochs, n]``.
    """
    before, after = right[:, :-1], right[:, 1:]
    events = (before > after).double().sum(1)
    return events.masked_fill(right.sum(1) == 0, right.shape[1])


def ranked(scores: Tensor, size: int, keep: Keep, generator: torch.Generator) -> Tensor:
    """Positions ``[min(size, n)]`` of the highest or the lowest scores; of equal ones, in a random order.

    Args:
        scores: ``[n]``.
        size: how many.
        keep: ``hardest``, the highest first, or ``easiest``, the lowest first.
        generator: of the random order.
    """
    shuffled = torch.randperm(len(scores), generator=generator)
    order = scores[shuffled].sort(stable=True, descending=keep == "hardest").indices
    return shuffled[order[:size]]
