"""How real images are drawn: class by class in an epoch of training, and as representatives of a class."""

from __future__ import annotations

from ltdd_core import Register, hookimpl

DREAM = {
    "about": "The real images of DREAM, as its public code has them; put it after the preset of a matcher.",
    "sampler": {"name": "dream", "interval": 10},
    "init": "dream",
    "matcher": {"batch_real": 128, "factor": 2},
    "sources": {"": "DREAM, public code for CIFAR-10", "matcher.factor": "IDC, public code, which DREAM follows"},
}


@hookimpl
def ltdd_register_samplers(register: Register) -> None:
    """The q-power family, two more class-balancing samplers, seven coresets, and the images of DREAM."""
    register("square-root", "ltdd_samplers.power:SquareRootSampler")
    register("class-balanced", "ltdd_samplers.power:ClassBalancedSampler")
    register("progressive", "ltdd_samplers.progressive:ProgressiveSampler")
    register("effective-number", "ltdd_samplers.effective:EffectiveNumberSampler")
    register("dream", "ltdd_samplers.dream:RepresentativeSampler")
    register("random", "ltdd_samplers.coreset:RandomSampler")
    register("herding", "ltdd_samplers.coreset:HerdingSampler")
    register("k-center", "ltdd_samplers.coreset:KCenterSampler")
    register("graph-cut", "ltdd_samplers.coreset:GraphCutSampler")
    register("k-means", "ltdd_samplers.coreset:KMeansSampler")
    register("el2n", "ltdd_samplers.scores:EL2NSampler")
    register("forgetting", "ltdd_samplers.scores:ForgettingSampler")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values of DREAM, for any matcher."""
    register("dream-paper", DREAM)
