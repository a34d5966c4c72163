"""Methods that begin with a teacher: ``--method rded``."""

from __future__ import annotations

from typing import Any

from ltdd_core import Register, hookimpl

TEACHER = {"network": {"name": "convnet-d3", "norm": "batch"}, "head": "linear"}
RDED: dict[str, Any] = {
    "method": "rded",
    "init": "real",
    "matcher": {
        "factor": 1,
        "crops": {"candidates": 300, "count": 5},
        "teacher": TEACHER,
    },
    "labeller": {"name": "teacher", "per": "view", **TEACHER},
    "augment": "flip",
    "training": {
        "distilled": {
            "epochs": 300,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": 50,
            "schedule": "cosine",
            "cutmix": 1.0,
            "soft_loss": "kl",
            "temperature": 20.0,
        }
    },
    "sources": {
        "": "RDED, public code for CIFAR-10, IPC 10",
        "training.distilled.schedule": "RDED, public code; its cosine ends at half of the learning rate",
    },
}
"""For CIFAR-10 with 10 images a class."""


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """The family of methods."""
    register("rded", "ltdd_statistics.rded:CropMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, as far as they are known."""
    register("rded-paper", RDED)
