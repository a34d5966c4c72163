"""The presets of long-tailed recognition have the training of the public code of LDAM-DRW, epoch by epoch."""

import json

import pytest
import torch
from torch.nn import functional as F

from ltdd_core import PerChannel, Trainer, TrainingSet, cross_entropy
from ltdd_core.api import configure_original
from ltdd_core.config.layers import Layer
from ltdd_core.networks.zoo import MLP
from ltdd_core.plugging.catalog import installed
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.loop import train

PLAIN = PerChannel((0.0,), (1.0,))
COUNTS = [40, 12, 4, 1]
HEADS = {
    "ce-200": "linear",
    "drw-200": "class-balanced",
    "ldam-drw-200": "ldam",
    "mixup-drw-200": "class-balanced",
    "balanced-softmax-200": "balanced-softmax",
}
DEFERRED = ["drw-200", "ldam-drw-200", "mixup-drw-200"]


def recognition(preset, data="cifar10-lt"):
    return configure_original([Layer("test", {"data": {"name": data}})], preset)


def published_rate(epoch):
    """Literally; epochs are counted from 1 in it."""
    epoch = epoch + 1
    if epoch <= 5:
        return 0.1 * epoch / 5
    if epoch > 180:
        return 0.1 * 0.0001
    if epoch > 160:
        return 0.1 * 0.01
    return 0.1


def published_weights(epoch, counts):
    beta = [0, 0.9999][epoch // 160]
    raw = [(1 - beta) / (1 - beta**count) for count in counts]
    return [weight / sum(raw) * len(counts) for weight in raw]


def toy():
    labels = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))
    return TrainingSet("original", torch.randn(len(labels), 1, 2, 2), labels, PLAIN, 4)


@pytest.mark.parametrize("preset", HEADS)
def test_every_epoch_has_the_published_learning_rate(preset, monkeypatch):
    """In the optimizer, at each of the 200 epochs; whatever the data source suggests."""
    config = recognition(preset)
    options, seen = config.training.original, []
    assert options == recognition(preset, "digits-lt").training.original
    step = torch.optim.SGD.step

    def noted(self, *given):
        seen.append((self.param_groups[0]["lr"], self.defaults["momentum"], self.defaults["weight_decay"]))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    one = TrainingSet("original", torch.randn(2, 1, 2, 2), torch.tensor([0, 1]), PLAIN, 2)
    where = {"augmentation": Augmentation("none"), "seed": 0, "purpose": "rates", "device": torch.device("cpu")}
    train(MLP((1, 2, 2), 2, MLP.Options(width=2)), one, options, loss=cross_entropy, **where)
    assert len(seen) == 200
    assert [rate for rate, _, _ in seen] == pytest.approx([published_rate(epoch) for epoch in range(200)], rel=1e-12)
    assert {others for _, *others in map(tuple, seen) for others in [tuple(others)]} == {(0.9, 2e-4)}
    some = {epoch: seen[epoch][0] for epoch in (0, 1, 2, 3, 4, 5, 159, 160, 180, 199)}
    assert list(some.values()) == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.001, 0.00001, 0.00001])


@pytest.mark.parametrize("preset", HEADS)
def test_the_rest_of_the_training_is_the_published_one(preset):
    config = recognition(preset)
    options = config.training.original
    assert (config.network.name, config.network.options.width, config.head.name) == ("resnet32", 16, HEADS[preset])
    assert (options.optimizer, options.batch, options.augment) == ("sgd", 128, "crop-flip")
    mixed = 1.0 if preset == "mixup-drw-200" else 0.0
    assert (options.mixup, options.cutmix, options.average, options.label_smoothing) == (mixed, 0, 0, 0)


class Watching(Trainer):
    """Notes what a head asks for, and trains nothing."""

    def train(self, data, **asked):
        self.asked = asked
        return MLP((1, 2, 2), 4, MLP.Options(width=2))


@pytest.mark.parametrize("preset", DEFERRED)
def test_classes_are_weighted_from_epoch_160_on(preset, monkeypatch):
    """The loss that each epoch of a training of 200 has, against the weighted cross-entropy of the public codes."""
    head, progresses = recognition(preset).head.make(), []
    watching = Watching(None, {}, Augmentation("none"), seed=0, device=torch.device("cpu"), chunk=8)
    head.fit([toy()], watching)
    options = recognition(preset).training.original
    where = {"augmentation": Augmentation("none"), "seed": 0, "purpose": "weights", "device": torch.device("cpu")}
    one = TrainingSet("original", torch.randn(2, 1, 2, 2), torch.tensor([0, 1]), PLAIN, 2)

    def noted(progress):
        progresses.append(progress)
        return cross_entropy

    train(MLP((1, 2, 2), 2, MLP.Options(width=2)), one, options, loss=cross_entropy, loss_at=noted, **where)
    logits = torch.randn(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    for epoch in (0, 159, 160, 199):
        weight = torch.tensor(published_weights(epoch, COUNTS), dtype=torch.float64)
        if preset == "ldam-drw-200":
            margin = torch.tensor([0.5 * (1 / count) ** 0.25 for count in COUNTS], dtype=torch.float64)
            lowered = logits - 30 * margin * F.one_hot(labels, 4)
            expected = F.cross_entropy(lowered, labels, weight=weight)
        else:
            expected = F.cross_entropy(logits, labels, weight=weight, reduction="none").mean()
        found = watching.asked["loss_at"](progresses[epoch])(logits, labels)
        torch.testing.assert_close(found, expected)
    assert published_weights(159, COUNTS) == [1] * 4 != published_weights(160, COUNTS)


def test_a_shorter_training_keeps_its_course():
    """50 epochs: the rate falls, and classes are weighted, at the same share of them."""
    from ltdd_core.training.loop import _factor

    layers = [Layer("test", {"data": {"name": "cifar10-lt"}, "training": {"original": {"epochs": 50}}})]
    options = configure_original(layers, "ldam-drw-200").training.original
    factors = [_factor(options, epoch, 50) for epoch in range(50)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 36, *[0.01] * 5, *[0.0001] * 5])


def test_every_preset_says_what_it_is(ltdd):
    rows = json.loads(ltdd("describe", "preset", "--json").stdout)
    assert [row["name"] for row in rows] == installed().names("preset")
    assert all(row["about"].endswith(".") for row in rows)
    shown = ltdd("describe", "preset", "ldam-drw-200").stdout
    assert "77.75 published (imbalanced-DL)" in shown
    assert "epochs 160 and 180 of 200, counted from 0" in shown


@pytest.mark.parametrize("part", ["original", "distilled"])
@pytest.mark.parametrize(
    ("share", "said"), [("160", "160 is no share"), ("0", "0 is no share"), ("1.0", "1 is no share")]
)
def test_a_milestone_that_is_an_epoch_is_refused_with_the_share_it_would_be(ltdd, part, share, said):
    result = ltdd("distill", "--method", "dm", "--set", f"training.{part}.milestones=[{share}]")
    assert result.exit_code == 2
    assert f"training.{part}.milestones: {said} of the epochs" in result.stderr
    assert "epoch 160 of 200 is 0.8" in result.stderr
