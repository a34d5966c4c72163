"""How real images are drawn: class by class in an epoch of training, and as representatives of a class."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_samplers(register: Register) -> None:
    """The q-power family, two more class-balancing samplers, and seven coresets."""
    register("square-root", "ltdd_samplers.power:SquareRootSampler")
    register("class-balanced", "ltdd_samplers.power:ClassBalancedSampler")
    register("progressive", "ltdd_samplers.progressive:ProgressiveSampler")
    register("effective-number", "ltdd_samplers.effective:EffectiveNumberSampler")
    register("random", "ltdd_samplers.coreset:RandomSampler")
    register("herding", "ltdd_samplers.coreset:HerdingSampler")
    register("k-center", "ltdd_samplers.coreset:KCenterSampler")
    register("graph-cut", "ltdd_samplers.coreset:GraphCutSampler")
    register("k-means", "ltdd_samplers.coreset:KMeansSampler")
    register("el2n", "ltdd_samplers.scores:EL2NSampler")
    register("forgetting", "ltdd_samplers.scores:ForgettingSampler")
