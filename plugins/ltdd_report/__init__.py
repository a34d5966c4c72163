"""Look at runs: ``ltdd report`` makes a page of one, ``ltdd compare`` a table of several."""

from __future__ import annotations

import click

from ltdd_core import hookimpl
from ltdd_report.command import compare, report


@hookimpl
def ltdd_register_commands(cli: click.Group) -> None:
    """``ltdd report`` and ``ltdd compare``."""
    cli.add_command(report)
    cli.add_command(compare)
