"""Have the runs of a grid done by the workers of a launcher; the table fills as they end.

A run that another command works on is left to it, and one whose worker died is tried again.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ltdd_core.bench.grid import Grid
from ltdd_core.bench.launcher import Job, Launcher, Resources
from ltdd_core.bench.local import LocalLauncher
from ltdd_core.bench.task import GridFile, Outcome, RunTask, begun_file
from ltdd_core.bench.work import CLAIMS, WAIT, Failures, GridWorker, TimeLeft, claimed, runs_in_words
from ltdd_core.config.layers import Layer, check_said_once, located, merged
from ltdd_core.config.model import Selection
from ltdd_core.config.resolve import select
from ltdd_core.errors import InputError, OptionError
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.plugging.loading import one_line
from ltdd_core.progress import Display, Told
from ltdd_core.runs.stop import StopRequest
from ltdd_core.storage import writing

LOOK_AGAIN = 0.1
"""Seconds between looks at what the workers do."""
KIND, USUAL = "launcher", "local"
ENGINE = ".launcher"
"""The folder in that of a grid where an engine may keep files."""


def chosen_launcher(catalog: Catalog, layers: Sequence[Layer]) -> Selection:
    """The launcher that a grid file and the command line ask for.

    Args:
        catalog: of all components.
        layers: the lowest first; what they say of anything else is not looked at.

    Raises:
        InputError: an unknown name or option, a value out of range.
    """
    given = [_section(layer) for layer in layers if KIND in layer.tree]
    check_said_once(given)
    try:
        return select(catalog, KIND, merged([Layer("default", {KIND: {"name": USUAL}}), *given])[KIND])
    except OptionError as error:
        raise located(given, error) from error


def without_launcher(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers as the cells of a grid have them."""
    trees = [(layer, {key: value for key, value in layer.tree.items() if key != KIND}) for layer in layers]
    return [replace(layer, tree=tree) for layer, tree in trees if tree]


def _section(layer: Layer) -> Layer:
    said = layer.tree[KIND]
    section = {"name": said} if isinstance(said, str) else said
    if not isinstance(section, dict) or not isinstance(section.get("name", ""), str):
        raise InputError(f"{layer.origin}: {KIND} is a name, or a mapping with a name and options.")
    return Layer(layer.origin, {KIND: section})


def by_this_process(launcher: Launcher, resources: Resources) -> bool:
    """Whether there is one run at once on this machine, for which nothing has to be launched."""
    return isinstance(launcher, LocalLauncher) and (resources.jobs or 1) == 1 and resources.gpus_per_run is None


def work_by(
    launcher: Launcher,
    resources: Resources,
    grid: Grid,
    file: GridFile,
    *,
    catalog: Catalog,
    display: Display,
    report: Callable[[str], None],
) -> Failures:
    """Do all that is left of a grid, as :func:`ltdd_core.bench.work.work_on` does in this process.

    Args:
        launcher: has the runs done.
        resources: what each of them has.
        grid: from :func:`ltdd_core.bench.grid.read_grid`.
        file: the same as plain data, for the workers.
        catalog: where it was resolved.
        display: has a bar over all runs; told warnings.
        report: takes a line for each run that begins or ends.

    Raises:
        InputError: the folder cannot be written, or the launcher cannot do what it should.
        RunFailed: a file could not be written.
        Interrupted: a signal came; everything finished is kept, and the runs at hand have saved themselves.
    """
    on_cpu = [cell.name for cell in grid.cells if cell.config.compute.device == "cpu"]
    if on_cpu and resources.gpus_per_run is not None:
        raise InputError(
            f"--gpus-per-run {resources.gpus_per_run:g}: compute.device is cpu in {on_cpu[0]!r}; keep one."
        )
    with StopRequest().listening() as stop:
        at_once = launcher.start(resources)
        try:
            with writing(file.out):
                (file.out / CLAIMS).mkdir(parents=True, exist_ok=True)
            threads = launcher.threads()
            if threads is not None and all(cell.config.compute.threads is None for cell in grid.cells):
                file = replace(file, above=(Layer(KIND, {"compute": {"threads": threads}}), *file.above))
            worker = GridWorker(grid, file.out, catalog, display, report, stop, file.began)
            return _Launched(launcher, file, worker, at_once).all_runs()
        finally:
            launcher.stop()


@dataclass
class _AtWork:
    """A run that was handed to the launcher."""

    job: Job
    began: float | None = None
    """When a worker began with it; None: it waits for one."""


class _Launched:
    """The runs of a grid, each of which waits, is handed over, is at work elsewhere, or has ended."""

    def __init__(self, launcher: Launcher, file: GridFile, worker: GridWorker, at_once: int | None) -> None:
        self._launcher, self._file, self._worker, self._at_once = launcher, file, worker, at_once
        self._cells = {cells[0].folder: cells for cells in worker.grid.runs()}
        self._waiting = deque(run for run, cells in self._cells.items() if not worker.is_done(cells))
        self._handed: dict[str, _AtWork] = {}
        self._elsewhere: deque[str] = deque()
        self._looked = 0.0
        self._tries: Counter[str] = Counter()
        self._failed: set[str] = set()
        self._pace = TimeLeft(worker.grid)
        self._waits = False

    def all_runs(self) -> Failures:
        """Until each of them has ended."""
        worker, total = self._worker, len(self._cells)
        worker.write_table()
        with worker.display.work("bench", total, "runs", done=self._done()) as told:
            while self._waiting or self._handed or self._elsewhere:
                worker.stop.check()
                if self._hand_over() | self._look_at_begun() | self._look_at_ended():
                    self._tell(told)
                self._look_elsewhere()
                time.sleep(LOOK_AGAIN)
        worker.write_table()
        return worker.failures

    def _left(self) -> list[str]:
        return [*self._waiting, *self._handed, *self._elsewhere]

    def _done(self) -> int:
        return len(self._cells) - len(self._left()) - len(self._failed)

    def _running(self) -> int:
        return sum(at.began is not None for at in self._handed.values())

    def _tell(self, told: Told) -> None:
        """Move the bar: failed runs are over, too."""
        told(self._done() + len(self._failed), running=self._running(), failed=len(self._failed))

    def _hand_over(self) -> bool:
        """Give the launcher what it has room for."""
        before = len(self._handed)
        while self._waiting and (self._at_once is None or len(self._handed) < self._at_once):
            run = self._waiting.popleft()
            if self._is_taken(run):
                self._elsewhere.append(run)
            else:
                begun_file(self._file.out, run).unlink(missing_ok=True)
                self._handed[run] = _AtWork(self._launcher.submit(RunTask(self._file, run)))
        return len(self._handed) > before

    def _is_taken(self, run: str) -> bool:
        with claimed(self._file.out, self._cells[run][0], self._worker.display.warn) as mine:
            return not mine

    def _look_at_begun(self) -> bool:
        """Say which runs workers have begun with."""
        begun = [
            run for run, at in self._handed.items() if at.began is None and begun_file(self._file.out, run).exists()
        ]
        for run in begun:
            self._say_begun(run)
        return bool(begun)

    def _say_begun(self, run: str) -> None:
        self._handed[run].began = time.monotonic()
        left = [self._cells[other] for other in self._left()]
        self._worker.report(f"{self._pace.place(self._cells[run][0])}{self._pace.left(left, self._running())}")

    def _look_at_ended(self) -> bool:
        """Take what came of the runs that have ended."""
        ended = [run for run, at in self._handed.items() if at.job.done()]
        for run in ended:
            try:
                outcome = self._handed[run].job.result()
            except Exception as error:  # of the engine
                self._lost(run, f"ended with {one_line(error)}")
            else:
                self._take(run, outcome)
            self._worker.write_table()
        return bool(ended)

    def _take(self, run: str, outcome: Outcome) -> None:
        worker, cells = self._worker, self._cells[run]
        for kind, text in outcome.said:
            {"warning": worker.display.warn, "advice": worker.display.advise, "report": worker.report}[kind](text)
        if outcome.error is not None:
            raise outcome.error
        if outcome.stopped is not None:
            self._lost(run, f"was stopped by {outcome.stopped}")
        elif outcome.elsewhere:
            del self._handed[run]
            self._elsewhere.append(run)
        elif outcome.failures:
            self._end(run, outcome.failures)
        elif worker.is_done(cells):
            self._end(run, {})
        else:
            self._lost(run, f"says that the run is done, but its files are not in {self._file.out}")

    def _end(self, run: str, failures: Failures) -> None:
        """A run is over: what failed is in the table."""
        at = self._handed.get(run)
        if at is not None and at.began is None and not failures:
            self._say_begun(run)  # it was over before anybody looked
        if at is not None and at.began is not None:
            self._pace.took(self._cells[run][0], time.monotonic() - at.began)
        self._handed.pop(run, None)
        self._worker.failures.update(failures)
        if failures:
            self._failed.add(run)

    def _lost(self, run: str, how: str) -> None:
        """Try a run again, a few times, unless all of it was done before its worker died."""
        if self._worker.is_done(self._cells[run]):
            self._end(run, {})
            return
        del self._handed[run]
        begun_file(self._file.out, run).unlink(missing_ok=True)
        self._tries[run] += 1
        name = self._cells[run][0].name
        if self._tries[run] <= self._launcher.options.retries:
            self._worker.display.warn(f"the worker of {name} {how}. The run is tried again; what it had done is kept.")
            self._waiting.append(run)
        else:
            tries = self._tries[run]
            reason = f"its worker {how}" if tries == 1 else f"its worker {how}, in the last of {tries} tries"
            self._worker.report(f"failed: {name}: {reason}")
            self._end(run, {run: reason})

    def _look_elsewhere(self) -> None:
        """Once in a while, see what came of the runs that other commands work on."""
        if not self._elsewhere or time.monotonic() - self._looked < WAIT:
            return
        self._looked = time.monotonic()
        if not self._waits and not self._waiting and not self._handed:
            self._waits = True
            runs = runs_in_words(len(self._elsewhere))
            self._worker.display.note(f"waiting for other processes, which work on {runs}")
        for run in [self._elsewhere.popleft() for _ in range(len(self._elsewhere))]:
            if self._is_taken(run):
                self._elsewhere.append(run)
            elif not self._worker.is_settled(self._cells[run]):
                self._waiting.append(run)
            elif not self._worker.is_done(self._cells[run]):
                self._failed.add(run)
