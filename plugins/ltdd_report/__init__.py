"""Look at runs: ``ltdd watch`` follows one, ``ltdd report`` makes a page of it, ``ltdd compare`` a table of several."""

from __future__ import annotations

import click

from ltdd_core import hookimpl
from ltdd_report.command import compare, report, watch


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd report``, ``ltdd compare`` and ``ltdd watch``."""
    cli.add_command(report)
    cli.add_command(compare)
    cli.add_command(watch)
