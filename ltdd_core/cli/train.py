"""``ltdd train``: classifiers on the long-tailed set itself, without distillation."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ltdd_core.cli.completion import names
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import (
    announced,
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
from ltdd_core.config.layers import Layer
from ltdd_core.runs.named import as_file_name

if TYPE_CHECKING:
    from ltdd_core.cli.scoring import Scored


@click.command("train")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NAME",
    shell_complete=names("head"),
    help="Classifier head: see ltdd describe head; repeatable.",
)
@click.option(
    "--sampler", metavar="NAME", shell_complete=names("sampler"), help="Sampler that draws the images of an epoch."
)
@click.option(
    "--plugin", multiple=True, metavar="NAME", shell_complete=names("plugin"), help="Plugin to activate; repeatable."
)
@repeated_options
@test_imbalance_option
@click.option("--out", type=PATH, help="Folder of the result; unless given, a new one under runs/.")
@keep_option
@processes_option
@data_options
@compute_options
@output_options
def command(
    heads: tuple[str, ...],
    networks: tuple[str, ...],
    repeats: int,
    out: Path | None,
    processes: int | None,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train on the long-tailed set without distilling it.

    This is what a distilled set has to be compared with. Of several heads and networks, each head is trained with each
    network. --set training.original.epochs=... sets the length of the training, and --set training.original.lr=... the
    learning rate.
    """
    settings = layers(config_file, assignments, given)
    table = [
        [[*settings, *layers(None, (), {"head": head, "network": network})] for network in networks or (None,)]
        for head in heads or (None,)
    ]

    def work(notes: Console, quiet: bool) -> Scored:
        return _train(table, settings, preset, repeats, out, notes, quiet)

    scored = together(work, processes, as_json, quiet)
    from ltdd_core.cli.scoring import show

    show(*scored, as_json, consoles(as_json), quiet=quiet)


def _train(
    table: list[list[list[Layer]]],
    settings: list[Layer],
    preset: tuple[str, ...],
    repeats: int,
    out: Path | None,
    notes: Console,
    quiet: bool,
) -> Scored:
    """Resolve the configurations, of a row for each head and a column for each network, and train."""
    from ltdd_core.config.resolve import check_data, check_names
    from ltdd_core.plugging.catalog import installed

    catalog = installed()
    for named in chain.from_iterable(table):
        check_names(catalog, named, preset)
    what = f"training on {check_data(catalog, settings, preset)}"
    with announced(notes, what, quiet=quiet):  # while torch is imported
        from ltdd_core.api import configure_original
        from ltdd_core.cli.scoring import score
        from ltdd_core.evaluation.results import Plan

        configs = [[configure_original(named, preset, catalog) for named in row] for row in table]
    config = configs[0][0]
    plan = Plan(config, [each.network for each in configs[0]], [row[0].head for row in configs], repeats)
    of_heads = config.head.name if len(configs) == 1 else f"{len(configs)}-heads"
    stem = f"{as_file_name(config.data.title)}-{of_heads}-seed{config.run.seed}"
    return score(plan, out, stem, catalog, notes, quiet=quiet)
