"""How the stages of the two-stage head are combined, against their definitions image by image."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from test_twostage import COMPONENT, PUBLISHED, images, network, partitions, toy, trainer

from ltdd_core import InputError, Softmax
from ltdd_core.evaluation.linear import LinearHead
from ltdd_ensemble.head import EnsembleHead
from ltdd_twostage.head import TwoStageHead, stage1_weight
from ltdd_twostage.margin import WithOffsets, margins
from ltdd_twostage.stages import OfClasses, TwoStage

# ---- pooling -------------------------------------------------------------------------------------


def literal_pool(q, r, groups, a, b):
    """P(c) of one image from the class probabilities of both stages."""
    classes = range(len(groups))

    def group(p, c):
        return sum(p[k] for k in classes if groups[k] == groups[c])

    scores = [
        group(q, c) ** a * group(r, c) ** (1 - a) * (q[c] / group(q, c)) ** b * (r[c] / group(r, c)) ** (1 - b)
        for c in classes
    ]
    return [score / sum(scores) for score in scores]


@given(partitions(), st.integers(0, 1000), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_two_classifiers_are_pooled_as_the_formula_says(groups, seed, a, b):
    one, two, batch = network(len(groups), seed), network(len(groups), seed + 1), images(3, seed)
    stages = [OfClasses(Softmax(each), groups) for each in (one, two)]
    found = TwoStage(groups, *stages, a=a, b=b, hard=False).log_probabilities(batch).exp()
    for image, row in zip(batch, found, strict=True):
        q, r = (each(image[None])[0].double().softmax(0).tolist() for each in (one, two))
        assert row.tolist() == pytest.approx(literal_pool(q, r, groups.tolist(), a, b), abs=1e-5)


@given(partitions(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_corners_are_the_stages_and_equal_exponents_do_not_ask_for_the_groups(groups, seed):
    one, two, batch = network(len(groups), seed), network(len(groups), seed + 1), images(5, seed)
    other = groups.flip(0)

    def found(a, b, partition=groups):
        stages = [OfClasses(Softmax(each), partition) for each in (one, two)]
        return TwoStage(partition, *stages, a=a, b=b, hard=False).log_probabilities(batch)

    torch.testing.assert_close(found(1, 1), one(batch).log_softmax(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found(0, 0), two(batch).log_softmax(1), atol=1e-5, rtol=1e-5)
    mean = (0.3 * one(batch).log_softmax(1) + 0.7 * two(batch).log_softmax(1)).log_softmax(1)
    torch.testing.assert_close(found(0.3, 0.3), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found(0.3, 0.3, other), mean, atol=1e-5, rtol=1e-5)


def test_a_group_that_stage_1_rules_out_stays_out_and_nothing_is_nan():
    groups = torch.tensor([0, 0, 1, 1])

    def sure(batch):
        return torch.tensor([0.0, 1.0, -torch.inf, -torch.inf]).expand(len(batch), 4)

    stages = [OfClasses(Softmax(each), groups) for each in (sure, network(4, 0))]
    found = TwoStage(groups, *stages, a=0.5, b=0.5, hard=False).log_probabilities(images(2))
    assert not found.isnan().any()
    assert (found[:, 2:] == -torch.inf).all()
    assert torch.isfinite(found[:, :2]).all()


# ---- the margin ----------------------------------------------------------------------------------


def test_offsets_are_added_to_log_probabilities_and_favour_rare_classes():
    net, batch, counts = network(5, 0), images(3), [30, 10, 5, 4, 1]
    found = WithOffsets(Softmax(net), margins(torch.tensor(counts), 1.5)).log_probabilities(batch)
    for image, row in zip(batch, found.exp(), strict=True):
        p = net(image[None])[0].double().softmax(0).tolist()
        scores = [p[c] * math.exp(1.5 / counts[c] ** (1 / 4)) for c in range(5)]
        assert row.tolist() == pytest.approx([score / sum(scores) for score in scores], abs=1e-5)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_margins_favour_rare_classes_and_fade_with_more_images(counts, times):
    few, many = margins(torch.tensor(counts), 2), margins(torch.tensor(counts) * times, 2)
    assert [counts[c] for c in few.argsort()] == sorted(counts, reverse=True)
    assert (few.max() - few.min()) / times**0.25 == pytest.approx(float(many.max() - many.min()))


# ---- end to end ----------------------------------------------------------------------------------

CLASSES = {"targets": "classes", "stage1": "balanced-softmax"}


def fitted(made=None, **options):
    sets = [toy(), toy("distilled", (3,) * 5)]
    return TwoStageHead(TwoStageHead.Options(**options)).fit(sets, made or trainer())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**CLASSES, "within": "classes", "a": 0.5, "b": 0.5},
        {"a": 0.5, "b": 0.25, "routing": "hard", "groups": 3},
        {**CLASSES, "within": "separate", "b": 0.5},
        {"targets": "groups", "stage1": "linear", "a": 0.5},
        PUBLISHED,
    ],
)
def test_every_combination_fits_a_set_whose_tail_has_one_image(options):
    found = fitted(**options).log_probabilities(images(7))
    assert found.shape == (7, 5)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(7))
    assert torch.equal(found, fitted(**options).log_probabilities(images(7)))


def test_a_stage_alone_is_the_classifier_of_that_set():
    made, batch = trainer(), images(6)
    sets = [toy(), toy("distilled", (3,) * 5)]
    first = COMPONENT("head", {"name": "balanced-softmax"}).fit(sets[:1], made).log_probabilities(batch)
    second = LinearHead(LinearHead.Options()).fit(sets[1:], made).log_probabilities(batch)
    for corner, expected in ((1, first), (0, second)):
        found = fitted(made, **CLASSES, within="classes", a=corner, b=corner, margin=0).log_probabilities(batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("margin", [None, 1.5])
def test_the_first_stage_favours_rare_classes_by_the_margin(margin):
    made, batch = trainer(), images(6)
    q = COMPONENT("head", {"name": "balanced-softmax"}).fit([toy()], made).log_probabilities(batch).double()
    for c, n in enumerate(torch.bincount(toy().labels).tolist()):
        q[:, c] += (2 if margin is None else margin) / n**0.25
    found = fitted(made, a=1, b=1, margin=margin).log_probabilities(batch)
    torch.testing.assert_close(found.double(), q.log_softmax(1), atol=1e-5, rtol=1e-5)


def test_the_weight_of_the_first_stage_follows_the_images_of_its_classes():
    sets = [toy(counts=(12, 6, 4, 2, 1)), toy("distilled", (3,) * 5)]
    h = 5 / (1 / 12 + 1 / 6 + 1 / 4 + 1 / 2 + 1)
    for options, expected in (
        ({}, h / (h + 7)),
        ({"worth": 2.0}, h / (h + 2)),
        ({"b": 0.9}, 0.9),
        ({"b": 0.0}, 0),
        ({"targets": "groups", "within": "separate"}, 0),
    ):
        assert TwoStageHead(TwoStageHead.Options(**options)).fit(sets, trainer()).b == pytest.approx(expected)
    twice = TwoStageHead(TwoStageHead.Options()).fit([sets[0], sets[0]], trainer())
    assert twice.b == 0.5, "neither stage has seen more than the other"


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.floats(0.1, 100))
@settings(max_examples=40, deadline=None)
def test_more_images_give_the_first_stage_more_weight(counts, worth):
    fewer, more = torch.tensor(counts), torch.tensor(counts) + 1
    assert 0 < stage1_weight(fewer, worth) < stage1_weight(more, worth) < 1


# ---- the control ---------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_log_probabilities_and_its_first_member_the_head_alone():
    made, batch, data = trainer(), images(6), toy()
    found = EnsembleHead(EnsembleHead.Options(of="balanced-softmax", members=3)).fit([data], made)
    each = [member.log_probabilities(batch) for member in found.members]
    assert not torch.equal(each[0], each[1])
    assert not torch.equal(each[1], each[2])
    mean = torch.stack(each).mean(0)
    torch.testing.assert_close(found.log_probabilities(batch), mean.log_softmax(1))
    alone = COMPONENT("head", {"name": "balanced-softmax"}).fit([data], trainer()).log_probabilities(batch)
    assert torch.equal(each[0], alone)
    with pytest.raises(InputError, match=r"head\.of=twostage has stages of its own"):
        EnsembleHead(EnsembleHead.Options(of="twostage")).fit([data], made)
