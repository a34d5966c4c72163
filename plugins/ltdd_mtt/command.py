"""``ltdd experts train``: train the experts of trajectory matching beforehand, once for many runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count as numbers, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.filesize import decimal

from ltdd_core import InputError, Interrupted
from ltdd_core.commands import (
    PATH,
    check_jobs,
    compute_options,
    consoles,
    data_options,
    only_json,
    open_setup,
    output_options,
    read_config,
    task_of,
)

if TYPE_CHECKING:
    from ltdd_core import Config, Trajectories
    from ltdd_mtt.experts import ExpertOptions

SECONDS_BETWEEN_LINES = 30.0


@click.group("experts")
def command() -> None:
    """Experts for trajectory matching."""


@command.command("train")
@click.option("--count", type=click.IntRange(min=1), help="Number of experts.")
@click.option("--epochs", type=click.IntRange(min=1),
              help="Number of epochs per expert; a larger number than before extends those that are "
              "there.")  # fmt: skip
@click.option("--out", type=PATH, help="Folder of the experts; the same as --store.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
              help="Number of processes that share the work.")  # fmt: skip
@click.option("--network", metavar="NAME", help="Network to train, and later to match with.")
@data_options
@compute_options
@output_options
def train(
    count: int | None,
    epochs: int | None,
    out: Path | None,
    jobs: int,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train experts on the long-tailed set.

    The parameters of these networks after every epoch are kept in runs/networks, or where --store says. `ltdd distill`
    finds them there with the method mtt, tesla, datm or lad, which share experts that are trained in the same way.
    Experts that are there already cost nothing, and are trained further where --epochs asks for more. Set how they are
    trained with --set experts.lr=...: `ltdd describe matcher mtt` lists these options.
    """
    results, notes = consoles(as_json)
    own = {"count": count, "epochs": epochs}
    above: dict[str, Any] = {f"--{k}": {"matcher": {"experts": {k: value}}} for k, value in own.items() if value}
    if out is not None:
        above["--out"] = {"compute": {"store": str(out)}}
    with only_json(as_json):
        began = time.monotonic()
        check_jobs(jobs)
        config = read_config(
            given,
            assignments=assignments,
            config_file=config_file,
            preset=preset,
            below={"matcher": {"name": "mtt"}},
            above=above,
        )
        _check_method(config)
        facts = _train(config, jobs, Console(quiet=True) if quiet else notes)
    if as_json:
        click.echo(json.dumps({**facts, "seconds": round(time.monotonic() - began, 3)}))
        return
    where = f" --store {facts['store']}" if config.compute.store else ""
    what = f"{_experts(facts['count'], facts['epochs'])} in {facts['store']}, {decimal(facts['bytes'])}"
    options = f"experts.count={facts['count']} and experts.epochs={facts['epochs']}"
    results.print(
        f"{what}. To find {'it' if facts['count'] == 1 else 'them'}, ltdd distill --method {facts['method']}{where} "
        f"needs the same --data, --seed, --network and --set options, {options} among them.",
        soft_wrap=True,
    )


def _experts(count: int, epochs: int) -> str:
    return f"{count} {'expert' if count == 1 else 'experts'} of {epochs} {'epoch' if epochs == 1 else 'epochs'}"


def _check_method(config: Config) -> None:
    """See that the method is one with experts.

    Raises:
        InputError: it is another.
    """
    from ltdd_mtt.experts import ExpertOptions

    if not isinstance(getattr(config.matcher.options, "experts", None), ExpertOptions):
        raise InputError(
            f"method {config.matcher.name!r} has no experts; name mtt, tesla, datm or lad, or leave it out."
        )


def _train(config: Config, jobs: int, notes: Console) -> dict[str, Any]:
    """Train, and say what there is now."""
    import torch

    from ltdd_mtt.experts import experts_of, train_experts
    from ltdd_mtt.jobs import train_in_processes

    options: ExpertOptions = config.matcher.options.experts
    with open_setup(config) as setup:
        task = task_of(setup)
        experts = experts_of(task, options)
        folder, size = experts.folder, options.count * experts[0].size(options.epochs)
        take = "takes" if options.count == 1 else "take"
        what = _experts(options.count, options.epochs)
        notes.print(f"{what} {take} {decimal(size)} in {folder}", soft_wrap=True)
        _check_room(experts, options.count, size)
        try:
            with _progress(notes, options) as report:
                if jobs == 1:
                    train_experts(task, options, experts, report)
                else:
                    threads = max(1, torch.get_num_threads() // jobs)
                    train_in_processes(setup.config, min(jobs, options.count), threads, report, setup.stop.check)
        except Interrupted as error:
            anything = any(experts[number].epochs() for number in range(options.count))
            saved = "stopped and saved" if anything else "stopped before anything was saved"
            raise Interrupted(f"{error}: {saved}; the same command resumes.") from error
    method = config.matcher.name
    return {"method": method, "store": str(folder), "count": options.count, "epochs": options.epochs, "bytes": size}


def _check_room(experts: Trajectories, count: int, size: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        InputError: saying how much is missing.
    """
    folder = experts.folder.absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    there = takewhile(lambda path: path.exists(), (experts[number].path for number in numbers()))
    missing = size - sum(path.stat().st_size for path, _ in zip(there, range(count), strict=False))
    if missing > free:
        raise InputError(
            f"{experts.folder}: the experts need {decimal(missing)} more and {decimal(free)} are free: use fewer "
            "(--count), shorter (--epochs) or smaller ones (--set experts.store=fp16), or another --store."
        )


@contextmanager
def _progress(notes: Console, options: ExpertOptions) -> Iterator[Callable[[int, int], None]]:
    """Epochs of all experts: a bar in a terminal, a line now and then elsewhere, both with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ltdd_mtt.experts import Pace

    pace, last = Pace(options), time.monotonic()
    columns = TextColumn("epochs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
    bar = Progress(*columns, console=notes, transient=True)
    shown = bar.add_task("", total=pace.total, left="")

    def report(number: int, epochs: int) -> None:
        nonlocal last
        before = pace.done
        pace.note(number, epochs)
        left = f"{pace.left()} left" if pace.left() else ""
        bar.update(shown, completed=pace.done, left=left)
        finished = before < pace.done == pace.total
        if (finished or time.monotonic() - last > SECONDS_BETWEEN_LINES) and not notes.is_interactive:
            last = time.monotonic()
            notes.print(f"epoch {pace.done}/{pace.total}  {left}".rstrip())

    with bar if notes.is_interactive else nullcontext():
        yield report
