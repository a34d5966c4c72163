"""``ltdd bench``: a grid of runs, and the table that comes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ltdd_core.cli.completion import names
from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import consoles, device_options, layers, only_json, output_options, verbose_option
from ltdd_core.config.layers import from_file
from ltdd_core.errors import InputError, Interrupted, RunFailed

if TYPE_CHECKING:
    from rich.console import Console

    from ltdd_core.bench.grid import Grid
    from ltdd_core.bench.launcher import Launcher
    from ltdd_core.bench.task import GridFile
    from ltdd_core.cli.tables import UnderDistributions
    from ltdd_core.plugging.catalog import Catalog


@click.command("bench")
@click.argument("grid", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="Folder of the runs, predictions and table; unless given, runs/bench-GRID.",
)
@click.option("--list", "only_list", is_flag=True, help="List the cells and which are finished; run nothing.")
@click.option("--only-table", is_flag=True, help="Write the table of what is finished; run nothing.")
@click.option(
    "--launcher", metavar="NAME", shell_complete=names("launcher"),
    help="What does the runs; local, the default: processes of this machine.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N",
    help="Number of runs at once; unless given, 1 on this machine, and on a cluster what it has room for.",
)  # fmt: skip
@click.option(
    "--gpus-per-run", type=click.FloatRange(min=0, min_open=True, max=1), metavar="X",
    help="Share of a GPU for each run: with 0.5 two runs share one.",
)  # fmt: skip
@device_options
@click.option(
    "--store", metavar="DIR", help="Folder of trained networks; unless given, the folder networks inside --out."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="Any option by its path, for every cell; repeatable.",
)
@output_options
@verbose_option
def command(
    grid: Path,
    out: Path | None,
    only_list: bool,
    only_table: bool,
    jobs: int | None,
    gpus_per_run: float | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Run the grid of a YAML file and write its table.

    Each combination of data, imbalance, IPC, method, plugin and seed has a run folder. What is finished is not done
    again, and the same command resumes a grid that was stopped. Start it several times, and the processes share the
    runs. The table, with published values beside ours, is written after every run: table.md, table.csv and table.json.
    """
    file = from_file(grid)  # says what is wrong with the file before torch is imported
    from ltdd_core.bench.grid import read_grid
    from ltdd_core.bench.launch import chosen_launcher, without_launcher
    from ltdd_core.bench.predictions import StoredPredictions
    from ltdd_core.bench.table import table_of, write_table
    from ltdd_core.bench.task import GridFile
    from ltdd_core.plugging.catalog import installed

    results, notes = consoles(as_json)
    folder = out or Path("runs") / f"bench-{grid.stem}"
    failed: dict[str, str] = {}
    with only_json(as_json):
        catalog, above = installed(), layers(None, assignments, given)
        chosen = chosen_launcher(catalog, [file, *above])
        above = without_launcher(above)
        wanted = read_grid(grid, catalog, above, tree=file.tree)
    if only_list:
        _list(results, wanted, folder, as_json)
        return
    if only_table and not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder, so nothing is finished.")
    if not only_table:
        with only_json(as_json):
            work = _Work(wanted, GridFile(grid, file.tree, tuple(above), folder), chosen.make(), jobs, gpus_per_run)
            failed = _run(work, catalog, notes, quiet, verbose)
    kept = StoredPredictions(folder)
    document = table_of(wanted, kept, failed)
    write_table(folder, document)
    if as_json:
        click.echo(json.dumps(document))
    else:
        _print(results, document)
    if not quiet:
        notes.print(f"the table is in {folder / 'table.md'}, .csv and .json", soft_wrap=True)
    if failed := {**failed, **kept.damaged}:
        first = ", once you have deleted the files named there" if kept.damaged else ""
        raise RunFailed(
            f"{len(failed)} of the runs and classifiers failed, see 'Not finished' in {folder / 'table.md'}; "
            f"the same command tries them again{first}."
        )


class _Work(NamedTuple):
    """What there is to do."""

    grid: Grid
    file: GridFile
    launcher: Launcher
    jobs: int | None
    gpus_per_run: float | None


def _run(work: _Work, catalog: Catalog, notes: Console, quiet: bool, verbose: bool) -> dict[str, str]:
    """Work on the grid; on Ctrl-C say how to resume."""
    from ltdd_core.bench.launch import ENGINE, by_this_process, work_by
    from ltdd_core.bench.launcher import Resources
    from ltdd_core.bench.work import work_on
    from ltdd_core.cli.live import LiveDisplay, WarningsOnly

    styles = {"run": "bold", "failed:": "yellow"}

    def report(text: str) -> None:
        if not quiet:
            notes.print(text, style=styles.get(text.split()[0]), soft_wrap=True)

    display = WarningsOnly(notes) if quiet else LiveDisplay(notes, verbose=verbose)
    try:
        resources = Resources(work.jobs, work.gpus_per_run, work.file.out / ENGINE)
        here = by_this_process(work.launcher, resources)
        begin = (
            partial(work_on, work.grid, work.file.out)
            if here
            else partial(work_by, work.launcher, resources, work.grid, work.file)
        )
        return begin(catalog=catalog, display=display, report=report)
    except Interrupted as error:
        raise Interrupted(f"{error}: stopped; what is finished is kept, the same command resumes it.") from error


def _list(results: Console, wanted: Grid, folder: Path, as_json: bool) -> None:
    from ltdd_core.bench.predictions import StoredPredictions
    from ltdd_core.bench.work import RUNS, state_of

    kept = StoredPredictions(folder)
    cells = [
        {"cell": cell.name, "state": state_of(cell, folder, kept), "run": str(folder / RUNS / cell.folder)}
        for cell in wanted.cells
    ]
    if as_json:
        click.echo(json.dumps(cells))
        return
    for cell in cells:
        results.print(f"{cell['state']:<9}  {cell['cell']}", soft_wrap=True)
    done = sum(cell["state"] == "finished" for cell in cells)
    results.print(f"{done} of {len(cells)} cells are finished, in {len(wanted.runs())} runs", soft_wrap=True)


def _print(results: Console, document: dict[str, Any]) -> None:
    """The table without what only fits a page: accuracy, its spread, and what was published."""
    from ltdd_core.bench.table import HEADINGS, spread, where
    from ltdd_core.cli.tables import print_distributions, print_numbers
    from ltdd_core.evaluation.metrics import parts_of
    from ltdd_core.evaluation.shown import NumberTable

    rows = document["rows"]
    shown = ("accuracy", "std", parts_of(rows)[-1], "worst", "group_accuracy")
    keys, body = ("line", "seeds", *shown, "published"), []
    for row in rows:
        name = ", ".join([row["line"], *where(row, rows)])
        known = row["published"] and row["published"]["accuracy"]
        numbers = [spread(row, key) for key in shown]
        body.append([name, str(len(row["seeds"])), *numbers, "" if known is None else f"{known:.1f}"])
    print_numbers(results, NumberTable(document["title"], keys, [HEADINGS.get(key, key) for key in keys], body))
    print_distributions(results, [_distributions(row, rows) for row in rows])


def _distributions(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> UnderDistributions:
    """What a row says of long-tailed test distributions."""
    from ltdd_core.bench.table import where

    deviation = row["deviation"].get("test_distributions") if len(row["seeds"]) > 1 else None
    return ", ".join([row["line"], *where(row, rows)]), row.get("test_distributions", {}), deviation
