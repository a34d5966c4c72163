"""The group of all commands, those of plugins too, and how a command ends."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from itertools import chain
from signal import Signals
from typing import IO, Any

import click

from ltdd_core.cli.plugin_commands import COMMANDS, installed_with_commands
from ltdd_core.cli.streams import Output, printable, say_last_counts
from ltdd_core.errors import InputError, RunFailed, for_command_line, is_out_of_memory, unknown
from ltdd_core.runs.stop import INTERRUPTED, LOST, first_word

PLUGIN_COMMANDS = "ltdd.plugin_commands"
REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN),
}
"""What a system answers that has nothing to do with our code: no space, no permission, a disk or a share that fails."""


class Ended(click.ClickException):
    """One line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """What begins with a word that says whose doing it was; a process that helps another one stops silently."""
        from ltdd_core.processes import is_helping  # takes a moment that --help does not need

        if self.exit_code == INTERRUPTED and is_helping():
            return
        click.echo(f"{first_word(self.exit_code)}: {self.message}", file=file, err=file is None)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn our errors, and those of click about options, into one line and an exit code."""
    try:
        with for_command_line():
            yield
    except InputError as error:
        raise Ended(str(error), 2) from error
    except RunFailed as error:
        raise Ended(str(error), 1) from error
    except (KeyboardInterrupt, click.Abort) as error:
        raise Ended(_how_it_stopped(error), INTERRUPTED) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise Ended(_about_usage(error), 2) from error
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise Ended("out of memory: use fewer or smaller images, or a machine with more.", 1) from error
        if os.strerror(errno.EMFILE) in str(error):  # of whatever type: of the system, of an import, of safetensors
            raise Ended("too many open files: allow more of them (ulimit -n 1024).", 1) from error
        _name_the_plugin(error)
        about_output = isinstance(sys.stdout, Output) and sys.stdout.lost is not None  # who has made it says so
        if isinstance(error, OSError) and error.errno in REFUSALS and not about_output:
            where = f"{error.filename}: " if error.filename is not None else ""
            raise Ended(f"{where}{error.strerror}.", 1) from error
        raise


def _about_usage(error: click.UsageError) -> str:
    """What click says in one line; where a word is missing or too many, also which help says what is taken."""
    text = " ".join(error.format_message().split())
    if error.ctx is None or not (type(error) is click.UsageError or isinstance(error, click.MissingParameter)):
        return text
    return f"{text.removesuffix('.')}. See {error.ctx.command_path} --help"


def _how_it_stopped(error: BaseException) -> str:
    """What a command says that was interrupted: its own words, or what is true of every command."""
    text = str(error) or Signals.SIGINT.name
    return f"{text}: stopped; {LOST}." if text in Signals.__members__ else text


def _name_the_plugin(error: Exception) -> None:
    """After the traceback, whose code it was: a stranger's plugin has to be reported to its own author."""
    from ltdd_core.plugging.loading import load_plugins, one_line

    plugin = load_plugins().at_fault(error)
    if plugin is not None:
        click.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)
        raise Ended(f"plugin {plugin.name!r} ({plugin}) failed: {one_line(error)}", 1) from error


def check_words(command: click.Command, arguments: Sequence[str], parent: click.Context) -> None:
    """Look at the words after the name of a command, before it is called.

    Of an option that takes one value the last one counts, as in most tools: a script may have options of its own, and
    add those of its caller.  A line says so, since some of our options do take several.  A command that a group does
    not have is refused, with the nearest name.

    Args:
        command: ours or that of a plugin; of a group, the command that the arguments name.
        arguments: the words after the name of the command.
        parent: the context in which the command is called.

    Raises:
        InputError: naming the command.
    """
    context = command.context_class(command, parent=parent, **command.context_settings)
    values, rest, given = command.make_parser(context).parse_args(list(arguments))
    for option, times in Counter(given).items():
        if times > 1 and isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.count):
            say_last_counts(max(option.opts, key=len), values.get(option.name))
    if isinstance(command, click.Group) and rest:
        if (inner := command.get_command(context, rest[0])) is not None:
            check_words(inner, rest[1:], context)
        elif type(command).resolve_command is click.Group.resolve_command:  # a plugin may take other words
            raise unknown(f"command of ltdd {command.name}", rest[0], command.list_commands(context))


class Commands(click.Group):
    """Imports a command when it is named and asks plugins for theirs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours first, then those of plugins."""
        return [*COMMANDS, *sorted(self._of_plugins(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name in COMMANDS:
            command: click.Command = importlib.import_module(f"ltdd_core.cli.{cmd_name.replace('-', '_')}").command
            return command
        return self._of_plugins(ctx).get(cmd_name)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Options before the command."""
        with exit_codes():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with exit_codes():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names."""
        if ctx.resilient_parsing:  # a shell completes words: half a command is no mistake
            return super().resolve_command(ctx, args)
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx))
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            check_words(command, rest, ctx)
        return name, command, rest

    def _of_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        if PLUGIN_COMMANDS not in ctx.meta:
            try:
                _, found = installed_with_commands()
            except InputError:
                if not ctx.resilient_parsing:
                    raise
                return {}  # a shell completes words, and has no place to show it
            ctx.meta[PLUGIN_COMMANDS] = {name: command for name, (command, _) in found.items()}
        commands: dict[str, click.Command] = ctx.meta[PLUGIN_COMMANDS]
        return commands


def _block(ctx: click.Context, parameter: click.Parameter, names: Sequence[str]) -> None:
    """Block plugins for this command and for the processes that it starts.

    Raises:
        InputError: there is no plugin of that name, so it would be loaded under its own.
    """
    from ltdd_core.plugging.loading import BLOCK_VARIABLE, GROUP

    if names:
        there = {entry.name for entry in entry_points(group=GROUP)}
        for name in chain.from_iterable(name.split(",") for name in names):
            if name not in there and not ctx.resilient_parsing:
                raise unknown("plugin", name, there)
        before = os.environ.get(BLOCK_VARIABLE)
        os.environ[BLOCK_VARIABLE] = ",".join([*names, *([before] if before else [])])
        ctx.call_on_close(lambda: _restore(BLOCK_VARIABLE, before))


def _restore(variable: str, value: str | None) -> None:
    os.environ.pop(variable, None)
    if value is not None:
        os.environ[variable] = value


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltdd")
@click.option(
    "--block",
    multiple=True,
    metavar="NAME",
    is_eager=True,
    expose_value=False,
    callback=_block,
    help="Do not load this plugin (as LTDD_BLOCK_PLUGINS=NAME); may be given again.",
)
def cli() -> None:
    """Condense a long-tailed image set into a few images per class, and train on them."""
