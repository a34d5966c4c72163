"""How networks are trained on the images of these methods, unless the user says otherwise."""

from __future__ import annotations


def batch_of(images: int) -> int:
    """Images in a step of training: 10 of 100 images and fewer, 50 of 1000 and more, as in EDC's public code for CIFAR.

    RDED and SRe2L have batches of 50 and 128 for sets of their own sizes.  A set that is smaller would be trained for
    too few steps: 400 epochs of a hundred images in batches of 128 are 400 steps.

    Args:
        images: of the distilled set.
    """
    return min(50, max(10, images // 20))


def labelled_recipe(images: int) -> dict[str, object]:
    """The recipe of EDC and Uni-level: squared distance of logits beside a little cross-entropy, CutMix, an average.

    Their learning rate is halved at 80, 90 and 95 per cent of the epochs; here it falls along a cosine.

    Args:
        images: of the distilled set.
    """
    return {
        "epochs": 1000,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "batch": batch_of(images),
        "schedule": "cosine",
        "cutmix": 1.0,
        "average": 0.99,
        "soft_loss": "mse",
        "hard_weight": 0.025,
    }
