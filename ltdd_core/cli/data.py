"""``ltdd data show``: look at a long-tailed set before anything is distilled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import check_can_be_written, consoles, data_options, json_option, layers

if TYPE_CHECKING:
    from ltdd_core.data.sets import LongTailedSet


@click.group("data")
def command() -> None:
    """Look at data."""


@command.command("show")
@data_options
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Any option: data.seed=1.")
@click.option(
    "--picture",
    type=PATH,
    metavar="FILE.png",
    help="Draw a few images of each class in the size in which networks see them.",
)
@json_option
def show(assignments: tuple[str, ...], picture: Path | None, as_json: bool, **given: Any) -> None:
    """Count the images of each class of a long-tailed set.

    The first line has the imbalance factor. The table has the images of each class that were found, and how many of
    them are for training, validation and test.
    """
    from ltdd_core.config.resolve import resolve_data
    from ltdd_core.plugging.catalog import installed

    if picture is not None:
        check_can_be_written(picture)
    source = resolve_data(installed(), layers(None, assignments, given))
    made = source.make()
    made.check()
    # What comes now imports torch, which takes seconds.
    from ltdd_core.cli.tables import print_data
    from ltdd_core.data.drawing import lettering
    from ltdd_core.data.load import load_long_tailed
    from ltdd_core.runs.facts import data_facts
    from ltdd_core.runs.pictures import save_data_picture

    data = load_long_tailed(source.name, made)
    results, notes = consoles(as_json)
    if picture is not None:
        save_data_picture(picture, data)
    if as_json:
        click.echo(json.dumps({**data_facts(data), **_parts(data)}))
    else:
        print_data(results, data)
    if picture is not None:
        if note := lettering(data.class_names).note():
            notes.print(note, soft_wrap=True)
        notes.print(f"the picture is in {picture}", soft_wrap=True)


def _parts(data: LongTailedSet) -> dict[str, Any]:
    """What became of the images of each class, and what a user should know."""
    return {
        "found": list(data.found),
        "validation_counts": list(data.validation_counts),
        "test_counts": list(data.test_counts),
        "resized": data.resized,
        "cut": data.cut,
        "advice": list(data.advice),
        "left_out": list(data.left_out),
    }
