"""What ``ltdd train`` and ``ltdd evaluate`` share: a table of classifiers that is kept in a folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.several import own_folder

if TYPE_CHECKING:
    from rich.console import Console

    from ltdd_core.evaluation.repeats import Repeated
    from ltdd_core.evaluation.results import Plan, Results
    from ltdd_core.plugging.catalog import Catalog


Scored = tuple["Results", dict[str, Any], Path]
"""The results, the document of ``report.json``, and its folder."""


def score(plan: Plan, out: Path | None, stem: str, catalog: Catalog, notes: Console, *, quiet: bool) -> Scored:
    """Carry a plan out, and tell its lines as they come.

    Args:
        plan: which classifiers.
        out: the folder of the result; None: a new one under ``runs/``.
        stem: what the name of a new folder begins with.
        catalog: where the plan was made.
        notes: for everything that is no result.
        quiet: whether only warnings are shown.
    """
    from ltdd_core.cli.live import LiveDisplay, WarningsOnly
    from ltdd_core.evaluation.results import results_of
    from ltdd_core.runs.claim import claimed
    from ltdd_core.runs.folder import RESULT

    display = WarningsOnly(notes) if quiet else LiveDisplay(notes)

    def told(line: Repeated) -> None:
        if not quiet:
            notes.print(f"{line.network}: {line.mean.name}: {line.mean.accuracy:.1f} %", soft_wrap=True)

    with own_folder(claimed(out, stem), lambda stopped: f"stopped; {_kept(plan, stopped)}.") as path:
        results = results_of(plan, path, catalog=catalog, display=display, told=told)
        document = json.loads((path / RESULT).read_text(encoding="utf-8"))
    return results, document, path


def _kept(plan: Plan, path: Path) -> str:
    """What is left of a command that was stopped, and how it goes on."""
    store = plan.store(path)
    if store is None or not store.is_dir():
        return "nothing was written"
    again = "run it again" + (f" with --out {shlex.quote(str(path))}" if store.parent == path else "")
    return f"finished networks are kept in {store}: {again}"


def show(
    results: Results,
    document: dict[str, Any],
    path: Path,
    as_json: bool,
    consoles: tuple[Console, Console],
    *,
    quiet: bool,
) -> None:
    """Print the tables, or the document with ``--json``, and where they are kept."""
    from ltdd_core.cli.tables import print_quality, print_repeated, print_test_distributions

    console, notes = consoles
    if as_json:
        click.echo(json.dumps(document))
    else:
        print_repeated(console, results.lines)
        print_test_distributions(console, results.lines)
        if results.scores:
            print_quality(console, results.scores)
    if not quiet:
        notes.print(f"the result is in {path}", soft_wrap=True)
