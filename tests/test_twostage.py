"""Two-stage classification against its definition image by image, and its training end to end."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import Augmentation, BaseOptions, InputError, LongTailedSet, PerChannel, Softmax, TrainingSet, generator
from ltdd_core.config.resolve import component_maker
from ltdd_core.data.by_class import InstanceSampler
from ltdd_core.evaluation.linear import Direct, LinearHead
from ltdd_core.networks.zoo import MLP
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.seeding import global_generator
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.trainer import Trainer
from ltdd_hierarchical.recipe import Hierarchical
from ltdd_samplers.power import ClassBalancedSampler
from ltdd_twostage.head import TwoStageHead
from ltdd_twostage.labels import of_groups, of_members, within_groups
from ltdd_twostage.second import columns
from ltdd_twostage.stages import OfGroups, TwoStage, WithinGroups

PLAIN = PerChannel((0.0,), (1.0,))
COUNTS = (12, 5, 2, 1, 1)
COMPONENT = component_maker(Catalog(load_plugins()))


def network(outputs, seed, sharpness=1.0):
    with global_generator(seed, "toy network"):
        made = MLP((1, 2, 2), outputs, MLP.Options(width=8, depth=1))
    with torch.no_grad():
        made.linear.weight.mul_(sharpness)
    return made.eval().requires_grad_(False)


def images(n, seed=0):
    return torch.randn(n, 1, 2, 2, generator=generator(seed, "images"))


def toy(name="original", counts=COUNTS, soft=False):
    """A few images a class around a point of its own; the last classes have one image."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = 2 * torch.randn(len(counts), 1, 2, 2, generator=generator(0, "centres"))
    pixels = centres[labels] + 0.2 * images(len(labels), seed=len(name))
    if soft:
        labels = torch.rand(len(labels), len(counts), generator=generator(1, "soft")) + 4 * F.one_hot(
            labels, len(counts)
        )
        labels = labels / labels.sum(1, keepdim=True)
    return TrainingSet(name, pixels, labels, PLAIN, len(counts))


def trainer(seed=0, calls=None, epochs=2, **options):
    settings = TrainingOptions(epochs=epochs, batch=8, **options)
    return Trainer(
        lambda shape, outputs: MLP(shape, outputs, MLP.Options(width=8, depth=1)),
        {"original": settings, "distilled": settings},
        Augmentation("none"),
        seed=seed,
        device=torch.device("cpu"),
        chunk=4,
        started=lambda purpose: None if calls is None else calls.append(purpose),
        component=COMPONENT,
    )


# ---- the classifier ------------------------------------------------------------------------------


def joined(groups, by_group, within, *, hard):
    """The classifier of networks."""
    second = WithinGroups([network and Softmax(network) for network in within], groups)
    return TwoStage(groups, OfGroups(Softmax(by_group)), second, a=1, b=0, hard=hard)


@st.composite
def partitions(draw):
    """Groups of 2 to 6 classes, numbered by their first classes; some have one class."""
    raw = draw(st.lists(st.integers(0, 2), min_size=2, max_size=6))
    rank = {group: index for index, group in enumerate(dict.fromkeys(raw))}
    return torch.tensor([rank[group] for group in raw])


def stages(groups, seed, sharpness=1.0):
    count = int(groups.max()) + 1
    sizes = torch.bincount(groups).tolist()
    within = [network(size, seed + 1 + g, sharpness) if size > 1 else None for g, size in enumerate(sizes)]
    return network(count, seed, sharpness), within


def literal(groups, by_group, within, image, hard):
    """p(c) of one image for every class."""
    p_group = by_group(image[None])[0].double().softmax(0).tolist()
    result = []
    for c, g in enumerate(groups.tolist()):
        members = [k for k in range(len(groups)) if groups[k] == g]
        p_within = 1.0 if len(members) == 1 else within[g](image[None])[0].double().softmax(0)[members.index(c)].item()
        likeliest = max(range(len(p_group)), key=p_group.__getitem__)
        result.append(p_within * (g == likeliest) if hard else p_within * p_group[g])
    return result


@given(partitions(), st.integers(0, 1000), st.booleans(), st.sampled_from([1.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_probabilities_are_those_of_the_two_stages_image_by_image(groups, seed, hard, sharpness):
    by_group, within = stages(groups, seed, sharpness)
    batch = images(4, seed)
    found = joined(groups, by_group, within, hard=hard).log_probabilities(batch).double()
    for image, row in zip(batch, found, strict=True):
        for value, probability in zip(row.tolist(), literal(groups, by_group, within, image, hard), strict=True):
            if probability == 0:
                assert value == -math.inf
            else:
                assert value == pytest.approx(math.log(probability), abs=1e-3)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)


@given(partitions(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_hard_routing_takes_the_likeliest_group_and_then_its_likeliest_class(groups, seed):
    by_group, within = stages(groups, seed)
    batch = images(8, seed)
    predicted = joined(groups, by_group, within, hard=True).log_probabilities(batch).argmax(1)
    for image, label in zip(batch, predicted.tolist(), strict=True):
        group = int(by_group(image[None]).argmax())
        members = torch.nonzero(groups == group).flatten()
        best = 0 if within[group] is None else int(within[group](image[None]).argmax())
        assert label == int(members[best])


def test_soft_routing_can_find_a_class_whose_group_is_not_the_likeliest():
    groups = torch.tensor([0, 0, 1])

    def by_group(batch):
        return torch.tensor([0.6, 0.4]).log().expand(len(batch), 2)

    def undecided(batch):
        return torch.zeros(len(batch), 2)

    for hard, label in ((True, 0), (False, 2)):
        two_stage = joined(groups, by_group, [undecided, None], hard=hard)
        assert two_stage.log_probabilities(images(1)).argmax(1).tolist() == [label]


# ---- what the stages are trained on --------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_the_group_stage_learns_the_sums_over_groups(soft):
    groups, data = torch.tensor([0, 1, 0, 2, 1]), toy(soft=soft)
    found = of_groups(data, groups, 3)
    assert found.classes == 3
    for label, new in zip(data.labels, found.labels, strict=True):
        if soft:
            sums = [sum(label[c].item() for c in range(5) if groups[c] == g) for g in range(3)]
            assert new.tolist() == pytest.approx(sums)
        else:
            assert new == groups[label]


@pytest.mark.parametrize("soft", [False, True])
def test_the_classes_of_a_group_are_numbered_from_zero_and_keep_their_images(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3, 4])
    found = of_members(data, members)
    hard = data.labels.argmax(1) if soft else data.labels
    kept = [i for i in range(len(data)) if hard[i] in (1, 3, 4)]
    assert found.classes == 3
    assert torch.equal(found.images, data.images[kept])
    for i, label in zip(kept, found.labels, strict=True):
        if soft:
            own = [data.labels[i, c].item() for c in (1, 3, 4)]
            assert label.tolist() == pytest.approx([value / sum(own) for value in own])
        else:
            assert [1, 3, 4][int(label)] == data.labels[i]


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_order_of_a_part_is_that_of_the_whole_without_the_others(kept, draws):
    draws = [draw % len(kept) for draw in draws]

    def order(progress, generator):
        assert progress == 0.25
        return torch.tensor(draws, dtype=torch.int64)

    positions = {image: place for place, image in enumerate(i for i, keep in enumerate(kept) if keep)}
    data = TrainingSet("original", images(len(kept)), torch.zeros(len(kept), dtype=torch.int64), PLAIN, 1, order)
    found = data.only(torch.tensor(kept)).order(0.25, generator(0, "order"))
    assert found.tolist() == [positions[draw] for draw in draws if kept[draw]]


def test_a_set_without_an_order_has_none_in_its_parts():
    assert of_members(toy(), torch.tensor([0, 1])).order is None


@pytest.mark.parametrize("soft", [False, True])
def test_the_shared_loss_is_the_cross_entropy_within_each_images_group(soft):
    groups, data = torch.tensor([0, 1, 0, 1, 1]), toy(soft=soft)
    logits = torch.randn(len(data), 5, generator=generator(2, "logits")) * 3
    expected = []
    for row, label in zip(logits.double(), data.labels, strict=True):
        group = groups[label.argmax() if soft else label]
        members = [c for c in range(5) if groups[c] == group]
        target = [label[c].item() if soft else float(c == label) for c in members]
        log_p = row[members].log_softmax(0).tolist()
        expected.append(-sum(t / sum(target) * p for t, p in zip(target, log_p, strict=True)))
    found = within_groups(groups)(logits, data.labels)
    assert found.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_the_shared_loss_moves_no_logit_of_another_group(soft):
    groups, data = torch.tensor([0, 1, 0, 1, 1]), toy(soft=soft)
    logits = torch.zeros(len(data), 5, requires_grad=True)
    within_groups(groups)(logits, data.labels).backward()
    hard = data.labels.argmax(1) if soft else data.labels
    same = groups[None, :] == groups[hard][:, None]
    assert (logits.grad[~same] == 0).all()
    assert (logits.grad[same] != 0).all()


def test_a_group_reads_its_owncolumns_of_the_shared_network():
    made, batch = network(5, 0), images(3)
    assert torch.equal(columns(made, torch.tensor([1, 3, 4]))(batch), made(batch)[:, [1, 3, 4]])


# ---- end to end ----------------------------------------------------------------------------------


def fit(first="original", second="distilled", seed=0, calls=None, soft=False, order=None, **options):
    sets = {"original": replace(toy(soft=soft), order=order), "distilled": toy("distilled", (3,) * 5, soft)}
    head = TwoStageHead(TwoStageHead.Options(**{"preset": "paper", "routing": "soft", **options}))
    return head.fit([sets[first], sets[second]], trainer(seed, calls))


@pytest.mark.parametrize("routing", ["soft", "hard"])
@pytest.mark.parametrize("within", ["separate", "shared"])
@pytest.mark.parametrize("groups", [2, 3, 5, 9])
@pytest.mark.parametrize("first", ["original", "distilled"])
@pytest.mark.parametrize("second", ["original", "distilled"])
def test_every_choice_fits_a_set_whose_tail_has_one_image(routing, within, groups, first, second):
    for soft in (False, True):
        fitted = fit(first, second, routing=routing, within=within, groups=groups, soft=soft)
        found = fitted.log_probabilities(images(7))
        assert found.shape == (7, 5)
        torch.testing.assert_close(found.exp().sum(1), torch.ones(7))
        assert sorted(set(fitted.groups.tolist())) == list(range(min(groups, 5)))
        if routing == "hard":
            ruled_out = fitted.groups[None, :] != fitted.groups[found.argmax(1)][:, None]
            assert torch.equal(found == -torch.inf, ruled_out)


def test_the_classes_are_told_apart_after_enough_epochs():
    data = [toy(counts=(20,) * 5), toy("distilled", (20,) * 5)]
    for within, routing in itertools.product(("separate", "shared"), ("soft", "hard")):
        head = TwoStageHead(TwoStageHead.Options(preset="paper", within=within, routing=routing))
        fitted = head.fit(data, trainer(epochs=60, lr=0.1))
        predicted = fitted.log_probabilities(data[0].images).argmax(1)
        assert (predicted == data[0].labels).float().mean() > 0.9


@pytest.mark.parametrize("within", ["separate", "shared"])
def test_the_same_seed_fits_the_same_classifier_and_draws_nothing_globally(within):
    before, batch = torch.random.get_rng_state(), images(7)
    first = fit(within=within).log_probabilities(batch)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, fit(within=within).log_probabilities(batch))
    assert not torch.equal(first, fit(within=within, seed=1).log_probabilities(batch))


def test_samplers_order_both_stages():
    counts = (30, 9, 3, 1)
    labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
    data = LongTailedSet("toy", labels, labels, labels, labels, tuple("abcd"), PLAIN, counts)
    results = []
    for kind in (InstanceSampler, ClassBalancedSampler):
        sampler = kind(BaseOptions())
        sampler.prepare(data)
        sets = [replace(toy(counts=counts), order=sampler.epoch)] * 2
        results.append(TwoStageHead(TwoStageHead.Options()).fit(sets, trainer()).log_probabilities(images(5)))
        assert torch.isfinite(results[-1]).all()
    assert not torch.equal(*results)


@pytest.mark.parametrize("linear_first", [True, False])
def test_the_plain_classifier_behind_the_partition_is_the_direct_line(linear_first):
    calls = []
    made, data = trainer(calls=calls), toy()
    direct, two_stage = LinearHead(BaseOptions()), TwoStageHead(TwoStageHead.Options(preset="paper"))
    for head in (direct, two_stage) if linear_first else (two_stage, direct):
        fitted = head.fit([data, toy("distilled", (3,) * 5)][: head.stages], made)
        if head is direct:
            plain = fitted
    assert calls.count("classes on the original set") == 1
    assert len(calls) == len(set(calls))
    assert plain.logits is made.train(data, outputs=5)
    alone = direct.fit([data], trainer())
    assert torch.equal(plain.log_probabilities(images(4)), alone.log_probabilities(images(4)))
    expected = made.train(data, outputs=5)(images(4)).log_softmax(1)
    assert torch.equal(plain.log_probabilities(images(4)), expected)


def test_each_stage_learns_from_its_own_set():
    calls = []
    fitted = fit(calls=calls)
    assert calls[:2] == ["classes on the original set", "groups on the original set"]
    sizes = torch.bincount(fitted.groups).tolist()
    expected = [f"classes of group {g + 1} on the distilled set" for g, size in enumerate(sizes) if size > 1]
    assert calls[2:] == expected
    calls.clear()
    fit(calls=calls, first="distilled", second="original", within="shared")
    assert calls == [
        "classes on the distilled set",
        "groups on the distilled set",
        "classes within groups on the original set",
    ]


def test_soft_labels_under_which_a_class_has_no_image_get_one_line():
    data = toy(soft=True)
    labels = data.labels.clone()
    labels[:, 4] = 0.001
    lost = replace(data, labels=labels / labels.sum(1, keepdim=True))
    with pytest.raises(InputError, match=r"class 4 as its likeliest label.*stage1=original"):
        TwoStageHead(TwoStageHead.Options(preset="paper")).fit([lost, toy("distilled")], trainer())
    with pytest.raises(InputError, match=r"classes \[4\].*head\.within=shared"):
        of_members(lost, torch.tensor([4]))


def test_each_stage_may_have_a_head_of_its_own():
    calls = []
    fitted = fit(calls=calls, stage1="balanced-softmax", stage2="cosine")
    assert calls[:2] == ["classes on the original set", "groups: balanced softmax on the original set"]
    sizes = torch.bincount(fitted.groups).tolist()
    expected = [
        f"classes of group {g + 1}: classes by cosine on the distilled set" for g, s in enumerate(sizes) if s > 1
    ]
    assert calls[2:] == expected
    plain, batch = fit(), images(7)
    assert torch.equal(fitted.groups, plain.groups)
    assert not torch.equal(fitted.log_probabilities(batch), plain.log_probabilities(batch))


def test_stages_that_do_not_go_together_get_one_line():
    with pytest.raises(InputError, match=r"head\.stage2=twostage has stages of its own"):
        fit(stage2="twostage")
    with pytest.raises(InputError, match="within=shared is a network of its own"):
        COMPONENT("head", {"name": "twostage", "within": "shared", "stage2": "cosine"})
    with pytest.raises(
        InputError, match=r"head\.stage1: unknown head 'balanced-softmx'. Did you mean 'balanced-softmax'"
    ):
        COMPONENT("head", {"name": "twostage", "stage1": "balanced-softmx"})


def test_the_head_of_a_stage_has_its_own_options():
    def said(named):
        options = {"targets": "classes", "within": "classes", "a": 1.0, "b": 1.0}
        return fit(stage1=named, **options).log_probabilities(images(7))

    plain = said("logit-adjustment")
    assert torch.equal(plain, said({"name": "logit-adjustment", "tau": 1.0}))
    assert not torch.equal(plain, said({"name": "logit-adjustment", "tau": 2.0}))
    with pytest.raises(InputError, match=r"head\.stage1: .*unknown .*'taux'. Did you mean 'tau'"):
        COMPONENT("head", {"name": "twostage", "stage1": {"name": "logit-adjustment", "taux": 2.0}})


# ---- recipes -------------------------------------------------------------------------------------


def test_recipes_assign_a_set_to_each_stage():
    assert Hierarchical(Hierarchical.Options()).assign(2) == ("original", "distilled")
    swapped = Hierarchical.Options(stage1="distilled", stage2="original")
    assert Hierarchical(swapped).assign(2) == ("distilled", "original")
    assert Direct(Direct.Options()).assign(1) == ("distilled",)
    assert Direct(Direct.Options(data="original")).assign(2) == ("original", "original")


@pytest.mark.parametrize("stages", [1, 3])
def test_hierarchical_refuses_heads_of_one_stage(stages):
    with pytest.raises(
        InputError, match=rf"the head has {stages}: use a head of two stages, or --recipe direct"
    ) as caught:
        Hierarchical(Hierarchical.Options()).assign(stages)
    assert "\n" not in str(caught.value)
