"""Every registered component keeps the contract of its kind, and a wrong one is caught."""

import pytest
import torch

from ltdd_core import ArrayTable, BaseOptions, ClassMatcher, DataSource, LongTailOptions, SourceImages
from ltdd_core.catalog import Catalog
from ltdd_core.plugins import load_plugins
from ltdd_core.testing import (
    ContractError,
    check_dataset,
    check_head,
    check_matcher,
    check_network,
    check_recipe,
    check_sampler,
)

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


def test_the_embedded_data_keep_the_contract():
    check_dataset(CATALOG.get("data", "digits-lt").load())


class Levels(DataSource):
    """A data source that is right."""

    Options = LongTailOptions

    def load(self, generator):
        def images(number):
            labels = torch.arange(3).repeat_interleave(number)
            noise = torch.randint(0, 60, (len(labels), 1, 4, 4), generator=generator)
            return ArrayTable((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels)

        return SourceImages(train=images(9), test=images(3), class_names=("a", "b", "c"))


class Floating(Levels):
    def load(self, generator):
        found = super().load(generator)
        return SourceImages(ArrayTable(found.train.images.float(), found.train.labels), found.test, found.class_names)


class Restless(Levels):
    def load(self, generator):
        with torch.random.fork_rng():
            return super().load(torch.Generator().manual_seed(torch.seed() % 2**31))


class Lacking(Levels):
    def load(self, generator):
        found = super().load(generator)
        return SourceImages(found.train, found.test, (*found.class_names, "d"))


class Unlimited(Levels):
    Options = BaseOptions


def test_a_right_data_source_passes_and_a_wrong_one_is_caught():
    check_dataset(Levels)
    for wrong, message in (
        (Floating, "uint8"),
        (Restless, "the same each time"),
        (Lacking, "each class has an image"),
        (Unlimited, "extend LongTailOptions"),
    ):
        with pytest.raises(ContractError, match=message):
            check_dataset(wrong)


def test_a_wrong_head_and_a_wrong_recipe_are_caught():
    linear = CATALOG.get("head", "linear").load()

    class Restless(linear):
        def fit(self, sets, trainer):
            torch.rand(1)
            return super().fit(sets, trainer)

    class Unsure(linear):
        def fit(self, sets, trainer):
            fitted = super().fit(sets, trainer)
            plain = fitted.log_probabilities
            fitted.log_probabilities = lambda images: plain(images) - 1
            return fitted

    class Narrow(linear):
        def fit(self, sets, trainer):
            fitted = super().fit(sets, trainer)
            plain = fitted.log_probabilities
            fitted.log_probabilities = lambda images: plain(images)[:, :2]
            return fitted

    for wrong, message in ((Restless, "global generator"), (Unsure, "sum to one"), (Narrow, r"\[n, classes\]")):
        with pytest.raises(ContractError, match=message):
            check_head(wrong)

    direct = CATALOG.get("recipe", "direct").load()

    class Unknown(direct):
        def assign(self, stages):
            return ("test",) * stages

    with pytest.raises(ContractError, match="original or distilled for each stage"):
        check_recipe(Unknown)


def test_a_method_without_steps_must_not_change():
    coreset = CATALOG.get("matcher", "coreset").load()
    check_matcher(coreset)
    count = iter(range(10))

    class Changing(coreset):
        def distilled(self):
            images, labels = super().distilled()
            return images + next(count), labels

    with pytest.raises(ContractError, match="the same images each time"):
        check_matcher(Changing)
