"""One run of a grid, as a worker does it, on this machine or on another one that has the folder, too."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ltdd_core.bench.grid import read_grid
from ltdd_core.bench.work import CLAIMS, Failures, GridWorker, claimed
from ltdd_core.config.layers import Layer, Tree
from ltdd_core.errors import InputError, Interrupted, RunFailed, for_command_line
from ltdd_core.plugging.catalog import installed
from ltdd_core.plugging.loading import BLOCK_VARIABLE, LOAD_VARIABLE, TRACE_VARIABLE
from ltdd_core.progress import Display
from ltdd_core.runs.stop import StopRequest

VARIABLES = (BLOCK_VARIABLE, LOAD_VARIABLE, TRACE_VARIABLE)


@dataclass(frozen=True)
class GridFile:
    """A grid and where it is done: plain data, which say the same on every machine."""

    path: Path
    """Of the file, for messages."""
    tree: Tree
    """What is in it."""
    above: tuple[Layer, ...]
    """Layers above everything in the file."""
    out: Path
    """Folder of everything."""
    began: float = field(default_factory=time.time)
    """When the command began, in seconds of the clock: what failed before is tried again."""
    folder: Path = field(default_factory=Path.cwd)
    """The working directory, which paths may be relative to."""
    variables: Mapping[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ}
    )
    """Variables of the environment that say which plugins are loaded."""


@dataclass(frozen=True)
class Outcome:
    """How it went with a run."""

    failures: Failures = field(default_factory=Failures)
    said: tuple[tuple[str, str], ...] = ()
    """What the user should read: pairs of ``warning`` or ``report`` and the text."""
    elsewhere: bool = False
    """Another process had it, so nothing was done."""
    stopped: str | None = None
    """The signal on which it saved itself and ended before its time."""
    error: InputError | RunFailed | None = None
    """What ends the whole grid."""


@dataclass(frozen=True)
class RunTask:
    """What a worker is given."""

    grid: GridFile
    run: str
    """The folder of the run."""

    def __call__(self) -> Outcome:
        """Do all that is left of the run and of the classifiers of its cells."""
        said = list[tuple[str, str]]()
        try:
            with for_command_line(), StopRequest().listening() as stop:
                worker = _worker(self.grid)
                worker.display, worker.stop, worker.failures = _Told(said), stop, Failures()
                worker.report = lambda text: said.append(("report", text))
                mine = self._done_by(worker)
            return Outcome(worker.failures, tuple(said), elsewhere=not mine)
        except Interrupted as error:
            return Outcome(said=tuple(said), stopped=str(error))
        except (InputError, RunFailed) as error:
            kind = InputError if isinstance(error, InputError) else RunFailed  # of those only the text can be pickled
            return Outcome(said=tuple(said), error=kind(str(error)))

    def _done_by(self, worker: GridWorker) -> bool:
        """Whether the run is done or has failed now; else another process has it."""
        cells = next(cells for cells in worker.grid.runs() if cells[0].folder == self.run)
        with claimed(self.grid.out, cells[0], worker.display.warn) as mine:
            if mine and not worker.is_settled(cells):
                with _saying_who(begun_file(self.grid.out, self.run)):
                    worker.try_on(cells)
            return mine


def begun_file(out: Path, run: str) -> Path:
    """Is there while a worker that was given a run is at it, and says who that is."""
    return out / CLAIMS / f"{run}.worker.json"


@contextmanager
def _saying_who(path: Path) -> Iterator[None]:
    path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


_at_hand: dict[tuple[str, float], GridWorker] = {}
"""The grid that this process works on, whose data and networks stay in memory for the next run."""


def _worker(file: GridFile) -> GridWorker:
    """What this process has at hand for a grid.

    Raises:
        InputError: its folder is not there, or the grid cannot be resolved here.
    """
    host = socket.gethostname()
    try:
        os.chdir(file.folder)
    except OSError as error:
        raise InputError(f"{file.folder} is not on {host}: {_SHARED}") from error
    if not (file.out / CLAIMS).is_dir():
        raise InputError(f"{file.out} of this grid is not on {host}: {_SHARED}")
    key = str(file.out), file.began
    if key not in _at_hand:
        _at_hand.clear()
        os.environ.update(file.variables)
        catalog = installed()
        grid = read_grid(file.path, catalog, file.above, tree=file.tree)
        _at_hand[key] = GridWorker(grid, file.out, catalog, Display(), lambda text: None, StopRequest(), file.began)
    return _at_hand[key]


_SHARED = "all workers need the folder of the grid under the same path. Share it, or use --launcher local."


class _Told(Display):
    """Keeps what is wrong for the one who has the terminal."""

    def __init__(self, said: list[tuple[str, str]]) -> None:
        self._said = said

    def warn(self, text: str) -> None:
        """Keep it."""
        self._said.append(("warning", text))

    def advise(self, text: str) -> None:
        """Keep it."""
        self._said.append(("advice", text))
