"""``ltdd networks``: the trained networks that runs keep, to look at and to remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.rows import print_rows_of_text
from ltdd_core.cli.settings import consoles, json_option
from ltdd_core.errors import InputError

if TYPE_CHECKING:
    from ltdd_core.networks.store import StoredNetwork

folder_option = click.option(
    "--folder",
    "--store",
    "folder",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Folder to search: a network store, a run, or a folder of runs.",
)


@click.group("networks")
def command() -> None:
    """List and remove trained networks.

    A run keeps the networks that it trains in its folder `networks`, or where --store says. Another run that needs the
    same network finds it there instead of training it again. Networks whose parameters are kept after every epoch are
    in runs/networks, for all runs, or where --store says.
    """


@command.command("list")
@folder_option
@json_option
def list_networks(folder: Path, as_json: bool) -> None:
    """List trained networks, the oldest first."""
    networks = _networks_in(folder)
    if as_json:
        click.echo(json.dumps([_facts(network) for network in networks]))
        return
    from datetime import datetime

    from rich.box import SIMPLE_HEAD
    from rich.filesize import decimal

    body = []
    for network in networks:
        written = datetime.fromtimestamp(network.modified).strftime("%Y-%m-%d %H:%M")
        what, seed = str(network.key.get("what")), str(network.key.get("seed"))
        epochs = f"0 to {network.epochs}" if network.trajectory else str(network.epochs)
        if not network.finished:
            epochs = f"{network.epochs} of {network.key.get('epochs')}"
        size, place = decimal(network.bytes), str(network.path.parent)
        body.append((_name(network), what, epochs, seed, written, size, place))
    results = consoles(as_json)[0]
    if networks:
        head = ("name", "what", "epochs", "seed", "written", "size", "folder")
        print_rows_of_text(results, head, body, box=SIMPLE_HEAD)
    results.print(
        f"{_count(networks)}, {decimal(sum(network.bytes for network in networks))}, under {folder}",
        soft_wrap=True,
    )


@command.command("remove")
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Remove all of them.")
@folder_option
def remove(names: tuple[str, ...], every: bool, folder: Path) -> None:
    """Remove the networks NAMES.

    `ltdd networks list` shows the names. Networks are trained again when they are needed.
    """
    if bool(names) == every:
        raise InputError("say which networks: NAMES as `ltdd networks list` shows them, or --all.")
    stored = _networks_in(folder)
    known = {_name(network) for network in stored}
    for name in names:
        if name not in known:
            raise InputError(f"no network {name!r} under {folder}: ltdd networks list --folder {folder} shows them.")
    chosen = [network for network in stored if every or _name(network) in names]
    from ltdd_core.storage import writing

    for network in chosen:
        with writing(network.path):
            network.path.unlink()
    consoles(False)[0].print(f"{_count(chosen)} removed", soft_wrap=True)


def _count(networks: list[StoredNetwork]) -> str:
    return f"{len(networks)} network{'s' * (len(networks) != 1)}"


def _networks_in(folder: Path) -> list[StoredNetwork]:
    from ltdd_core.networks.store import stored_networks

    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name one with --folder.")
    return list(stored_networks(folder))


def _facts(network: StoredNetwork) -> dict[str, Any]:
    """What ``--json`` says of a network."""
    return {
        "name": _name(network),
        "file": str(network.path),
        "bytes": network.bytes,
        "epochs": network.epochs,
        "trajectory": network.trajectory,
        "finished": network.finished,
        "key": network.key,
    }


def _name(network: StoredNetwork) -> str:
    """What a network is called: the first digits of its digest."""
    return network.path.stem[:12]
