"""Commands that plugins add."""

from __future__ import annotations

import click

from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.plugging.loading import Plugin, PluginFailed, Plugins, plugin_code

COMMANDS = (
    "distill",
    "plan",
    "train",
    "evaluate",
    "relabel",
    "predict",
    "export",
    "bench",
    "networks",
    "plugins",
    "describe",
    "data",
    "new-plugin",
    "doctor",
)
"""Commands of ltdd itself; no plugin can take their names."""


def installed_with_commands() -> tuple[Catalog, dict[str, tuple[click.Command, Plugin]]]:
    """Everything that is installed, and the commands of plugins; now it is known which plugins are broken."""
    catalog = installed()
    return catalog, plugin_commands(catalog.plugins)


def plugin_commands(plugins: Plugins) -> dict[str, tuple[click.Command, Plugin]]:
    """Commands of plugins and their owners, by name.

    A plugin whose hook raises, or that offers a name which is taken, is broken and adds nothing.
    """
    commands: dict[str, tuple[click.Command, Plugin]] = {}
    for plugin in list(plugins.usable):
        group = click.Group()
        try:
            with plugin_code():
                plugins.call(plugin, "ltdd_register_commands", cli=group)
                for name in group.commands:
                    if name in COMMANDS or name in commands:
                        raise ValueError(f"there is a command {name!r} already")
        except PluginFailed as failed:
            plugins.set_broken(plugin, failed.error)
            continue
        commands.update({name: (command, plugin) for name, command in group.commands.items()})
    return commands
