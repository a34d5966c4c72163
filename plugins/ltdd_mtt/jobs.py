"""Experts from several processes: each trains what no other one works on.

A process says through a pipe what it has done, and stops when its parent, and so the pipe, is gone.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from ltdd_core import Config, InputError, Interrupted, RunFailed, configure
from ltdd_core.commands import open_setup, task_of
from ltdd_mtt.experts import experts_of, train_experts

ERRORS = InputError, RunFailed, Interrupted
LOOK_AGAIN = 0.2
"""Seconds between looks at whether a signal came."""


def train_in_processes(
    config: Config, jobs: int, threads: int, report: Callable[[int, int], None], keep_going: Callable[[], None]
) -> None:
    """Train the experts of a configuration in ``jobs`` processes of ``threads`` threads each.

    Raises:
        InputError, RunFailed, Interrupted: what one of the processes ended with, or ``keep_going`` raised.
    """
    tree = config.to_tree()
    tree["compute"]["threads"] = threads
    working = dict(_start(tree) for _ in range(jobs))
    processes = list(working.values())
    try:
        while working:
            keep_going()
            for pipe in cast(list[Connection], wait(list(working), LOOK_AGAIN)):
                if not _hear(pipe, report):
                    _check_end(working.pop(pipe))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start(tree: dict[str, Any]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(tree, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _hear(pipe: Connection, report: Callable[[int, int], None]) -> bool:
    """Pass on what a process says; False at its end."""
    try:
        message = pipe.recv()
    except EOFError:
        return False
    if isinstance(message, BaseException):
        raise message
    report(*message)
    return True


def _check_end(process: SpawnProcess) -> None:
    process.join()
    if code := process.exitcode:
        if code < 0:
            how = f"signal {signal.Signals(-code).name}; what is done is kept. Try fewer --jobs."
        else:
            how = f"code {code}; its traceback is above, and what is done is kept."
        raise RunFailed(f"a process that trained experts ended with {how}")


def work(tree: dict[str, Any], said: Connection) -> None:
    """What each process does."""
    sys.stdout = sys.stderr  # standard output is for the result
    try:
        with open_setup(configure(**tree)) as setup:
            task, options = task_of(setup), setup.config.matcher.options.experts
            train_experts(task, options, experts_of(task, options), lambda *message: said.send(message))
    except ERRORS as error:
        said.send(next(kind for kind in ERRORS if isinstance(error, kind))(str(error)))
    except BrokenPipeError:
        sys.exit(1)
