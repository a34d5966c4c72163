"""Two-stage classification, with any method: ``--plugin twostage``."""

from __future__ import annotations

from collections.abc import Mapping

import click

from ltdd_core import Register, hookimpl
from ltdd_twostage.command import command

PAPER = {
    "about": "The two-stage head as published, for any method.",
    "plugins": ["twostage"],
    "head": {
        "name": "twostage",
        "groups": 2,
        "centres": 5,
        "targets": "groups",
        "stage1": "linear",
        "stage2": "linear",
        "within": "separate",
        "routing": "hard",
        "a": 1.0,
        "b": 0.0,
        "margin": 0.0,
    },
    # Named here too, so that the preset stays whole where --plugin names other plugins.
    "recipe": {"name": "hierarchical", "stage1": "original", "stage2": "distilled"},
    "sources": {"head": "Zheng et al., ICMSSP 2024", "recipe": "Zheng et al., ICMSSP 2024"},
}


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """Group first, then class within the group."""
    register("twostage", "ltdd_twostage.head:TwoStageHead")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The head as published."""
    register("twostage-paper", PAPER)


@hookimpl
def ltdd_choose() -> Mapping[str, str]:
    """The head, and the recipe it was made for."""
    return {"head": "twostage", "recipe": "hierarchical"}


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd analyze grouping``."""
    cli.add_command(command)
