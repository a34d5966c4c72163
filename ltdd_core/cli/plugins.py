"""``ltdd plugins``: what is installed, from where, and what it offers."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from ltdd_core.cli.plugin_commands import installed_with_commands
from ltdd_core.cli.rows import print_rows_of_text
from ltdd_core.cli.settings import consoles, json_option
from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.catalog import KINDS, Catalog, Entry
from ltdd_core.plugging.loading import SLOW_IMPORT, Plugin, one_line


@click.command("plugins")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List plugins, or show the plugin NAME.

    With NAME, all that the plugin offers is imported, and the traceback of what fails is printed.
    """
    catalog, commands = installed_with_commands()
    plugins = catalog.plugins
    if name is not None and name not in {plugin.name for plugin in plugins.listed}:
        raise unknown("plugin", name, [plugin.name for plugin in plugins.listed])
    shown = [plugin for plugin in plugins.listed if name in (None, plugin.name)]
    failed = dict(_failing(catalog, shown)) if name is not None else {}
    rows = []
    for plugin in shown:
        offers: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for entry in catalog.offered_by(plugin):
            offers[entry.kind].append(entry.name)
        offers["command"] = [name for name, (_, owner) in commands.items() if owner is plugin]
        offers["observer"] = [plugin.name] if plugins.watches(plugin) else []
        if name is None:
            faults = dict(_missing(catalog.offered_by(plugin)))
        else:
            faults = {offered: one_line(error) for offered, error in failed.items()}
        errors = [] if name is None else [error for error in (plugin.error, *failed.values()) if error is not None]
        rows.append(_row(plugin, offers, faults, errors))
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _print(rows)


def _row(
    plugin: Plugin, offers: Mapping[str, Sequence[str]], faults: Mapping[str, str], errors: Sequence[BaseException]
) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.target,
        "state": plugin.state,
        "reason": plugin.reason,
        "import_seconds": round(plugin.seconds, 3),
        "offers": {kind: sorted(names) for kind, names in offers.items() if names},
        "faults": dict(faults),
        "traceback": "".join(line for error in errors for line in traceback.format_exception(error)),
    }


def _missing(entries: Iterator[Entry]) -> Iterator[tuple[str, str]]:
    """What is registered to lie in a module that is not there, as far as can be told without importing anything."""
    for entry in entries:
        module = entry.missing_module()
        if module is not None:
            yield f"{entry.kind} {entry.name}", f"no module {module!r} is installed"


def _failing(catalog: Catalog, plugins: Sequence[Plugin]) -> Iterator[tuple[str, InputError]]:
    """What plugins offer and cannot be used, with the reason; all of it is imported to find out."""
    for plugin in plugins:
        for entry in catalog.offered_by(plugin):
            try:
                entry.load()
            except InputError as error:
                yield f"{entry.kind} {entry.name}", error


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    console, notes = consoles(False)
    body = []
    for row in rows:
        offered = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in row["offers"].items())
        state = [row["state"] + (f": {row['reason']}" if row["reason"] else "")]
        if row["import_seconds"] > SLOW_IMPORT:
            state.append(f"import took {row['import_seconds']:.1f} s")
        state += [f"{offer}: {fault}" for offer, fault in row["faults"].items()]
        body.append((row["name"], f"{row['distribution']} {row['version']}", "\n".join(state), offered))
    print_rows_of_text(console, ("plugin", "from", "state", "offers"), body)
    for row in rows:
        if row["traceback"]:
            console.print(row["traceback"], soft_wrap=True)
    slow = [row["name"] for row in rows if row["import_seconds"] > SLOW_IMPORT]
    if slow:
        notes.print(
            f"Every command waits for the import of {', '.join(slow)}. A plugin that registers its classes as "
            '"package.module:Class" imports them only when they are used.',
            style="yellow",
            soft_wrap=True,
        )
