"""A training of classifiers for sets of small images: data sources suggest it, and a preset has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STRONG_TRAINING: Mapping[str, Any] = {
    "epochs": 100,
    "lr": 0.05,
    "weight_decay": 0.0025,
    "batch": 64,
    "schedule": "cosine",
    "augment": "crop-flip",
    "mixup": 0.4,
    "cutmix": 1.0,
    "average": 0.99,
}
"""Options of ``training.original``, chosen on left-out images of CIFAR-10: docs/results/hundred-images.md."""
PRESET: Mapping[str, Any] = {
    "about": "A training of classifiers of the long-tailed set, for images of your own.",
    "training": {"original": {**STRONG_TRAINING, "epochs": "60 or 4000 steps"}},
    "sources": {"training.original": "measured on CIFAR-10: docs/results/hundred-images.md"},
}
