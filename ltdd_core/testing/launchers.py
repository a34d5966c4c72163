"""The contract of launchers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ltdd_core.bench.launcher import Job, Launcher, Resources
from ltdd_core.testing.contract import Contract

LONGEST = 120.0
"""Seconds that a task of the check may take; a process has to be started for it."""


def check_launcher(component: type[Launcher], folder: Path, **options: Any) -> None:
    """Every task is done once, in another process, and one that kills its process costs the others nothing.

    Args:
        component: the class.
        folder: an empty one, for what tasks and the engine write.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Launcher`.
    """
    contract = Contract(component)
    contract.options_are_described(component.Options)
    launcher = component(component.Options(**options))
    with contract.works(Launcher.start, "it starts"):
        at_once = launcher.start(Resources(2, None, folder / "engine"))
    contract.must(at_once is None or at_once >= 1, Launcher.start, "start gives a number of tasks, at least 1, or None")
    with _stopped(contract, launcher):
        threads = launcher.threads()
        contract.must(threads is None or threads >= 1, Launcher.threads, "threads gives at least 1, or None")
        first, second = (_ended(contract, launcher, partial(_mark, folder / name)) for name in ("a", "b"))
        for name, job in (("a", first), ("b", second)):
            with contract.works(Launcher.submit, "a task returns what it returns"):
                process = job.result()
            contract.must(process != os.getpid(), Launcher.submit, "a task is done in another process")
            times = (folder / name).read_text(encoding="utf-8").count("done")
            contract.must(times == 1, Launcher.submit, "a task is done once")
        with contract.works(Launcher.submit, "a task that kills its process is a job like others"):
            job = _ended(contract, launcher, _die)
        contract.must(_raises(job), Job.result, "result raises where the worker died")
        with contract.works(Launcher.submit, "tasks are done after the death of a worker"):
            _ended(contract, launcher, partial(_mark, folder / "c")).result()


@contextmanager
def _stopped(contract: Contract, launcher: Launcher) -> Iterator[None]:
    try:
        yield
    finally:
        with contract.works(Launcher.stop, "it stops"):
            launcher.stop()


def _ended(contract: Contract, launcher: Launcher, task: Callable[[], Any]) -> Job:
    with contract.works(Launcher.submit, "a task can be submitted"):
        job = launcher.submit(task)
    began = time.monotonic()
    while not job.done():
        contract.must(time.monotonic() - began < LONGEST, Job.done, f"a job has ended after {LONGEST:.0f} seconds")
        time.sleep(0.02)
    return job


def _raises(job: Job) -> bool:
    try:
        job.result()
    except Exception:
        return True
    return False


def _mark(path: Path) -> int:
    with path.open("a", encoding="utf-8") as file:
        file.write("done\n")
    return os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
