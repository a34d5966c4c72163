"""``ltdd plan``: what a run will take, before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ltdd_core.cli.distill import method_options
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import (
    announced,
    classifier_options,
    compute_options,
    consoles,
    data_options,
    json_option,
    layers,
    only_json,
)
from ltdd_core.config.layers import Layer, from_file
from ltdd_core.errors import InputError

if TYPE_CHECKING:
    from ltdd_core.bench.planned import PlannedRuns
    from ltdd_core.config.model import Config
    from ltdd_core.planning.plan import Plan
    from ltdd_core.planning.sizes import DataSizes

AXES_OF_GRIDS = {"methods", "seeds", "lines"}
"""Keys that only the file of a grid has."""
WITHOUT_FILES = "folder"
"""The data source of images that are only told of: what it has by default suits any of them."""


@click.command("plan")
@click.argument("config", required=False, type=PATH)
@click.option("--on", metavar="CARD", help="Time by the data sheet of a card: h100, a100, rtx4090, ...")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs that share the work.")
@click.option("--classes", type=click.IntRange(min=2), help="Number of classes of data that are not here.")
@click.option("--images", type=click.IntRange(min=2), help="Training images of all classes together.")
@click.option("--counts", type=PATH, help="File with the training images of each class, a number for each.")
@click.option("--test-images", "tests", type=click.IntRange(min=1), help="Test images; 50 a class unless given.")
@method_options
@data_options
@classifier_options
@compute_options
@json_option
def command(
    config: Path | None,
    on: str | None,
    gpus: int,
    classes: int | None,
    images: int | None,
    counts: Path | None,
    tests: int | None,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Say what a run will take before it runs.

    That is multiply-adds, memory, disk and time. Takes the options of ltdd distill; CONFIG is its configuration file,
    or the grid of ltdd bench. No GPU is needed, and nothing is trained. The code of the run is followed with images
    that take no memory, and what it would compute is counted. The time is an estimate for this machine, which is
    measured for a few seconds once, or for the card of --on. Data that are not here are described by --classes,
    --images and --image-size, or by --counts.
    """
    results, notes = consoles(as_json)
    with only_json(as_json):
        if config is not None and config_file is not None:
            raise InputError(f"there are two configuration files, {config} and {config_file}: name one.")
        settings = layers(config or config_file, assignments, given)
        told = {"classes": classes, "images": images, "counts": counts, "tests": tests}
        with announced(notes, "counting", quiet=as_json):
            found: Plan | list[PlannedRuns]
            if config is not None and set(from_file(config).tree) & AXES_OF_GRIDS:
                found = _planned_grid(config, layers(None, assignments, given), preset, told, on)
            else:
                found = _planned(settings, preset, told, on, gpus)
    if isinstance(found, list):
        _show_grid(results, found, gpus, as_json)
    elif as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        print_plan(results, found)


def _planned(settings: list[Layer], preset: tuple[str, ...], told: dict[str, Any], on: str | None, gpus: int) -> Plan:
    from ltdd_core.config.resolve import check_names, resolve
    from ltdd_core.plugging.catalog import installed

    catalog = installed()
    is_told = any(value is not None for value in told.values())
    if is_told:
        settings = [Layer("default", {"data": {"name": WITHOUT_FILES}}), *settings]
    check_names(catalog, settings, preset, distils=True)
    config = resolve(catalog, settings, preset)
    from ltdd_core.planning.plan import plan

    return plan(config, _sizes(config, told if is_told else None), on=on, gpus=gpus, catalog=catalog)


def _sizes(config: Config, told: dict[str, Any] | None) -> DataSizes:
    """How much data there is, as a user tells it, or as the data source says."""
    from ltdd_core.planning.sizes import counts_in, sizes_of, sizes_told

    if told is None:
        return sizes_of(config.data)
    file = told.pop("counts")
    if file is not None and (told["classes"] is not None or told["images"] is not None):
        raise InputError("--counts says how many classes and images there are: leave out --classes and --images.")
    return sizes_told(config.data, counts=None if file is None else counts_in(file), **told)


def _planned_grid(
    file: Path, above: list[Layer], preset: tuple[str, ...], told: dict[str, Any], on: str | None
) -> list[PlannedRuns]:
    """The plans of the runs of a grid.

    Raises:
        InputError: there are options that a grid has no use for.
    """
    if preset or any(value is not None for value in told.values()):
        raise InputError(f"{file} is a grid: leave out --preset, --classes, --images, --counts and --test-images.")
    from ltdd_core.bench.grid import read_grid
    from ltdd_core.bench.planned import plan_grid
    from ltdd_core.plugging.catalog import installed

    catalog = installed()
    return plan_grid(read_grid(file, catalog, above), on=on, catalog=catalog)


def _show_grid(console: Console, found: list[PlannedRuns], gpus: int, as_json: bool) -> None:
    """A line for the runs that differ in the seed only, and the sum; runs are done side by side, each on one GPU."""
    from rich.filesize import decimal

    from ltdd_core.cli.tables import duration, print_numbers
    from ltdd_core.evaluation.shown import NumberTable, amount
    from ltdd_core.planning.plan import side_by_side

    seconds = side_by_side([runs.plan.seconds for runs in found for _ in range(runs.count)], gpus)
    if as_json:
        runs = [{"name": each.name, "runs": each.count, "plan": each.plan.to_json()} for each in found]
        click.echo(json.dumps({"runs": runs, "gpus": gpus, "seconds": seconds}))
        return
    body = [
        [
            each.name,
            str(each.count),
            amount(each.plan.multiply_adds),
            decimal(each.plan.disk),
            duration(each.plan.seconds),
        ]
        for each in found
    ]
    work = sum(each.count * each.plan.multiply_adds for each in found)
    disk = sum(each.count * each.plan.disk for each in found)
    body.append(["in all", str(sum(each.count for each in found)), amount(work), decimal(disk), duration(seconds)])
    keys = ["run", "runs", "multiply-adds", "disk", "time"]
    headings = ["run, and those that differ in the seed", "runs", "multiply-adds of each", "disk", "about"]
    print_numbers(console, NumberTable("the runs of a grid, of which each is given once", keys, headings, body))
    side = [f"Runs are done side by side on {gpus} GPUs, each on one."] if gpus > 1 else []
    for sentence in (*found[0].plan.remarks[:2], *side):
        console.print(sentence, soft_wrap=not console.is_terminal)


def print_plan(console: Console, found: Plan) -> None:
    """A line for each part, the sum, what memory it needs, and what is an estimate."""
    from rich.filesize import decimal

    from ltdd_core.cli.tables import duration, print_numbers
    from ltdd_core.evaluation.shown import NumberTable, amount

    def row(name: str, multiply_adds: float, memory: int | None, disk: int, seconds: float) -> list[str]:
        held = "" if memory is None else decimal(memory)
        return [name, amount(multiply_adds), held, decimal(disk), f"about {duration(seconds)}"]

    body = [row(part.name, part.multiply_adds, part.memory, part.disk, part.seconds) for part in found.parts]
    body.append(row("in all", found.multiply_adds, None, found.disk, found.seconds))
    keys = ["part", "multiply-adds", "memory", "disk", "time"]
    print_numbers(console, NumberTable(f"{found.title}; {found.precision}", keys, keys, body))
    needed = f"memory at the peak: {decimal(found.host_memory)}"
    if found.device_memory is not None:
        needed += f", and {decimal(found.device_memory)} on the GPU"
        if found.rates.memory is not None and found.device_memory > found.rates.memory:
            needed += f", which has only {decimal(found.rates.memory)}: lower compute.chunk, or the images per class"
    for sentence in (f"{needed}.", *found.remarks):
        console.print(sentence, soft_wrap=not console.is_terminal)
