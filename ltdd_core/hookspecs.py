"""The hooks of ltdd, in the order a run meets them.

A plugin is a module (or any object) that implements some of these functions with ``@hookimpl`` and
takes only the arguments it needs.  Declare it in your package's pyproject.toml::

    [project.entry-points.ltdd]
    mymethod = "ltdd_mymethod"

Whatever is installed can be *named* on the command line; nothing is *active* until it is named.
Do not give arguments of a hook implementation default values: pluggy treats them differently from
version to version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("ltdd")
hookimpl = pluggy.HookimplMarker("ltdd")

Register = Callable[[str, Any], None]
"""``register(name, component)``.  The component is a class, or ``"package.module:Class"``, which is
imported only when somebody names it."""


@dataclass(frozen=True)
class Run:
    """A run, as plugins that watch it see it."""

    config: Any
    """Its configuration, an :class:`ltdd_core.Config`."""
    path: Path
    """Its folder."""
    data: Any
    """The long-tailed set, an :class:`ltdd_core.LongTailedSet`."""
    start: int
    """Steps that were done before this process resumed the run; 0 for a new one."""


# ---- Naming things: every installed plugin is asked, before anything runs -----------------------


@hookspec
def ltdd_register_datasets(register: Register) -> None:
    """Offer data sources (:class:`ltdd_core.DataSource`), which give labelled images, for ``--data``."""


@hookspec
def ltdd_register_samplers(register: Register) -> None:
    """Offer ways to draw real images (:class:`ltdd_core.Sampler`), for ``--sampler`` and ``--init``.

    One that chooses by features asks for them with ``features(label)``; the first call trains the network.
    """


@hookspec
def ltdd_register_networks(register: Register) -> None:
    """Offer networks (:class:`ltdd_core.Network`) to match with and to train, for ``--network``."""


@hookspec
def ltdd_register_matchers(register: Register) -> None:
    """Offer distillation methods (:class:`ltdd_core.ClassMatcher`, ``BatchMatcher``, ``Matcher``), for ``--method``."""


@hookspec
def ltdd_register_labellers(register: Register) -> None:
    """Offer labellers (:class:`ltdd_core.Labeller`), which give a distilled set soft labels, for ``--labeller``."""


@hookspec
def ltdd_register_augmentations(register: Register) -> None:
    """Offer augmentations of training images (:class:`ltdd_core.TrainingAugmentation`), for ``training.*.augment``."""


@hookspec
def ltdd_register_heads(register: Register) -> None:
    """Offer classifier heads (:class:`ltdd_core.ClassifierHead`), for ``--head``."""


@hookspec
def ltdd_register_recipes(register: Register) -> None:
    """Offer recipes (:class:`ltdd_core.Recipe`): which data train which stage, for ``--recipe``."""


@hookspec
def ltdd_register_presets(register: Register) -> None:
    """Offer configurations for ``--preset``: a mapping shaped like a configuration file.

    Two keys are for the reader, and ``ltdd describe preset`` shows them: ``about`` is a sentence or two on what it is,
    and ``sources`` says where values come from, by the path of an option or of a section.
    """


@hookspec
def ltdd_register_launchers(register: Register) -> None:
    """Offer launchers (:class:`ltdd_core.Launcher`), which have the runs of a grid done, for ``bench --launcher``."""


@hookspec
def ltdd_register_commands(cli: click.Group) -> None:
    """Add commands: ``cli.add_command(...)``.

    ``ltdd_core.commands`` has the options that all commands share (``data_options``, ``compute_options``), the
    configuration they come to (``read_config``) and what a matcher would work with (``task_of``).
    """


# ---- Choosing: asked only of plugins named with --plugin ----------------------------------------


@hookspec
def ltdd_choose(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Say which components this plugin stands for, e.g. ``{"head": "twostage"}``.

    ``config`` is the configuration as the user gave it.  What the user named stays as named.
    Two active plugins that answer differently for one component are refused, naming both.
    """


# ---- Watching: called only for plugins named with --plugin; nothing here may change the run ------


@hookspec
def ltdd_run_started(run: Run) -> None:
    """A run is about to take its first step, or to resume after ``run.start`` steps.

    ``run`` has ``config``, ``path``, ``data`` and ``start``.
    """


@hookspec
def ltdd_step_finished(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Step ``step`` (from 0) is done; ``metrics`` holds at least ``loss``."""


@hookspec
def ltdd_evaluated(run: Run, row: Any) -> None:
    """One line of the result table is known; ``row`` is an :class:`ltdd_core.Row`."""


@hookspec
def ltdd_run_finished(run: Run, distilled: Any) -> None:
    """The run is over and everything is saved; ``distilled`` is an :class:`ltdd_core.DistilledSet`."""


@hookspec
def ltdd_run_failed(run: Run, error: BaseException) -> None:
    """The run ended early with ``error``; the last checkpoint is saved."""
