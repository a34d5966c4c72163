"""Runs of a grid in processes of this machine: ``--launcher local``, which is the default.

A process does one run after the other and keeps the data in memory.  With ``--jobs 1`` the command itself does them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ltdd_core.bench.launcher import Launcher, Resources
from ltdd_core.errors import InputError
from ltdd_core.processes import check_jobs

VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalLauncher(Launcher):
    """Processes of this machine, which share its CPU threads."""

    def start(self, resources: Resources) -> int:
        """See that this machine has room for them: one without GPUs to share, or else what these have room for.

        Raises:
            InputError: it has not.
        """
        self._processes: list[_Process] = []
        self._places: list[str | None] = []
        if resources.gpus_per_run is not None:
            self._places = [*_places(resources.gpus_per_run)]
            if resources.jobs is not None and resources.jobs > len(self._places):
                raise InputError(
                    f"--jobs {resources.jobs}: with --gpus-per-run {resources.gpus_per_run:g} the GPUs of this "
                    f"machine have room for {len(self._places)}."
                )
        self._jobs = resources.jobs or len(self._places) or 1
        check_jobs(self._jobs)
        self._places = self._places or [None]
        return self._jobs

    def threads(self) -> int | None:
        """All of this machine, shared by the processes."""
        from ltdd_core.runs.devices import usual_threads

        return max(1, usual_threads() // self._jobs)

    def submit(self, task: Callable[[], Any]) -> LocalJob:
        """Give it to a process that is free, or to a new one."""
        self._processes = [process for process in self._processes if process.is_alive()]
        free = next((process for process in self._processes if process.is_free()), None)
        if free is None:
            taken = [process.place for process in self._processes]
            place = min(self._places, key=taken.count)
            free = _Process(place)
            self._processes.append(free)
        return free.give(task)

    def stop(self) -> None:
        """Send them SIGTERM and wait."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _places(gpus_per_run: float) -> list[str]:
    """A GPU for each run that is at work at once: the second run of a GPU comes after the first run of each.

    Raises:
        InputError: this machine has no GPU.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise InputError(f"--gpus-per-run {gpus_per_run:g}: this machine has no usable CUDA device; leave it out.")
    names = os.environ[VISIBLE].split(",")[:count] if VISIBLE in os.environ else [str(gpu) for gpu in range(count)]
    return names * int(1 / gpus_per_run + 1e-9)


class LocalJob:
    """A task in a process."""

    def __init__(self, process: _Process) -> None:
        self._process, self._ended = process, False

    def done(self) -> bool:
        """Whether the process has answered, or is gone."""
        self._ended = self._ended or self._process.has_answered()
        return self._ended

    def result(self) -> Any:
        """The answer.

        Raises:
            ChildProcessError: there is none, since the process is gone.
        """
        return self._process.answer()


class _Process:
    """Does one task after the other; ``place`` is the GPU that it has, None: whatever there is."""

    def __init__(self, place: str | None) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, place), daemon=True)
        self._process.start()
        theirs.close()
        self._busy = False

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def is_free(self) -> bool:
        return not self._busy

    def give(self, task: Callable[[], Any]) -> LocalJob:
        self._busy = True
        with suppress(OSError):  # it has just been killed, which the end of the pipe says, too
            self._pipe.send(task)
        return LocalJob(self)

    def has_answered(self) -> bool:
        return self._pipe.poll()

    def answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ChildProcessError(f"{how}; if memory ran out, try fewer --jobs") from error
        self._busy = False
        return answer

    def terminate(self) -> None:
        self._process.terminate()
        self._pipe.close()

    def join(self) -> None:
        self._process.join()


def _serve(pipe: Connection, place: str | None) -> None:
    """What each process does, until the command that started it is done with it, or gone."""
    if place is not None:
        os.environ[VISIBLE] = place  # before torch looks for GPUs
    sys.stdout = sys.stderr  # standard output is for the result
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # between two tasks there is nothing to save, and nothing to say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            task = pipe.recv()  # imports what it needs
            pipe.send(task())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # a run saves itself
