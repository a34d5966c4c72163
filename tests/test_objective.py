"""What a step of training lowers, against its equations image by image; a batch may come in parts."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import SoftLabels, TrainingOptions, cross_entropy, generator
from ltdd_core.training.losses import WeightedLoss
from ltdd_core.training.mixing import mixed
from ltdd_core.training.objective import objective_of, with_smoothing

CLASSES, BATCH = 3, 5
CLASS_WEIGHTS = [4.0, 0.9, 0.02]
LABELS = torch.tensor([0, 2, 2, 1, 2])


def random(purpose, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(0, purpose))


def targets(labels):
    return F.one_hot(labels, CLASSES).double() if labels.dim() == 1 else labels.double()


WEIGHED = WeightedLoss(
    each=lambda z, y: -(torch.tensor(CLASS_WEIGHTS) * targets(y) * z.log_softmax(1)).sum(1),
    weight=lambda y: targets(y) @ torch.tensor(CLASS_WEIGHTS, dtype=torch.float64),
)


def softmax(z, temperature=1.0):
    powers = [math.exp(value / temperature) for value in z]
    return [power / sum(powers) for power in powers]


def centred(z):
    return [value - sum(z) / len(z) for value in z]


def literal_loss(z, y, partner, part, weights):
    """L of the classes or of probabilities ``y[i][c]``, each image with the labels of its pair."""
    above = below = 0.0
    for i in range(BATCH):
        q = softmax(z[i])
        for share, own in ((part, y[i]), (1 - part, y[partner[i]])):
            above += share * sum(-w * t * math.log(p) for w, t, p in zip(weights, own, q, strict=True))
            below += share * sum(w * t for w, t in zip(weights, own, strict=True))
    return above / below


def literal(z, soft, kind, partner, part, weights, options, of_views):
    """The equations of ltdd_core/training/objective.py."""
    e = options.label_smoothing
    hard = [[(1 - e) * (c == y) + e / CLASSES for c in range(CLASSES)] for y in LABELS.tolist()]
    of_classes = literal_loss(z, hard, partner, part, weights)
    if soft is None:
        return of_classes
    if of_views:
        partner, part_of_soft = list(range(BATCH)), 1.0
    else:
        part_of_soft = part
    if options.soft_loss == "cross-entropy":
        p = soft if kind == "probabilities" else [softmax(row) for row in soft]
        return literal_loss(z, p, partner, part_of_soft, weights) + options.hard_weight * of_classes
    first, t = 0.0, options.temperature
    for i in range(BATCH):
        both = [row if kind == "logits" else [math.log(p) for p in row] for row in (soft[i], soft[partner[i]])]
        asked = [centred(f) if options.soft_loss == "mse" else softmax(f, t) for f in both]
        wanted = [part_of_soft * a + (1 - part_of_soft) * b for a, b in zip(*asked, strict=True)]
        if options.soft_loss == "mse":
            first += sum((a - b) ** 2 for a, b in zip(centred(z[i]), wanted, strict=True)) / CLASSES / BATCH
        else:
            q = softmax(z[i], t)
            first += sum(a * (math.log(a) - math.log(b)) for a, b in zip(wanted, q, strict=True)) / BATCH
    return first + options.hard_weight * of_classes


@given(
    soft_loss=st.sampled_from(["cross-entropy", "mse", "kl"]),
    kind=st.sampled_from([None, "probabilities", "logits"]),
    mixing=st.sampled_from([(0.0, 0.0), (0.4, 0.0), (0.0, 1.0)]),
    of_views=st.booleans(),
    hard_weight=st.sampled_from([0.0, 0.3]),
    label_smoothing=st.sampled_from([0.0, 0.2]),
    temperature=st.sampled_from([1.0, 4.0]),
    weighted=st.booleans(),
    chunk=st.integers(1, BATCH),
)
@settings(max_examples=300, deadline=None)
def test_the_objective_is_its_equations_and_its_parts_add_up(
    soft_loss, kind, mixing, of_views, hard_weight, label_smoothing, temperature, weighted, chunk
):
    options = TrainingOptions(
        soft_loss=soft_loss, hard_weight=hard_weight, label_smoothing=label_smoothing, temperature=temperature
    )
    _, mix = mixed(torch.zeros(BATCH, 1, 8, 8), *mixing, generator(0, "mixing"))
    z, f = random("z", BATCH, CLASSES), random("f", BATCH, CLASSES)
    soft = None if kind is None else SoftLabels(f if kind == "logits" else f.softmax(1), kind)
    loss, weights = (WEIGHED, CLASS_WEIGHTS) if weighted else (cross_entropy, [1.0] * CLASSES)
    objective = objective_of(loss, LABELS, soft, mix, options, CLASSES, of_views=of_views)
    partner, part = (list(range(BATCH)), 1.0) if mix is None else (mix.partner.tolist(), mix.part)
    said = None if soft is None else soft.values.tolist()
    expected = literal(z.tolist(), said, kind, partner, part, weights, options, of_views)
    assert objective(z, torch.arange(BATCH)).item() == pytest.approx(expected, rel=1e-5)
    parts = [objective(z[rows], rows).item() for rows in torch.arange(BATCH).split(chunk)]
    assert sum(parts) == pytest.approx(expected, rel=1e-5)


@given(st.sampled_from(["cross-entropy", "mse", "kl"]), st.sampled_from([1.0, 4.0]), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_mixed_images_learn_the_mixture_of_the_losses_of_both_labels(soft_loss, temperature, seed):
    """Whether the teacher's word is kept as logits or as probabilities."""
    options = TrainingOptions(soft_loss=soft_loss, temperature=temperature)
    _, mix = mixed(torch.zeros(BATCH, 1, 8, 8), 1.0, 0.0, generator(seed, "mixing"))
    f = 3 * random("f", BATCH, CLASSES)
    for soft in (SoftLabels(f, "logits"), SoftLabels(f.softmax(1))):
        z = random("z", BATCH, CLASSES).requires_grad_()
        losses = [
            objective_of(cross_entropy, LABELS, part, how, options, CLASSES)(z, torch.arange(BATCH))
            for part, how in ((soft, mix), (soft, None), (soft[mix.partner], None))
        ]
        whole, first, second = (torch.autograd.grad(loss, z)[0] for loss in losses)
        torch.testing.assert_close(whole, mix.part * first + (1 - mix.part) * second)


def test_a_probability_of_zero_is_finite_in_every_soft_loss():
    soft = SoftLabels(torch.tensor([[1.0, 0.0, 0.0]] * BATCH))
    for soft_loss in ("cross-entropy", "mse", "kl"):
        for temperature in (1.0, 4.0):
            options = TrainingOptions(soft_loss=soft_loss, temperature=temperature)
            z = random("z", BATCH, CLASSES).float().requires_grad_()
            found = objective_of(cross_entropy, LABELS, soft, None, options, CLASSES)(z, torch.arange(BATCH))
            found.backward()
            assert torch.isfinite(found), soft_loss
            assert torch.isfinite(z.grad).all(), soft_loss


def test_smoothing_leaves_soft_labels_and_nothing_to_smooth_as_they_are():
    soft = torch.full((2, 3), 1 / 3)
    assert with_smoothing(soft, 0.5, 3) is soft
    assert with_smoothing(LABELS, 0.0, 3) is LABELS
    torch.testing.assert_close(with_smoothing(torch.tensor([1]), 0.3, 3), torch.tensor([[0.1, 0.8, 0.1]]))


@given(st.sampled_from(["probabilities", "logits"]), st.floats(0.1, 20))
@settings(max_examples=40, deadline=None)
def test_soft_labels_as_probabilities_and_as_logits(kind, temperature):
    f = random("f", BATCH, CLASSES)
    soft = SoftLabels(f if kind == "logits" else f.softmax(1), kind)
    for row, logits, p in zip(
        f.tolist(), soft.logits().tolist(), soft.probabilities(temperature).tolist(), strict=True
    ):
        assert logits == pytest.approx(centred(row))
        assert p == pytest.approx(softmax(row, temperature))
