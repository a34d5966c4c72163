"""Runs of a grid on a Ray cluster: ``ltdd bench grid.yaml --launcher ray``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_launchers(register: Register) -> None:
    """A Ray cluster."""
    register("ray", "ltdd_ray.launcher:RayLauncher")
