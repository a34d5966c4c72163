"""``ltdd data show``: look at a long-tailed set before anything is distilled."""

from __future__ import annotations

import json
from typing import Any

import click

from ltdd_core.cli.settings import consoles, data_options, json_option, layers


@click.group("data")
def command() -> None:
    """Look at data."""


@command.command("show")
@data_options
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Any option: data.seed=1.")
@json_option
def show(assignments: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Class counts of a long-tailed set as bars, its imbalance factor, many/medium/few."""
    from ltdd_core.cli.tables import print_data
    from ltdd_core.config.resolve import resolve_data
    from ltdd_core.data.load import load_long_tailed
    from ltdd_core.plugging.catalog import installed
    from ltdd_core.runs.facts import data_facts

    source = resolve_data(installed(), layers(None, assignments, given))
    data = load_long_tailed(source.name, source.make())
    if as_json:
        click.echo(json.dumps(data_facts(data)))
        return
    print_data(consoles(as_json)[0], data)
