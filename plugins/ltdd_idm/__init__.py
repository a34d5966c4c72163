"""Improved distribution matching: ``--method idm``."""

from __future__ import annotations

from typing import Any

from ltdd_core import Register, hookimpl

PAPER: dict[str, Any] = {
    "about": "IDM with the values of its public code for CIFAR-10 and 10 images a class, at full length.",
    "method": "idm",
    "iterations": 20000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "matcher": {
        "lr_img": 0.2,
        "momentum": 0.5,
        "batch_real": 256,
        "factor": 2,
        "cross_entropy": 0.5,
        "meter": 100,
        "networks": 100,
        "push": 30,
        "trained": 2,
        "train_steps": 10,
        "batch_train": 256,
        "loss": "plain",
        "lr_net": 0.01,
        "momentum_net": 0.9,
        "weight_decay": 5e-4,
    },
    "training": {"distilled": {"epochs": 1000, "lr": 0.01}},
    "sources": {
        "": "IDM, public code for CIFAR-10, IPC 10",
        "augment": "DSA, as IDM's public code has it",
    },
}
"""For CIFAR-10 with 10 images a class."""


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """One matcher."""
    register("idm", "ltdd_idm.matcher:ImprovedDistributionMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, at full length."""
    register("idm-paper", PAPER)
