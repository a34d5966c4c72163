"""Augmentations of training images by torchvision: ``--set training.distilled.augment=crop-flip`` and others."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_augmentations(register: Register) -> None:
    """Crops and flips, crops of any size, and the learned and the trivial policies."""
    register("crop-flip", "ltdd_augmentations.crops:CropFlip")
    register("resized-crop", "ltdd_augmentations.crops:ResizedCrop")
    register("auto-augment", "ltdd_augmentations.policies:AutoAugmentation")
    register("trivial-augment", "ltdd_augmentations.policies:TrivialAugmentation")
