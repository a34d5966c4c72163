"""Do what a grid asks for and is not done yet: distil, train classifiers, write the table, take the next.

A run or a classifier that fails is noted and costs the others nothing.
"""

from __future__ import annotations

import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from ltdd_core.bench.grid import Cell, CellLine, Grid, cell_line
from ltdd_core.bench.predictions import StoredPredictions
from ltdd_core.bench.table import table_of, write_table
from ltdd_core.config.model import Config
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.distill import distill
from ltdd_core.errors import InputError, RunFailed, WriteError
from ltdd_core.evaluation.lines import lines_of
from ltdd_core.evaluation.predictions import PREDICTIONS
from ltdd_core.evaluation.table import keep_scores, kept_scores, scores_of
from ltdd_core.locking import locked
from ltdd_core.networks.store import FOLDER as NETWORKS, NetworkStore
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.plugging.loading import one_line
from ltdd_core.progress import Display
from ltdd_core.runs.distilled import DistilledSet, load_distilled
from ltdd_core.runs.facts import data_facts, versions
from ltdd_core.runs.folder import RESULT, RunFolder
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.runs.stop import StopRequest
from ltdd_core.setup import DISTILLED, Setup
from ltdd_core.storage import json_text, write_atomically, writing

RUNS = "runs"
CLAIMS = ".claims"
"""Has a lock file for each run that a process has taken, and what failed in it."""
WAIT = 1.0
"""Seconds between two looks at runs that other processes work on."""
DATA_SETS = 2  # in memory: a method may see the images of a cell in other colours than the next

Failures = dict[str, str]
"""Reasons, by the folder of a run or the file of a classifier."""


def state_of(cell: Cell, out: Path, kept: StoredPredictions) -> str:
    """``finished``, ``begun``, ``not begun``, or ``damaged`` with the reason; ``kept`` are the files in ``out``."""
    folder = RunFolder(out / RUNS / cell.folder)
    trained = sum(kept.get(line) is not None for line in cell.lines)
    damaged = next((kept.damaged[line.file] for line in cell.lines if line.file in kept.damaged), None)
    if damaged is not None:
        return f"damaged: {damaged}"
    try:
        if is_finished(cell, out) and trained == len(cell.lines):
            return "finished"
        return "not begun" if folder.is_empty() and not trained else "begun"
    except (InputError, OSError) as error:
        return f"damaged: {error}"


def is_finished(cell: Cell, out: Path) -> bool:
    """Whether the run of a cell has come to its end.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    folder = RunFolder(out / RUNS / cell.folder)
    if not (folder.path / RESULT).exists():
        return False
    folder.check_same(cell.config)
    return True


def work_on(
    grid: Grid, out: Path, *, catalog: Catalog, display: Display, report: Callable[[str], None] = lambda text: None
) -> Failures:
    """Do all that is left of a grid; the table in ``out`` is written anew after every run.

    Several processes may work on one grid in one folder: each takes the runs that no other has begun, and all end when
    everything is done.  A run whose process was killed is taken by another; what fails is tried by one of them.

    Args:
        grid: from :func:`ltdd_core.bench.grid.read_grid`.
        out: folder of everything.
        catalog: where the grid was resolved.
        display: shows what happens inside a run.
        report: takes a line for each run.

    Raises:
        InputError: the folder cannot be written.
        RunFailed: a file could not be written.
        Interrupted: a signal came; everything finished is kept, and the run at hand has saved itself.
    """
    with writing(out):
        (out / CLAIMS).mkdir(parents=True, exist_ok=True)
    with StopRequest().listening() as stop:
        work = GridWorker(grid, out, catalog, display, report, stop)
        left = [cells for cells in grid.runs() if not work.is_done(cells)]
        pace, told = TimeLeft(grid), False
        work.write_table()
        while left:
            elsewhere: list[list[Cell]] = []
            for index, cells in enumerate(left):
                stop.check()
                with claimed(out, cells[0], display.warn) as mine:
                    if not mine:
                        elsewhere.append(cells)
                    elif not work.is_settled(cells):  # another process may have been faster
                        ahead = [other for other in [*elsewhere, *left[index:]] if not work.is_done(other)]
                        began = time.monotonic()
                        report(f"{pace.place(cells[0])}{pace.left(ahead)}")
                        work.try_on(cells)
                        pace.took(cells[0], time.monotonic() - began)
                        work.write_table()
            if len(elsewhere) == len(left):
                if not told:
                    display.note(f"waiting for other processes, which work on {runs_in_words(len(left))}")
                told = True
                time.sleep(WAIT)
            left = elsewhere
        work.write_table()
        return work.failures


@contextmanager
def claimed(out: Path, cell: Cell, warn: Callable[[str], None]) -> Iterator[bool]:
    """Keep other processes from a run until the block ends; whether none of them has it."""
    with locked(out / CLAIMS / cell.folder, wait=False, warn=warn) as mine:
        try:
            yield mine
        except WriteError as error:
            raise RunFailed(f"{error} What was saved before is kept.") from error


def runs_in_words(count: int) -> str:
    """Those that are still to be done."""
    return "the last run" if count == 1 else f"the last {count} runs"


class TimeLeft:
    """How long the rest of a grid may take: a run to come takes what those of its method took."""

    def __init__(self, grid: Grid) -> None:
        self._places = {cells[0].folder: place for place, cells in enumerate(grid.runs(), start=1)}
        self._taken: dict[str, list[float]] = {}

    def place(self, cell: Cell) -> str:
        """Which run it is, as a line begins: ``run 2/4: ...``."""
        return f"run {self._places[cell.folder]}/{len(self._places)}: {cell.name}"

    def took(self, cell: Cell, seconds: float) -> None:
        """A run has ended."""
        self._taken.setdefault(cell.method, []).append(seconds)

    def left(self, left: Sequence[Sequence[Cell]], at_once: int = 1) -> str:
        """The time that the runs ``left`` may take, as a line ends; "" where nothing is known."""
        known = list(itertools.chain.from_iterable(self._taken.values()))
        if not known or not left:
            return ""
        seconds = [self._taken.get(cells[0].method, known) for cells in left]
        return f"  (about {timedelta(seconds=round(sum(map(fmean, seconds)) / at_once))} left)"


class GridWorker:
    """What a process has at hand while it works on a grid.

    Args:
        grid: all of it.
        out: folder of everything.
        catalog: where the grid was resolved.
        display: shows what happens inside a run.
        report: takes a line for each run.
        stop: looked at between units of work.
        began: in seconds of the clock; what failed before is tried again.  None: now.
    """

    def __init__(
        self,
        grid: Grid,
        out: Path,
        catalog: Catalog,
        display: Display,
        report: Callable[[str], None],
        stop: StopRequest,
        began: float | None = None,
    ) -> None:
        self.grid, self.out, self.catalog = grid, out, catalog
        self.display, self.report, self.stop = display, report, stop
        self.kept, self.failures = StoredPredictions(out), Failures()
        self._began = time.time() if began is None else began  # of the clock, which other processes have too
        self._lines_on: dict[str, dict[str, CellLine]] = {}
        for line in (line for cell in grid.cells for line in cell.lines):
            self._lines_on.setdefault(_data_key(line.config), {})[line.file] = line
        self._data: dict[str, LongTailedSet] = {}
        self._store: NetworkStore | None = None
        self._networks_of: tuple[object, ...] = ()

    def is_done(self, cells: Sequence[Cell]) -> bool:
        """Whether a run and all classifiers of its cells are finished."""
        return all(state_of(cell, self.out, self.kept) == "finished" for cell in cells)

    def is_settled(self, cells: Sequence[Cell]) -> bool:
        """Whether they are finished, or have failed in another process since this one began."""
        if self.is_done(cells):
            return True
        path = self._failed(cells)
        if not path.exists() or path.stat().st_mtime < self._began:
            return False
        self.failures.update(json.loads(path.read_text(encoding="utf-8")))
        return True

    def try_on(self, cells: Sequence[Cell]) -> None:
        """As :meth:`on`; what fails is left for other processes to read."""
        before = set(self.failures)
        self._failed(cells).unlink(missing_ok=True)
        self.on(cells)
        if failed := {task: reason for task, reason in self.failures.items() if task not in before}:
            write_atomically(self._failed(cells), json_text(failed).encode())

    def _failed(self, cells: Sequence[Cell]) -> Path:
        return self.out / CLAIMS / f"{cells[0].folder}.failed.json"

    def write_table(self) -> None:
        """The table of what is known now."""
        write_table(self.out, table_of(self.grid, self.kept, self.failures))

    def on(self, cells: Sequence[Cell]) -> None:
        """All that is left of a run and of the classifiers of its cells.

        Those of the original images come first: the run then has its own row of them already.
        """
        first = cells[0]
        if self._networks_of != (first.data, first.imbalance, first.seed):
            self._networks_of = (first.data, first.imbalance, first.seed)
            self._store = NetworkStore(first.config.compute.store or self.out / NETWORKS)  # an empty memory
        lines = {line.file: line for cell in cells for line in cell.lines}.values()
        for line in lines:
            if line.run is None:
                self._train(line, None)
        distilled = None
        with self._noting(first.folder):
            distilled = self._distilled(first)
        for line in lines:
            if line.run is not None and distilled is not None:
                self._train(line, distilled)

    def _distilled(self, cell: Cell) -> DistilledSet:
        """The distilled set of a run, made now if need be.

        Its table has the classifiers of its set, and of those of the original images only what the grid asks for.
        """
        path = self.out / RUNS / cell.folder
        of_a_run = [
            cell_line(line.name, line, cell.config, cell.config, cell.data)
            for line in lines_of(cell.config, self.catalog)
        ]
        cell_lines = [line for line in of_a_run if DISTILLED in line.line.sets or self.kept.has(line)]
        if not is_finished(cell, self.out):
            for line in cell_lines:
                self._data_of(line)
            self._share_known_predictions(path, cell.config, cell_lines)
            distill(
                cell.config,
                path,
                resume=True,
                display=self.display,
                catalog=self.catalog,
                store=self._store,
                lines=[line.line for line in cell_lines],
            )
        distilled = load_distilled(path)
        scores = kept_scores(path, [line.line for line in cell_lines])
        for line in cell_lines:
            if not self.kept.has(line) and line.name in scores:
                data = self._data_of(line)
                self.kept.keep(line, scores[line.name], data, line.line.images(data, distilled), _facts(line))
        return distilled

    def _share_known_predictions(self, path: Path, config: Config, lines: Sequence[CellLine]) -> None:
        """Give a run that is about to begin the rows that other runs have in common with it."""
        known = {line.name: self.kept.scores(line) for line in lines if self.kept.has(line)}
        if known and not (path / PREDICTIONS).exists():
            config = in_one_precision(config, path)
            with RunFolder.open(path, config, resume=True) as folder:
                if folder.is_empty():
                    folder.begin(config)
                keep_scores(path, known)

    def _train(self, line: CellLine, distilled: DistilledSet | None) -> None:
        """Train a classifier and keep what it says, unless that is known."""
        if self.kept.has(line):
            return
        self.display.note(f"classifier: {line.name}")
        with self._noting(line.file):
            self.stop.check()
            data = self._data_of(line)
            opened = Setup.open(
                line.config, catalog=self.catalog, display=self.display, stop=self.stop, store=self._store, data=data
            )
            with opened as setup:
                scores = scores_of(line.line, setup, distilled)
            self.kept.keep(line, scores, data, line.line.images(data, distilled), _facts(line))

    def _data_of(self, line: CellLine) -> LongTailedSet:
        """The images of a classifier.

        Raises:
            InputError: they cannot be used, or its run or a file of the same data set is of other ones.
        """
        data = self._loaded(line.config)
        self.kept.check_data([line, *self._lines_on.get(_data_key(line.config), {}).values()], data)
        if line.run is not None:
            RunFolder(self.out / RUNS / line.run).check_data(data_facts(data))
        return data

    def _loaded(self, config: Config) -> LongTailedSet:
        key = _data_key(config)
        if key not in self._data:
            if len(self._data) == DATA_SETS:
                self._data.pop(next(iter(self._data)))
            with self.stop.at_once():
                self._data[key] = load_long_tailed(config.data.name, config.data.make(), self.display)
        return self._data[key]

    @contextmanager
    def _noting(self, task: str) -> Iterator[None]:
        """Note why something failed, a bug in a plugin say, and continue."""
        try:
            yield
        except Exception as error:
            self.failures[task] = self._reason(error)
            self.report(f"failed: {self.failures[task]}")

    def _reason(self, error: Exception) -> str:
        """Why it failed, in one line; what is nobody's message is shown whole, for whoever mends it."""
        if isinstance(error, InputError | RunFailed):
            return str(error)
        self.report("".join(traceback.format_exception(error)).rstrip())
        plugin = self.catalog.plugins.at_fault(error)
        whose = "" if plugin is None else f"plugin {plugin.name!r} ({plugin}) failed: "
        return f"{whose}{one_line(error)}"


def _data_key(config: Config) -> str:
    return repr(config.data.to_tree())


def _facts(line: CellLine) -> dict[str, object]:
    """How predictions came about."""
    return {
        "run": line.run,
        "sets": list(line.line.sets),
        "configuration": {**line.config.science(), "head": line.line.head.to_tree()},
        "versions": versions(line.config),
    }
