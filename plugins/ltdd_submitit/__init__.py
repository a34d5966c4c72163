"""Runs of a grid as jobs of Slurm, by submitit: ``ltdd bench grid.yaml --launcher submitit``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_launchers(register: Register) -> None:
    """A Slurm cluster."""
    register("submitit", "ltdd_submitit.launcher:SubmititLauncher")
