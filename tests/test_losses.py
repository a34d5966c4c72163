"""Losses against their formulas, image by image in float64; class weights, priors and margins likewise."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import CosineLinear, cross_entropy, generator
from ltdd_losses.losses import (
    effective_number_weights,
    focal,
    log_prior,
    margin_loss,
    margins,
    power_weights,
    prior_adjusted,
    weighted_cross_entropy,
)
from ltdd_losses.two_layers import cumulative

COUNTS = (400, 90, 27, 8, 1)
CLASSES = len(COUNTS)
N_C = torch.tensor(COUNTS, dtype=torch.float64)
BATCH = 12

counts_of_classes = st.lists(st.integers(1, 5000), min_size=2, max_size=8)


def logits(seed=0):
    return 3 * torch.randn(BATCH, CLASSES, dtype=torch.float64, generator=generator(seed, "logits"))


def labels(seed=0):
    return torch.randint(CLASSES, (BATCH,), generator=generator(seed, "labels"))


def p(z):
    """Softmax of a list of numbers."""
    exponentials = [math.exp(value) for value in z]
    return [value / sum(exponentials) for value in exponentials]


def mean(each):
    """The mean over the images of ``each(z, y)``."""
    pairs = list(zip(logits().tolist(), labels().tolist(), strict=True))
    return sum(each(z, y) for z, y in pairs) / len(pairs)


def literal_weights(counts, beta):
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    return [len(counts) * value / sum(raw) for value in raw]


@given(counts_of_classes, st.floats(0, 0.99999))
@settings(max_examples=80, deadline=None)
def test_weights_are_those_of_the_effective_number(counts, beta):
    found = effective_number_weights(torch.tensor(counts, dtype=torch.float64), beta).tolist()
    assert found == pytest.approx(literal_weights(counts, beta), rel=1e-8)
    assert sum(found) == pytest.approx(len(counts))


def test_weights_go_from_equal_to_the_inverse_of_the_counts():
    assert effective_number_weights(N_C, 0.0).tolist() == pytest.approx([1.0] * CLASSES)
    inverse = 1 / N_C
    expected = (inverse * CLASSES / inverse.sum()).tolist()
    assert effective_number_weights(N_C, 1 - 1e-9).tolist() == pytest.approx(expected, rel=1e-4)


def test_weighted_cross_entropy():
    weights = literal_weights(COUNTS, 0.999)
    found = weighted_cross_entropy(torch.tensor(weights, dtype=torch.float64))(logits(), labels())
    assert found.item() == pytest.approx(mean(lambda z, y: -weights[y] * math.log(p(z)[y])), abs=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss(gamma, weighted):
    weights = literal_weights(COUNTS, 0.999) if weighted else [1.0] * CLASSES
    found = focal(gamma, torch.tensor(weights, dtype=torch.float64) if weighted else None)(logits(), labels())
    expected = mean(lambda z, y: -weights[y] * (1 - p(z)[y]) ** gamma * math.log(p(z)[y]))
    assert found.item() == pytest.approx(expected, abs=1e-8)


def test_focal_loss_has_a_gradient_where_an_image_is_certain():
    certain = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(0.5)(certain, torch.tensor([0])).backward()
    assert torch.isfinite(certain.grad).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment(tau):
    prior = [n / sum(COUNTS) for n in COUNTS]
    found = prior_adjusted(N_C, tau)(logits(), labels())
    adjusted = [tau * math.log(value) for value in prior]
    expected = mean(lambda z, y: -math.log(p([a + b for a, b in zip(z, adjusted, strict=True)])[y]))
    assert found.item() == pytest.approx(expected, abs=1e-8)
    assert log_prior(N_C).exp().tolist() == pytest.approx(prior)


def test_balanced_softmax_is_logit_adjustment_with_tau_one():
    found = prior_adjusted(N_C, 1.0)(logits(), labels())

    def each(z, y):
        terms = [n * math.exp(value) for n, value in zip(COUNTS, z, strict=True)]
        return -math.log(terms[y] / sum(terms))

    assert found.item() == pytest.approx(mean(each), abs=1e-8)


@given(counts_of_classes, st.floats(0.1, 2.0))
@settings(max_examples=80, deadline=None)
def test_margins_fall_with_the_fourth_root_of_the_counts(counts, largest):
    found = margins(torch.tensor(counts, dtype=torch.float64), largest).tolist()
    raw = [n**-0.25 for n in counts]
    assert found == pytest.approx([largest * value / max(raw) for value in raw], rel=1e-10)
    assert max(found) == pytest.approx(largest)


def test_the_margin_is_taken_from_the_true_class():
    margin, weights, scale = margins(N_C, 0.5), literal_weights(COUNTS, 0.99), 30.0
    cosines = torch.rand(BATCH, CLASSES, dtype=torch.float64, generator=generator(1, "cosines")) * 2 - 1
    found = margin_loss(margin, scale, torch.tensor(weights, dtype=torch.float64))(scale * cosines, labels())
    total, counted = 0.0, sum(weights[y] for y in labels().tolist())
    for row, y in zip(cosines.tolist(), labels().tolist(), strict=True):
        z = [scale * (value - (margin[y].item() if c == y else 0)) for c, value in enumerate(row)]
        total += -weights[y] * math.log(p(z)[y])
    assert found.item() == pytest.approx(total / counted, abs=1e-8)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.floats(0, 0.9999))
@settings(max_examples=40, deadline=None)
def test_the_margin_loss_steps_as_the_weighted_cross_entropy_of_the_public_code(drawn, beta):
    margin, weights, y = margins(N_C, 0.5), effective_number_weights(N_C, beta), torch.tensor(drawn)
    z = 3 * torch.randn(len(y), CLASSES, dtype=torch.float64, generator=generator(0, "z"))
    moved = z - 30 * margin * F.one_hot(y, CLASSES)
    for ours, theirs in zip(
        value_and_gradient(lambda logits: margin_loss(margin, 30.0, weights)(logits, y), z),
        value_and_gradient(lambda logits: F.cross_entropy(logits, y, weight=weights), moved),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def value_and_gradient(function, at):
    at = at.clone().requires_grad_(True)
    value = function(at)
    return value.detach(), *torch.autograd.grad(value, at)


@pytest.mark.parametrize("first", [1.0, 0.75, 0.0])
def test_the_loss_of_two_layers_moves_from_the_plain_one_to_the_weighted_one(first):
    raw = [n**-1.2 for n in COUNTS]
    weight = [CLASSES * value / sum(raw) for value in raw]
    found_weights = power_weights(N_C, 1.2)
    assert found_weights.tolist() == pytest.approx(weight)
    other = logits(1)
    found = cumulative(found_weights, first)(torch.cat([logits(), other], dim=1), labels())
    expected = 0.0
    for z, z_second, y in zip(logits().tolist(), other.tolist(), labels().tolist(), strict=True):
        expected -= first * math.log(p(z)[y]) + (1 - first) * weight[y] * math.log(p(z_second)[y])
    assert found.item() == pytest.approx(expected / BATCH)


def test_a_batch_without_any_weight_has_no_loss_and_no_gradient():
    none = margin_loss(margins(N_C, 0.5), 30.0, torch.zeros(CLASSES))
    value, gradient = value_and_gradient(lambda z: none(z, labels()), logits())
    assert value == 0
    assert not gradient.any()


LOSSES = {
    "weighted": weighted_cross_entropy(effective_number_weights(N_C, 0.999)),
    "focal": focal(1.0),
    "adjusted": prior_adjusted(N_C, 1.0),
    "margin": margin_loss(margins(N_C, 0.5), 30.0, torch.ones(CLASSES)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_soft_label_on_one_class_is_that_class(loss):
    soft = F.one_hot(labels(), CLASSES).double()
    assert loss(logits(), soft).item() == pytest.approx(loss(logits(), labels()).item(), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_the_mean_over_its_images(loss):
    """So that the gradients of parts of a batch add up to that of the batch."""
    parts = [loss(logits()[i : i + 1], labels()[i : i + 1]).item() for i in range(BATCH)]
    assert loss(logits(), labels()).item() == pytest.approx(sum(parts) / BATCH)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_computes_in_the_precision_of_the_logits(loss):
    assert loss(logits().float(), labels()).dtype == torch.float32


def test_without_weights_margin_and_prior_each_is_cross_entropy():
    plain = cross_entropy(logits(), labels()).item()
    ones = torch.ones(CLASSES)
    none = [weighted_cross_entropy(ones), focal(0.0), prior_adjusted(N_C, 0.0), margin_loss(0 * ones, 30.0, ones)]
    for loss in none:
        assert loss(logits(), labels()).item() == pytest.approx(plain, abs=1e-12)


def test_cosines():
    layer = CosineLinear(6, 3, 16.0).double().requires_grad_(False)
    features = torch.randn(4, 6, dtype=torch.float64, generator=generator(0, "features"))
    for row, found in zip(features, layer(features), strict=True):
        for weight, value in zip(layer.weight, found, strict=True):
            expected = 16 * float(row @ weight) / (row.norm().item() * weight.norm().item())
            assert value.item() == pytest.approx(expected, abs=1e-10)
    assert layer.bias is None
