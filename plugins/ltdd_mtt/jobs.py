"""Experts from several processes that share a folder: each trains what no other one has locked.

A process is told what to do on its standard input and says on its standard output what it has done, a JSON document
a line; when its parent is gone, so is the pipe, and it stops.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ltdd_core import Config, InputError, Interrupted, RunFailed, configure
from ltdd_core.commands import open_setup, task_of
from ltdd_mtt.experts import ExpertFolder
from ltdd_mtt.training import Report, train_experts

ERRORS = {error.__name__: error for error in (InputError, RunFailed, Interrupted)}
LOOK_AGAIN = 0.2
"""Seconds between looks at whether a signal came."""


def train_in_processes(
    config: Config, folder: Path, jobs: int, threads: int, report: Report, keep_going: Callable[[], None]
) -> None:
    """Train the experts of a configuration in ``jobs`` processes of ``threads`` threads each.

    Raises:
        InputError, RunFailed, Interrupted: what one of the processes ended with, or ``keep_going`` raised.
    """
    tree = config.to_tree()
    tree["compute"]["threads"] = threads
    order = json.dumps({"config": tree, "folder": str(folder)})
    said: queue.Queue[dict[str, Any]] = queue.Queue()
    processes = [_start(order, said) for _ in range(jobs)]
    try:
        running = jobs
        while running:
            keep_going()
            try:
                message = said.get(timeout=LOOK_AGAIN)
            except queue.Empty:
                continue
            running -= _heard(message, report)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _heard(message: dict[str, Any], report: Report) -> int:
    """Pass on what a process said; 1 if that was its end."""
    if "expert" in message:
        report(message["expert"], message["done"])
        return 0
    if "error" in message:
        raise ERRORS[message["error"]](message["text"])
    if message["code"] != 0:
        died = f"signal {signal.Signals(-message['code']).name}" if message["code"] < 0 else f"code {message['code']}"
        raise RunFailed(f"a process that trained experts ended with {died}; what is done is kept. Try fewer --jobs.")
    return 1


def _start(order: str, said: queue.Queue[dict[str, Any]]) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "ltdd_mtt.jobs"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace")  # noqa: S603

    def listen(theirs: IO[str], lines: IO[str]) -> None:
        with suppress(BrokenPipeError), theirs:  # a process that died at once says so with its exit code
            theirs.write(order)
        with lines:
            for line in lines:
                _pass_on(line, said)
        said.put({"code": process.wait()})

    threading.Thread(target=listen, args=(process.stdin, process.stdout), daemon=True).start()
    return process


def _pass_on(line: str, said: queue.Queue[dict[str, Any]]) -> None:
    """A message; what else a library prints on standard output goes to the user."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if isinstance(message, dict) and message.keys() & {"expert", "error"}:
        said.put(message)
    else:
        sys.stderr.write(line)


def work() -> int:
    """What each process does."""
    order, out = json.load(sys.stdin), sys.stdout
    sys.stdout = sys.stderr  # what a plugin prints is no message

    def say(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        config = configure(**order["config"])
        with open_setup(config) as setup:
            experts = config.matcher.options.experts
            folder = ExpertFolder(Path(order["folder"]))
            train_experts(task_of(setup), experts, folder, lambda index, done: say(expert=index, done=done))
    except tuple(ERRORS.values()) as error:
        say(error=type(error).__name__, text=str(error))
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(work())
