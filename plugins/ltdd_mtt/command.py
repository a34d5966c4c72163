"""``ltdd experts train``: train the experts of trajectory matching beforehand, once for many runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ltdd_core import InputError, Interrupted
from ltdd_core.commands import compute_options, consoles, data_options, only_json, open_setup, read_config, task_of

if TYPE_CHECKING:
    from ltdd_core import Config
    from ltdd_mtt.training import Report

SECONDS_BETWEEN_LINES = 30.0


@click.group("experts")
def command() -> None:
    """Experts for trajectory matching."""


@command.command("train")
@click.option("--count", type=click.IntRange(min=1), help="Experts.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each; more than before makes them longer.")
@click.option("--out", type=click.Path(path_type=Path), help="Their folder; else one under runs/experts.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--network", metavar="NAME", help="Network to train, and later to match with.")
@click.option("--precision", metavar="fp32|bf16", help="Of features.")
@click.option("--compile", is_flag=True, help="Compile the network.")
@data_options
@compute_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, everything else on stderr.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train(
    count: int | None,
    epochs: int | None,
    out: Path | None,
    jobs: int,
    config_file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train networks on the long-tailed set and keep their parameters after every epoch.

    Experts that are in the folder already are kept, and made longer where --epochs asks for it. How they are trained
    is said with --set experts.lr=..., as `ltdd describe matcher mtt` lists.
    """
    results, notes = consoles(as_json)
    own = {"count": count, "epochs": epochs}
    with only_json(as_json):
        began = time.monotonic()
        config = read_config(
            given,
            assignments=assignments,
            config_file=config_file,
            preset=preset,
            below={"matcher": {"name": "mtt"}},
            above={f"--{name}": {"matcher": {"experts": {name: value}}} for name, value in own.items() if value},
        )
        _check_method(config)
        facts = _train(config, out, jobs, Console(quiet=True) if quiet else notes)
    if as_json:
        click.echo(json.dumps({**facts, "seconds": round(time.monotonic() - began, 3)}))
        return
    results.print(
        f"{facts['count']} experts of {facts['epochs']} epochs, {_size(facts['bytes'])}, are in {facts['experts']}: "
        f"ltdd distill --method mtt --set matcher.experts_dir={facts['experts']}",
        soft_wrap=True,
    )


def _check_method(config: Config) -> None:
    """See that the method is one with experts.

    Raises:
        InputError: it is another.
    """
    from ltdd_mtt.experts import ExpertOptions

    if not isinstance(getattr(config.matcher.options, "experts", None), ExpertOptions):
        raise InputError(f"method {config.matcher.name!r} has no experts; leave it out, or name mtt.")


def _train(config: Config, out: Path | None, jobs: int, notes: Console) -> dict[str, Any]:
    """Train, and say what there is now."""
    import torch

    from ltdd_mtt.experts import ExpertFolder, bytes_on_disk, expert_key, folder_for
    from ltdd_mtt.jobs import train_in_processes
    from ltdd_mtt.training import train_experts

    experts = config.matcher.options.experts
    with open_setup(config) as setup:
        task = task_of(setup)
        key = expert_key(task, experts)
        folder, size = ExpertFolder(out or folder_for(task, key)), bytes_on_disk(key, experts)
        facts = {"experts": str(folder.path), "count": experts.count, "epochs": experts.epochs, "bytes": size}
        notes.print(f"{experts.count} experts of {experts.epochs} epochs take {_size(size)} in {folder.path}")
        _check_room(folder, size)
        folder.begin(key)
        try:
            with _progress(notes, experts.count, experts.epochs) as report:
                if jobs == 1:
                    train_experts(task, experts, folder, report)
                else:
                    threads = max(1, torch.get_num_threads() // jobs)
                    train_in_processes(config, folder.path, jobs, threads, report, setup.stop.check)
        except Interrupted as error:
            saved = "stopped and saved" if folder.numbers() else "stopped before anything was saved"
            raise Interrupted(f"{error}: {saved}; the same command resumes it.") from error
    return facts


def _check_room(folder: Any, size: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        InputError: saying how much is missing.
    """
    there = folder.path
    while not there.exists() and there != there.parent:
        there = there.parent
    have = sum(folder.file(index).stat().st_size for index in folder.numbers())
    free = shutil.disk_usage(there).free
    if size - have > free:
        raise InputError(
            f"{folder.path}: the experts need {_size(size - have)} more and {_size(free)} are free: use fewer "
            "(--count), shorter (--epochs) or smaller ones (--set experts.store=fp16), or another --out."
        )


@contextmanager
def _progress(notes: Console, count: int, epochs: int) -> Iterator[Report]:
    """Epochs of all experts: a bar in a terminal, a line now and then elsewhere, both with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done: dict[int, int] = {}
    total, before, said = count * epochs, 0, -1
    began = last = time.monotonic()
    bar = Progress(
        *(TextColumn("epochs"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()),
        console=notes,
        transient=True,
    )
    shown = bar.add_task("", total=total)

    def report(index: int, epoch: int) -> None:
        nonlocal before, last, said
        if index not in done:
            before += min(epoch, epochs)
        done[index] = min(epoch, epochs)
        finished, now = sum(done.values()), time.monotonic()
        bar.update(shown, completed=finished)
        due = now - last > SECONDS_BETWEEN_LINES or (finished == total and said != total)
        if due and not notes.is_interactive:
            last, said = now, finished
            left = (now - began) / max(1, finished - before) * (total - finished)
            notes.print(f"epoch {finished}/{total}  {_clock(left)} left")

    with bar if notes.is_interactive else nullcontext():
        yield report


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
