"""Distribution matching: ``--method dm``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl

PAPER = {
    "about": "Distribution matching with the values of its public code, at full length.",
    "method": "dm",
    "iterations": 20000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "matcher": {"lr_img": 1.0, "momentum": 0.5, "batch_real": 256},
    "training": {"distilled": {"epochs": 1000, "lr": 0.01}},
    "sources": {"": "DM, public code", "augment": "DSA, as DM's public code has it"},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """One matcher."""
    register("dm", "ltdd_dm.matcher:DistributionMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The defaults of the public code, at full length."""
    register("dm-paper", PAPER)
