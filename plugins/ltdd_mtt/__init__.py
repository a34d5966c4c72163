"""Trajectory matching: ``--method mtt``, and ``ltdd experts`` to train the experts beforehand."""

from __future__ import annotations

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


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """Four matchers."""
    register("mtt", "ltdd_mtt.matcher:TrajectoryMatcher")
    register("tesla", "ltdd_mtt.tesla:TeslaMatcher")
    register("datm", "ltdd_mtt.datm:WindowMatcher")
    register("lad", "ltdd_mtt.lad:DecoupledMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, at full length."""
    register("mtt-paper", PAPER)


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd experts``."""
    from ltdd_mtt.command import command

    cli.add_command(command)
