"""``ltdd data show``: look at a long-tailed set before anything is distilled; ``ltdd data cache``: decoded images."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import check_can_be_written, consoles, data_options, json_option, layers

if TYPE_CHECKING:
    from ltdd_core.data.cache import CachedImages
    from ltdd_core.data.sets import LongTailedSet


@click.group("data")
def command() -> None:
    """Look at data, and at the images that are kept decoded."""


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


@command.group("cache")
def cache() -> None:
    """List and remove the decoded images that are kept on the disk.

    Image files are decoded once. What becomes of them is kept in the folder ltdd/images of the user's cache folder,
    and read from there by every later run. Removing it loses nothing: the files are decoded again.
    """


@cache.command("list")
@json_option
def list_cache(as_json: bool) -> None:
    """List the decoded images that are kept, the last used first."""
    from rich.filesize import decimal
    from rich.table import Table

    from ltdd_core.data.cache import cached_images, image_cache

    entries = cached_images()
    if as_json:
        click.echo(json.dumps([{"key": entry.path.stem, **_cached_facts(entry)} for entry in entries]))
        return
    results, _ = consoles(as_json)
    if not entries:
        results.print(f"no decoded images are kept in {image_cache()}", soft_wrap=True)
        return
    table = Table("key", "images of", "number", "size of each", "on disk", "last used", box=None)
    for entry in entries:
        number, size = (str(entry.shape[0]), "x".join(map(str, entry.shape[1:]))) if entry.shape else ("", "")
        used = datetime.fromtimestamp(entry.used).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.path.stem, entry.name, number, size, decimal(entry.size), used)
    results.print(table)
    total = decimal(sum(entry.size for entry in entries))
    results.print(f"{total} in {image_cache()}; 'ltdd data cache remove KEY' removes one.", soft_wrap=True)


@cache.command("remove")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "everything", is_flag=True, help="Remove all decoded images.")
def remove(keys: tuple[str, ...], everything: bool) -> None:
    """Remove decoded images by their keys.

    `ltdd data cache list` shows the keys. The start of a key is enough. Runs that read them at the moment go on.
    """
    from rich.filesize import decimal

    from ltdd_core.data.cache import cached_images, remove_cached, remove_notes
    from ltdd_core.errors import InputError

    if bool(keys) == everything:
        raise InputError("give the keys of what is to be removed, or --all; 'ltdd data cache list' shows the keys.")
    entries = {entry.path.stem: entry for entry in cached_images()}
    chosen = set(entries) if everything else {_whole_key(key, entries) for key in keys}
    for key in chosen:
        remove_cached(entries[key])
    if everything:
        remove_notes()
    freed = decimal(sum(entries[key].size for key in chosen))
    click.echo(f"{len(chosen)} removed, {freed} free again")


def _whole_key(start: str, keys: Collection[str]) -> str:
    """The one key that begins like this.

    Raises:
        InputError: there is none, or several.
    """
    from ltdd_core.errors import InputError

    found = [key for key in keys if key.startswith(start)]
    if len(found) != 1:
        many = f"{len(found)} keys begin" if found else "no key begins"
        raise InputError(f"{start!r}: {many} like this; 'ltdd data cache list' shows all.")
    return found[0]


def _cached_facts(entry: CachedImages) -> dict[str, Any]:
    return {"images": entry.name, "shape": list(entry.shape), "bytes": entry.size, "last_used": entry.used}
