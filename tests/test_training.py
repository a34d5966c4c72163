"""The training loop: schedules, determinism, one image, and what is trained only once; mixing and the objective."""

import copy
import math
import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Noting
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from ltdd_core import (
    Augmentation,
    CompiledNetwork,
    InputError,
    PerChannel,
    RunFailed,
    SoftLabels,
    Trainer,
    TrainingSet,
    cross_entropy,
    generator,
)
from ltdd_core.networks.job import Start
from ltdd_core.networks.zoo import MLP, ConvNet, ResNet18
from ltdd_core.seeding import global_generator
from ltdd_core.training import fitting
from ltdd_core.training.fitting import bytes_of_step, check_step_fits
from ltdd_core.training.gradient import gradient_in_chunks
from ltdd_core.training.loop import _factor, train
from ltdd_core.training.losses import WeightedLoss
from ltdd_core.training.mixing import mixed
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import made_ahead

PLAIN = PerChannel((0.0,), (1.0,))
CPU = torch.device("cpu")


def toy(n=24, classes=3, name="original", soft=False, seed=0):
    """Images whose brightness is their class."""
    labels = torch.arange(n) % classes
    images = labels[:, None, None, None] + 0.3 * torch.randn(n, 1, 8, 8, generator=generator(seed, "toy"))
    said = SoftLabels(0.7 * F.one_hot(labels, classes) + 0.3 / classes) if soft else None
    return TrainingSet(name, images, labels, PLAIN, classes, soft_labels=said)


def small(kind=ConvNet, outputs=3, **options):
    with global_generator(0, "small"):
        defaults = {"width": 4, "depth": 1} if kind is not ResNet18 else {}
        return kind((1, 8, 8), outputs, kind.Options(**{**defaults, **options}))


def trained(data=None, network=None, *, augmentation="none", **given):
    options = {name: given.pop(name) for name in list(given) if name in TrainingOptions.model_fields}
    settings = TrainingOptions(**{"epochs": 4, "batch": 10, **options})
    defaults = {"loss": cross_entropy, "seed": 0, "purpose": "classes", "device": CPU}
    augment = Augmentation(augmentation)
    return train(network or small(), data or toy(), settings, augmentation=augment, **{**defaults, **given})


def weights(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


WARM_UP = re.escape(
    'warmup takes 2 of the 2 epochs that 6 steps are here: use a smaller number, training={"original": {"warmup": N}}.'
)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 400), st.integers(1, 9000))
def test_a_length_in_steps_is_that_of_whole_epochs(images, batch, epochs, steps):
    of_an_epoch = math.ceil(images / batch)
    passes = TrainingOptions(epochs=f"{steps} steps", batch=batch).passes(images)
    assert (passes - 1) * of_an_epoch < steps <= passes * of_an_epoch
    either = TrainingOptions(epochs=f"{epochs} or {steps} steps", batch=batch)
    assert either.passes(images) == max(epochs, passes)
    assert TrainingOptions(epochs=epochs).passes(images) == epochs


def test_a_length_in_steps_trains_as_long_and_a_warm_up_leaves_some_of_it():
    options = {"batch": 10, "schedule": "cosine", "warmup": 2}  # of 24 images, three steps an epoch
    said, long = trained(epochs="2 or 14 steps", **options), trained(epochs=5, **options)
    assert torch.equal(weights(said), weights(long))
    with pytest.raises(InputError, match=WARM_UP):
        trained(epochs="6 steps", **options)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 300])
def test_learning_rates_of_the_epochs(epochs):
    def factors(schedule):
        return [_factor(TrainingOptions(epochs=epochs, schedule=schedule), epoch, epochs) for epoch in range(epochs)]

    assert factors("constant") == [1.0] * epochs
    assert factors("step") == [1.0 if epoch < epochs // 2 + 1 else 0.1 for epoch in range(epochs)]
    assert factors("cosine") == pytest.approx([(1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)])


def test_a_warm_up_rises_in_equal_steps_and_the_course_begins_after_it():
    def factors(**options):
        options = TrainingOptions(epochs=8, warmup=3, **options)
        return [_factor(options, epoch, 8) for epoch in range(8)]

    assert factors(schedule="constant") == [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]
    assert factors(schedule="step") == [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 0.1, 0.1]
    falling = [(1 + math.cos(math.pi * e / 5)) / 2 for e in range(5)]
    assert factors(schedule="cosine") == pytest.approx([1 / 4, 2 / 4, 3 / 4, *falling])


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_a_whole_training_against_sgd_written_out(schedule):
    """Momentum, weight decay, the schedule, the order of the images and the last, smaller batch."""
    data, network, reference = toy(), small(MLP).double(), small(MLP).double()
    data = replace(data, images=data.images.double())
    trained(data, network, schedule=schedule, epochs=5, lr=0.1, momentum=0.8, weight_decay=0.01)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for epoch in range(5):
        rate = {"step": 1.0 if epoch < 3 else 0.1, "cosine": (1 + math.cos(math.pi * epoch / 5)) / 2, "constant": 1.0}
        order = torch.randperm(24, generator=generator(0, "classes: epoch", epoch))
        for part in (order[:10], order[10:20], order[20:]):
            loss = 0
            for i in part:
                loss = loss - reference(data.images[i][None]).log_softmax(1)[0, data.labels[i]] / len(part)
            gradients = torch.autograd.grad(loss, list(reference.parameters()))
            with torch.no_grad():
                for p, v, g in zip(reference.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.8).add_(g + 0.01 * p)
                    p.sub_(0.1 * rate[schedule] * v)
    for found, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_whole_training_against_adamw_written_out():
    """With a warm-up, and the last, smaller batch."""
    data, network, reference = toy(), small(MLP).double(), small(MLP).double()
    data = replace(data, images=data.images.double())
    options = {"optimizer": "adamw", "epochs": 5, "warmup": 2, "lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}
    trained(data, network, schedule="constant", **options)
    parameters, step = list(reference.parameters()), 0
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for epoch in range(5):
        lr = 0.01 * [1 / 3, 2 / 3, 1, 1, 1][epoch]
        order = torch.randperm(24, generator=generator(0, "classes: epoch", epoch))
        for part in (order[:10], order[10:20], order[20:]):
            step += 1
            loss = F.cross_entropy(reference(data.images[part]), data.labels[part])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, m, v, g in zip(parameters, first, second, gradients, strict=True):
                    p.mul_(1 - lr * 0.1)
                    m.mul_(0.8).add_(0.2 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    p.sub_(lr * (m / (1 - 0.8**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for found, expected in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_average_of_the_weights_against_a_loop(norm):
    """The plain mean of the first steps, then the moving average; of the averages of batch normalisation too."""
    network, seen = small(norm=norm), []
    floats = [name for name, value in network.state_dict().items() if value.is_floating_point()]

    def note(*_):
        seen.append({name: network.state_dict()[name].clone() for name in floats})

    trained(network=small(norm=norm), average=0.7)
    trained(network=network, keep_going=note, after_epoch=lambda epoch: note() if epoch.done == 4 else None)
    states, plain = seen[1:], small(norm=norm)
    assert len(states) == 4 * 3
    expected = {name: torch.zeros_like(value) for name, value in states[0].items()}
    for number, state in enumerate(states):
        kept = min(0.7, number / (number + 1))
        for name in floats:
            expected[name] = kept * expected[name] + (1 - kept) * state[name]
    trained(network=plain, average=0.7)
    for name in floats:
        torch.testing.assert_close(plain.state_dict()[name], expected[name])
    assert not torch.equal(weights(plain), weights(network))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_teacher_labels_the_images_as_a_step_sees_them(mixing, chunk):
    """Augmented, then mixed, at most a chunk at once; the labels are not mixed once more."""
    teacher, asked = small(MLP, width=5).double().requires_grad_(False), []

    def view_labels(images):
        asked.append(images)
        return SoftLabels(teacher(images), "logits")

    images = toy().images.double()
    data, network, reference = replace(toy(soft=True), images=images, view_labels=view_labels), small(MLP), small(MLP)
    options = {"soft_loss": "mse", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1, **mixing}
    trained(data, network.double(), augmentation="color_flip", epochs=2, chunk=chunk, **options)
    reference.double()
    for epoch in range(2):
        draws = generator(0, "classes: epoch", epoch)
        order = torch.randperm(24, generator=draws)
        for part in (order[:10], order[10:20], order[20:]):
            seen = Augmentation("color_flip").draw((1, 8, 8), draws, len(part))(images[part])
            seen, _ = mixed(seen, mixing.get("mixup", 0), mixing.get("cutmix", 0), draws)
            sizes = [len(part)] if chunk is None else [3] * (len(part) // 3) + [len(part) % 3]
            of_step = [asked.pop(0) for _ in filter(None, sizes)]
            assert [len(one) for one in of_step] == sizes
            assert torch.equal(torch.cat(of_step), seen)
            z, f = reference(seen), teacher(seen)
            loss = ((z - z.mean(1, keepdim=True)) - (f - f.mean(1, keepdim=True))).square().mean()
            gradients = torch.autograd.grad(loss, list(reference.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    assert not asked
    torch.testing.assert_close(weights(network), weights(reference))


EVERYTHING = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "warmup": 1,
    "mixup": 0.4,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "average": 0.9,
    "soft_loss": "kl",
    "temperature": 2.0,
    "hard_weight": 0.1,
}


@pytest.mark.parametrize("options", [{}, EVERYTHING])
@pytest.mark.parametrize("soft", [False, True])
def test_training_twice_gives_the_same_network(options, soft):
    first, second = (trained(toy(soft=soft), augmentation="color_crop", **options) for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert torch.isfinite(weights(first)).all()


@pytest.mark.parametrize("soft", [False, True])
def test_mixup_against_its_equation(soft):
    images, labels = torch.randn(7, 1, 2, 2, generator=generator(0, "x")), torch.arange(7) % 3
    one_hot = F.one_hot(labels, 3).float()
    draws, again = generator(0, "mixup"), generator(0, "mixup")
    part = np.random.default_rng(int(torch.randint(2**31, (), generator=again))).beta(0.4, 0.4)
    other = torch.randperm(7, generator=again)
    found, mix = mixed(images, 0.4, 0.0, draws)
    logits = torch.randn(7, 3, generator=generator(0, "logits"))
    expected_loss = 0
    for i, j in enumerate(other.tolist()):
        torch.testing.assert_close(found[i], part * images[i] + (1 - part) * images[j])
        own = part * one_hot[i] + (1 - part) * one_hot[j]
        expected_loss = expected_loss - (own * logits[i].log_softmax(0)).sum() / 7
        torch.testing.assert_close(mix.of_values(one_hot)[i], own)
    given_labels = one_hot if soft else labels
    torch.testing.assert_close(mix.of_loss(cross_entropy)(logits, mix.pairs(given_labels)), expected_loss.float())


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    alpha=st.sampled_from([0.2, 1.0, 5.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_cutmix_replaces_a_rectangle_and_its_share_is_that_of_the_pixels(height, width, alpha, seed):
    images = torch.arange(5.0)[:, None, None, None].expand(5, 2, height, width)
    draws, again = generator(seed, "cutmix"), generator(seed, "cutmix")
    found, mix = mixed(images, 0.0, alpha, draws)
    drawn = np.random.default_rng(int(torch.randint(2**31, (), generator=again))).beta(alpha, alpha)
    partner = torch.randperm(5, generator=again)
    y, x = (int(torch.randint(size, (), generator=again)) for size in (height, width))
    tall, wide = int(height * (1 - drawn) ** 0.5), int(width * (1 - drawn) ** 0.5)
    top, left, replaced = y - tall // 2, x - wide // 2, 0
    for row in range(height):
        for column in range(width):
            inside = top <= row < top + tall and left <= column < left + wide
            replaced += inside
            for i in range(5):
                assert (found[i, :, row, column] == (partner[i] if inside else i)).all()
    assert torch.equal(mix.partner, partner)
    assert mix.part == pytest.approx(1 - replaced / (height * width))
    assert replaced <= (1 - drawn) * height * width + 1e-9


def test_with_mixup_and_cutmix_a_batch_has_either_with_equal_chances():
    images, cut = torch.rand(4, 1, 16, 16, generator=generator(0, "x")), []
    for seed in range(400):
        found, mix = mixed(images, 1.0, 1.0, generator(seed, "either"))
        blended = mix.of_values(images)
        cut.append(not torch.equal(found, blended))
        values = torch.isin(found, images) if cut[-1] else torch.isclose(found, blended)
        assert values.all()
    assert 160 < sum(cut) < 240


def test_mixup_trains_and_none_is_none():
    plain = weights(trained(soft := toy(soft=True)))
    assert torch.equal(weights(trained(soft, mixup=0.0)), plain)
    assert not torch.equal(weights(trained(soft, mixup=0.4)), plain)
    for mixing in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}):
        assert not torch.equal(weights(trained(soft, **mixing)), plain)
        torch.testing.assert_close(
            weights(trained(chunk=3, **mixing)), weights(trained(**mixing)), rtol=1e-3, atol=1e-5
        )


def test_the_same_seed_and_purpose_give_the_same_network_and_others_another():
    def network(**settings):
        return weights(trained(augmentation="color_crop_flip", **settings))

    first, before = network(), torch.random.get_rng_state()
    torch.rand(5)
    assert torch.equal(first, network())
    assert not torch.equal(first, network(seed=1))
    assert not torch.equal(first, network(purpose="groups"))
    torch.random.set_rng_state(before)
    network()
    assert torch.equal(before, torch.random.get_rng_state())


def test_dropout_draws_are_private():
    class Dropped(MLP):
        def embed(self, images):
            return F.dropout(super().embed(images), 0.5, self.training)

    before = torch.random.get_rng_state()
    first, second = (weights(trained(network=small(Dropped))) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(trained(network=small(MLP))))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_falls_and_the_classes_are_learnt(soft):
    data, network = toy(60, soft=soft), small(width=8)
    start = cross_entropy(network(data.images), data.labels).item()
    trained(data, network, epochs=30, lr=0.05)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    logits = network(data.images)
    assert cross_entropy(logits, data.labels).item() < 0.75 * start
    assert (logits.argmax(1) == data.labels).float().mean() > 0.9


def test_soft_labels_that_are_one_hot_train_as_hard_ones():
    data = toy()
    hot = replace(data, soft_labels=SoftLabels(F.one_hot(data.labels, 3).float()))
    torch.testing.assert_close(weights(trained(data)), weights(trained(hot)))


def test_soft_cross_entropy_is_the_sum_over_classes():
    logits, labels = torch.randn(4, 3, generator=generator(0, "l")), toy(4, soft=True).targets()
    expected = [
        -sum(y * p.log() for y, p in zip(row, z.softmax(0), strict=True)) for row, z in zip(labels, logits, strict=True)
    ]
    torch.testing.assert_close(cross_entropy(logits, labels), sum(expected) / 4)


@pytest.mark.parametrize("network", [(ConvNet, {}), (ConvNet, {"norm": "batch"}), (ResNet18, {}), (MLP, {})])
@pytest.mark.parametrize("images", [1, 11])
def test_a_batch_of_one_image_is_a_normal_case(network, images):
    """ResNet-18 turns 8x8 pixels into one, of whose single value batch normalisation has no variance."""
    kind, options = network
    before = weights(small(kind, **options))
    result = trained(toy(images), small(kind, **options), epochs=2)
    assert torch.isfinite(weights(result)).all()
    assert not torch.equal(weights(result), before)
    norms = [m for m in result.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(int(m.num_batches_tracked) == (2 if images == 11 else 0) for m in norms)


def test_the_order_decides_what_is_seen_and_when():
    asked, seen = [], []

    def order(progress, draws):
        asked.append((progress, torch.rand((), generator=draws).item()))
        return torch.tensor([5, 5, 2])

    def loss(logits, labels):
        seen.append(labels.tolist())
        return cross_entropy(logits, labels)

    data = replace(toy(), order=order)
    trained(data, epochs=3, batch=2, loss=loss)
    assert [progress for progress, _ in asked] == [0, 0.5, 1]
    assert len({draw for _, draw in asked}) == 3
    assert seen == [[2, 2], [2]] * 3


def test_an_epoch_without_images_is_passed_over():
    """A sampler can draw none of the few images of a stage."""

    def order(progress, draws):
        return torch.arange(24 if progress == 1 else 0)

    result = trained(replace(toy(), order=order), epochs=2)
    assert torch.isfinite(weights(result)).all()
    assert not torch.equal(weights(result), weights(small()))


def test_weights_that_are_not_finite_are_an_error_that_says_what_to_try():
    with pytest.raises(RunFailed, match=r"training of classes diverged in epoch 1.*smaller learning rate than 1e\+30"):
        trained(lr=1e30)
    with pytest.raises(RunFailed, match=r'diverged.*training={"original": {"lr": \.\.\.}}'):
        trainer(lr=1e30).train(toy(), outputs=3)


@pytest.mark.parametrize("chunk", [1, 3, 7, 10])
def test_gradients_in_chunks_add_up_to_those_of_the_batch(chunk):
    whole, parts = (trained(data=toy(23), augmentation="color_crop", **extra) for extra in ({}, {"chunk": chunk}))
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-4, atol=1e-6)


CLASS_WEIGHTS = torch.tensor([4.0, 0.9, 0.02], dtype=torch.float64)
WEIGHED = WeightedLoss(
    each=lambda z, y: -(CLASS_WEIGHTS * of_classes(y) * z.log_softmax(1)).sum(1),
    weight=lambda y: of_classes(y) @ CLASS_WEIGHTS,
)


def of_classes(labels):
    return F.one_hot(labels, 3).double() if labels.dim() == 1 else labels.double()


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    chunk=st.integers(1, 13),
    soft=st.booleans(),
    mixing=st.sampled_from([(0.0, 0.0), (0.4, 0.0), (0.0, 1.0)]),
    loss=st.sampled_from([cross_entropy, WEIGHED]),
)
@settings(max_examples=150, deadline=None)
def test_the_gradient_of_a_loss_does_not_depend_on_the_chunk(labels, chunk, soft, mixing, loss):
    """Hard and soft labels, mixed or not, with weights that the parts of a batch have unequal sums of."""
    images = torch.randn(len(labels), 1, 8, 8, dtype=torch.float64, generator=generator(0, "images"))
    y = torch.tensor(labels)
    if soft:
        y = 0.7 * F.one_hot(y, 3).double() + 0.3 * torch.rand(len(y), 3, generator=generator(0, "soft")).softmax(1)
    network = small(MLP, width=4).double()
    images, mix = mixed(images, *mixing, generator(0, "mixup"))
    y, both = (y, loss) if mix is None else (mix.pairs(y), mix.of_loss(loss))
    whole = torch.autograd.grad(both(network(images), y), list(network.parameters()))
    found = gradient_in_chunks(network, list(network.parameters()), images, y, both, chunk)
    for gradient, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("soft", [False, True])
def test_a_weighted_loss_is_divided_by_the_weights_of_the_whole_batch(soft, alpha):
    """Its equation written out, each of the two labels of a mixed pair over the batch's sum."""
    labels = torch.tensor([0, 2, 2, 1, 2])
    y = 0.8 * of_classes(labels) + 0.2 / 3 if soft else labels
    draws, again = generator(0, "mixup"), generator(0, "mixup")
    part = np.random.default_rng(int(torch.randint(2**31, (), generator=again))).beta(0.4, 0.4) if alpha else 1.0
    other = torch.randperm(5, generator=again) if alpha else torch.arange(5)
    _, mix = mixed(torch.zeros(5, 1, 1, 1), alpha, 0.0, draws)
    both, loss = (y, WEIGHED) if mix is None else (mix.pairs(y), mix.of_loss(WEIGHED))
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(0, "z"))
    expected, own = 0.0, of_classes(y)
    for ratio, target in ((part, own), (1 - part, own[other])):
        each = [-sum(CLASS_WEIGHTS * target[i] * z[i].log_softmax(0)) for i in range(5)]
        expected += ratio * sum(each) / sum(sum(CLASS_WEIGHTS * target[i]) for i in range(5))
    torch.testing.assert_close(loss(z, both), expected)


def test_batch_normalisation_sees_the_whole_batch():
    whole, parts = (trained(network=small(norm="batch"), **extra) for extra in ({}, {"chunk": 3}))
    assert torch.equal(weights(whole), weights(parts))


def test_training_goes_on_from_an_epoch():
    """Without momentum the weights are all that the next epoch depends on."""
    whole, notes = small(), []
    options = {"augmentation": "color_crop", "epochs": 5, "momentum": 0.0, "schedule": "constant"}
    kept = {}

    def after_epoch(epoch):
        notes.append(epoch.done)
        kept[epoch.done] = {name: value.clone() for name, value in whole.state_dict().items()}

    trained(network=whole, after_epoch=after_epoch, **options)
    assert notes == [1, 2, 3, 4, 5]
    part = small()
    part.load_state_dict(kept[3])
    assert torch.equal(weights(trained(network=part, start=Start(3), **options)), weights(whole))
    for remembering in ({"momentum": 0.9}, {"average": 0.5}, {"optimizer": "adamw"}):
        with pytest.raises(ValueError, match="momentum, AdamW or an average"):
            trained(start=Start(3), **{**options, **remembering})


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("schedule", ["step", "cosine"])
@pytest.mark.parametrize("more", [{}, {"momentum": 0.0}, {"average": 0.9}, {"optimizer": "adamw", "average": 0.5}])
def test_training_goes_on_from_its_state_to_the_same_bits(norm, schedule, more):
    options = {"augmentation": "color_crop", "epochs": 5, "schedule": schedule, "mixup": 0.4, **more}
    states = {}

    def after_epoch(epoch):
        states[epoch.done] = {name: value.clone() for name, value in epoch.state().items()}

    whole = trained(network=small(norm=norm), after_epoch=after_epoch, **options)
    for done in (1, 3, 5):
        start = Start(done, states[done])
        again = trained(network=small(norm=norm), start=start, **options)
        assert torch.equal(weights(again), weights(whole)), done


def test_the_state_of_another_training_is_refused():
    states = []
    trained(epochs=1, after_epoch=lambda epoch: states.append(epoch.state()))
    for other in ({"network": small(width=5)}, {"average": 0.9}):
        with pytest.raises(InputError, match="the state of an unfinished training does not fit"):
            trained(start=Start(1, states[0]), epochs=2, **other)


def test_an_epoch_tells_the_mean_of_its_losses():
    """With learning rate almost 0 that is the loss over the set."""
    data, network, losses = toy(), small(), []
    images, labels = data.batch(torch.arange(len(data)), CPU)
    expected = cross_entropy(network(images), labels).item()
    for extra in ({}, {"chunk": 3}, {"batch": 7}):
        options = {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0, **extra}
        trained(data, copy.deepcopy(network), after_epoch=lambda epoch: losses.append(epoch.loss), **options)
    assert losses == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_changes_little_and_leaves_a_plain_network(precision):
    plain, other = trained(epochs=10), trained(epochs=10, precision=precision)
    assert all(parameter.dtype == torch.float32 for parameter in other.parameters())
    assert torch.equal(weights(plain), weights(other)) == (precision == "fp32")
    torch.testing.assert_close(weights(plain), weights(other), rtol=0.05, atol=0.02)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_training_is_the_same_up_to_rounding():
    torch.testing.assert_close(weights(trained(compiled=True)), weights(trained()), rtol=1e-3, atol=1e-5)


class Telling(MLP):
    """Features are NaN where its Python code runs, uncompiled."""

    def embed(self, images):
        return super().embed(images) * (1.0 if torch.compiler.is_compiling() else math.nan)


def test_the_twelfth_kind_of_network_of_a_process_is_still_compiled(monkeypatch):
    """torch stops at the ninth unless told otherwise, and continues with the uncompiled network."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))  # without a C++ compiler
    torch.compiler.reset()
    images = torch.randn(2, 1, 8, 8)
    for width in range(1, 13):
        features = CompiledNetwork(small(Telling, width=width), "fp32", compiled=True).embed(images)
        assert torch.isfinite(features).all(), f"network {width} runs uncompiled"
    assert CompiledNetwork(small(Telling), "fp32", compiled=False).embed(images).isnan().all()


def test_networks_of_a_kind_are_compiled_once_whatever_their_weights_and_batches(monkeypatch):
    """A graph for training and one for use; another width is another kind.

    (There is another graph for more than 15 images, of which torch's convolutions take another way.)
    """
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))  # without a C++ compiler
    torch.compiler.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for number, width in enumerate((5, 6), 1):
        for seed, batch in enumerate((10, 7, 3)):  # of 24 images: batches of 4, 3 and 24 / 3 at the end, too
            torch.manual_seed(seed)
            network = trained(network=small(width=width), epochs=2, batch=batch, chunk=5, compiled=True)
            use = CompiledNetwork(network, "fp32", compiled=True).eval()
            for size in (2, 9, 15):
                use(torch.randn(size, 1, 8, 8))
        assert graphs["unique_graphs"] - before == 2 * number, width


class Stop(Exception):
    pass


def trainer(calls=None, stop_at=None, **options):
    """A trainer that notes what it starts, and can be stopped at a step."""
    steps = []

    def keep_going():
        steps.append(1)
        if len(steps) == stop_at:
            raise Stop

    settings = TrainingOptions(**{"epochs": 2, "batch": 10, **options})
    return Trainer(
        lambda shape, outputs: ConvNet(shape, outputs, ConvNet.Options(width=4, depth=1)),
        {"original": settings, "distilled": settings},
        Augmentation("none"),
        seed=0,
        device=CPU,
        chunk=7,
        keep_going=keep_going,
        display=None if calls is None else Noting(calls),
    )


@pytest.mark.parametrize("step", [1, 3, 5])
def test_training_stops_before_the_step_at_which_keep_going_raises(step):
    before, calls = torch.random.get_rng_state(), []
    made = trainer(calls, stop_at=step)
    with pytest.raises(Stop):
        made.train(toy(), outputs=3)
    assert torch.equal(before, torch.random.get_rng_state())
    again = made.train(toy(), outputs=3)  # nothing half-trained is kept
    assert len(calls) == 2
    assert torch.equal(weights(again), weights(trainer().train(toy(), outputs=3)))


def test_a_network_is_trained_once_for_each_set_and_purpose():
    calls, made = [], None
    made = trainer(calls)
    first = made.train(toy(), outputs=3)
    assert made.train(toy(), outputs=3) is first
    others = [
        made.train(toy(name="distilled"), outputs=3),
        made.train(toy(), outputs=3, purpose="other"),
    ]
    assert calls == ["classes on the original set", "classes on the distilled set", "other on the original set"]
    assert len({weights(network).sum().item() for network in (first, *others)}) == 3


def test_what_is_trained_does_not_depend_on_what_was_trained_before():
    made = trainer()
    made.train(toy(), outputs=2, purpose="something else", loss=lambda logits, labels: logits.square().mean())
    assert torch.equal(weights(made.train(toy(), outputs=3)), weights(trainer().train(toy(), outputs=3)))


def test_features_are_those_of_each_image_alone():
    made, data = trainer(), toy()
    data = replace(data, images=(40 * data.images.clamp(0)).to(torch.uint8), normalisation=PerChannel((0.2,), (0.5,)))
    network = made.train(data, outputs=3)
    found = made.features(network, data)
    for image, feature in zip(data.images, found, strict=True):
        torch.testing.assert_close(network.embed(((image.double() / 255 - 0.2) / 0.5).float()[None])[0], feature)
    assert not found.requires_grad


def test_what_is_made_ahead_comes_in_order_and_an_error_comes_where_it_belongs():
    made = []

    def make(item):
        made.append(int(item))
        if item == 7:
            raise ValueError("seven")
        return 2 * int(item)

    items = torch.arange(10).split(1)
    found = made_ahead(make, items, ahead=3)
    assert [next(found) for _ in range(7)] == [0, 2, 4, 6, 8, 10, 12]
    with pytest.raises(ValueError, match="seven"):
        next(found)
    assert list(made_ahead(make, items[:2], ahead=3)) == [0, 2]
    early = made_ahead(make, torch.arange(100).split(1), ahead=2)
    made.clear()
    next(early)
    early.close()
    assert len(made) <= 3


def test_a_step_with_batch_normalisation_that_memory_does_not_hold_is_refused(monkeypatch):
    network = small(norm="batch").train()
    before = weights(network).clone()
    image, row = 4 * 8 * 8, 4 * 4 * 8 * 8  # bytes of an image, and of the map of four channels
    assert bytes_of_step(network, (1, 8, 8), 10, "fp32") == 10 * (image + 2 * row + 2 * row)  # two maps, two gradients
    assert bytes_of_step(network, (1, 8, 8), 10, "bf16") < 0.6 * 10 * (image + 4 * row)
    monkeypatch.setattr(fitting, "memory_of_machine", lambda: 10 * (image + 4 * row))
    check_step_fits(network, (1, 8, 8), 10, "fp32", "training")
    check_step_fits(small(norm="instance"), (1, 8, 8), 1000, "fp32", "training")  # goes through in parts
    said = (
        r"training: a step of 11 images of 8x8 pixels takes about 47\.9 kB of memory, and there are 43\.5 kB\. Batch "
        "normalisation sees a batch as a whole, so use a smaller batch"
    )
    with pytest.raises(RunFailed, match=said):
        check_step_fits(network, (1, 8, 8), 11, "fp32", "training")
    assert network.training
    assert torch.equal(weights(network), before)


def test_a_teacher_that_does_not_fit_into_memory_ends_the_run_in_one_line(ltdd, monkeypatch):
    monkeypatch.setattr(fitting, "memory_of_machine", lambda: 10**6)
    run = ltdd("distill", "--method", "rded", "--data", "digits-lt", "--ipc", "1", "--threads", "1", "--quiet")
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1
    assert "training balanced softmax on the original set: a step of 256 images of 8x8 pixels takes about" in run.stderr
    assert "smaller images. That is --set training.original.batch=..., which" in run.stderr
