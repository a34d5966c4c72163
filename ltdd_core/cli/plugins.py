"""``ltdd plugins``: what is installed, from where, and what it offers."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ltdd_core.cli.plugin_commands import plugin_commands
from ltdd_core.cli.settings import consoles
from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.catalog import KINDS, Catalog
from ltdd_core.plugging.loading import Plugin, load_plugins


@click.command("plugins")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(name: str | None, as_json: bool) -> None:
    """List plugins; with NAME, show one, and the traceback if it is broken."""
    from rich.table import Table

    plugins = load_plugins()
    catalog = Catalog(plugins)
    commands = plugin_commands(plugins)
    if name is not None and name not in {plugin.name for plugin in plugins.listed}:
        raise unknown("plugin", name, [plugin.name for plugin in plugins.listed])
    shown = [plugin for plugin in plugins.listed if name in (None, plugin.name)]
    rows: list[dict[str, Any]] = []
    for plugin in shown:
        offers: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for entry in catalog.offered_by(plugin):
            offers[entry.kind].append(entry.name)
        offers["command"] = [name for name, (_, owner) in commands.items() if owner is plugin]
        offers["observer"] = [plugin.name] if plugins.watches(plugin) else []
        rows.append(
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.target,
                "state": plugin.state,
                "reason": plugin.reason,
                "offers": {kind: sorted(names) for kind, names in offers.items() if names},
            }
        )
    if as_json:
        click.echo(json.dumps(rows))
        return
    console, _ = consoles(as_json)
    table = Table("plugin", "from", "state", "offers")
    for row in rows:
        offered = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in row["offers"].items())
        state = row["state"] + (f": {row['reason']}" if row["reason"] else "")
        table.add_row(row["name"], f"{row['distribution']} {row['version']}", state, offered)
    console.print(table)
    for error in _errors(catalog, shown) if name is not None else []:
        console.print("".join(traceback.format_exception(error)), soft_wrap=True)


def _errors(catalog: Catalog, plugins: Sequence[Plugin]) -> Iterator[BaseException]:
    """What is wrong with plugins, and with what they offer by name and nobody has imported yet."""
    for plugin in plugins:
        if plugin.error is not None:
            yield plugin.error
        for entry in catalog.offered_by(plugin):
            try:
                entry.load()
            except InputError as error:
                yield error
