"""The q-power family: what is drawn, how often, and from whose generator."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltdd_core import LongTailedSet, PerChannel, generator
from ltdd_core.interfaces import BaseOptions
from ltdd_samplers.power import ClassBalancedSampler, InstanceSampler, SquareRootSampler

SAMPLERS = [InstanceSampler, SquareRootSampler, ClassBalancedSampler]
COUNTS = (300, 90, 27, 8, 1)


def long_tailed(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = tuple(f"class {label}" for label in range(len(counts)))
    return LongTailedSet("toy", images, labels, images, labels, names, PerChannel((0.0,), (1.0,)), tuple(counts))


def prepared(sampler, counts=COUNTS):
    made, data = sampler(BaseOptions()), long_tailed(counts)
    made.prepare(data)
    return made, data.train_labels


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_draws_class_c_in_proportion_to_its_size_to_the_q(sampler):
    """Chi-square over classes: below 25 for 4 degrees of freedom but once in 20,000 (the seeds are fixed)."""
    made, labels = prepared(sampler)
    drawn = torch.cat([labels[made.epoch(0.5, generator(seed, "epoch"))] for seed in range(50)])
    weights = [count**sampler.q for count in COUNTS]
    chi_square = 0.0
    for label, weight in enumerate(weights):
        expected = len(drawn) * weight / sum(weights)
        chi_square += (int((drawn == label).sum()) - expected) ** 2 / expected
    assert len(drawn) == 50 * sum(COUNTS)
    assert chi_square < 25
    if sampler is InstanceSampler:
        assert chi_square == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sampler", [SquareRootSampler, ClassBalancedSampler])
def test_images_of_a_class_are_drawn_alike(sampler):
    made, labels = prepared(sampler, (40, 4))
    drawn = torch.cat([made.epoch(0.0, generator(seed, "epoch")) for seed in range(200)])
    for label, count in enumerate((40, 4)):
        times = torch.bincount(drawn[labels[drawn] == label], minlength=44)[labels == label].double()
        assert len(times) == count
        chi_square = ((times - times.mean()) ** 2 / times.mean()).sum()
        assert chi_square < 90  # the 99.999 % quantile for 39 degrees of freedom


def test_the_instance_sampler_sees_every_image_once_in_a_new_order_each_time():
    made, labels = prepared(InstanceSampler)
    first, second = (made.epoch(0.0, generator(seed, "epoch")) for seed in range(2))
    assert torch.equal(first.sort().values, torch.arange(len(labels)))
    assert torch.equal(second.sort().values, torch.arange(len(labels)))
    assert not torch.equal(first, second)


@given(
    st.sampled_from(SAMPLERS),
    st.lists(st.integers(1, 30), min_size=2, max_size=6),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.sampled_from(["of_class", "representatives"]),
)
@settings(max_examples=80, deadline=None)
def test_draws_of_a_class_do_not_repeat_and_take_all_of_a_small_class(sampler, counts, size, seed, method):
    made, labels = prepared(sampler, counts)
    for label, count in enumerate(counts):
        drawn = getattr(made, method)(label, size, generator(seed, "draw"))
        assert len(drawn) == min(size, count)
        assert len(set(drawn.tolist())) == len(drawn)
        assert (labels[drawn] == label).all()
        assert torch.equal(drawn, getattr(made, method)(label, size, generator(seed, "draw")))


def test_every_image_of_a_class_comes_up_in_small_draws():
    made, _ = prepared(InstanceSampler, (10, 3))
    drawn = torch.cat([made.of_class(0, 2, generator(seed, "draw")) for seed in range(200)])
    times = torch.bincount(drawn, minlength=10)
    assert len(times) == 10
    assert times.min() > 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_is_a_function_of_its_generator_and_leaves_the_global_one_alone(sampler):
    made, _ = prepared(sampler)
    before = torch.random.get_rng_state()
    first = made.epoch(0.3, generator(1, "epoch"))
    made.of_class(0, 5, generator(1, "draw"))
    made.representatives(0, 5, generator(1, "draw"))
    torch.rand(3)  # somebody else's draw changes nothing
    assert torch.equal(first, made.epoch(0.3, generator(1, "epoch")))
    assert not torch.equal(first, made.epoch(0.3, generator(2, "epoch")))
    torch.random.set_rng_state(before)
    made.epoch(0.3, generator(1, "epoch"))
    made.of_class(0, 5, generator(1, "draw"))
    made.representatives(0, 5, generator(1, "draw"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_classes_need_not_be_sorted(sampler):
    made, data = sampler(BaseOptions()), long_tailed((6, 3, 1))
    labels = torch.tensor([2, 0, 1, 0, 1, 0, 0, 1, 0, 0])
    made.prepare(replace(data, train_labels=labels))
    assert labels[made.of_class(1, 9, generator(0, "draw"))].tolist() == [1, 1, 1]
    drawn = torch.cat([made.epoch(0.0, generator(seed, "epoch")) for seed in range(100)])
    assert set(drawn.tolist()) == set(range(10))
