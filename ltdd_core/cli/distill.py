"""``ltdd distill``: condense a long-tailed set, train on it, and say how good that is."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ltdd_core.cli.completion import names
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import (
    Command,
    announced,
    classifier_options,
    compute_options,
    consoles,
    data_options,
    keep_option,
    layers,
    output_options,
    processes_option,
    test_imbalance_option,
    verbose_option,
    with_options,
)
from ltdd_core.cli.several import own_folder, together
from ltdd_core.config.layers import Layer
from ltdd_core.errors import InputError
from ltdd_core.processes import processes_sharing
from ltdd_core.runs.named import RUNS, as_file_name

if TYPE_CHECKING:
    from ltdd_core.config.model import Config
    from ltdd_core.distillation.distill import Result
    from ltdd_core.plugging.catalog import Catalog
    from ltdd_core.progress import Display
    from ltdd_core.setup import Setup

NOTHING_TO_RESUME = "{} holds no run to resume: leave out --resume to begin one."


def method_options(command: Command) -> Command:
    """The options of what is made of the data, and by what: ``--method``, ``--ipc``, ``--network`` and the like."""
    return with_options(
        command,
        click.option(
            "--method",
            metavar="NAME",
            shell_complete=names("matcher"),
            help="Distillation method (a matcher): see ltdd describe matcher.",
        ),
        click.option(
            "--ipc", metavar="N", help="Synthetic images per class; for several numbers see ltdd describe run."
        ),
        click.option("--iterations", metavar="N", help="Steps of the matcher."),
        click.option(
            "--init",
            metavar="real|keep|noise|NAME",
            help="Initial images: real ones of the run's sampler or of the one named, or noise; keep: as real, but "
            "a class with no more images than its IPC keeps them unchanged.",
        ),
        click.option(
            "--network", metavar="NAME", shell_complete=names("network"), help="Network to match with and to train."
        ),
        click.option(
            "--sampler", metavar="NAME", shell_complete=names("sampler"), help="Sampler that draws real images."
        ),
        click.option(
            "--labeller",
            metavar="NAME",
            shell_complete=names("labeller"),
            help="Labeller that gives the synthetic images soft labels.",
        ),
    )


@click.command("distill")
@method_options
@test_imbalance_option
@click.option("--out", type=PATH, help="Folder of the run; unless given, a new one under runs/.")
@keep_option
@click.option(
    "--resume",
    is_flag=True,
    help="Resume a run that was interrupted; with more --iterations one that is finished, too.",
)
@click.option(
    "--finish", is_flag=True, help="With --out and --resume: take no more steps, and finish the run as it is."
)
@processes_option
@data_options
@classifier_options
@compute_options
@output_options
@verbose_option
def command(
    out: Path | None,
    resume: bool,
    finish: bool,
    processes: int | None,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Distil a long-tailed set into a few images per class.

    The result is a table of classifiers trained on the original set, on the distilled one, and, with a head of
    several stages, on both; everything is kept in the folder of the run.
    """
    results, notes = consoles(as_json)
    if finish and (out is None or not resume):
        raise InputError("--finish ends a run that was stopped: name it with --out RUN --resume --finish.")
    settings = layers(config_file, assignments, given)

    def work(notes: Console, quiet: bool) -> Result:
        return _distil(out, resume, finish, settings, preset, notes, quiet, verbose)

    result = together(work, processes, as_json, quiet)
    from ltdd_core.cli.tables import (
        duration,
        print_groups,
        print_images,
        print_labels,
        print_rows,
        print_test_distributions,
    )
    from ltdd_core.distillation.steps import PICTURE
    from ltdd_core.evaluation.class_table import CLASSES

    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        data = result.data
        print_rows(results, result.rows, data.class_names, data.counts, result.chance(), result.run / CLASSES)
        print_test_distributions(results, result.rows)
        print_groups(results, result.group_names())
        print_images(results, result.distilled)
        print_labels(results, result.distilled)
        if result.saving is not None:
            results.print(str(result.saving), markup=False, soft_wrap=not results.is_terminal)
    if not quiet:
        notes.print(
            f"method {result.config.matcher.name}, {duration(result.seconds)}; the run is in {result.run}, "
            f"its images in {result.run / PICTURE}",
            soft_wrap=True,
        )


def _distil(
    out: Path | None,
    resume: bool,
    finish: bool,
    settings: list[Layer],
    preset: tuple[str, ...],
    notes: Console,
    quiet: bool,
    verbose: bool,
) -> Result:
    """Resolve the configuration, find the folder, run."""
    from ltdd_core.config.resolve import check_data, resolve
    from ltdd_core.plugging.catalog import installed

    catalog = installed()
    if resume and out is None and processes_sharing() > 1:
        raise InputError("several processes resume a run that is named: --out RUN --resume.")
    for plugin in catalog.plugins.listed:
        if plugin.state == "broken":
            notes.print(f"plugin {plugin.name!r} ({plugin}) is broken: {plugin.reason}", style="yellow", soft_wrap=True)
    if resume and out is not None:
        if not os.path.exists(out):  # noqa: PTH110 - a name that no path can have is none
            raise InputError(NOTHING_TO_RESUME.format(out))
        what = f"resuming {out}"
    else:
        method = _method(catalog, settings, preset)
        what = f"distilling {check_data(catalog, settings, preset)} with {method}"
    with announced(notes, what, quiet=quiet):  # while torch is imported
        from ltdd_core import ranks
        from ltdd_core.cli.live import LiveDisplay, WarningsOnly
        from ltdd_core.distillation.distill import distill
        from ltdd_core.runs.claim import claimed

        if resume and out is not None:
            stored = _to_resume(out)
            settings = settings if preset else [stored, *settings]
        config = resolve(catalog, settings, preset)
    if resume and out is None:
        out = find_run(config)
        if out is None:
            notes.print(f"no run with this configuration under {RUNS}/: a new one begins.", style="yellow")
    display = WarningsOnly(notes) if quiet else LiveDisplay(notes, verbose=verbose)
    if finish and out is not None:
        config = _as_it_is(config, out, display)

    def before(setup: Setup) -> None:
        if not (quiet or resume):
            with ranks.alone():  # it goes through a run without images
                _say_what_is_planned(setup, preset)

    with own_folder(claimed(out, _stem(config)), lambda stopped: _how_it_goes_on(stopped, config)) as folder:
        return distill(config, folder, resume=resume, display=display, catalog=catalog, before=before)


def _how_it_goes_on(folder: Path, config: Config) -> str:
    """What is kept of a run that was stopped, and how to go on with it."""
    from ltdd_core.networks.store import FOLDER as NETWORKS, SHARED
    from ltdd_core.runs.folder import RunFolder

    place = shlex.quote(str(folder))
    if not RunFolder(folder).is_empty():
        return f"stopped and saved. Resume with: ltdd distill --out {place} --resume"
    if (folder / NETWORKS).is_dir():
        return f"stopped before the first step; trained networks are kept: run it again with --out {place}."
    if (config.compute.store or SHARED).is_dir():
        return "stopped before the first step; what was trained is kept, and the same command goes on."
    return "stopped before the first step; the same command begins again."


def _say_what_is_planned(setup: Setup, preset: tuple[str, ...]) -> None:
    """What a long run will take, and how to have a shorter one; whatever goes wrong in a plan stops no run."""
    from ltdd_core.planning.expected import plan_if_long

    with suppress(Exception):
        found = plan_if_long(setup)
        if found is not None:
            quick = setup.config.matcher.component.quick_preset
            shorter = f"; --preset {quick} takes less" if quick and quick not in preset else ""
            setup.display.note(found.summary() + shorter)


def _method(catalog: Catalog, settings: list[Layer], preset: tuple[str, ...]) -> str:
    """The name of the method.

    Raises:
        InputError: none is named, or another name is wrong.
    """
    from ltdd_core.config.resolve import check_names

    return str(check_names(catalog, settings, preset, distils=True)["matcher"]["name"])


def _to_resume(out: Path) -> Layer:
    """The configuration of the run in a folder.

    Raises:
        InputError: there is none that distils something, or its configuration is damaged.
    """
    from ltdd_core.runs.folder import RunFolder

    if RunFolder(out).is_empty():
        raise InputError(NOTHING_TO_RESUME.format(out))
    stored = Layer(str(out), RunFolder(out).stored_config())
    if not {"matcher", "method"} & stored.tree.keys():
        raise InputError(f"{out} holds classifiers of ltdd train and no run to resume: name another folder with --out.")
    return stored


def _as_it_is(config: Config, out: Path, display: Display) -> Config:
    """The configuration with as many steps as the run in a folder has taken.

    Raises:
        InputError: it has taken none, or the configuration has another number than the run had.
    """
    from dataclasses import replace

    from ltdd_core.runs.folder import ITERATIONS, RESULT, RunFolder

    folder, total = RunFolder(out), config.run.iterations
    if folder.has_other_length(config):
        raise InputError("--finish takes no more steps: leave out --iterations.")
    if not config.matcher.component.iterative or (out / RESULT).exists():
        return config
    done = folder.steps_done()
    if done == 0:
        raise InputError(f"{out} has no checkpoint yet, so there is nothing to finish: leave out --finish.")
    if done < total:
        display.note(f"the run ends after {done} of {total} steps")
    return replace(config, run=config.run.model_copy(update={ITERATIONS: done}))


def find_run(config: Any) -> Path | None:
    """The run under runs/ with this configuration that began last, one that is not finished before one that is."""
    from ltdd_core.runs.folder import RESULT, RunFolder

    # The data may have had another title.
    folders = [path for path in RUNS.glob(f"*-{config.matcher.name}-seed{config.run.seed}-*") if path.is_dir()]
    folders.sort(key=lambda path: (not (path / RESULT).exists(), RunFolder(path).began(), _number(path)), reverse=True)
    for path in folders:
        try:
            RunFolder(path).check_same(config)
        except InputError:
            continue
        return path
    return None


def _number(path: Path) -> int:
    """What a folder under runs/ has at its end, since several may begin in one second."""
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _stem(config: Any) -> str:
    return f"{as_file_name(config.data.title)}-{config.matcher.name}-seed{config.run.seed}"
