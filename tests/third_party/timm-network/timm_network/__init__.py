"""Models of timm with stochastic depth (Huang et al., ECCV 2016): ``--network timm-network:test_resnet``."""

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_networks(register: Register):
    """One network."""
    register("timm-network", "timm_network.network:StochasticDepth")
