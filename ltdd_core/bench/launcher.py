"""The interface of launchers, which have the runs of a grid done by the processes of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ltdd_core.options import BaseOptions, Component, option


@dataclass(frozen=True)
class Resources:
    """What the runs of a grid are to have."""

    jobs: int | None
    """Runs at once, at least 1; None: as many as the engine has room for."""
    gpus_per_run: float | None
    """Share of a GPU that each run has to itself, above 0 and at most 1; None: nothing is said of GPUs."""
    folder: Path
    """Where an engine may keep files; a folder of that name need not be there."""


class Job(Protocol):
    """A task that an engine was given; a ``concurrent.futures.Future`` is one, and so are the jobs of most engines."""

    def done(self) -> bool:
        """Whether it has ended, well or not; answers at once."""

    def result(self) -> Any:
        """What the task returned; asked for once it has ended.

        Raises:
            Exception: whatever kept the worker from returning something; the run is then tried again.
        """


class Launcher(Component, ABC):
    """Has the runs of a grid done by workers, which are processes of this machine or of others.

    What is to be done, how often, and what is shown of it is not its matter.  A worker needs the same version of
    ``ltdd`` and of its plugins, and the folder of the grid under the same path.
    """

    class Options(BaseOptions):
        """What every launcher lets a user choose; a subclass adds its own."""

        retries: int = option(2, "times that a run is tried again whose worker died", ge=0, le=100)

    def start(self, resources: Resources) -> int | None:
        """Get hold of the engine; called once, before anything is submitted.

        Args:
            resources: what each run is to have.

        Returns:
            How many tasks are submitted at once, at least 1; None: all of them, and they wait inside the engine.

        Raises:
            InputError: the engine is not installed or not there, or cannot give what was asked for.
        """
        return resources.jobs

    def threads(self) -> int | None:
        """CPU threads of a run whose configuration does not say how many; None: as many as its machine has."""
        return None

    @abstractmethod
    def submit(self, task: Callable[[], Any]) -> Job:
        """Have a task done once: in a process of its own, or in one that does one task after the other.

        Args:
            task: can be pickled.  It raises nothing on purpose; what it returns can be pickled, too.

        Returns:
            The job, at once.
        """

    def stop(self) -> None:
        """End what has not ended, and let go of the engine.

        A run saves itself on SIGTERM and on SIGINT, so these are better than SIGKILL. Called once after
        :meth:`start`, also where the user stops the grid.
        """
