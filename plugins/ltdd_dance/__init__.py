"""Features matched in networks that are trained on the long-tailed set: ``--method dance|tgdd``."""

from __future__ import annotations

from typing import Any

from ltdd_core import Register, hookimpl

TRAINING: dict[str, Any] = {
    "epochs": 60,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": [0.6667, 0.8333],
    "gamma": 0.2,
    "cutmix": 1.0,
}
OF_STUDENTS: dict[str, Any] = {
    "epochs": 1500,
    "lr": 0.01,
    "batch": 64,
    "schedule": "step",
    "milestones": [0.6667, 0.8333],
    "gamma": 0.2,
    "cutmix": 1.0,
}
DANCE: dict[str, Any] = {
    "about": "DANCE with the values of its public code for CIFAR-10, at full length.",
    "method": "dance",
    "iterations": 10000,
    "init": "real",
    "augment": "color_crop_cutout",
    "matcher": {
        "lr_img": 0.01,
        "momentum": 0.5,
        "batch_real": 128,
        "factor": 2,
        "calibration": 1.0,
        "teacher": {"head": "linear", "count": 20, **TRAINING},
    },
    "training": {"distilled": OF_STUDENTS},
    "sources": {
        "": "DANCE, public code",
        "matcher.teacher.cutmix": "DANCE, public code, where every second batch is mixed",
        "training.distilled.cutmix": "DANCE, public code, where every second batch is mixed",
        "training.distilled.milestones": "IDC, public code, which DANCE follows",
        "training.distilled.gamma": "IDC, public code, which DANCE follows",
    },
}
TGDD: dict[str, Any] = {
    "about": "TGDD with the published values for CIFAR-10 and 10 images a class, as far as they are known.",
    "method": "tgdd",
    "iterations": 10000,
    "init": "real",
    "augment": "color_crop_cutout",
    "matcher": {
        "lr_img": 0.01,
        "momentum": 0.5,
        "batch_real": 128,
        "factor": 2,
        "calibration": 2.5,
        "window": 7,
        "trajectories": {"head": "linear", "count": 5, "epochs": 60, "lr": 0.1, "batch": 128, "weight_decay": 5e-4},
    },
    "training": {"distilled": OF_STUDENTS},
    "sources": {
        "": "TGDD, public code",
        "matcher.trajectories.lr": "ours: that of DANCE, 0.01, with momentum 0.9 goes about as far",
        "matcher.trajectories.weight_decay": "DANCE, public code; that of TGDD is not known",
        "matcher.trajectories.batch": "NCFM, public code; that of TGDD is not known",
        "training.distilled": "DANCE, public code, which TGDD follows",
    },
}

DANCE_QUICK: dict[str, Any] = {
    "about": "DANCE with two networks of ten epochs, for runs of some minutes.",
    "method": "dance",
    "matcher": {"teacher": {"count": 2, "epochs": 10}},
}
TGDD_QUICK: dict[str, Any] = {
    "about": "TGDD with two trainings of 15 epochs, for runs of some minutes.",
    "method": "tgdd",
    "matcher": {"trajectories": {"count": 2, "epochs": 15, "batch": 64}},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """Two matchers, which differ in the networks."""
    register("dance", "ltdd_dance.dance:DanceMatcher")
    register("tgdd", "ltdd_dance.tgdd:TrajectoryGuidedMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, at full length, and what is enough for minutes."""
    register("dance-paper", DANCE)
    register("tgdd-paper", TGDD)
    register("dance-quick", DANCE_QUICK)
    register("tgdd-quick", TGDD_QUICK)
