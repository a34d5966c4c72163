"""A grid in several processes of this machine: each takes runs that no other has begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ltdd_core.bench.grid import Grid, read_grid
from ltdd_core.bench.work import Failures, work_on
from ltdd_core.config.layers import Layer
from ltdd_core.errors import RunFailed
from ltdd_core.plugging.catalog import installed
from ltdd_core.processes import Say, work_in_processes
from ltdd_core.progress import Display
from ltdd_core.runs.devices import usual_threads
from ltdd_core.runs.stop import StopRequest


def work_in_jobs(
    path: Path,
    grid: Grid,
    above: Sequence[Layer],
    out: Path,
    jobs: int,
    *,
    display: Display,
    report: Callable[[str], None],
) -> Failures:
    """As :func:`ltdd_core.bench.work.work_on`, in ``jobs`` processes, which share the CPU threads.

    Args:
        path: of the grid file, which each process reads again.
        grid: what it says.
        above: layers above everything in the file.
        out: folder of everything.
        jobs: number of processes.
        display: told warnings.
        report: takes a line for each run and each classifier.

    Raises:
        InputError, RunFailed, Interrupted: what a process ended with.
        RunFailed: all processes were killed.
    """
    if all(cell.config.compute.threads is None for cell in grid.cells):
        above = [Layer("--jobs", {"compute": {"threads": max(1, usual_threads() // jobs)}}), *above]
    failures, ends = Failures(), list[str]()

    def hear(message: tuple[str, object]) -> None:
        kind, said = message
        if kind == "failures" and isinstance(said, dict):
            failures.update(said)
        else:
            (display.warn if kind == "warning" else report)(str(said))

    def ended(how: str) -> None:
        ends.append(how)
        if len(ends) == jobs:
            raise RunFailed(f"all processes that worked on the grid ended, the last one with {how}")
        display.warn(f"a process that worked on the grid ended with {how} The others take its run.")

    with StopRequest().listening() as stop:
        work_in_processes(work, (path, tuple(above), out), jobs, hear=hear, keep_going=stop.check, ended=ended)
    return failures


def work(path: Path, above: Sequence[Layer], out: Path, say: Say) -> None:
    """What each process does."""
    catalog = installed()
    grid = read_grid(path, catalog, above)
    found = work_on(grid, out, catalog=catalog, display=_Warning(say), report=lambda text: say(("report", text)))
    say(("failures", found))


class _Warning(Display):
    """Tells the parent what is wrong."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._say(("warning", text))
