"""``ltdd relabel``: other soft labels for the images of a run that is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ltdd_core.cli.completion import names
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import (
    classifier_options,
    compute_options,
    consoles,
    keep_option,
    layers,
    only_json,
    output_options,
    root_option,
    test_imbalance_option,
    verbose_option,
)
from ltdd_core.runs.named import check_there, file_of_set


@click.command("relabel")
@click.argument("run", type=PATH)
@click.option(
    "--labeller",
    metavar="NAME",
    shell_complete=names("labeller"),
    required=True,
    help="Labeller that gives the images soft labels.",
)
@click.option("--out", type=PATH, help="Folder of the new run; unless given, RUN-NAME beside the old one.")
@click.option("--resume", is_flag=True, help="Resume a relabelling that was interrupted.")
@root_option
@classifier_options
@compute_options
@test_imbalance_option
@keep_option
@output_options
@verbose_option
def command(
    run: Path,
    labeller: str,
    out: Path | None,
    resume: bool,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Give the distilled images of RUN soft labels.

    RUN is a run folder. The result is a run of its own, with its scores. The images stay as they are. Everything else
    is that of RUN unless told otherwise.
    """
    import shlex

    from ltdd_core.config.resolve import check_names
    from ltdd_core.plugging.catalog import installed

    check_there(run)
    file_of_set(run)
    results, notes = consoles(as_json)
    with only_json(as_json):
        settings = layers(config_file, assignments, {**given, "labeller": labeller})
        check_names(installed(), settings, preset)
    # What comes now imports torch, which takes seconds.
    from ltdd_core.api import relabel
    from ltdd_core.cli.live import LiveDisplay, WarningsOnly
    from ltdd_core.cli.tables import print_groups, print_labels, print_rows, print_test_distributions
    from ltdd_core.errors import Interrupted
    from ltdd_core.evaluation.class_table import CLASSES
    from ltdd_core.runs.folder import RunFolder

    with only_json(as_json):
        display = WarningsOnly(notes) if quiet else LiveDisplay(notes, verbose=verbose)
        folder = out or _beside(run, labeller)
        try:
            result = relabel(run, folder, settings=settings, preset=preset, resume=resume, display=display)
        except Interrupted as error:
            if RunFolder(folder).is_empty():
                raise
            again = "the same command goes on" + ("" if resume else " with --resume")
            raise Interrupted(
                f"{error}: stopped; the soft labels are in {shlex.quote(str(folder))}: {again}."
            ) from error
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    data = result.data
    print_rows(results, result.rows, data.class_names, data.counts, result.chance(), result.run / CLASSES)
    print_test_distributions(results, result.rows)
    print_groups(results, result.group_names())
    print_labels(results, result.distilled)
    if not quiet:
        notes.print(f"the new run is in {result.run}", soft_wrap=True)


def _beside(run: Path, labeller: str) -> Path:
    """The folder of a new run beside the old one, which may be named by a file in it, or as ``.``."""
    import os

    folder = run.parent if os.path.isfile(run) else run  # noqa: PTH113 - a name that no path can have is none
    folder = folder if folder.name not in ("", "..") else folder.absolute().resolve()
    return folder.parent / f"{folder.name}-{labeller.partition(':')[0]}"
