"""Draws by class: how often each class and each image comes, against the draws that were there before."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ltdd_core import draw_by_class, generator


def old_draws(labels, weights, draws):
    """The q-power samplers drew like this when they did it by themselves; runs made then must stay as they are."""
    members = [torch.nonzero(labels == label).flatten() for label in range(len(weights))]
    counts = torch.tensor([len(own) for own in members])
    drawn = torch.multinomial(weights, int(counts.sum()), replacement=True, generator=draws)
    within = torch.rand(len(drawn), dtype=torch.float64, generator=draws) * counts[drawn]
    return torch.tensor([int(members[c][int(part)]) for c, part in zip(drawn.tolist(), within.tolist(), strict=True)])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 1000), st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_the_same_images_as_before_in_any_order_of_labels(labels, seed, q):
    labels = torch.tensor(labels)
    labels = labels.unique(return_inverse=True)[1]  # every class has an image
    weights = torch.bincount(labels).double() ** q
    before = old_draws(labels, weights, generator(seed, "draw"))
    assert torch.equal(draw_by_class(labels, weights, generator(seed, "draw")), before)


def test_classes_come_as_often_as_their_weights_say_and_images_of_a_class_alike():
    """Chi-square below 30 for 3 and below 60 for 19 degrees of freedom but once in 100,000 (the seeds are fixed)."""
    counts, weights = torch.tensor([20, 0, 5, 1, 4]), torch.tensor([1.0, 50.0, 2.0, 4.0, 0.5], dtype=torch.float64)
    labels = torch.arange(5).repeat_interleave(counts)[torch.randperm(30, generator=generator(0, "shuffle"))]
    drawn = torch.cat([draw_by_class(labels, weights, generator(seed, "draw")) for seed in range(400)])
    assert drawn.dtype == torch.int64
    assert len(drawn) == 400 * 30
    times = torch.bincount(labels[drawn], minlength=5).double()
    assert times[1] == 0  # no image
    share = torch.where(counts > 0, weights, 0)
    expected = len(drawn) * share / share.sum()
    kept = counts > 0
    assert ((times - expected).square()[kept] / expected[kept]).sum() < 30
    first = torch.bincount(drawn, minlength=30)[labels == 0].double()
    assert ((first - first.mean()).square() / first.mean()).sum() < 60


def test_a_weight_of_zero_is_never_drawn():
    labels = torch.tensor([0, 1, 1, 2])
    assert (
        draw_by_class(labels, torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64), generator(0, "draw")).tolist()
        == [3] * 4
    )


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights of classes"):
        draw_by_class(torch.tensor([0, 1]), torch.tensor(weights, dtype=torch.float64), generator(0, "draw"))


def test_what_is_wrong_with_a_class_without_an_image_does_not_matter():
    weights = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    assert draw_by_class(torch.tensor([0, 0]), weights, generator(0, "draw")).max() < 2
