"""The 200 epochs of ResNet-32 that the tables of long-tailed recognition are about, on CIFAR-10-LT and CIFAR-100-LT.

The training is that of LDAM-DRW's public code (Cao et al., NeurIPS 2019).  imbalanced-DL, a public code with Mixup-DRW,
has the same one; the published accuracies are those of its table.  Both print the best epoch on the test set.  Here the
last epoch counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LDAM, MIXUP = "LDAM-DRW, public code", "imbalanced-DL, public code"
TRAINING: Mapping[str, Any] = {
    "epochs": 200,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "batch": 128,
    "schedule": "step",
    "milestones": [0.8, 0.9],
    "gamma": 0.01,
    "warmup": 4,
    "augment": "crop-flip",
    # A data source may suggest others.
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "average": 0.0,
}
SOURCES: Mapping[str, str] = {
    "network": "16, 32 and 64 channels, as in all of these tables",
    "training": LDAM,
    "training.original.milestones": f"{LDAM}: epochs 160 and 180 of 200, counted from 0",
    "training.original.gamma": f"{LDAM}: x0.01 at 160, x0.0001 at 180",
    "training.original.warmup": f"{LDAM}: lr / 5, 2 lr / 5, ...; its fifth epoch has lr itself",
    "training.original.augment": f"{LDAM}: a crop with 4 pixels around, and a flip",
}
ABOUT = "{what}, ResNet-32, 200 epochs. CIFAR-10-LT, IF 100: {published}. Not yet measured here at full length."


def _preset(
    what: str,
    published: str,
    head: str | Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A head with this training; what is published of it, and what of the training differs."""
    return {
        "about": ABOUT.format(what=what, published=published),
        "network": "resnet32",
        "head": head,
        "training": {"original": {**TRAINING, **(training or {})}},
        "sources": {**SOURCES, **(sources or {})},
    }


DEFERRED = {"name": "class-balanced", "beta": 0.9999, "gamma": 0.0, "deferred": 0.8}
OF_DEFERRED = {"head": MIXUP, "head.deferred": f"{MIXUP}: epoch 160 of 200, counted from 0"}
CE = _preset("Cross-entropy", "71.23 published (imbalanced-DL)", "linear")
DRW = _preset("Deferred re-weighting (DRW)", "75.08 published (imbalanced-DL)", DEFERRED, sources=OF_DEFERRED)
LDAM_DRW = _preset(
    "LDAM-DRW",
    "77.75 published (imbalanced-DL)",
    {"name": "ldam", "margin": 0.5, "scale": 30.0, "deferred": 0.8, "beta": 0.9999},
    sources={"head": LDAM, "head.deferred": f"{LDAM}: epoch 160 of 200, counted from 0"},
)
MIXUP_DRW = _preset(
    "Mixup-DRW",
    "82.11 published (imbalanced-DL)",
    DEFERRED,
    {"mixup": 1.0},
    {**OF_DEFERRED, "training.original.mixup": MIXUP},
)
BALANCED_SOFTMAX = _preset(
    "Balanced softmax",
    "nothing published, as its paper trains otherwise",
    "balanced-softmax",
    sources={"head": "Ren et al., NeurIPS 2020"},
)
