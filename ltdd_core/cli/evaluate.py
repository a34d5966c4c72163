"""``ltdd evaluate``: train classifiers on a distilled set that exists, on several networks and seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.settings import (
    classifier_options,
    compute_options,
    consoles,
    data_options,
    layers,
    only_json,
    output_options,
)
from ltdd_core.runs.named import check_there

if TYPE_CHECKING:
    from ltdd_core.evaluation.lines import Repeated


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--network", "networks", multiple=True, metavar="NAME", help="Network to train; repeatable.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Number of seeds.")
@click.option("--keep", is_flag=True, help="Keep the classifiers in the folder of the run.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the classifiers in this folder instead.")
@click.option("--quality", is_flag=True, help="Also compare with the whole set and with random real images.")
@data_options
@classifier_options
@compute_options
@output_options
def command(
    run: Path,
    networks: tuple[str, ...],
    repeats: int,
    keep: bool,
    out: Path | None,
    quality: bool,
    config_file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Score the distilled set of RUN, a run folder or a distilled.safetensors.

    Head, recipe and training are those of the run unless told otherwise.
    """
    import shlex
    import time

    from ltdd_core.config.resolve import check_names
    from ltdd_core.plugging.catalog import installed

    check_there(run)
    results, notes = consoles(as_json)
    with only_json(as_json):
        catalog = installed()
        settings = layers(config_file, assignments, given)
        for name in networks or (None,):
            check_names(catalog, [*settings, *layers(None, (), {"network": name})], preset)
    # What comes now imports torch, which takes seconds.
    from ltdd_core import api
    from ltdd_core.cli.live import LiveDisplay
    from ltdd_core.cli.tables import print_quality, print_repeated
    from ltdd_core.errors import Interrupted
    from ltdd_core.progress import Display
    from ltdd_core.runs.folder import CLASSIFIERS

    if out is None and keep:
        out = (run if run.is_dir() else run.parent) / CLASSIFIERS
    began = time.monotonic()

    def told(line: Repeated) -> None:
        if not quiet:
            notes.print(f"{line.network}: {line.mean.name}: {line.mean.accuracy:.1f} %", soft_wrap=True)

    with only_json(as_json):
        display = Display() if quiet else LiveDisplay(notes)
        options: dict[str, Any] = {"networks": networks, "repeats": repeats, "settings": settings}
        options |= {"preset": preset, "catalog": catalog, "display": display}
        there = _files(out)
        try:
            lines = api.evaluate(run, keep=out, told=told, **options)
            scores = api.quality(run, **options) if quality else []
        except Interrupted as error:
            how = "an evaluation is not saved, run it again"
            if _files(out) - there:  # which the same command would not replace
                how += f" with another --out: what is trained is kept in {shlex.quote(str(out))}"
            raise Interrupted(f"{error}: stopped; {how}.") from error
    if out is not None and not quiet:
        notes.print(f"the classifiers are in {out}", soft_wrap=True)
    if as_json:
        document = {"run": str(run), "seconds": round(time.monotonic() - began, 3)}
        more = {"quality": [score.to_json() for score in scores]} if quality else {}
        click.echo(json.dumps({**document, "rows": [line.to_json() for line in lines], **more}))
    else:
        print_repeated(results, lines)
        if quality:
            print_quality(results, scores)


def _files(folder: Path | None) -> set[Path]:
    import os

    # A name that no path can have is none.
    return set(folder.iterdir()) if folder is not None and os.path.isdir(folder) else set()  # noqa: PTH112
