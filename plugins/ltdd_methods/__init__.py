"""Which method to take: ``ltdd compare-methods`` gives each the same time and compares what comes of it."""

from __future__ import annotations

import click

from ltdd_core import hookimpl


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd compare-methods``."""
    from ltdd_methods.command import command

    cli.add_command(command)
