"""Policies of augmentation by torchvision: ``--set training.distilled.augment=trivial-augment`` and others."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_augmentations(register: Register) -> None:
    """The learned and the trivial policies."""
    register("auto-augment", "ltdd_augmentations.policies:AutoAugmentation")
    register("trivial-augment", "ltdd_augmentations.policies:TrivialAugmentation")
