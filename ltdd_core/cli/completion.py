"""What a shell completes after an option: names of components, choices and paths."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from ltdd_core.errors import InputError

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
FILES: Completion = click.Path().shell_complete


def names(kind: str) -> Completion:
    """The names of the components of a kind; of plugins with the kind ``plugin``; none of a kind that there is not."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ltdd_core.plugging.catalog import KINDS, installed

        try:
            catalog = installed()
        except InputError:  # of a variable; a shell has no place to show it, and the command itself says it
            return []
        if kind == "plugin":
            found = [plugin.name for plugin in catalog.plugins.listed]
        else:
            found = catalog.names(kind) if kind in KINDS else []
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]

    return complete


def choices(*values: str) -> Completion:
    """A few values; the option itself says what is wrong with another one."""
    return click.Choice(values).shell_complete
