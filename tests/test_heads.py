"""Classifier heads: what each does with a network, and all of them on sets whose tail has one image."""

from dataclasses import replace

import pytest
import torch
from conftest import Noting, matcher_of
from torch.nn import functional as F

from ltdd_core import (
    Augmentation,
    InputError,
    Network,
    PerChannel,
    SoftLabels,
    Trainer,
    TrainingOptions,
    TrainingSet,
    configure,
    generator,
)
from ltdd_core.config.resolve import component_maker, select
from ltdd_core.data.load import load_long_tailed
from ltdd_core.distillation.steps import distilled_set_of
from ltdd_core.evaluation.lines import Line, check_recipe, line_of
from ltdd_core.evaluation.table import scores_of
from ltdd_core.networks.zoo import MLP
from ltdd_core.plugging.catalog import installed
from ltdd_core.setup import Setup
from ltdd_core.testing import tiny_long_tailed
from ltdd_decoupled.heads import (
    TAUS,
    NearestMeanHead,
    NormalisedHead,
    RetrainedHead,
    ScaledHead,
    _balanced,
    class_means_of,
    kept_aside,
)
from ltdd_losses.heads import LogitAdjustmentHead, MarginHead

PLAIN = PerChannel((0.0,), (1.0,))
COUNTS = (40, 12, 4, 1)
CATALOG = installed()
HEADS = CATALOG.names("head")


def images(n, seed=0):
    return torch.randn(n, 1, 2, 2, generator=generator(seed, "images"))


def toy(counts=COUNTS, spread=0.4):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = torch.randn(len(counts), 1, 2, 2, generator=generator(0, "centres"))
    pixels = centres[labels] + spread * images(len(labels), seed=1)
    return TrainingSet("original", pixels, labels, PLAIN, len(counts))


def trainer(seed=0, epochs=10, kind=Trainer, calls=None):
    settings = TrainingOptions(epochs=epochs, batch=16, lr=0.1)
    return kind(
        lambda shape, outputs: MLP(shape, outputs, MLP.Options(width=8, depth=1)),
        {"original": settings, "distilled": settings},
        Augmentation("none"),
        seed=seed,
        device=torch.device("cpu"),
        chunk=16,
        display=None if calls is None else Noting(calls),
        component=component_maker(CATALOG),
    )


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# ---- decoupled -----------------------------------------------------------------------------------


def test_a_retrained_layer_is_new_and_leaves_the_plain_network_as_it_was():
    data, made = toy(), trainer()
    plain = made.train(data, outputs=4)
    before = weights_of(plain)
    fitted = RetrainedHead(RetrainedHead.Options(batch=16)).fit([data], made)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    batch = images(5)
    assert torch.equal(fitted.logits.embed(batch), plain.embed(batch))
    assert not torch.equal(fitted.logits.linear.weight, plain.linear.weight)
    assert not torch.equal(fitted.log_probabilities(batch), plain(batch).log_softmax(1))


def test_a_retrained_layer_does_not_start_from_the_plain_one():
    """With hardly a step taken the weights are still those of a fresh layer."""
    data, made = toy(), trainer()
    plain = made.train(data, outputs=4)
    options = RetrainedHead.Options(epochs=1, lr=1e-9)
    found = RetrainedHead(options).fit([data], made).logits.linear
    bound = plain.linear.in_features**-0.5
    assert found.weight.abs().max() <= bound + 1e-6
    assert (found.weight - plain.linear.weight).abs().max() > 0.1


def test_the_second_stage_is_class_balanced():
    data = toy()
    order = _balanced(data).order
    drawn = torch.cat([data.labels[order(0.0, generator(seed, "order"))] for seed in range(60)])
    times = torch.bincount(drawn, minlength=4).double()
    chi_square = float(((times - times.mean()) ** 2 / times.mean()).sum())
    assert len(drawn) == 60 * sum(COUNTS)
    assert chi_square < 21.1  # the 99.99 % quantile for 3 degrees of freedom; the seeds are fixed


def test_the_tail_gains_from_the_second_stage():
    data, made = toy(spread=1.0), trainer()
    plain = made.train(data, outputs=4)(data.images).argmax(1)
    second = RetrainedHead(RetrainedHead.Options(batch=16)).fit([data], made).log_probabilities(data.images).argmax(1)
    assert (second > 1).sum() > (plain > 1).sum()


def test_scales_are_learned_and_nothing_else():
    data, made = toy(), trainer()
    plain = made.train(data, outputs=4)
    layer = ScaledHead(ScaledHead.Options(batch=16)).fit([data], made).logits.linear
    assert torch.equal(layer.weight, plain.linear.weight)
    assert torch.equal(layer.bias, plain.linear.bias)
    assert not torch.equal(layer.scale, torch.ones(4))
    features = plain.embed(images(3))
    expected = layer.scale * (features @ plain.linear.weight.T + plain.linear.bias)
    torch.testing.assert_close(layer(features), expected)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 2.0])
def test_tau_divides_the_weights_by_a_power_of_their_norm(tau):
    data, made = toy(), trainer()
    plain, batch = made.train(data, outputs=4), images(3)
    found = NormalisedHead(NormalisedHead.Options(tau=tau)).fit([data], made).logits(batch)
    for row, feature in zip(found, plain.embed(batch), strict=True):
        for value, weight in zip(row, plain.linear.weight, strict=True):
            assert value.item() == pytest.approx(float(feature @ weight) / weight.norm().item() ** tau, rel=1e-5)


def test_tau_is_the_best_one_on_the_images_kept_aside():
    data, calls = toy(), []
    made = trainer(calls=calls)
    head = NormalisedHead(NormalisedHead.Options())
    found = head._chosen(data, made)
    aside = kept_aside(data.labels, 0.2, generator(0, "kept aside"))
    part = made.train(data.only(~aside), outputs=4, purpose="classes without those kept aside")
    recalls = []
    for tau in TAUS:
        weight = part.linear.weight / part.linear.weight.norm(dim=1)[:, None] ** tau
        predicted = (part.embed(data.images[aside]) @ weight.T).argmax(1)
        own = data.labels[aside]
        recalls.append(sum((predicted[own == c] == c).double().mean().item() for c in own.unique()))
    assert found == TAUS[recalls.index(max(recalls))]
    assert calls == ["classes without those kept aside on the original set"]
    assert NormalisedHead(NormalisedHead.Options())._chosen(toy((1, 1, 1)), trainer()) == 1.0


@pytest.mark.parametrize("counts", [(40, 12, 4, 1), (1, 1), (5, 2), (3, 3, 3)])
def test_every_class_keeps_an_image_to_learn_from(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    aside = kept_aside(labels, 0.2, generator(0, "aside"))
    for label, count in enumerate(counts):
        assert int(aside[labels == label].sum()) == min(round(0.2 * count), count - 1)
    most = kept_aside(labels, 0.99, generator(0, "aside"))
    assert torch.bincount(labels[~most], minlength=len(counts)).min() >= 1


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("soft", [False, True])
def test_the_nearest_class_mean_wins(distance, soft):
    data, made = toy(), trainer()
    if soft:
        data = replace(data, soft_labels=SoftLabels(0.9 * F.one_hot(data.labels, 4).float() + 0.025))
    fitted = NearestMeanHead(NearestMeanHead.Options(distance=distance)).fit([data], made)
    plain, batch = made.train(data, outputs=4), images(20)
    own = data.targets() if soft else F.one_hot(data.labels, 4).float()
    features = plain.embed(data.images)
    means = [(own[:, c, None] * features).sum(0) / own[:, c].sum() for c in range(4)]
    for feature, found in zip(plain.embed(batch), fitted.log_probabilities(batch).argmax(1), strict=True):
        if distance == "cosine":
            near = [float(F.cosine_similarity(feature, mean, dim=0)) for mean in means]
        else:
            near = [-float((feature - mean).norm()) for mean in means]
        assert int(found) == near.index(max(near))


def test_the_mean_of_one_image_is_that_image():
    features = torch.randn(3, 5, generator=generator(0, "features"))
    means = class_means_of(features, torch.tensor([0, 1, 1]), 3)
    assert torch.equal(means[0], features[0])
    torch.testing.assert_close(means[1], features[1:].mean(0))
    assert torch.equal(means[2], torch.zeros(5))


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_adjusting_afterwards_moves_the_logits_of_the_plain_classifier(tau):
    data, made = toy(), trainer()
    options = LogitAdjustmentHead.Options(tau=tau, when="afterwards")
    found = LogitAdjustmentHead(options).fit([data], made).logits(images(6))
    plain = made.train(data, outputs=4)(images(6))
    for row, before in zip(found, plain, strict=True):
        for value, logit, count in zip(row, before, COUNTS, strict=True):
            expected = logit.item() - tau * torch.tensor(count / sum(COUNTS)).log().item()
            assert value.item() == pytest.approx(expected, abs=1e-5)


class Watching(Trainer):
    """Notes what a head asks for."""

    def train(self, data, **asked):
        self.asked = asked
        return super().train(data, **asked)


def test_weights_of_the_margin_loss_are_deferred():
    data, made = toy(), trainer(kind=Watching)
    MarginHead(MarginHead.Options()).fit([data], made)
    logits, labels = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 3])

    def both(progress):
        loss = made.asked["loss_at"](progress)
        return loss.each(logits, labels).tolist()

    assert both(0.0) == both(0.79)
    early, late = both(0.79), both(0.8)
    assert late == both(1.0)
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS]
    weights = [4 * value / sum(raw) for value in raw]
    assert [b / a for a, b in zip(early, late, strict=True)] == pytest.approx([weights[0], weights[3]])


def test_a_loss_that_changes_is_asked_for_once_an_epoch_from_0_to_1():
    asked = []

    def loss_at(progress):
        asked.append(progress)
        return F.cross_entropy

    found = trainer(epochs=5).train(toy(), outputs=4, loss_at=loss_at, purpose="changing")
    assert asked == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    plain = trainer(epochs=5).train(toy(), outputs=4, purpose="changing")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


def test_a_plain_network_is_not_taken_for_one_with_a_loss_of_its_own():
    """Whoever forgets to name a purpose gets a network of its own all the same."""
    made, data = trainer(), toy()
    plain = made.train(data, outputs=4)
    other = made.train(data, outputs=4, loss=lambda logits, labels: 0.5 * F.cross_entropy(logits, labels))
    assert other is not plain
    assert made.train(data, outputs=4) is plain


# ---- all of them ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["digits", "one image"])
def small(request):
    """A configuration, its data and a distilled set: digits-lt IF 50, and a set whose last class has one image."""
    training = {"original": {"epochs": 2}, "distilled": {"epochs": 2}}
    config = configure(
        method="dm",
        data={"name": "digits-lt", "imbalance": 50},
        ipc=2,
        network={"name": "mlp", "width": 16, "depth": 1},
        training=training,
        compute={"threads": 1},
    )
    whole = load_long_tailed("digits-lt", config.data.make()) if request.param == "digits" else None
    data = whole or tiny_long_tailed((12, 5, 2, 1))
    matcher = matcher_of(config, data)
    return config, data, distilled_set_of(matcher, matcher.task, config, data)


RECIPES = {
    "direct on distilled": {"name": "direct"},
    "direct on original": {"name": "direct", "data": "original"},
    "hierarchical": {"name": "hierarchical"},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_goes_with_every_recipe(small, head, recipe):
    config, data, distilled = small
    changed = replace(config, head=select(CATALOG, "head", {"name": head}), recipe=select(CATALOG, "recipe", recipe))
    if recipe["name"] == "hierarchical" and changed.head.component.stages == 1:
        with pytest.raises(InputError, match="stage"):
            check_recipe(changed)
        return
    run(line_of(changed), changed, data, distilled)


def test_the_second_layer_of_glmc_answers_and_is_one_network(small):
    config, data, _ = small
    with Setup.open(config, catalog=CATALOG, data=data) as setup:
        trainer = setup.trainer(None)
        network = trainer.component("head", "glmc").fit([setup.original], trainer).logits
        images, _ = setup.original.batch(torch.arange(3), torch.device("cpu"))
    assert isinstance(network, Network)
    logits = network.body(images)
    assert logits.shape == (3, 2 * data.classes)
    torch.testing.assert_close(network(images), logits[:, data.classes :])
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("head", [name for name in HEADS if CATALOG.get("head", name).load().stages == 1])
def test_every_head_trains_either_stage(small, head, stage):
    config, data, distilled = small
    two_stage = select(CATALOG, "head", {"name": "twostage", stage: head})
    run(Line("line", two_stage, ("original", "distilled")), config, data, distilled)


def run(line, config, data, distilled):
    with Setup.open(config, catalog=CATALOG, data=data) as setup:
        found = scores_of(line, setup, distilled).log_probabilities
    assert found.shape == (len(data.test_labels), data.classes)
    assert not found.isnan().any()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found)))


def test_a_component_that_an_option_names_is_looked_up_at_once():
    with pytest.raises(InputError, match=r"experts\.sampler.*Did you mean 'class-balanced'"):
        configure(method="mtt", experts={"sampler": "clas-balanced"})
