"""Trajectory matching: ``--method mtt|tesla|datm|lad``, and ``ltdd experts`` to train the experts beforehand."""

from __future__ import annotations

from typing import Any

import click

from ltdd_core import Register, hookimpl

PAPER = {
    "about": "Trajectory matching with the published values for CIFAR-10, ZCA and 10 images a class, at full length.",
    "method": "mtt",
    "iterations": 5000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "data": {"normalisation": "zca"},
    "matcher": {
        "syn_steps": 30,
        "expert_epochs": 2,
        "max_start_epoch": 15,
        "syn_lr": 0.01,
        "lr_img": 1000.0,
        "lr_lr": 1e-5,
        "momentum": 0.5,
        "experts": {"count": 100, "epochs": 50, "lr": 0.01, "batch": 256},
    },
    "training": {"distilled": {"epochs": 1000}},
    "sources": {
        "": "MTT, public code",
        "augment": "DSA, as MTT's public code has it",
        "matcher.syn_steps": "users of the public code, CIFAR-10 with ZCA, IPC 10; its default is 20",
        "matcher.expert_epochs": "users of the public code, CIFAR-10 with ZCA, IPC 10; its default is 3",
        "matcher.max_start_epoch": "users of the public code, CIFAR-10 with ZCA, IPC 10; its default is 25",
    },
}
"""For CIFAR-10 with 10 images a class and ZCA whitening."""

TESLA: dict[str, Any] = {
    "about": "TESLA with the values of its public code for CIFAR-10 and 1 image a class, at full length.",
    "method": "tesla",
    "iterations": 10000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "matcher": {
        "syn_steps": 50,
        "expert_epochs": 2,
        "max_start_epoch": 5,
        "syn_lr": 0.01,
        "lr_img": 1000.0,
        "lr_lr": 1e-7,
        "momentum": 0.5,
        "soft_labels": False,
        "experts": {"count": 100, "epochs": 50, "lr": 0.01, "batch": 256},
    },
    "training": {"distilled": {"epochs": 1000}},
    "sources": {
        "": "TESLA, public code for CIFAR-10, IPC 1",
        "matcher.soft_labels": "TESLA, public code: off unless asked for; its command for ImageNet-1K asks for them",
    },
}
"""For CIFAR-10 with one image a class."""

DATM: dict[str, Any] = {
    "about": "DATM with the values of its public code for CIFAR-10 and 10 images a class, at full length.",
    "method": "datm",
    "iterations": 10000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "data": {"normalisation": "zca"},
    "matcher": {
        "syn_steps": 80,
        "expert_epochs": 2,
        "min_start_epoch": 0,
        "first_max_start_epoch": 10,
        "max_start_epoch": 20,
        "growing_steps": 1000,
        "batch_syn": 100,
        "syn_lr": 0.01,
        "lr_img": 100.0,
        "lr_lr": 1e-5,
        "lr_label": 2.0,
        "momentum": 0.5,
        "momentum_label": 0.9,
        "skip_above": 1.0,
        "experts": {"count": 100, "epochs": 100, "lr": 0.01, "batch": 256},
    },
    "training": {"distilled": {"epochs": 1000, "batch": 128}},
    "sources": {
        "": "DATM, public code for CIFAR-10, IPC 10",
        "matcher.experts.epochs": "DATM, public code; its experts take sharpness-aware steps, these take plain ones",
        "matcher.experts.batch": "MTT, public code",
    },
}
"""For CIFAR-10 with 10 images a class and ZCA whitening."""

LAD: dict[str, Any] = {
    "about": "LAD with the values of its public code for CIFAR-10-LT, IF 100 and 10 images a class, at full length.",
    "method": "lad",
    "iterations": 10000,
    "init": "real",
    "augment": "color_crop_cutout_flip_scale_rotate",
    "data": {"normalisation": "zca"},
    "matcher": {
        "syn_steps": 80,
        "expert_epochs": 2,
        "min_start_epoch": 0,
        "max_start_epoch": 20,
        "growing_steps": 0,
        "batch_syn": 500,
        "memory": "tesla",
        "syn_lr": 0.01,
        "lr_img": 100.0,
        "lr_lr": 1e-5,
        "lr_label": 2.0,
        "momentum": 0.5,
        "momentum_label": 0.9,
        "student_loss": "weighted",
        "backbone_weight": 0.5,
        "layer_weight": 1.0,
        "experts": {"count": 100, "epochs": 100, "lr": 0.01, "batch": 256, "weight_decay": 5e-3},
        "layer": {"epochs": 10, "lr": 0.01, "sampler": "class-balanced"},
    },
    "training": {"distilled": {"epochs": 1000, "batch": 128}},
    "sources": {
        "": "LAD, public code for CIFAR-10-LT, imbalance factor 100, IPC 10",
        "matcher.experts.epochs": "LAD, public code; its experts take sharpness-aware steps, these take plain ones",
        "matcher.experts.batch": "MTT, public code",
    },
}
"""For CIFAR-10-LT at imbalance factor 100 with 10 images a class and ZCA whitening."""

QUICK: dict[str, Any] = {
    "about": "Two experts of 15 epochs and short students, for runs of some minutes.",
    "matcher": {"syn_steps": 8, "expert_epochs": 2, "experts": {"count": 2, "epochs": 15, "batch": 64}},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """Four matchers."""
    register("mtt", "ltdd_mtt.matcher:TrajectoryMatcher")
    register("tesla", "ltdd_mtt.tesla:TeslaMatcher")
    register("datm", "ltdd_mtt.datm:WindowMatcher")
    register("lad", "ltdd_mtt.lad:DecoupledMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, at full length, and what is enough for minutes."""
    for method in ("mtt", "tesla", "datm", "lad"):
        register(f"{method}-quick", {**QUICK, "method": method})
    register("mtt-paper", PAPER)
    register("tesla-paper", TESLA)
    register("datm-paper", DATM)
    register("lad-paper", LAD)


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd experts``."""
    from ltdd_mtt.command import command

    cli.add_command(command)
