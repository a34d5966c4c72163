"""One command in several processes, which torchrun starts, or the command itself, which then is rank 0."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from ltdd_core.cli.settings import consoles, only_json
from ltdd_core.errors import InputError, Interrupted, RunFailed
from ltdd_core.processes import is_helping, lost, most_processes, processes_sharing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Done = TypeVar("Done")
SECONDS_TO_END = 5.0
"""That the other processes have after rank 0 has ended."""
SCRATCH = "LTDD_SCRATCH"
"""Environment variable of the other processes: the folder for their copies, which rank 0 removes after them."""


def together(work: Callable[[Console, bool], Done], processes: int | None, as_json: bool, quiet: bool) -> Done:
    """Do the work of a command in all processes that share it; gives its result in the one that talks to the user.

    The others end here.

    Args:
        work: ``(notes, quiet) -> result``: ``notes`` is for what is no result, ``quiet`` says to show no progress.
        processes: that ``--processes`` asks for.
        as_json: whether ``--json`` was given.
        quiet: whether ``--quiet`` was given.

    Raises:
        InputError: these are more processes than this machine can hold.
    """
    if is_helping():
        _help_with(lambda: work(consoles(as_json=True)[1], True))
        sys.exit()
    with only_json(as_json), _started(processes):
        return work(consoles(as_json)[1], quiet)


@contextmanager
def _started(processes: int | None) -> Iterator[None]:
    """Start the other processes of a run, with the arguments of this one; they end with the block.

    Nothing happens where the run has one process, or torchrun, or this function in another process, has started all.

    Args:
        processes: how many there are in all.

    Raises:
        InputError: more than this machine can hold.
    """
    if processes is None or processes == 1 or processes_sharing() > 1:
        yield
        return
    if processes > most_processes():
        raise InputError(f"--processes {processes}: use at most {most_processes()} on this machine.")
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    before = {name: os.environ.get(name) for name in (*shared, "RANK", "LOCAL_RANK")}
    with TemporaryDirectory(prefix="ltdd-", ignore_cleanup_errors=True) as scratch:  # of those that are killed, too
        others = [_other(rank, {**shared, SCRATCH: scratch}) for rank in range(1, processes)]
        os.environ.update(shared, RANK="0", LOCAL_RANK="0")
        ended, token = False, lost.set(lambda: any(other.poll() for other in others))  # of one that ended well it is 0
        try:
            yield
            ended = True
        finally:
            lost.reset(token)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            for other in others:
                _end(other, at_once=not ended)


def _other(rank: int, shared: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start another process with the arguments of this one."""
    return subprocess.Popen(  # noqa: S603 - the arguments of this command
        [sys.executable, "-m", "ltdd_core", *sys.argv[1:]],
        env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> None:
    try:
        if at_once:
            process.terminate()
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _help_with(work: Callable[[], Any]) -> None:
    """Do the part of a process that only helps: it says nothing but what may be wrong with it alone.

    A wrong input is that of all processes of a machine, so the first one of each machine says it.

    Args:
        work: that of the command.
    """
    parent = os.getppid()
    lost.set(lambda: os.getppid() != parent)
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123 - not a file of the user
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                work()
        except (InputError, RunFailed, Interrupted) as error:
            first = os.environ.get("LOCAL_RANK") == "0"
            if (isinstance(error, InputError) and first) or type(error) is RunFailed:
                print(f"process {os.environ['RANK']}: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(1)


@contextmanager
def own_folder(claimed: AbstractContextManager[Path], kept: Callable[[Path], str]) -> Iterator[Path]:
    """Meet the other processes; the folder to work in: that of the run, or a copy of it that goes at the end.

    So all processes begin from the same files, and none reads what rank 0 writes meanwhile.

    Args:
        claimed: the folder of the run; only rank 0 enters it.
        kept: says what is kept in a folder whose work was stopped, and how it goes on.

    Raises:
        Interrupted: a signal came; what is kept is said.
        RunFailed: another process has ended; likewise.
    """
    from ltdd_core import ranks
    from ltdd_core.networks.store import FOLDER as NETWORKS

    with ranks.joined(), nullcontext() if is_helping() else claimed as folder:
        of_run = Path(ranks.agreed(str(folder)))
        if folder is not None:
            ranks.met()  # the others have their copies
            try:
                yield folder
            except Interrupted as error:
                kind = RunFailed if isinstance(error, ranks.OtherEnded) else Interrupted
                raise kind(f"{error}: {kept(folder)}") from error
            return
        with TemporaryDirectory(prefix="ltdd-", dir=os.environ.get(SCRATCH)) as place:
            own = Path(place) / of_run.name
            shutil.copytree(of_run, own, ignore=shutil.ignore_patterns(NETWORKS, ".*"))
            ranks.met()
            yield own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
