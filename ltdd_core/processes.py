"""The same work in several processes of this machine, which share it by what they find on the disk.

A process says through a pipe what it has done, and stops when its parent, and so the pipe, is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from ltdd_core.errors import InputError, Interrupted, RunFailed, for_command_line

ERRORS = InputError, RunFailed, Interrupted
LOOK_AGAIN = 0.2
"""Seconds between looks at whether a signal came."""
PROCESSES_A_CORE = 4
Say = Callable[[Any], None]
"""Tells the parent something that can be pickled."""


lost: ContextVar[Callable[[], bool]] = ContextVar("lost", default=lambda: False)
"""Says whether a process of this machine has died that shares the run of this one; what starts them knows."""


def processes_sharing() -> int:
    """How many processes share this run, as torchrun's environment variables say; 1 where nobody says so.

    Raises:
        InputError: what they say is no number.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or int(said) < 1:
        raise InputError(f"the environment variable WORLD_SIZE is {said!r}, and no number of processes: unset it.")
    return int(said)


def is_helping() -> bool:
    """Whether this process only helps another one, which talks to the user."""
    return os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1"


def check_jobs(jobs: int) -> None:
    """Refuse more processes than a machine can hold: each of them needs a core, and memory for torch.

    Args:
        jobs: number of processes that were asked for with ``--jobs``.

    Raises:
        InputError: saying how many there may be.
    """
    if jobs > most_processes():
        cores = os.cpu_count() or 1
        raise InputError(f"--jobs {jobs}: this machine has {cores} cores, so use at most {most_processes()}.")


def most_processes() -> int:
    """How many processes of this machine may share some work."""
    return PROCESSES_A_CORE * (os.cpu_count() or 1)


def work_in_processes(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    jobs: int,
    *,
    hear: Say,
    keep_going: Callable[[], None],
    ended: Callable[[str], None],
) -> None:
    """Do ``work(*arguments, say)`` in ``jobs`` processes and wait for all of them; for commands of the command line.

    Args:
        work: a function of a module; its last argument takes what is said to the parent.
        arguments: can be pickled.
        jobs: number of processes.
        hear: takes what a process says.
        keep_going: called a few times a second; raises to stop all processes.
        ended: told how a process came to a bad end other than by an error that it could name; may raise.

    Raises:
        InputError, RunFailed, Interrupted: what one of the processes ended with, or what a function above raised.
    """
    working = dict(_start(work, arguments) for _ in range(jobs))
    processes = list(working.values())
    try:
        while working:
            keep_going()
            for pipe in cast(list[Connection], wait(list(working), LOOK_AGAIN)):
                if not _hear(pipe, hear):
                    _check_end(working.pop(pipe), ended)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start(work: Callable[..., None], arguments: tuple[Any, ...]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(work, arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _hear(pipe: Connection, hear: Say) -> bool:
    """Pass on what a process says; False at its end."""
    try:
        message = pipe.recv()
    except EOFError:
        return False
    if isinstance(message, BaseException):
        raise message
    hear(message)
    return True


def _check_end(process: SpawnProcess, ended: Callable[[str], None]) -> None:
    process.join()
    if code := process.exitcode:
        if code < 0:
            ended(f"signal {signal.Signals(-code).name}; what is done is kept. Try fewer --jobs.")
        else:
            ended(f"code {code}; its traceback is above, and what is done is kept.")


def _do(work: Callable[..., None], arguments: tuple[Any, ...], pipe: Connection) -> None:
    """What each process does."""
    sys.stdout = sys.stderr  # standard output is for the result
    try:
        with for_command_line():
            work(*arguments, pipe.send)
    except ERRORS as error:
        pipe.send(next(kind for kind in ERRORS if isinstance(error, kind))(str(error)))
    except BrokenPipeError:
        sys.exit(1)
