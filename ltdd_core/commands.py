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

from ltdd_core.cli.settings import compute_options, consoles, data_options, layers, only_json
from ltdd_core.config.layers import Layer

if TYPE_CHECKING:
    from ltdd_core.config.model import Config
    from ltdd_core.data.sets import LongTailedSet
    from ltdd_core.distillation.matcher import Distillation
    from ltdd_core.progress import Display
    from ltdd_core.runs.stop import StopRequest
    from ltdd_core.training.sets import TrainingSet
    from ltdd_core.training.trainer import Trainer

__all__ = [
    "compute_options",
    "consoles",
    "data_options",
    "only_json",
    "read_config",
    "stop_request",
    "task_of",
    "trainer_of",
]


def read_config(
    given: dict[str, Any],
    *,
    assignments: tuple[str, ...] = (),
    config_file: Path | None = None,
    preset: str | None = None,
    below: Mapping[str, Any] | None = None,
    above: Mapping[str, Mapping[str, Any]] | None = None,
    distils: bool = True,
) -> Config:
    """The configuration that the options of a command come to.

    Args:
        given: values of the shared options, as click hands them over.
        assignments: values of ``--set``.
        config_file: the file of ``--config``.
        preset: the name after ``--preset``.
        below: what holds unless something else is said, shaped like a configuration file.
        above: what the command's own options stand for, by their flags: ``{"--count": {"experts": {"count": 3}}}``.
        distils: whether a method has to be named.

    Raises:
        InputError: an unknown name or option, a value out of range, a malformed file.
    """
    from ltdd_core.config.resolve import resolve
    from ltdd_core.plugging.catalog import Catalog
    from ltdd_core.plugging.loading import load_plugins

    settings = [Layer("default", dict(below or {})), *layers(config_file, assignments, given)]
    settings += [Layer(flag, dict(tree)) for flag, tree in (above or {}).items()]
    return resolve(Catalog(load_plugins()), settings, preset, distils=distils)


def stop_request() -> StopRequest:
    """Note Ctrl-C and SIGTERM while a block runs, for a safe point to act on.

    ::

        with stop_request().listening() as stop:
            ...
            stop.check()  # raises Interrupted
    """
    from ltdd_core.runs.stop import StopRequest

    return StopRequest()


def task_of(config: Config, stop: StopRequest) -> Distillation:
    """Data, networks and all else that a matcher works with, for a configuration, on its device.

    Raises:
        InputError: the data cannot be loaded, or the device is not there.
    """
    from ltdd_core.data.load import load_long_tailed
    from ltdd_core.distillation.task import prepare_task
    from ltdd_core.runs.devices import prepare_device

    device = prepare_device(config)
    return prepare_task(config, load_long_tailed(config.data.name, config.data.make()), device, stop=stop)


def trainer_of(config: Config, stop: StopRequest, display: Display) -> tuple[LongTailedSet, TrainingSet, Trainer]:
    """The data, the original images ready to train on, and a trainer of classifiers, for a configuration.

    Raises:
        InputError: the data cannot be loaded, or the device is not there.
    """
    from ltdd_core.data.load import load_long_tailed
    from ltdd_core.evaluation.lines import make_trainer, training_sets
    from ltdd_core.plugging.catalog import Catalog
    from ltdd_core.plugging.loading import load_plugins
    from ltdd_core.runs.devices import prepare_device

    device, catalog = prepare_device(config), Catalog(load_plugins())
    data, seed = load_long_tailed(config.data.name, config.data.make()), config.run.seed
    trainer = make_trainer(config, device, data.image_shape, seed=seed, catalog=catalog, stop=stop, display=display)
    return data, training_sets(config, data, None, catalog)["original"], trainer
