"""What the command of a plugin needs: the options that commands share, and what a configuration comes to.

::

    from ltdd_core import hookimpl
    from ltdd_core.commands import data_options, compute_options, read_config, task_of

    @hookimpl
    def ltdd_register_commands(cli):
        cli.add_command(my_command)

Names in this module are public, as those of ``ltdd_core`` and ``ltdd_core.testing`` are.  It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.rows import print_rows_of_text
from ltdd_core.cli.settings import (
    check_can_be_written,
    compute_options,
    consoles,
    data_options,
    json_option,
    layers,
    only_json,
    output_options,
)
from ltdd_core.config.layers import Layer, Presets
from ltdd_core.processes import Say, check_jobs, work_in_processes
from ltdd_core.runs.named import as_file_name, check_there

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ltdd_core.config.model import Config
    from ltdd_core.data.sets import LongTailedSet
    from ltdd_core.distillation.task import Distillation
    from ltdd_core.progress import Display
    from ltdd_core.setup import Setup

__all__ = [
    "PATH",
    "Say",
    "as_file_name",
    "check_can_be_written",
    "check_jobs",
    "check_there",
    "compute_options",
    "consoles",
    "data_options",
    "json_option",
    "limited",
    "names_of",
    "only_json",
    "open_setup",
    "output_options",
    "print_rows_of_text",
    "read_config",
    "task_of",
    "work_in_processes",
]


def read_config(
    given: dict[str, Any],
    *,
    assignments: tuple[str, ...] = (),
    config_file: Path | None = None,
    preset: Presets = None,
    below: Mapping[str, Any] | None = None,
    above: Mapping[str, Mapping[str, Any]] | None = None,
    distils: bool = True,
) -> Config:
    """The configuration that the options of a command come to.

    Args:
        given: values of the shared options, as click hands them over: by parameter name, None for those not given.
        assignments: values of ``--set``.
        config_file: the file of ``--config``.
        preset: the names after ``--preset``.
        below: what holds unless something else is said, shaped like a configuration file.
        above: what the command's own options stand for, by their flags: ``{"--count": {"experts": {"count": 3}}}``.
        distils: whether a method has to be named.

    Raises:
        InputError: an unknown name or option, a value out of range, a malformed file.
    """
    from ltdd_core.config.resolve import resolve
    from ltdd_core.plugging.catalog import installed

    settings = [Layer("default", dict(below or {})), *layers(config_file, assignments, given)]
    settings += [Layer(flag, dict(tree)) for flag, tree in (above or {}).items()]
    return resolve(installed(), settings, preset, distils=distils)


def open_setup(
    config: Config, *, display: Display | None = None, folder: Path | None = None, data: LongTailedSet | None = None
) -> AbstractContextManager[Setup]:
    """Everything that a run of a configuration works with, while a block runs.

    ::

        with open_setup(config) as setup:
            plain = setup.trainer().train(setup.original, outputs=setup.data.classes)
            ...
            setup.stop.check()  # between units of work: raises Interrupted after Ctrl-C or SIGTERM

    Args:
        config: from :func:`read_config`.
        display: shows a user what happens; warnings only, unless given.
        folder: the folder of a run; its trained networks are used, and new ones are stored there, unless the
            configuration names another folder with ``compute.store``.
        data: the long-tailed set of the configuration, where it is loaded already.

    Returns:
        A context manager that gives the :class:`Setup`: device, data, trainer, network store and requests to stop.

    Raises:
        InputError: the device is not there.
    """
    from ltdd_core.networks.store import FOLDER, NetworkStore
    from ltdd_core.setup import Setup

    store = NetworkStore(config.compute.store or (folder and folder / FOLDER))
    return Setup.open(config, display=display, store=store, data=data)


def task_of(setup: Setup) -> Distillation:
    """Data, networks and all else that a matcher works with.

    Args:
        setup: from :func:`open_setup`.

    Raises:
        InputError: the data cannot be loaded.
    """
    from ltdd_core.distillation.task import task_of

    return task_of(setup)


def limited(setup: Setup, seconds: float) -> Setup:
    """The same setup for work that may take so many seconds from now on.

    Whatever looks at requests to stop, such as a training, raises :class:`ltdd_core.OutOfTime` afterwards.

    Args:
        setup: from :func:`open_setup`.
        seconds: of the clock.
    """
    from dataclasses import replace

    from ltdd_core.runs.stop import TimeLimit

    made = replace(setup, stop=TimeLimit(setup.stop, seconds))
    vars(made)["data"] = setup.data  # loaded already
    return made


def names_of(kind: str) -> list[str]:
    """The names of the installed components of a kind, such as ``"matcher"``.

    Args:
        kind: as :doc:`ltdd describe <components>` has it.
    """
    from ltdd_core.plugging.catalog import installed

    return installed().names(kind)
