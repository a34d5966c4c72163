"""Two-stage classification, for every method there is: ``--plugin twostage``."""

from __future__ import annotations

from collections.abc import Mapping

import click

from ltdd_core import Register, hookimpl
from ltdd_twostage.command import command


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """Group first, then class within the group."""
    register("twostage", "ltdd_twostage.head:TwoStageHead")


@hookimpl
def ltdd_choose() -> Mapping[str, str]:
    """The head, and the recipe it was made for."""
    return {"head": "twostage", "recipe": "hierarchical"}


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd analyze grouping``."""
    cli.add_command(command)
