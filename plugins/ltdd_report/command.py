"""``ltdd report``, ``ltdd compare`` and ``ltdd watch``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ltdd_core.commands import PATH, check_can_be_written, check_there, consoles, json_option
from ltdd_report.place import check_run
from ltdd_report.visible import visible


@click.command("report")
@click.argument("run", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="The file to write (default: report-NAME.html here, NAME the folder's).",
)
@click.option("--root", metavar="DIR", type=PATH, help="Folder or file of the data, where they have moved.")
def report(run: Path, out: Path | None, root: Path | None) -> None:
    """Write a page about a finished run.

    RUN is the folder of the run, or what ltdd train or ltdd evaluate wrote. The page is one HTML file. It shows what
    the run was and what it cost, the table, classes and groups, what two stages gain and lose, the surest mistakes, the
    distilled images, the initial images where they can be drawn again, the configuration and the versions. Of
    classifiers alone it shows the table, the classes, the confusion, the configuration and the versions. Tables and
    figures of a run can be saved from it. Nothing is written into RUN, unless --out names a file in it.
    """
    check_there(run)
    check_run(run)
    target = out or Path(f"report-{run.resolve().name}.html")
    check_can_be_written(target, makes_folders=True)
    from rich.filesize import decimal

    from ltdd_report.page import write_report, write_trained
    from ltdd_report.reading import RunRecord
    from ltdd_report.trained import read_record

    record, (console, notes) = read_record(run), consoles(False)
    if isinstance(record, RunRecord):
        write_report(record, target, root)
    else:
        write_trained(record, target)
        notes.print(f"{visible(str(run))} holds classifiers alone: steps and distilled images are left out.")
    size = decimal(target.stat().st_size)
    console.print(f"the report is in {visible(str(target))} ({size})", soft_wrap=True, markup=False)


@click.command("watch")
@click.argument("run", type=PATH)
def watch(run: Path) -> None:
    """Follow the run in the folder RUN until it is finished.

    Shows steps, loss, speed, the table, and some of the images where the terminal has colours. Ctrl-C ends the
    watching and not the run. Where no process works on the run any more, it says so and how to resume the run.
    Written into a file or a pipe, it says once how far the run is.
    """
    check_there(run)
    check_run(run)
    try:
        from ltdd_report.watching import follow

        console, _ = consoles(False)
        follow(run, console)
    except KeyboardInterrupt as error:  # how watching usually ends: there is nothing to say
        raise click.exceptions.Exit(130) from error


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--html", type=PATH, help="Also write an HTML page to this file.")
@json_option
def compare(runs: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Compare the classifiers of finished runs.

    Their test images must be the same. The folders of ltdd train and ltdd evaluate are compared, too.

    Runs that differ only in the seed are one line of the table, which lists the seeds. Intervals come from a bootstrap
    over test images and seeds. A star marks a classifier that is not worse than the most accurate one by more than
    noise. Below the table stands what differs between the configurations. Runs on images of different sizes, or on
    other training images, can be compared if they have the same test images; letters mark them.
    """
    for run in runs:
        check_there(run)
        check_run(run)
    if html is not None:
        check_can_be_written(html, makes_folders=True)
    from ltdd_report.comparing import compare_runs
    from ltdd_report.page import write_comparison
    from ltdd_report.terminal import print_comparison
    from ltdd_report.trained import read_record

    comparison = compare_runs([read_record(run) for run in runs])
    if html is not None:
        write_comparison(comparison, html)
    if as_json:
        click.echo(json.dumps(comparison.to_json()))
        return
    console, _ = consoles(as_json)
    print_comparison(console, comparison)
    if html is not None:
        console.print(f"the page is in {html}", soft_wrap=True)
