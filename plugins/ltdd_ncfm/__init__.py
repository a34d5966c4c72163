"""Characteristic functions of features matched: ``--method ncfm|csdm``."""

from __future__ import annotations

from typing import Any

from ltdd_core import Register, hookimpl

NCFM: dict[str, Any] = {
    "about": "NCFM with the values of its public code for CIFAR-10, at full length.",
    "method": "ncfm",
    "iterations": 20000,
    "init": "real",
    "augment": "color_crop_cutout",
    "matcher": {
        "lr_img": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "patience": 500,
        "batch_real": 1024,
        "factor": 2,
        "calibration": 1.0,
        "frequencies": 4096,
        "scale": 300.0,
        "amplitude": 0.5,
        "sampling": "gaussian",
        "teacher": {
            "head": "linear",
            "count": 20,
            "epochs": 60,
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "batch": 128,
            "schedule": "step",
            "milestones": [0.6667, 0.8333],
            "gamma": 0.2,
            "cutmix": 1.0,
        },
    },
    "training": {
        "distilled": {
            "epochs": 2000,
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch": 128,
            "schedule": "step",
            "milestones": [0.2, 0.4, 0.6, 0.8],
            "gamma": 0.5,
            "cutmix": 1.0,
        }
    },
    "sources": {
        "": "NCFM, public code",
        "matcher.teacher.cutmix": "NCFM, public code, where every second batch is mixed",
        "training.distilled.cutmix": "NCFM, public code, where every second batch is mixed",
    },
}

QUICK: dict[str, Any] = {
    "about": "NCFM or CSDM with two networks of ten epochs, for runs of some minutes.",
    "matcher": {"teacher": {"count": 2, "epochs": 10}},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """Two matchers, which differ in their weights and frequencies."""
    register("ncfm", "ltdd_ncfm.ncfm:NCFMatcher")
    register("csdm", "ltdd_ncfm.csdm:SpectralMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The values of NCFM's public code, at full length, and what is enough for minutes; those of CSDM are not known."""
    register("ncfm-paper", NCFM)
    register("ncfm-quick", {**QUICK, "method": "ncfm"})
    register("csdm-quick", {**QUICK, "method": "csdm"})
