"""Gradient matching: ``--method dc``, and with siamese augmentation ``--method dsa``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl

DC_PAPER = {
    "about": "Gradient matching with the values of its public code, at full length.",
    "method": "dc",
    "iterations": 1000,
    "init": "noise",
    "augment": "none",
    "matcher": {"lr_img": 0.1, "momentum": 0.5, "batch_real": 256},
    "training": {"distilled": {"epochs": 300, "lr": 0.01}},
}
DSA_PAPER = {
    **DC_PAPER,
    "about": "Gradient matching with siamese augmentation, with the values of its public code, at full length.",
    "method": "dsa",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "training": {"distilled": {"epochs": 1000, "lr": 0.01}},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """Two matchers, which differ in the augmentation."""
    register("dc", "ltdd_dc.matcher:DatasetCondensation")
    register("dsa", "ltdd_dc.matcher:SiameseCondensation")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The defaults of the public code, at full length."""
    register("dc-paper", DC_PAPER)
    register("dsa-paper", DSA_PAPER)
