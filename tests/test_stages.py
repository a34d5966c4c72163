"""How the stages of the two-stage head are pooled, taught and calibrated, against their definitions image by image."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from test_twostage import COMPONENT, images, network, partitions, toy, trainer
from torch.nn import functional as F

from ltdd_core import InputError, Softmax, generator
from ltdd_core.evaluation.linear import LinearHead
from ltdd_ensemble.head import EnsembleHead
from ltdd_twostage.calibration import (
    Corrected,
    _folds,
    balanced_nll,
    best_correction,
    best_temperature,
    corrected,
    offsets,
    out_of_fold,
)
from ltdd_twostage.confusion import least_confused, shuffled, soft_confusion
from ltdd_twostage.head import TwoStageHead, say_of_the_first
from ltdd_twostage.labels import both, of_members, of_members_and_others, taught, taught_loss, taught_members
from ltdd_twostage.stages import OfClasses, OfGroups, TwoStage, WithinGroups

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


def test_the_column_of_the_others_takes_probability_from_a_group():
    groups, batch = torch.tensor([0, 0, 1, 1]), images(6)
    by_group, within = network(2, 0), [network(3, 1), network(3, 2)]
    second = WithinGroups([Softmax(each) for each in within], groups)
    found = TwoStage(groups, OfGroups(Softmax(by_group)), second, a=1, b=0, hard=False).log_probabilities(batch).exp()
    p_group = by_group(batch).softmax(1)
    scores = torch.cat([p_group[:, [g]] * within[g](batch).softmax(1)[:, :2] for g in (0, 1)], 1)
    torch.testing.assert_close(found, scores / scores.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


# ---- what stage 2 learns -------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_the_others_are_one_class_more(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3])
    found = of_members_and_others(data, members)
    assert found.classes == 3
    assert len(found) == len(data)
    for label, new in zip(data.labels, found.labels, strict=True):
        if soft:
            own = [label[1].item(), label[3].item()]
            assert new.tolist() == pytest.approx([*own, 1 - sum(own)], abs=1e-6)
        else:
            assert new == {1: 0, 3: 1}.get(int(label), 2)


def test_the_loss_of_a_pupil_is_hintons():
    logits = torch.randn(6, 4, generator=generator(0, "z")) * 2
    teacher = (torch.randn(6, 4, generator=generator(1, "t")) * 2).log_softmax(1)
    labels = torch.tensor([0, 1, 2, 3, 1, 1])
    expected = []
    for z, t, y in zip(logits.double(), teacher.double(), labels.tolist(), strict=True):
        p, q = (t / 3).softmax(0).tolist(), (z / 3).softmax(0).tolist()
        distance = sum(own * math.log(own / other) for own, other in zip(p, q, strict=True))
        expected.append(0.4 * -z.log_softmax(0)[y].item() + 0.6 * 9 * distance)
    side_by_side = torch.cat([F.one_hot(labels, 4).float(), teacher], 1)
    assert taught_loss(0.6, 3.0)(logits, side_by_side).item() == pytest.approx(sum(expected) / 6, rel=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_a_group_is_taught_about_its_own_classes(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3, 4])
    teacher = torch.randn(len(data), 5, generator=generator(1, "t")).log_softmax(1)
    found, plain = taught_members(data, teacher, members), of_members(data, members)
    hard, said = found.labels.chunk(2, 1)
    torch.testing.assert_close(hard, plain.labels if soft else F.one_hot(plain.labels, 3).float())
    kept = torch.isin(data.hard_labels(), members)
    p = teacher[kept][:, members].exp()
    torch.testing.assert_close(said.exp(), p / p.sum(1, keepdim=True))
    assert taught(data, teacher).labels.shape == (len(data), 10)


def test_both_sets_take_turns_and_no_class_has_more_turns_than_another():
    counts = (900, 90, 9, 1)
    data = both(toy(counts=counts), toy("distilled", (3,) * 4))
    assert len(data) == 1012
    order = torch.cat([data.order(0.0, generator(epoch, "order")) for epoch in range(8)])
    real = order[order < 1000]
    assert len(order) == 8000
    assert len(real) == 4000
    seen = torch.bincount(data.hard_labels()[real], minlength=4).double()
    assert ((seen - 1000).square() / 1000).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


# ---- what can be known without test images -------------------------------------------------------


def test_folds_have_their_share_of_every_class_and_a_lone_image_has_one():
    labels = torch.arange(4).repeat_interleave(torch.tensor([10, 6, 3, 1]))
    fold = _folds(labels, 3, generator(0, "folds"))
    for label, count in enumerate([10, 6, 3, 1]):
        sizes = torch.bincount(fold[labels == label], minlength=3).tolist()
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1


def test_out_of_fold_predictions_come_from_classifiers_that_did_not_see_the_image():
    data, made = toy(counts=(9, 6, 3)), trainer(epochs=1)
    found = out_of_fold(LinearHead(LinearHead.Options()), data, 3, made, "classes", {})
    fold = _folds(data.labels, 3, generator(made.seed, "folds"))
    for index in range(3):
        out = fold == index
        part = trainer(epochs=1).part(f"classes, without fold {index + 1} of 3")
        own = LinearHead(LinearHead.Options()).fit([data.only(~out)], part)
        torch.testing.assert_close(found[out], own.log_probabilities(data.images[out]))


@given(st.integers(0, 200), st.sampled_from([0.3, 1.0, 2.5]))
@settings(max_examples=20, deadline=None)
def test_the_best_temperature_is_that_of_a_grid(seed, scale):
    labels = torch.arange(4).repeat_interleave(torch.tensor([40, 20, 8, 2]))
    logits = 2 * F.one_hot(labels, 4).float() + torch.randn(70, 4, generator=generator(seed, "z"))
    log_p = (logits * scale).log_softmax(1)

    def literal(t):
        own = [-(row / t).double().log_softmax(0)[label].item() for row, label in zip(log_p, labels, strict=True)]
        by_class = [[o for o, k in zip(own, labels.tolist(), strict=True) if k == c] for c in range(4)]
        return sum(sum(part) / len(part) for part in by_class) / 4

    assert balanced_nll(log_p, labels) == pytest.approx(literal(1), rel=1e-5)
    best = best_temperature(log_p, labels)
    assert literal(best) <= min(literal(math.exp(step / 10)) for step in range(-22, 23)) + 1e-4


@given(st.integers(0, 200), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 4.0]), st.sampled_from([0.0, 0.4]))
@settings(max_examples=20, deadline=None)
def test_the_best_correction_is_that_of_a_grid(seed, scale, missing, debias):
    counts = torch.tensor([40, 20, 8, 4])
    labels = torch.arange(4).repeat_interleave(counts)
    logits = F.one_hot(labels, 4).float() + torch.randn(72, 4, generator=generator(seed, "z"))
    log_p = (scale * logits - missing * counts**-0.25).log_softmax(1)
    temperature, margin = best_correction(log_p, labels, counts, debias)
    best = balanced_nll(corrected(log_p, offsets(counts, margin, debias), temperature), labels)
    for t in range(-22, 23, 2):
        for m in range(-10, 31):
            other = corrected(log_p, offsets(counts, m, debias), math.exp(t / 10))
            assert best <= balanced_nll(other, labels) + 1e-4


def test_a_correction_divides_log_probabilities_and_favours_rare_classes():
    net, batch, counts = network(5, 0), images(3), [30, 10, 5, 4, 1]
    offset = offsets(torch.tensor(counts), margin=1.5, debias=0.3)
    found = Corrected(Softmax(net), offset, temperature=2.0).log_probabilities(batch)
    for image, row in zip(batch, found.exp(), strict=True):
        p = net(image[None])[0].double().softmax(0).tolist()
        scores = [p[c] ** (1 / 2.0) * math.exp(1.5 / counts[c] ** (1 / 4)) / (counts[c] / 50) ** 0.3 for c in range(5)]
        assert row.tolist() == pytest.approx([score / sum(scores) for score in scores], abs=1e-5)
    plain = Corrected(Softmax(net), temperature=2.0).log_probabilities(batch)
    torch.testing.assert_close(plain, (net(batch) / 2).log_softmax(1))


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_margins_favour_rare_classes_and_fade_with_more_images(counts, times):
    few = offsets(torch.tensor(counts), 2)
    many = offsets(torch.tensor(counts) * times, 2)
    assert [counts[c] for c in few.argsort()] == sorted(counts, reverse=True)
    assert (few.max() - few.min()) / times**0.25 == pytest.approx(float(many.max() - many.min()))
    torch.testing.assert_close(offsets(torch.tensor(counts), 0, 1), -(few.new_tensor(counts) / sum(counts)).log())


# ---- other partitions ----------------------------------------------------------------------------


def test_classes_that_are_taken_for_each_other_share_a_group():
    labels = torch.arange(6).repeat_interleave(torch.tensor([20, 10, 5, 3, 2, 1]))
    truth = torch.tensor([0, 1, 0, 1, 1, 0])
    p = torch.where(truth[labels][:, None] == truth[None, :], 0.3, 0.1 / 3)
    found = soft_confusion(p.log(), labels)
    torch.testing.assert_close(found.float(), torch.where(truth[:, None] == truth[None, :], 0.3, 0.1 / 3))
    assert torch.equal(least_confused(p.log(), labels, 2, seed=0), truth)
    assert least_confused(p.log(), labels, 9, seed=0).tolist() == list(range(6))


@given(partitions(), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_random_groups_have_the_sizes_of_the_others(groups, seed):
    found = shuffled(groups, seed)
    assert sorted(torch.bincount(found).tolist()) == sorted(torch.bincount(groups).tolist())
    assert torch.equal(found, shuffled(groups, seed))
    first = [found.tolist().index(group) for group in range(int(found.max()) + 1)]
    assert first == sorted(first)


# ---- end to end ----------------------------------------------------------------------------------

CLASSES = {"targets": "classes", "stage1": "balanced-softmax"}


def fitted(made=None, **options):
    sets = [toy(), toy("distilled", (3,) * 5)]
    return TwoStageHead(TwoStageHead.Options(**options)).fit(sets, made or trainer())


@pytest.mark.parametrize(
    "options",
    [
        {**CLASSES, "within": "classes", "a": 0.5, "b": 0.5},
        {**CLASSES, "within": "classes", "a": 0.5, "b": 0.25, "taught": 0.5, "routing": "hard"},
        {**CLASSES, "taught": 0.5, "b": 0.5, "partition": "confusion", "groups": 3},
        {**CLASSES, "within": "others", "b": 0.5},
        {**CLASSES, "within": "classes", "real": True, "taught": 1, "a": 0, "b": 0},
        {**CLASSES, "within": "classes", "calibrate": True, "a": 0.3, "b": 0.7},
        {**CLASSES, "within": "classes", "backbone": "stage1", "calibrate": True},
        {},
        {"targets": "groups", "within": "others", "partition": "random"},
        {"targets": "groups", "stage1": "linear", "a": 0.5, "calibrate": True, "real": True},
        {"preset": "paper"},
    ],
)
def test_variants_fit_a_set_whose_tail_has_one_image(options):
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
        found = fitted(made, **CLASSES, within="classes", a=corner, b=corner, margin=0, taught=0).log_probabilities(
            batch
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"margin": 1.5, "debias": 0.3}])
def test_the_first_stage_favours_rare_classes_as_its_options_say(options):
    made, batch = trainer(), images(6)
    q = COMPONENT("head", {"name": "balanced-softmax"}).fit([toy()], made).log_probabilities(batch).double()
    counts = torch.bincount(toy().labels).tolist()
    margin, debias = options.get("margin", 2), options.get("debias", 0)
    for c, n in enumerate(counts):
        q[:, c] += margin / n**0.25 - debias * math.log(n / sum(counts))
    found = fitted(made, a=1, b=1, **options).log_probabilities(batch)
    torch.testing.assert_close(found.double(), q.log_softmax(1), atol=1e-5, rtol=1e-5)


def test_the_first_stage_has_its_say_by_the_images_of_its_classes():
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
def test_more_images_are_more_of_a_say(counts, worth):
    less, more = (say_of_the_first(torch.tensor(own), worth) for own in (counts, [count + 1 for count in counts]))
    assert 0 < less < more < 1


def test_the_preset_of_the_paper_is_what_was_published():
    options = TwoStageHead.Options(preset="paper")
    published = TwoStageHead.Options(
        preset="paper", groups=2, centres=5, partition="max-cut", targets="groups", stage1="linear", stage2="linear",
        within="separate", routing="hard", a=1, b=0, margin=0, taught=0, backbone="own", real=False, calibrate=False,
    )  # fmt: skip
    assert options == published
    assert TwoStageHead.Options(preset="paper", routing="soft").routing == "soft"
    written = published.model_dump(mode="json")
    assert TwoStageHead.Options(**written) == published


@pytest.mark.parametrize(
    ("chosen", "filled_in"),
    [
        ({}, {"targets": "classes", "within": "classes", "b": None, "margin": 2, "debias": 0, "taught": 0}),
        ({"targets": "groups"}, {"a": 1, "b": 0, "margin": 0, "taught": 0}),
        ({"stage1": "cosine"}, {"margin": 0}),
        ({"within": "separate"}, {"a": 1, "b": None, "margin": 2}),
        ({"within": "shared"}, {"a": 1, "b": None}),
    ],
)
def test_defaults_suit_what_is_chosen(chosen, filled_in):
    options = TwoStageHead.Options(**chosen)
    assert {key: getattr(options, key) for key in filled_in} == filled_in
    assert TwoStageHead.Options(**options.model_dump(mode="json")) == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": 0.5}, "a < 1 asks stage 2 for the group: within=classes"),
        ({"targets": "groups", "b": 0.5}, "b > 0 asks stage 1 for the class: targets=classes"),
        ({"targets": "groups", "taught": 0.5}, "taught > 0 goes with targets=classes"),
        ({**CLASSES, "taught": 0.5, "stage2": "cosine"}, "taught > 0 has a loss of its own"),
        ({"targets": "groups", "partition": "confusion"}, "partition=confusion asks stage 1 for the class"),
        ({"backbone": "stage1"}, "backbone=stage1 goes with"),
    ],
)
def test_options_that_do_not_go_together_get_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        COMPONENT("head", {"name": "twostage", "preset": "paper", **options})
    assert "\n" not in str(caught.value)


def test_a_layer_on_stage_1_needs_a_network_there():
    with pytest.raises(InputError, match="backbone=stage1 needs a network as stage 1"):
        fitted(targets="classes", stage1="ncm", within="classes", backbone="stage1")


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
