"""Samplers that draw class c with p_c ~ n_c^q (``--sampler instance|square-root|class-balanced``)."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_samplers(register: Register) -> None:
    """The q-power family."""
    register("instance", "ltdd_samplers.power:InstanceSampler")
    register("square-root", "ltdd_samplers.power:SquareRootSampler")
    register("class-balanced", "ltdd_samplers.power:ClassBalancedSampler")
