"""Each run is a job of Slurm: it waits in the queue, and the command waits for all of them.

The scripts and logs of the jobs are in the folder ``.launcher`` of the grid.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

from ltdd_core import InputError, Job, Launcher, Resources, option


class SubmititLauncher(Launcher):
    """Jobs of a Slurm cluster, one for each run."""

    class Options(Launcher.Options):
        """What each job asks of Slurm."""

        cluster: Literal["slurm", "local"] = option(
            "slurm", "slurm; or local, which starts all jobs as processes of this machine, to try it out"
        )
        partition: str | None = option(None, "partition of the jobs", unless_given="that of the cluster")
        minutes: int = option(240, "longest time of a job; a run that takes longer goes on in the next try", ge=1)
        cpus: int = option(4, "CPU cores of each run, and its threads", ge=1)
        memory: float | None = option(None, "memory of each run in GB", gt=0, unless_given="that of the cluster")
        more: dict[str, str | int] | None = option(
            None,
            "other options of sbatch by their long names, such as {account: mine}",
            unless_given="none",
        )

    def start(self, resources: Resources) -> int | None:
        """See that jobs can be submitted.

        Raises:
            InputError: submitit is not installed, there is no Slurm, or a share of a GPU is asked for.
        """
        if find_spec("submitit") is None:
            raise InputError("submitit is not installed: pip install 'ltdd[submitit]'.")
        if self.options.cluster == "slurm" and shutil.which("sbatch") is None:
            raise InputError(
                "there is no sbatch here: start this on a login node of a Slurm cluster, or try it out on this "
                "machine with --set launcher.cluster=local."
            )
        gpus = resources.gpus_per_run
        if gpus is not None and gpus != 1:
            raise InputError(f"--gpus-per-run {gpus:g}: Slurm gives whole GPUs to a job; use 1.")
        import submitit

        self._executor = submitit.AutoExecutor(resources.folder, cluster=self.options.cluster)
        self._executor.update_parameters(**self._parameters(gpus is not None))
        self._jobs: list[Any] = []
        return resources.jobs

    def _parameters(self, on_gpu: bool) -> dict[str, Any]:
        options = self.options
        asked = {"name": "ltdd", "timeout_min": options.minutes, "cpus_per_task": options.cpus}
        if on_gpu:
            asked["gpus_per_node"] = 1
        if options.memory is not None:
            asked["mem_gb"] = options.memory
        if options.partition is not None:
            asked["slurm_partition"] = options.partition
        if options.more:
            asked["slurm_additional_parameters"] = options.more
        return asked

    def threads(self) -> int:
        """The cores of the job."""
        return self.options.cpus

    def submit(self, task: Callable[[], Any]) -> Job:
        """Put a job into the queue."""
        job = self._executor.submit(task)
        self._jobs.append(job)
        return job

    def stop(self) -> None:
        """Cancel the jobs that have not ended; Slurm lets runs save themselves."""
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)
