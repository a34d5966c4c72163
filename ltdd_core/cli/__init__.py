"""The command line: one file a command, each a thin layer over the Python API.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted (and saved).
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from ltdd_core.errors import InputError, Interrupted, RunFailed

COMMANDS = ("distill", "evaluate", "plugins", "describe", "data")


class Ended(click.ClickException):
    """One line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Commands(click.Group):
    """Imports a command when it is named, asks plugins for theirs, and turns our errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours first, then those of plugins."""
        return [*COMMANDS, *sorted(set(self._with_plugins().commands) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name in COMMANDS:
            command: click.Command = importlib.import_module(f"ltdd_core.cli.{cmd_name}").command
            return command
        return self._with_plugins().commands.get(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise Ended(str(error), 2) from error
        except RunFailed as error:
            raise Ended(str(error), 1) from error
        except Interrupted as error:
            raise Ended(str(error), 130) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise Ended("interrupted; what the last checkpoint holds is saved.", 130) from error

    def _with_plugins(self) -> click.Group:
        from ltdd_core.plugins import load_plugins

        group, plugins = click.Group(), load_plugins()
        for plugin in list(plugins.usable):
            try:
                plugins.call(plugin, "ltdd_register_commands", cli=group)
            except Exception as error:  # somebody else's command must not break ours
                click.echo(f"plugin {plugin.name!r} ({plugin}) offers no commands: {error}", err=True)
        return group


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltdd")
def cli() -> None:
    """Condense a long-tailed image set into a few images a class, and train on them."""


def main() -> None:
    """The ``ltdd`` command."""
    cli(prog_name="ltdd")
