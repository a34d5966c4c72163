"""Each run is a task of Ray, which finds it a machine with a free CPU and, with ``--gpus-per-run``, a free GPU."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ltdd_core import InputError, Job, Launcher, Resources, option

SECONDS_TO_SAVE = 30
"""How long runs have to save themselves when the grid is stopped."""


class RayLauncher(Launcher):
    """The machines of a Ray cluster, or this one as a cluster of its own."""

    class Options(Launcher.Options):
        """Where the cluster is, and what each run takes of it."""

        address: str | None = option(
            None,
            "address of the cluster, as ray.init takes it",
            unless_given="RAY_ADDRESS, or the cluster on this machine, or a new one",
        )
        cpus: int = option(1, "CPU cores of each run, and its threads", ge=1)

    def start(self, resources: Resources) -> int | None:
        """Connect to the cluster.

        Raises:
            InputError: Ray is not installed, there is no cluster, or no machine of it has what a run should have.
        """
        if find_spec("ray") is None:
            raise InputError("Ray is not installed: pip install 'ltdd[ray]'.")
        import ray

        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                with _own_signals():
                    ray.init(
                        self.options.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
                    )
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                reason = " ".join(str(error).split()).rstrip(".")
                raise InputError(f"cannot connect to the Ray cluster: {reason}.") from error
        self._jobs: list[Any] = []
        try:
            self._check(ray.nodes(), resources.gpus_per_run or 0)
        except InputError:
            self.stop()
            raise
        asked = {"num_cpus": self.options.cpus, "num_gpus": resources.gpus_per_run or 0, "max_retries": 0}
        self._remote = ray.remote(**asked)(_do)
        return resources.jobs

    def _check(self, nodes: list[dict[str, Any]], gpus: float) -> None:
        """Ray itself would wait for such a machine for ever."""
        having = [node["Resources"] for node in nodes if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.options.cpus for node in having):
            raise InputError(f"launcher.cpus={self.options.cpus}: no machine of the Ray cluster has as many.")
        if gpus and not any(node.get("GPU", 0) >= gpus for node in having):
            raise InputError(f"--gpus-per-run {gpus:g}: the Ray cluster has no GPU. Leave it out.")

    def threads(self) -> int:
        """Those that Ray keeps for the run."""
        return self.options.cpus

    def submit(self, task: Callable[[], Any]) -> Job:
        """Hand the task to Ray."""
        job = _RayJob(self._remote.remote(task))
        self._jobs.append(job)
        return job

    def stop(self) -> None:
        """Interrupt the runs, and leave the cluster."""
        import ray

        left = [job.reference for job in self._jobs if not job.done()]
        for reference in left:
            ray.cancel(reference)
        if left:
            ray.wait(left, num_returns=len(left), timeout=SECONDS_TO_SAVE)
        if self._ours:
            ray.shutdown()


class _RayJob:
    def __init__(self, reference: Any) -> None:
        self.reference, self._ended = reference, False

    def done(self) -> bool:
        import ray

        self._ended = self._ended or bool(ray.wait([self.reference], timeout=0)[0])
        return self._ended

    def result(self) -> Any:
        import ray

        return ray.get(self.reference)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray answers SIGTERM with a traceback and its death; ours lets the runs save themselves."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _do(task: Callable[[], Any]) -> Any:
    """What a worker does."""
    return task()
