"""``ltdd train``: classifiers on the long-tailed set itself, without distillation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.settings import (
    announced,
    compute_options,
    consoles,
    data_options,
    keep_option,
    layers,
    only_json,
    output_options,
)
from ltdd_core.runs.named import as_file_name

if TYPE_CHECKING:
    from rich.console import Console

    from ltdd_core.config.model import Config
    from ltdd_core.evaluation.lines import Repeated
    from ltdd_core.plugging.catalog import Catalog
    from ltdd_core.progress import Display
    from ltdd_core.runs.folder import RunFolder


@click.command("train")
@click.option("--head", metavar="NAME", help="Classifier head: see ltdd describe head.")
@click.option("--sampler", metavar="NAME", help="Sampler that draws the images of an epoch.")
@click.option("--plugin", multiple=True, metavar="NAME", help="Plugin to activate; repeatable.")
@click.option("--network", "networks", multiple=True, metavar="NAME", help="Network to train; repeatable.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Number of seeds.")
@click.option("--precision", metavar="fp32|bf16", help="Precision of the features: fp32 or bf16.")
@click.option("--compile", is_flag=True, help="Compile networks.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the result; unless given, a new one under runs/."
)
@keep_option
@data_options
@compute_options
@output_options
def command(
    networks: tuple[str, ...],
    repeats: int,
    out: Path | None,
    config_file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train on the long-tailed set without distilling it: what a distilled set has to be compared with.

    How long and how fast is said with --set training.original.epochs=... and .lr=...
    """
    from ltdd_core.config.resolve import check_data, check_names
    from ltdd_core.plugging.catalog import installed

    results, notes = consoles(as_json)
    with only_json(as_json):
        catalog = installed()
        settings = layers(config_file, assignments, given)
        names = networks or (None,)
        tree = [{} if name is None else {"network": name} for name in names]
        for options in tree:
            check_names(catalog, [*settings, *layers(None, (), options)], preset)
        what = f"training on {check_data(catalog, settings, preset)}"
        with announced(notes, what, quiet=quiet):  # while torch is imported
            from ltdd_core.api import configure_original
            from ltdd_core.cli.tables import print_repeated

            configs = [configure_original([*settings, *layers(None, (), options)], preset, catalog) for options in tree]
        lines, document, file = _train(configs, repeats, out, catalog, notes, quiet)
    if as_json:
        click.echo(json.dumps(document))
    else:
        print_repeated(results, lines)
    if not quiet:
        notes.print(f"the result is in {file}", soft_wrap=True)


@contextmanager
def _opened(path: Path, config: Config, display: Display) -> Iterator[RunFolder]:
    """A folder for this training alone: a new one, or that of a process that was killed at the same training.

    Raises:
        InputError: it holds something else, or a process is at work in it.
    """
    from ltdd_core.errors import InputError
    from ltdd_core.runs.folder import CONFIG, RESULT, RunFolder

    unfinished = (path / CONFIG).exists() and not (path / RESULT).exists()
    if unfinished:
        try:
            RunFolder(path).check_same(config)
        except InputError as error:
            raise InputError(f"{error} It is not finished: name another folder with --out.") from error
    with RunFolder.open(path, config, resume=unfinished, warn=display.warn) as folder:
        if (path / RESULT).exists():  # another process was faster
            folder.check(config, resume=False)
        yield folder


def _train(
    configs: list[Config], repeats: int, out: Path | None, catalog: Catalog, notes: Console, quiet: bool
) -> tuple[list[Repeated], dict[str, Any], Path]:
    """Train on every network, and keep the table and the classifiers in a folder: lines, document, and its file."""
    import shlex
    import shutil
    import time

    from ltdd_core.api import train_original
    from ltdd_core.cli.live import LiveDisplay
    from ltdd_core.errors import Interrupted
    from ltdd_core.networks.store import FOLDER as NETWORKS
    from ltdd_core.progress import Display
    from ltdd_core.runs.facts import versions
    from ltdd_core.runs.folder import CLASSIFIERS, CONFIG, RESULT, claimed

    began, config = time.monotonic(), configs[0]
    display = Display() if quiet else LiveDisplay(notes)

    def told(line: Repeated) -> None:
        if not quiet:
            notes.print(f"{line.network}: {line.mean.name}: {line.mean.accuracy:.1f} %", soft_wrap=True)

    with claimed(out, f"{as_file_name(config.data.title)}-{config.head.name}-seed{config.run.seed}") as path:
        store = config.compute.store or path / NETWORKS
        with _opened(path, config, display) as folder:
            shutil.rmtree(path / CLASSIFIERS, ignore_errors=True)  # of a process that was killed; the store has more
            try:
                lines = train_original(
                    config,
                    networks=[chosen.network for chosen in configs],
                    repeats=repeats,
                    keep=path / CLASSIFIERS if config.compute.keep else None,
                    catalog=catalog,
                    display=display,
                    store=store,
                    told=told,
                )
            except BaseException as error:
                shutil.rmtree(path / CLASSIFIERS, ignore_errors=True)
                (path / CONFIG).unlink(missing_ok=True)
                if not isinstance(error, Interrupted):
                    raise
                if not store.is_dir():
                    raise Interrupted(f"{error}: stopped; nothing was written.") from error
                again = "run it again" if config.compute.store else f"run it again with --out {shlex.quote(str(path))}"
                raise Interrupted(f"{error}: stopped; finished networks are kept in {store}: {again}.") from error
            seconds = round(time.monotonic() - began, 3)
            facts = {"run": str(path), "seconds": seconds, "versions": versions(config)}
            trained = [chosen.network.to_tree() for chosen in configs]
            document = {**facts, "networks": trained, "rows": [line.to_json() for line in lines]}
            folder.write_json(RESULT, document)
    return lines, document, path / RESULT
