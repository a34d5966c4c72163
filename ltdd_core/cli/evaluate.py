"""``ltdd evaluate``: train classifiers on a distilled set that exists, on several networks and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import (
    classifier_options,
    compute_options,
    consoles,
    data_options,
    keep_option,
    layers,
    output_options,
    processes_option,
    repeated_options,
    test_imbalance_option,
)
from ltdd_core.cli.several import together
from ltdd_core.runs.named import as_file_name, check_there, file_of_set

if TYPE_CHECKING:
    from ltdd_core.cli.scoring import Scored


@click.command("evaluate")
@click.argument("run", type=PATH)
@repeated_options
@click.option("--quality", is_flag=True, help="Also compare with the whole set and with random real images.")
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="NAME",
    help="Also train on other images with the same labels: whole (the long-tailed set), or the real ones that the "
    "sampler NAME chooses; or test the teacher itself (teacher); repeatable.",
)
@test_imbalance_option
@click.option("--out", type=PATH, help="Folder of the result; unless given, a new one under runs/.")
@keep_option
@processes_option
@data_options
@classifier_options
@compute_options
@output_options
def command(
    run: Path,
    networks: tuple[str, ...],
    repeats: int,
    controls: tuple[str, ...],
    quality: bool,
    out: Path | None,
    processes: int | None,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train and score classifiers on the distilled set of RUN.

    RUN is a run folder or a distilled.safetensors. Head, recipe and training are those of the run unless told
    otherwise. Table, predictions and classifiers are kept in a folder of their own.
    """
    check_there(run)
    file_of_set(run)
    settings = layers(config_file, assignments, given)

    def work(notes: Console, quiet: bool) -> Scored:
        from ltdd_core.config.resolve import check_names
        from ltdd_core.plugging.catalog import installed

        catalog = installed()
        for name in networks or (None,):
            check_names(catalog, [*settings, *layers(None, (), {"network": name})], preset)
        # What comes now imports torch, which takes seconds.
        from ltdd_core.api import plan_evaluation
        from ltdd_core.cli.scoring import score

        asked: dict[str, Any] = {"controls": controls, "quality": quality}
        plan = plan_evaluation(run, networks, repeats, settings, preset, catalog, **asked)
        config = plan.config
        stem = f"{as_file_name(config.data.title)}-evaluated-{config.head.name}-seed{config.run.seed}"
        return score(plan, out, stem, catalog, notes, quiet=quiet)

    scored = together(work, processes, as_json, quiet)
    from ltdd_core.cli.scoring import show

    show(*scored, as_json, consoles(as_json), quiet=quiet)
