"""Several networks trained at once: each is the one that is trained alone, up to rounding."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from ltdd_core.errors import RunFailed
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.cosine import CosineLinear
from ltdd_core.networks.job import Start
from ltdd_core.networks.zoo import MLP, ConvNet, ResNet32
from ltdd_core.seeding import global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.loop import Learner, UnequalEpochs, train, train_together
from ltdd_core.training.losses import WeightedLoss, cross_entropy
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels
from ltdd_core.training.trainer import FrozenBody

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
CLASSES = 3
USUAL = {"epochs": 3, "batch": 5, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}


class Identity:
    """A normalisation that changes nothing."""

    once = True

    def apply(self, images):
        return images


def images(seed=0, count=12):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, *SHAPE, generator=draws, dtype=torch.float64) + labels.view(-1, 1, 1, 1) / 2
    return TrainingSet("original", pixels, labels, Identity(), CLASSES)


SOFT = SoftLabels(torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(5)), "logits")


def of_views(seen):
    return SoftLabels(seen.flatten(1)[:, :CLASSES], "logits")


def weighed(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none") * (1.0 + labels)


def convnet(norm="instance"):
    return ConvNet(SHAPE, CLASSES, ConvNet.Options(width=4, depth=2, norm=norm))


def learners(count=3, make=convnet, data=None, **given):
    """Networks that differ in their initial weights and in all that is drawn.

    They are in float64: the gradient of a bias before a normalisation is nothing but rounding, of which AdamW makes
    whole steps.
    """
    found = []
    for seed in range(count):
        with global_generator(seed, "weights"):
            network = make().double()
        own = {"loss": cross_entropy, "loss_at": None, "augmentation": Augmentation("crop_flip_scale_color"), **given}
        found.append(Learner(network, images() if data is None else data, seed=seed, purpose=f"network {seed}", **own))
    return found


def alone(learner, options, **given):
    own = {name: value for name, value in vars(learner).items() if name not in ("network", "data")}
    return train(learner.network, learner.data, options, **own, device=CPU, chunk=32, **given)


def together(some, options, chunk=96, precision="fp32", keep_going=lambda: None):
    train_together(some, options, device=CPU, keep_going=keep_going, chunk=chunk, precision=precision)


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.network.state_dict(), other.network.state_dict(), **tolerance)


CASES = {
    "plain SGD": {},
    "momentum, weight decay, the step schedule": {"momentum": 0.9, "weight_decay": 0.01},
    "AdamW with a cosine and a warm-up": {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 1},
    "a moving average": {"momentum": 0.9, "average": 0.8},
    "mixup and CutMix": {"mixup": 0.8, "cutmix": 1.0, "epochs": 4},
    "label smoothing": {"label_smoothing": 0.1},
}
SETS = {
    "soft labels": ({"soft_labels": SOFT}, {"hard_weight": 0.5}),
    "logits, by their distance": ({"soft_labels": SOFT}, {"soft_loss": "mse", "mixup": 1.0}),
    "logits at a temperature": ({"soft_labels": SOFT}, {"soft_loss": "kl", "temperature": 2.0}),
    "labels of each view": ({"view_labels": of_views}, {"cutmix": 1.0}),
    "an order that changes": ({"order": lambda progress, draws: torch.randperm(12, generator=draws)[:7]}, {}),
}
LOSSES = {
    "a loss that weighs images": {"loss": WeightedLoss(weighed, lambda labels: 1.0 + labels)},
    "a loss that changes": {"loss_at": lambda progress: lambda z, y: (1 + progress) * cross_entropy(z, y)},
}


def check(options, chunk=96, **given):
    """Train alone and at once, and compare networks and what is told after each epoch."""
    told = {}

    def noting(who):
        def note(seed, epoch):
            told.setdefault((who, seed), []).append((epoch.done, epoch.loss))

        return [replace(each, after_epoch=partial(note, each.seed)) for each in learners(**given)]

    at_once, one_by_one = noting("together"), noting("alone")
    before = [each.network.linear.weight.clone() for each in at_once]
    together(at_once, options, chunk)
    for each in one_by_one:
        alone(each, options)
    assert_same(at_once, one_by_one, rtol=1e-7, atol=1e-8)
    for each, was in zip(at_once, before, strict=True):
        done, losses = zip(*told["together", each.seed], strict=True)
        assert done == tuple(range(1, options.epochs + 1))
        assert losses == pytest.approx([loss for _, loss in told["alone", each.seed]], rel=1e-8)
        assert not torch.allclose(each.network.linear.weight, was)
        assert not any(layer.training for layer in each.network.modules())
        assert not any(value.requires_grad for value in each.network.parameters())
    assert len({float(each.network.linear.weight.sum()) for each in at_once}) == len(at_once)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("case", CASES)
def test_each_network_is_the_one_that_is_trained_alone(case, norm):
    """Batches of 5, 5 and 2 images; batch normalisation has running statistics."""
    check(TrainingOptions(**USUAL | CASES[case]), make=lambda: convnet(norm))


@pytest.mark.parametrize("case", SETS)
def test_labels_and_orders_are_those_of_each_network(case):
    of_set, options = SETS[case]
    check(TrainingOptions(**USUAL | options), data=replace(images(), **of_set))


@pytest.mark.parametrize("case", LOSSES)
def test_losses_are_those_of_a_training_alone(case):
    check(TrainingOptions(**USUAL), **LOSSES[case])


def test_batch_normalisation_of_a_single_last_image_keeps_its_averages():
    check(TrainingOptions(**USUAL | {"batch": 11}), make=lambda: convnet("batch"))


def test_chunks_do_not_change_the_gradients():
    check(TrainingOptions(**USUAL | {"batch": 12, "mixup": 1.0}), chunk=9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(SHAPE, CLASSES, MLP.Options(width=5)),
        lambda: ResNet32(SHAPE, CLASSES, ResNet32.Options(width=2)),
        lambda: FrozenBody(CompiledNetwork(convnet("batch"), "fp32", compiled=False).eval(), nn.Linear(16, CLASSES)),
        lambda: FrozenBody(convnet("batch").eval(), CosineLinear(16, CLASSES, 8.0)),
    ],
    ids=["MLP", "ResNet-32", "a frozen body that is in two places", "a layer of cosines"],
)
def test_networks_of_other_kinds(make):
    check(TrainingOptions(**USUAL | {"epochs": 2}), count=2, make=make)


def test_only_what_learns_is_changed():
    def make():
        network = convnet()
        network.features[0].requires_grad_(False)
        return network

    some = learners(make=make)
    before = [each.network.features[0].weight.clone() for each in some]
    together(some, TrainingOptions(**USUAL | {"weight_decay": 0.1}))
    assert all(torch.equal(each.network.features[0].weight, was) for each, was in zip(some, before, strict=True))


def test_bf16_is_that_of_a_training_alone():
    options, some, others = TrainingOptions(**USUAL), learners(), learners()
    for each in (*some, *others):
        each.network.float()
    data = replace(images(), images=images().images.float())
    some, others = ([replace(each, data=data) for each in these] for these in (some, others))
    together(some, options, precision="bf16")
    for each in others:
        alone(each, options, precision="bf16")
    assert_same(some, others, rtol=0.05, atol=0.02)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("options", [{"momentum": 0.9, "average": 0.9}, {"optimizer": "adamw", "lr": 0.01}])
@pytest.mark.parametrize("then", ["together", "alone"])
def test_what_is_stopped_goes_on_together_or_alone(options, then):
    """The state of each after an epoch is that of a training alone, which the other way of training takes up."""
    options = TrainingOptions(**USUAL | {"epochs": 4} | options)
    kept = {}

    def keep(seed, epoch):
        if epoch.done == 2:
            kept[seed] = {name: value.clone() for name, value in epoch.state().items()}

    whole = learners(make=lambda: convnet("batch"))
    together([replace(each, after_epoch=partial(keep, each.seed)) for each in whole], options)
    rest = [replace(each, start=Start(2, kept[each.seed])) for each in learners(make=lambda: convnet("batch"))]
    if then == "together":
        together(rest, options)
    else:
        for each in rest:
            alone(each, options)
    assert_same(rest, whole, rtol=1e-7, atol=1e-8)


def test_a_network_owns_its_tensors_afterwards_also_of_a_training_that_is_stopped():
    def stop():
        raise Stopped

    for keep_going in (lambda: None, stop):
        some = learners()
        with suppress(Stopped):
            together(some, TrainingOptions(**USUAL), keep_going=keep_going)
        for each in some:
            for value in (*each.network.parameters(), *each.network.buffers()):
                assert value.untyped_storage().nbytes() == value.nbytes


def test_the_network_that_diverges_is_named():
    def loss(logits, labels):
        return cross_entropy(logits, labels) * float("inf")

    some = learners()
    some[1] = replace(some[1], loss=loss)
    with pytest.raises(RunFailed, match=r"^training of network 1 diverged in epoch 1: its weights are not finite"):
        together(some, TrainingOptions(**USUAL))


def test_samplers_that_draw_unequal_numbers_of_images_are_found_out():
    some = learners(
        data=replace(
            images(), order=lambda progress, draws: torch.arange(int(torch.randint(2, 12, (), generator=draws)))
        )
    )
    with pytest.raises(UnequalEpochs):
        together(some, TrainingOptions(**USUAL))
