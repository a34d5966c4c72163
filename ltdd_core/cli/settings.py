"""Options that several commands share, and how they become layers of a configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ltdd_core.cli.completion import FILES, choices, names
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.streams import printable, say_last_counts
from ltdd_core.config.layers import Layer, from_assignments, from_file, said_again
from ltdd_core.errors import PATHS, InputError

YES_OR_NO = ("compile",)
"""Options with a form that says no; of the others, False is that they were not given."""
Command = TypeVar("Command", bound=Callable[..., Any])

NUMBERS = ("imbalance", "n_max", "image_size", "validation", "ipc", "iterations", "seed", "threads")


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """A command with options, which its help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def root_option(command: Command) -> Command:
    """The option ``--root``, which says where the data are."""
    return click.option("--root", metavar="DIR", shell_complete=FILES, help="Folder or file of the data.")(command)


def data_options(command: Command) -> Command:
    """The options that choose the data: ``--data``, where it is, ``--name`` and those of a long-tailed set.

    Args:
        command: a function that becomes a click command; takes the values as ``data``, ``root``, ``train``, ``test``,
            ``val``, ``name``, ``imbalance``, ``n_max``, ``order``, ``image_size`` and ``validation``, None for those
            not given, and ``skip_bad``, a bool.

    Returns:
        The same function with the options.
    """
    return with_options(
        command,
        click.option(
            "--data",
            metavar="NAME",
            shell_complete=names("data"),
            help="Data source: digits-lt, cifar10-lt, folder, ...",
        ),
        root_option,
        click.option(
            "--train",
            metavar="FILE",
            shell_complete=FILES,
            help="List of the training images, or the name of their split.",
        ),
        click.option(
            "--test", metavar="FILE", shell_complete=FILES, help="List of the test images, or the name of their split."
        ),
        click.option(
            "--val",
            metavar="FILE",
            shell_complete=FILES,
            help="List of the validation images, or the name of their split.",
        ),
        click.option(
            "--name",
            metavar="TEXT",
            help="Name of the data in tables and run folders; else that of the folder or file.",
        ),
        click.option("--imbalance", metavar="X", help="Imbalance factor n_max / n_min, or 'natural'."),
        click.option("--n-max", metavar="N", help="Images of the largest class."),
        click.option(
            "--order", metavar="ORDER", help="Order of the classes from head to tail: native, reversed or random."
        ),
        click.option("--image-size", metavar="N", help="Side of the images, which become squares."),
        click.option("--skip-bad", is_flag=True, help="Leave out image files that cannot be used."),
        click.option("--validation", metavar="X", help="Share of the training images that become validation images."),
    )


def classifier_options(command: Command) -> Command:
    """The options that choose a classifier: ``--head``, ``--recipe``, ``--plugin``."""
    return with_options(
        command,
        click.option("--head", metavar="NAME", shell_complete=names("head"), help="Classifier head."),
        click.option(
            "--recipe",
            metavar="NAME",
            shell_complete=names("recipe"),
            help="Recipe, which says which data train which stage.",
        ),
        click.option(
            "--plugin",
            multiple=True,
            metavar="NAME",
            shell_complete=names("plugin"),
            help="Plugin to activate; repeatable.",
        ),
    )


def device_options(command: Command) -> Command:
    """The options that say on what to compute: ``--device``, ``--threads``."""
    return with_options(
        command,
        click.option(
            "--device",
            metavar="auto|cpu|cuda",
            shell_complete=choices("auto", "cpu", "cuda"),
            help="Device to compute on.",
        ),
        click.option("--threads", metavar="N", help="Number of CPU threads."),
    )


def speed_options(command: Command) -> Command:
    """The options of what makes networks fast: ``--precision`` and ``--compile``."""
    return with_options(
        command,
        click.option(
            "--precision",
            metavar="auto|fp32|tf32|bf16",
            shell_complete=choices("auto", "fp32", "tf32", "bf16"),
            help="Precision of the features; auto, the default: the faster one on this machine.",
        ),
        click.option(
            "--compile/--no-compile",
            default=None,
            help="Compile networks, or do not; unless given, long work is compiled.",
        ),
    )


def compute_options(command: Command) -> Command:
    """The options of what computes, and those of a configuration.

    The first are ``--seed``, ``--device``, ``--threads``, ``--precision``, ``--compile`` and ``--store``, the others
    ``--set``, ``--config`` and ``--preset``.

    Args:
        command: a function that becomes a click command; takes the values as ``seed``, ``device``, ``threads``,
            ``precision``, ``compile``, ``store``, ``config_file`` (a path), each None if not given, and the tuples
            ``assignments`` and ``preset``.

    Returns:
        The same function with the options.
    """
    return with_options(
        command,
        click.option("--seed", metavar="N", help="Seed of everything random except the cut to the long tail."),
        device_options,
        speed_options,
        click.option(
            "--store",
            metavar="DIR",
            shell_complete=FILES,
            help="Folder of trained networks, to keep them in and to find them.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="PATH=VALUE",
            help="Any option by its path: matcher.lr_img=1.0; repeatable.",
        ),
        click.option("--config", "config_file", type=PATH, help="YAML configuration file."),
        click.option(
            "--preset",
            multiple=True,
            metavar="NAME",
            shell_complete=names("preset"),
            help="Named configuration; repeatable, a later one overrides. The file and the options override all.",
        ),
    )


def json_option(command: Command) -> Command:
    """The option ``--json``.

    Args:
        command: a function that becomes a click command; takes the value as ``as_json``, a bool.

    Returns:
        The same function with the option.
    """
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON document on stdout, everything else on stderr."
    )(command)


def output_options(command: Command) -> Command:
    """The options of what takes its time: ``--json`` and ``--quiet``.

    Args:
        command: a function that becomes a click command; takes the values as ``as_json`` and ``quiet``, bools.

    Returns:
        The same function with the options.
    """
    return with_options(command, json_option, click.option("--quiet", is_flag=True, help="Show no progress."))


def verbose_option(command: Command) -> Command:
    """The option ``--verbose`` of what makes runs."""
    return click.option("--verbose", is_flag=True, help="Print the accuracy of each line of the table, too.")(command)


def repeated_options(command: Command) -> Command:
    """The options ``--network`` and ``--repeats`` of a table with a row for each network, over several seeds."""
    return with_options(
        command,
        click.option(
            "--network",
            "networks",
            multiple=True,
            metavar="NAME",
            shell_complete=names("network"),
            help="Network to train; repeatable.",
        ),
        click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Number of seeds."),
    )


def processes_option(command: Command) -> Command:
    """The option ``--processes`` of what several processes can share."""
    return click.option(
        "--processes",
        type=click.IntRange(1),
        metavar="N",
        help="Processes of this machine that share the work, which comes to the same result. With torchrun, as many as "
        "it starts.",
    )(command)


def test_imbalance_option(command: Command) -> Command:
    """The option ``--test-imbalance`` of what scores classifiers."""
    return click.option(
        "--test-imbalance",
        "test_imbalance",
        type=float,
        multiple=True,
        metavar="FACTOR",
        help="Also score on long-tailed test distributions with this imbalance factor, forward and backward; "
        "repeatable.",
    )(command)


def keep_option(command: Command) -> Command:
    """The option ``--no-keep`` of what trains classifiers for use."""
    return click.option("--no-keep", "keep", flag_value="false", help="Do not keep the trained classifiers.")(command)


def layers(config_file: Path | None, assignments: tuple[str, ...], given: dict[str, Any]) -> list[Layer]:
    """File, then options, then ``--set``; what was not given is left out.

    Raises:
        InputError: the file or an assignment is malformed.
    """
    settings = [from_file(config_file)] if config_file is not None else []
    for name, value in given.items():
        if value is None or value == () or (value is False and name not in YES_OR_NO):
            continue
        flag = "--" + name.replace("_", "-")
        if value == "" or (name == "plugin" and "" in value):
            raise InputError(f"{flag}: a value is missing.")
        tree: Any = list(value) if isinstance(value, tuple) else _number(value) if name in NUMBERS else value
        for key in reversed(PATHS[name].split(".")):
            tree = {key: tree}
        settings.append(Layer(flag, tree))
    assigned = from_assignments(assignments)
    for option, value in said_again(assigned).items():
        say_last_counts(option, value)
    return settings + assigned


def _number(text: str) -> int | float | str:
    """Text as a number if it is one; what else it may be is for the option to say."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextmanager
def announced(notes: Console, what: str, *, quiet: bool) -> Iterator[None]:
    """In a terminal, a line that says what is about to be done, until the block ends.

    A file or a pipe gets none: if something is wrong, that is the only line.
    """
    with nullcontext() if quiet or not notes.is_interactive else notes.status(Text(printable(what))):
        yield


@contextmanager
def only_json(as_json: bool) -> Iterator[None]:
    """With ``--json``, what a plugin prints goes to stderr: stdout is for one document.

    Args:
        as_json: whether ``--json`` was given; nothing changes otherwise.

    Returns:
        A context manager, for the work that comes before the document is printed.
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def check_can_be_written(path: Path, *, makes_folders: bool = False) -> None:
    """Say that a file cannot be written before images are read for hours.

    Args:
        path: of the file.
        makes_folders: whether what writes it makes the folders that it is in.

    Raises:
        InputError: there is no such folder, it takes no file, or the path is that of a folder, or is too long.
    """
    folder = path.parent
    while makes_folders and not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):  # noqa: PTH112 - a name that no path can have is none
        what = f"{folder} is no folder" if os.path.lexists(folder) else f"there is no folder {folder}"
        raise InputError(f"cannot write {path}: {what}.")
    if os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"cannot write {path}: it is a folder.")
    try:
        path.exists()  # raises where the name is too long
        with TemporaryFile(dir=folder):  # has no name, and leaves nothing
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.") from error


class PlainConsole(Console):
    """Text from outside as it is, without markup, and without the power to command a terminal.

    FORCE_COLOR gives colours to a file, but no moving bars.
    """

    def __init__(self, *, stderr: bool) -> None:
        in_terminal = (sys.stderr if stderr else sys.stdout).isatty()
        super().__init__(
            stderr=stderr,
            width=None if in_terminal else 140,
            force_interactive=None if in_terminal else False,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **how: Any) -> Text:
        """Text that is printed, or that is in a table, with its control characters visible."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The same for text that was made elsewhere."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def consoles(as_json: bool) -> tuple[Console, Console]:
    """Where results and where everything else goes; a pipe is not folded to 80 columns.

    Names come from users and plugins, so brackets and colons in them are no markup.

    Args:
        as_json: whether stdout is for one JSON document; then results go to stderr, too.

    Returns:
        Consoles for results and for everything else.
    """
    return PlainConsole(stderr=as_json), PlainConsole(stderr=True)
