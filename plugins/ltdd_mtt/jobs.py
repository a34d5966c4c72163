"""Experts from several processes: each trains what no other one works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ltdd_core import Config, RunFailed, configure
from ltdd_core.commands import Say, open_setup, task_of, work_in_processes
from ltdd_mtt.experts import experts_of, train_experts


def train_in_processes(
    config: Config, jobs: int, threads: int, report: Callable[[int, int], None], keep_going: Callable[[], None]
) -> None:
    """Train the experts of a configuration in ``jobs`` processes of ``threads`` threads each.

    Raises:
        InputError, RunFailed, Interrupted: what one of the processes ended with, or ``keep_going`` raised.
    """
    tree = config.to_tree()
    tree["compute"]["threads"] = threads
    work_in_processes(work, (tree,), jobs, hear=lambda message: report(*message), keep_going=keep_going, ended=bad_end)


def bad_end(how: str) -> None:
    """One process is missed: its experts would be trained by none of the others.

    Raises:
        RunFailed: always.
    """
    raise RunFailed(f"a process that trained experts ended with {how}")


def work(tree: dict[str, Any], say: Say) -> None:
    """What each process does."""
    with open_setup(configure(**tree)) as setup:
        task, options = task_of(setup), setup.config.matcher.options.experts
        train_experts(task, options, experts_of(task, options), lambda *message: say(message))
