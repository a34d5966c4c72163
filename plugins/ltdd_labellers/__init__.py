"""Soft labels by teachers: ``--labeller teacher`` and ``--labeller adsa``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl

TEACHER_LABELS = {
    "matcher": {"name": "coreset"},
    "init": "herding",
    # A student learns best from a teacher of its own kind, so both are the network of the run.
    "network": {"name": "convnet-d3", "norm": "batch"},
    "labeller": {"name": "teacher", "per": "view", "teacher": {"head": "balanced-softmax"}},
    "training": {
        "distilled": {
            "epochs": 1000,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": 10,
            "schedule": "cosine",
            "augment": "resized-crop",
            "cutmix": 1.0,
            "average": 0.99,
            "soft_loss": "mse",
            "hard_weight": 0.025,
        },
    },
    "sources": {
        "": "measured on CIFAR-10: docs/results/hundred-images.md",
        "training.distilled": "EDC, public code, but for the schedule",
    },
}


@hookimpl
def ltdd_register_labellers(register: Register) -> None:
    """A plain teacher, and one whose preference for frequent classes is calibrated away."""
    register("teacher", "ltdd_labellers.teacher:TeacherLabeller")
    register("adsa", "ltdd_labellers.adsa:CalibratedLabeller")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """Real images that a teacher labels while a network is trained on them."""
    register("teacher-labels", TEACHER_LABELS)
