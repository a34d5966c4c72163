"""Every registered component keeps the contract of its kind, and a wrong one is caught."""

import pytest
import torch

from ltdd_core import BaseOptions, ClassMatcher
from ltdd_core.catalog import Catalog
from ltdd_core.plugins import load_plugins
from ltdd_core.testing import ContractError, check_head, check_matcher, check_network, check_recipe, check_sampler

CHECKS = {
    "sampler": check_sampler,
    "matcher": check_matcher,
    "head": check_head,
    "recipe": check_recipe,
    "network": check_network,
}
CATALOG = Catalog(load_plugins())
REGISTERED = [(kind, name) for kind in CHECKS for name in CATALOG.names(kind)]


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_registered_component_keeps_its_contract(kind, name):
    CHECKS[kind](CATALOG.get(kind, name).load())


@pytest.mark.parametrize(
    "options",
    [{"routing": "hard"}, {"within": "shared"}, {"groups": 3}, {"groups": 3, "within": "shared", "routing": "hard"}],
)
def test_two_stage_options_keep_the_contract(options):
    check_head(CATALOG.get("head", "twostage").load(), **options)


class Mean(ClassMatcher):
    """A matcher that is right."""

    def class_loss(self, network, real, synthetic):
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


class Drifting(Mean):
    def step(self, step):
        torch.rand(1)
        return super().step(step)


class Forgetful(Mean):
    def state(self):
        return {"images": super().state()["images"]}

    def load_state(self, state):
        super().load_state({**state, "velocity": torch.zeros_like(state["images"])})


class Stuck(Mean):
    def class_loss(self, network, real, synthetic):
        return super().class_loss(network, real, synthetic) * 0


class Undocumented(Mean):
    class Options(Mean.Options):
        mystery: int = 3


def test_the_easy_interface_keeps_the_contract():
    check_matcher(Mean)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Drifting, "global generator"),
        (Forgetful, "bit for bit"),
        (Stuck, "steps move the images"),
        (Undocumented, "every option says what it does"),
    ],
)
def test_a_wrong_matcher_is_caught(wrong, message):
    with pytest.raises(ContractError, match=message):
        check_matcher(wrong)


def test_a_wrong_sampler_and_a_wrong_network_are_caught():
    right = CATALOG.get("sampler", "instance").load()

    class Other(right):
        def of_class(self, label, size, generator):
            return super().of_class(0, size, generator)

    with pytest.raises(ContractError, match=r"min\(size, n_c\)|of its class"):
        check_sampler(Other)

    network = CATALOG.get("network", "mlp").load()

    class Narrow(network):
        Options = BaseOptions

        def __init__(self, shape, outputs, options):
            super().__init__(shape, outputs, network.Options())

        def embed(self, images):
            return super().embed(images)[:, :5]

    with pytest.raises(ContractError, match="embed is"):
        check_network(Narrow)
