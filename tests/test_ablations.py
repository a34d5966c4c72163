"""The ablations of the two-stage head, against their definitions image by image."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from test_twostage import COMPONENT, PUBLISHED, fit, images, network, partitions, toy, trainer
from torch.nn import functional as F

from ltdd_ablations.calibration import (
    Corrected,
    _folds,
    best_correction,
    corrected,
    offsets,
    out_of_fold,
)
from ltdd_ablations.head import AblationsHead
from ltdd_ablations.labels import both, of_members_and_others, within_groups
from ltdd_ablations.partitions import least_confused, shuffled, soft_confusion
from ltdd_ablations.second import Columns, WithoutOthers
from ltdd_ablations.teaching import taught, taught_loss, taught_members
from ltdd_core import InputError, Softmax, balanced_nll, configure, generator
from ltdd_core.evaluation.linear import LinearHead
from ltdd_twostage.head import TwoStageHead
from ltdd_twostage.labels import of_members
from ltdd_twostage.stages import OfGroups, TwoStage, WithinGroups

CLASSES = {"targets": "classes", "stage1": "balanced-softmax"}


def fitted(made=None, head=AblationsHead, soft=False, **options):
    sets = [toy(soft=soft), toy("distilled", (3,) * 5, soft)]
    return head(head.Options(**options)).fit(sets, made or trainer())


# ---- the plugin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, PUBLISHED, {"within": "separate", "groups": 3}, {"targets": "groups"}, {"stage1": "cosine", "a": 0.5}],
)
def test_without_a_variant_it_is_the_two_stage_head(options, soft):
    found, batch = fitted(soft=soft, **options), images(9)
    expected = fitted(head=TwoStageHead, soft=soft, **options)
    assert torch.equal(found.log_probabilities(batch), expected.log_probabilities(batch))
    assert torch.equal(found.groups, expected.groups)
    assert (found.a, found.b) == (expected.a, expected.b)


def test_defaults_are_those_of_the_two_stage_head_and_further_options_change_nothing():
    options, head = AblationsHead.Options().model_dump(), TwoStageHead.Options().model_dump()
    assert {key: options[key] for key in head} == head
    assert {key: value for key, value in options.items() if key not in head} == {
        "partition": "max-cut", "debias": 0, "calibrate": False, "folds": 3, "taught": 0, "temperature": 3,
        "backbone": "own", "real": False,
    }  # fmt: skip


def test_the_plugin_stands_for_its_head_and_the_recipe_of_two_stages():
    config = configure(method="dm", plugin="ablations", head={"taught": 0.25})
    assert (config.head.name, config.recipe.name) == ("twostage-ablations", "hierarchical")
    assert config.head.component.title != TwoStageHead.title
    with pytest.raises(InputError, match=r"unknown option of .*'taught'|unknown .*'taught'"):
        configure(method="dm", plugin="twostage", head={"taught": 0.25})


# ---- what stage 2 learns -------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_the_shared_loss_is_the_cross_entropy_within_each_images_group(soft):
    groups, data = torch.tensor([0, 1, 0, 1, 1]), toy(soft=soft)
    logits = torch.randn(len(data), 5, generator=generator(2, "logits")) * 3
    expected = []
    for row, label in zip(logits.double(), data.targets(), strict=True):
        group = groups[label.argmax() if soft else label]
        members = [c for c in range(5) if groups[c] == group]
        target = [label[c].item() if soft else float(c == label) for c in members]
        log_p = row[members].log_softmax(0).tolist()
        expected.append(-sum(t / sum(target) * p for t, p in zip(target, log_p, strict=True)))
    found = within_groups(groups)(logits, data.targets())
    assert found.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_the_shared_loss_moves_no_logit_of_another_group(soft):
    groups, data = torch.tensor([0, 1, 0, 1, 1]), toy(soft=soft)
    logits = torch.zeros(len(data), 5, requires_grad=True)
    within_groups(groups)(logits, data.targets()).backward()
    same = groups[None, :] == groups[data.labels][:, None]
    assert (logits.grad[~same] == 0).all()
    assert (logits.grad[same] != 0).all()


def test_a_group_reads_its_columns_of_the_shared_network():
    made, batch = network(5, 0), images(3)
    assert torch.equal(Columns(made, torch.tensor([1, 3, 4]))(batch), made(batch)[:, [1, 3, 4]])


def test_the_column_of_the_others_takes_probability_from_a_group():
    groups, batch = torch.tensor([0, 0, 1, 1]), images(6)
    by_group, within = network(2, 0), [network(3, 1), network(3, 2)]
    second = WithinGroups([WithoutOthers(Softmax(each)) for each in within], groups)
    found = TwoStage(groups, OfGroups(Softmax(by_group)), second, a=1, b=0, hard=False).log_probabilities(batch).exp()
    p_group = by_group(batch).softmax(1)
    scores = torch.cat([p_group[:, [g]] * within[g](batch).softmax(1)[:, :2] for g in (0, 1)], 1)
    torch.testing.assert_close(found, scores / scores.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_the_others_are_one_class_more(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3])
    found = of_members_and_others(data, members)
    assert found.classes == 3
    assert len(found) == len(data)
    assert found.labels.tolist() == [{1: 0, 3: 1}.get(label, 2) for label in data.labels.tolist()]
    for row, new in zip(data.targets(), found.targets(), strict=True) if soft else ():
        own = [row[1].item(), row[3].item()]
        assert new.tolist() == pytest.approx([*own, 1 - sum(own)], abs=1e-6)


def test_the_loss_of_a_student_is_hintons():
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
def test_a_group_is_taught_about_its_classes_only(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3, 4])
    teacher = torch.randn(len(data), 5, generator=generator(1, "t")).log_softmax(1)
    found, plain = taught_members(data, teacher, members), of_members(data, members)
    hard, said = found.targets().chunk(2, 1)
    torch.testing.assert_close(hard, plain.targets() if soft else F.one_hot(plain.labels, 3).float())
    assert torch.equal(found.labels, plain.labels)
    kept = torch.isin(data.labels, members)
    p = teacher[kept][:, members].exp()
    torch.testing.assert_close(said.exp(), p / p.sum(1, keepdim=True))
    assert taught(data, teacher).targets().shape == (len(data), 10)


def test_both_sets_take_turns_and_no_class_has_more_turns_than_another():
    counts = (900, 90, 9, 1)
    data = both(toy(counts=counts), toy("distilled", (3,) * 4))
    assert len(data) == 1012
    order = torch.cat([data.order(0.0, generator(epoch, "order")) for epoch in range(8)])
    real = order[order < 1000]
    assert len(order) == 8000
    assert len(real) == 4000
    seen = torch.bincount(data.labels[real], minlength=4).double()
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
    found = out_of_fold(LinearHead(LinearHead.Options()), data, 3, made, "classes")
    fold = _folds(data.labels, 3, generator(made.seed, "folds"))
    for index in range(3):
        out = fold == index
        part = trainer(epochs=1).part(f"classes, without fold {index + 1} of 3")
        own = LinearHead(LinearHead.Options()).fit([data.only(~out)], part)
        torch.testing.assert_close(found[out], own.log_probabilities(data.images[out]))


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


def test_debias_depends_on_ratios_of_counts_only():
    counts = torch.tensor([50, 5, 1])
    torch.testing.assert_close(offsets(counts, 0, 1), -(counts.double() / 56).log())
    torch.testing.assert_close(offsets(counts, 0, 0.3), offsets(10 * counts, 0, 0.3))


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
        {**PUBLISHED, "within": "shared"},
    ],
)
def test_variants_fit_a_set_whose_tail_has_one_image(options):
    found = fitted(**options).log_probabilities(images(7))
    assert found.shape == (7, 5)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(7))
    assert torch.equal(found, fitted(**options).log_probabilities(images(7)))


@pytest.mark.parametrize("routing", ["soft", "hard"])
@pytest.mark.parametrize("groups", [2, 3, 5, 9])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("within", ["shared", "others"])
def test_every_stage_2_fits_a_set_whose_tail_has_one_image(routing, groups, soft, within):
    fitted = fit(head=AblationsHead, routing=routing, within=within, groups=groups, soft=soft)
    found = fitted.log_probabilities(images(7))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(7))
    assert sorted(set(fitted.groups.tolist())) == list(range(min(groups, 5)))
    again = fit(head=AblationsHead, routing=routing, within=within, groups=groups, soft=soft)
    assert torch.equal(found, again.log_probabilities(images(7)))


def test_a_shared_network_learns_the_classes_of_its_set():
    calls, data = [], [toy(counts=(20,) * 5), toy("distilled", (20,) * 5)]
    for routing in ("soft", "hard"):
        head = AblationsHead(AblationsHead.Options(**{**PUBLISHED, "within": "shared", "routing": routing}))
        predicted = head.fit(data, trainer(calls=calls, epochs=60, lr=0.1)).log_probabilities(data[0].images).argmax(1)
        assert (predicted == data[0].labels).float().mean() > 0.9
    assert calls[:3] == [
        "classes on the original set",
        "groups on the original set",
        "classes within groups on the distilled set",
    ]


@pytest.mark.parametrize("partition", ["max-cut", "confusion", "random"])
def test_no_partition_groups_a_class_without_an_image(partition):
    lost = toy().only(toy().labels != 4)
    head = AblationsHead(AblationsHead.Options(partition=partition))
    with pytest.raises(InputError, match="no image of class 4"):
        head.fit([lost, toy("distilled")], trainer())


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": 0.5, "within": "others"}, "a < 1 asks stage 2 for the group: use within=classes"),
        ({"targets": "groups", "b": 0.5}, "b > 0 asks stage 1 for the class: use targets=classes"),
        ({"within": "shared", "stage2": "cosine"}, "within=shared has its own loss: use stage2=linear"),
        ({"targets": "groups", "taught": 0.5}, "taught > 0 needs targets=classes"),
        ({**CLASSES, "within": "others", "taught": 0.5}, "taught > 0 needs targets=classes, and within=separate or"),
        ({**CLASSES, "taught": 0.5, "stage2": "cosine"}, "taught > 0 has its own loss: use stage2=linear"),
        ({"targets": "groups", "partition": "confusion"}, "partition=confusion asks stage 1 for the class"),
        ({"backbone": "stage1"}, "backbone=stage1 needs targets=classes"),
    ],
)
def test_options_that_do_not_go_together_get_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        COMPONENT("head", {"name": "twostage-ablations", **PUBLISHED, **options})
    assert "\n" not in str(caught.value)


def test_a_layer_on_stage_1_needs_a_network_there():
    with pytest.raises(InputError, match="backbone=stage1 needs a stage 1 that is one network"):
        fitted(targets="classes", stage1="ncm", within="classes", backbone="stage1")
