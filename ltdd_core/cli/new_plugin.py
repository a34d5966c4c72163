"""``ltdd new-plugin``: the package of a new method, sampler, head, ..., which works from the start."""

from __future__ import annotations

from pathlib import Path

import click

from ltdd_core.cli.completion import choices
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import consoles
from ltdd_core.plugging.scaffold import KINDS


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--kind",
    required=True,
    metavar="|".join(KINDS),
    shell_complete=choices(*KINDS),
    help="Kind of component that the plugin offers.",
)
@click.option(
    "--out",
    type=PATH,
    default=Path(),
    help="Folder in which the package is made; unless given, the current one.",
)
def command(name: str, kind: str, out: Path) -> None:
    """Write a package ltdd-NAME that works.

    It has a class of some 10 lines, its entry point, and a test of its contract. Change the class; nothing else has to
    be written.
    """
    from ltdd_core.plugging.catalog import installed
    from ltdd_core.plugging.scaffold import new_plugin

    folder, shown = new_plugin(name, kind, out, installed())
    results = consoles(False)[0]
    results.print(f"{folder} is written. Next:", soft_wrap=True)
    results.print(f"  pip install -e {folder} && {shown}", soft_wrap=True)
    results.print(f"  pytest {folder}", soft_wrap=True)
