"""The plan of a grid: that of each of its runs, and of the classifiers that no run before it has trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from ltdd_core.bench.grid import Cell, CellLine, Grid
from ltdd_core.planning.plan import Plan, plan
from ltdd_core.planning.sizes import DataSizes, sizes_of
from ltdd_core.plugging.catalog import Catalog


@dataclass(frozen=True)
class PlannedRuns:
    """Runs of a grid that differ in nothing but the seed."""

    name: str
    """The first of them."""
    count: int
    """How many there are."""
    plan: Plan
    """Of one."""


def plan_grid(grid: Grid, *, on: str | None, catalog: Catalog) -> list[PlannedRuns]:
    """Plan each run of a grid on one GPU, with the classifiers that no run before it trains.

    Args:
        grid: what is to be done.
        on: a card, whose data sheet says how fast it is; this machine unless given.
        catalog: where it was resolved.

    Raises:
        InputError: an unknown card, or what a run would refuse.
    """
    planned: dict[str, PlannedRuns] = {}
    sizes: dict[str, DataSizes] = {}
    for cell, lines in _runs(grid):
        tree = {**cell.config.science(), "seed": 0}
        data = json.dumps(tree["data"], sort_keys=True, default=str)
        key = json.dumps([tree, [line.name for line in lines]], sort_keys=True, default=str)
        if key in planned:
            known = planned[key]
            planned[key] = PlannedRuns(known.name, known.count + 1, known.plan)
            continue
        if data not in sizes:
            sizes[data] = sizes_of(cell.config.data)
        of_lines = [(line.line, line.config) for line in lines]
        found = plan(cell.config, sizes[data], on=on, catalog=catalog, lines=of_lines)
        planned[key] = PlannedRuns(cell.name, 1, found)
    return list(planned.values())


def _runs(grid: Grid) -> Iterator[tuple[Cell, list[CellLine]]]:
    """The first cell of each run, and the lines of all of its cells that are not known yet."""
    known: set[str] = set()
    for cells in grid.runs():
        lines = {line.file: line for cell in cells for line in cell.lines if line.file not in known}
        known |= lines.keys()
        yield cells[0], list(lines.values())
