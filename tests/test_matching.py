"""Matchers that know groups of classes and modes of a class, against literal versions, for methods that do not."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from test_dc import literal_distance

from ltdd_core import Augmentation, ClassMatcher
from ltdd_core.distillation.batch_matcher import alike, groups_of, modes_of
from ltdd_core.seeding import generator
from ltdd_core.testing import check_matcher, tiny_long_tailed
from ltdd_core.testing.tiny import PlainSampler, tiny_task
from ltdd_dc.matcher import DatasetCondensation
from ltdd_dm.matcher import DistributionMatcher

KNOWING = {"modes": 2, "groups": 2, "batch_real": 7}
DATA = tiny_long_tailed()


class MeanMatcher(ClassMatcher):
    """A method that knows nothing of groups: the mean feature of a class."""

    def class_loss(self, network, real, synthetic):
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


def small_task(augment="none"):
    return replace(tiny_task(DATA, PlainSampler(DATA)), augmentation=Augmentation(augment))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_every_mode_that_was_drawn_has_the_same_part(modes, size):
    indices = torch.arange(len(modes)) + 100
    chosen = alike(indices, torch.tensor(modes), size)
    parts = Counter(modes[place - 100] for place in chosen.tolist())
    assert len(chosen) == size
    assert set(parts) <= set(modes)
    assert max(parts.values()) - min(parts.get(mode, 0) for mode in set(modes)) <= 1
    for mode, part in parts.items():  # an image comes again only after all others of its mode
        repeats = Counter(place for place in chosen.tolist() if modes[place - 100] == mode)
        assert max(repeats.values()) == math.ceil(part / modes.count(mode))


def test_modes_are_clusters_of_a_class_and_one_mode_is_no_knowledge():
    task = small_task()
    assert modes_of(task, 1) is None
    far = {0: torch.tensor([[0.0], [9.0], [0.1], [9.1], [9.2]]), 1: torch.tensor([[5.0]])}
    data = replace(DATA, train_labels=torch.tensor([0, 1, 0, 0, 0, 0]), counts=(5, 1), class_names=("a", "b"))
    found = modes_of(replace(task, data=data, features=far.__getitem__), 2)
    of_first = found[data.train_labels == 0].tolist()
    assert of_first[0] == of_first[2]
    assert of_first[1] == of_first[3] == of_first[4] != of_first[0]


def test_groups_are_those_of_the_two_stage_partition():
    # Brightness rises from class to class, so the two halves are the farthest apart.
    assert groups_of(small_task(), 2) == [[0, 1], [2, 3]]
    assert groups_of(small_task(), 9) == [[0], [1], [2], [3]]


def literal_parts(task, matcher, number):
    """What a step of a matcher with groups and modes compares: real images and places of synthetic ones, by part."""
    modes, size = modes_of(task, 2), matcher.options.batch_real

    def same_part(label, count, draws, repeated):
        drawn = task.sampler.of_class(label, count, draws).tolist()
        count = count if repeated else len(drawn)
        present = sorted({int(modes[index]) for index in drawn})
        chosen = []
        for place, mode in enumerate(present):
            own = [index for index in drawn if modes[index] == mode]
            part = count // len(present) + (1 if place < count % len(present) else 0)
            chosen += [own[turn % len(own)] for turn in range(part)]
        return chosen

    draws = generator(0, "real batch", number)
    for label in range(4):
        yield [label], same_part(label, size, draws, False)
    draws = generator(0, "real batch of groups", number)
    for group in ([0, 1], [2, 3]):
        yield group, [index for label in group for index in same_part(label, math.ceil(size / 2), draws, True)]


@pytest.mark.parametrize("method", [DistributionMatcher, MeanMatcher])
def test_the_loss_of_groups_is_added_to_that_of_classes(method):
    task = small_task()
    matcher = method(method.Options(**KNOWING))
    matcher.prepare(task)
    for number in range(3):
        network, expected = task.networks.fresh(number), 0
        pixels = matcher.images.detach().clone().requires_grad_(True)
        for classes, indices in literal_parts(task, matcher, number):
            real = task.data.normalisation.apply(task.data.train_images[indices])
            own = torch.cat([pixels[task.initial_labels == label] for label in classes])
            means = [sum(network.embed(image[None])[0] for image in images) / len(images) for images in (real, own)]
            expected = expected + (means[0].detach() - means[1]).square().sum()
        expected.backward()
        metrics = matcher.step(number)
        torch.testing.assert_close(metrics["loss"], expected.detach(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(matcher.images.grad, pixels.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("gradients", ["loop", "batched"])
def test_gradients_of_groups_are_those_of_all_their_images(gradients):
    task = small_task()
    options = {"outer_loop": 1, "inner_loop": 0, "gradients": gradients, **KNOWING}
    matcher = DatasetCondensation(DatasetCondensation.Options(**options))
    matcher.prepare(task)
    network = task.networks.trainable(0)
    pixels, loss = matcher.images.detach().clone().requires_grad_(True), 0
    parameters = list(network.parameters())
    for classes, indices in literal_parts(task, matcher, 0):
        real = task.data.normalisation.apply(task.data.train_images[indices])
        places = [place for label in classes for place in torch.nonzero(task.initial_labels == label).flatten()]
        pairs = [(image, task.data.train_labels[index]) for image, index in zip(real, indices, strict=True)]
        found = []
        for images in (pairs, [(pixels[place], task.initial_labels[place]) for place in places]):
            own = sum(-network(image[None]).log_softmax(1)[0, int(label)] for image, label in images) / len(images)
            found.append(torch.autograd.grad(own, parameters, create_graph=True))
        loss = loss + literal_distance("layerwise-cosine", found[1], [part.detach() for part in found[0]])
    loss.backward()
    metrics = matcher.step(0)
    torch.testing.assert_close(metrics["loss"] * 4, loss.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(matcher.images.grad, pixels.grad, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("method", [DistributionMatcher, MeanMatcher, DatasetCondensation])
def test_a_matcher_that_knows_groups_keeps_the_contract(method):
    short = {"outer_loop": 2, "inner_loop": 1} if method is DatasetCondensation else {}
    check_matcher(method, **{**KNOWING, **short})
