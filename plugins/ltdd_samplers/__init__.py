"""How real images are drawn: more or less class-balanced in an epoch, and which images stand for a class."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_samplers(register: Register) -> None:
    """The q-power family, two more ways to balance classes, and coresets."""
    register("square-root", "ltdd_samplers.power:SquareRootSampler")
    register("class-balanced", "ltdd_samplers.power:ClassBalancedSampler")
    register("progressive", "ltdd_samplers.progressive:ProgressiveSampler")
    register("effective-number", "ltdd_samplers.effective:EffectiveNumberSampler")
    register("random", "ltdd_samplers.coreset:RandomSampler")
    register("herding", "ltdd_samplers.coreset:HerdingSampler")
    register("k-center", "ltdd_samplers.coreset:KCenterSampler")
