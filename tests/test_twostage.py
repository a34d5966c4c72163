"""Two-stage classification against its definition image by image, and its training end to end."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import TINY, Noting, unclocked
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import (
    Augmentation,
    BaseOptions,
    InputError,
    LongTailedSet,
    PerChannel,
    SoftLabels,
    Softmax,
    TrainingSet,
    configure,
    distill,
    generator,
)
from ltdd_core.config.resolve import component_maker
from ltdd_core.data.by_class import InstanceSampler
from ltdd_core.evaluation.linear import Direct, LinearHead
from ltdd_core.networks.zoo import MLP
from ltdd_core.plugging.catalog import installed
from ltdd_core.seeding import global_generator
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.trainer import Trainer
from ltdd_hierarchical.recipe import Hierarchical
from ltdd_samplers.power import ClassBalancedSampler
from ltdd_twostage import PAPER
from ltdd_twostage.head import TwoStageHead, effective_b, effective_margin
from ltdd_twostage.labels import of_groups, of_members
from ltdd_twostage.stages import OfGroups, TwoStage, WithinGroups

PLAIN = PerChannel((0.0,), (1.0,))
COUNTS = (12, 5, 2, 1, 1)
COMPONENT = component_maker(installed())
PUBLISHED = {key: value for key, value in PAPER["head"].items() if key != "name"}


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
    said = None
    if soft:
        values = torch.rand(len(labels), len(counts), generator=generator(1, "soft")) + 4 * F.one_hot(
            labels, len(counts)
        )
        said = SoftLabels(values / values.sum(1, keepdim=True))
    return TrainingSet(name, pixels, labels, PLAIN, len(counts), soft_labels=said)


def trainer(seed=0, calls=None, epochs=2, **options):
    settings = TrainingOptions(epochs=epochs, batch=8, **options)
    return Trainer(
        lambda shape, outputs: MLP(shape, outputs, MLP.Options(width=8, depth=1)),
        {"original": settings, "distilled": settings},
        Augmentation("none"),
        seed=seed,
        device=torch.device("cpu"),
        chunk=4,
        display=None if calls is None else Noting(calls),
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
    assert found.labels.tolist() == [groups[label] for label in data.labels]
    for row, new in zip(data.targets(), found.targets(), strict=True) if soft else ():
        sums = [sum(row[c].item() for c in range(5) if groups[c] == g) for g in range(3)]
        assert new.tolist() == pytest.approx(sums)


@pytest.mark.parametrize("soft", [False, True])
def test_the_classes_of_a_group_are_numbered_from_zero_and_keep_their_images(soft):
    data, members = toy(soft=soft), torch.tensor([1, 3, 4])
    found = of_members(data, members)
    kept = [i for i in range(len(data)) if data.labels[i] in (1, 3, 4)]
    assert found.classes == 3
    assert torch.equal(found.images, data.images[kept])
    assert [[1, 3, 4][label] for label in found.labels] == data.labels[kept].tolist()
    for i, row in zip(kept, found.targets(), strict=True) if soft else ():
        own = [data.targets()[i, c].item() for c in (1, 3, 4)]
        assert row.tolist() == pytest.approx([value / sum(own) for value in own])


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("probabilities", [0.5, 0.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0]),
        ("probabilities", [1.0, 0.0, 0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ("logits", [500.0, 1.0, 0.0, 2.0, 3.0], torch.tensor([1.0, 2.0, 3.0]).softmax(0).tolist()),
    ],
)
def test_soft_labels_with_nothing_in_a_group_are_renormalised_all_the_same(kind, said, expected):
    """A teacher that gives a group no probability says nothing of its classes; logits say it however small they are."""
    data = replace(toy(counts=(1,) * 5), soft_labels=SoftLabels(torch.tensor([said] * 5), kind))
    found = of_members(data, torch.tensor([1, 3, 4]))
    assert found.labels.tolist() == [0, 1, 2]
    for row in found.targets().tolist():
        assert row == pytest.approx(expected, abs=1e-6)


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


# ---- end to end ----------------------------------------------------------------------------------


def fit(first="original", second="distilled", seed=0, calls=None, soft=False, head=TwoStageHead, **options):
    sets = {"original": toy(soft=soft), "distilled": toy("distilled", (3,) * 5, soft)}
    made = head(head.Options(**{**PUBLISHED, "routing": "soft", **options}))
    return made.fit([sets[first], sets[second]], trainer(seed, calls))


@pytest.mark.parametrize("routing", ["soft", "hard"])
@pytest.mark.parametrize("within", ["separate", "classes"])
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
    for within, routing in itertools.product(("separate", "classes"), ("soft", "hard")):
        head = TwoStageHead(TwoStageHead.Options(**{**PUBLISHED, "within": within, "routing": routing}))
        fitted = head.fit(data, trainer(epochs=60, lr=0.1))
        predicted = fitted.log_probabilities(data[0].images).argmax(1)
        assert (predicted == data[0].labels).float().mean() > 0.9


@pytest.mark.parametrize("within", ["separate", "classes"])
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
    direct, two_stage = LinearHead(BaseOptions()), TwoStageHead(TwoStageHead.Options(**PUBLISHED))
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
    fit(calls=calls, first="distilled", second="original", within="classes")
    assert calls == ["classes on the distilled set", "groups on the distilled set", "classes on the original set"]


@pytest.mark.parametrize("soft", [False, True])
def test_a_set_without_an_image_of_a_class_gets_one_line(soft):
    data = toy(soft=soft)
    lost = data.only(data.labels != 4)
    with pytest.raises(InputError, match=r'no image of class 4.*recipe={"name": "hierarchical", "stage1": "original"}'):
        TwoStageHead(TwoStageHead.Options(**PUBLISHED)).fit([lost, toy("distilled")], trainer())
    with pytest.raises(InputError, match=r"no image of the classes \[4\].*head\.within=classes"):
        of_members(lost, torch.tensor([4]))


def test_a_class_that_is_never_the_likeliest_has_its_images_all_the_same():
    data = toy(soft=True)
    values = data.targets().clone()
    values[:, 4] = 0
    data = replace(data, soft_labels=SoftLabels(values / values.sum(1, keepdim=True)))
    assert of_members(data, torch.tensor([4])).images.equal(data.images[data.labels == 4])
    fitted = TwoStageHead(TwoStageHead.Options(**PUBLISHED)).fit([data, toy("distilled", (3,) * 5)], trainer())
    assert torch.isfinite(fitted.log_probabilities(images(3))).any()


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
    with pytest.raises(InputError, match=r"head\.stage2=twostage has 2 stages"):
        fit(stage2="twostage")
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


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "margin", "b"),
    [
        ({}, 2, 0.3),
        ({"stage1": "logit-adjustment"}, 2, 0.3),
        ({"stage1": {"name": "balanced-softmax"}}, 2, 0.3),
        ({"stage1": "cosine"}, 0, 0.3),
        ({"within": "separate"}, 2, 0.3),
        ({"worth": 2.0}, 2, 0.6),
        ({"targets": "groups"}, 0, 0),
        ({"targets": "groups", "margin": 1.5}, 1.5, 0),
        ({"stage1": "cosine", "margin": 0.5, "b": 0.9}, 0.5, 0.9),
        ({"margin": 0.0, "b": 0.0}, 0, 0),
    ],
)
def test_margin_and_b_suit_the_other_options_unless_they_are_given(chosen, margin, b):
    options = TwoStageHead.Options(**chosen)
    assert effective_margin(options) == margin
    counts = torch.tensor([2, 6, 3])  # their harmonic mean is 3
    assert effective_b(options, counts, same_set=False) == pytest.approx(b)
    same = 0.5 if options.b is None and options.targets == "classes" else b
    assert effective_b(options, counts, same_set=True) == same


def test_stored_options_that_are_changed_in_one_are_as_if_written_so_at_once():
    stored = TwoStageHead.Options().model_dump(mode="json")
    for change in ({"targets": "groups"}, {"stage1": "cosine"}, {"within": "separate"}, {"routing": "hard"}):
        assert TwoStageHead.Options(**{**stored, **change}) == TwoStageHead.Options(**change)
    assert effective_margin(TwoStageHead.Options(**{**stored, "targets": "groups"})) == 0
    assert TwoStageHead.Options(**stored) == TwoStageHead.Options()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": 0.5, "within": "separate"}, "a < 1 asks stage 2 for the group: use within=classes"),
        ({"targets": "groups", "b": 0.5}, "b > 0 asks stage 1 for the class: use targets=classes"),
    ],
)
def test_options_that_do_not_go_together_get_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        COMPONENT("head", {"name": "twostage", **options})
    assert "\n" not in str(caught.value)


def test_a_run_that_is_evaluated_with_another_option_has_what_goes_with_it(finished, ltdd):
    result = ltdd("evaluate", finished, "--set", "head.targets=groups", "--json")
    assert result.exit_code == 0, result.output
    fresh = ltdd("evaluate", finished, "--plugin", "twostage", "--set", "head.targets=groups", "--json")
    assert unclocked(json.loads(result.stdout)["rows"]) == unclocked(json.loads(fresh.stdout)["rows"])


# ---- the paper's head ----------------------------------------------------------------------------


def test_the_preset_is_the_published_head_and_names_every_option_that_decides_its_answer():
    config = configure("twostage-paper", method="dm")
    assert (config.head.name, config.recipe.name, config.run.plugins) == ("twostage", "hierarchical", ("twostage",))
    assert config.head.options.model_dump() == {
        "groups": 2, "centres": 5, "targets": "groups", "stage1": "linear", "stage2": "linear", "within": "separate",
        "routing": "hard", "a": 1, "b": 0, "margin": 0, "worth": 7,
    }  # fmt: skip
    decided = set(TwoStageHead.Options.model_fields) - {"worth"}  # which has a say where b is None
    assert decided == set(PUBLISHED)
    changed = configure("twostage-paper", method="dm", head={"routing": "soft"})
    assert changed.head.options == TwoStageHead.Options(**{**PUBLISHED, "routing": "soft"})


def test_what_is_said_beside_the_preset_wins():
    other = configure("twostage-paper", method="dm", head="cosine", recipe="direct")
    assert (other.head.name, other.recipe.name) == ("cosine", "direct")
    watched = configure("twostage-paper", method="dm", plugins=["tensorboard"])
    assert (watched.head.name, watched.recipe.name, watched.run.plugins) == (
        "twostage",
        "hierarchical",
        ("tensorboard",),
    )
    assert watched.head.options == TwoStageHead.Options(**PUBLISHED)


def test_the_preset_distils_and_evaluates(finished, ltdd, tmp_path):
    shown = ltdd("distill", "--method", "dm", "--preset", "twostage-paper", *TINY, "--out", tmp_path / "run", "--json")
    assert shown.exit_code == 0, shown.output
    again = ltdd("evaluate", finished, "--preset", "twostage-paper", "--json")
    assert again.exit_code == 0, again.output
    rows, (row,) = json.loads(shown.stdout)["rows"], json.loads(again.stdout)["rows"]
    assert rows[-1]["name"] == row["name"] == "two-stage, original + distilled"
    assert row["accuracy"] == rows[-1]["accuracy"]
    assert "classes of group 1 on the distilled set" in again.stderr
    soft = ltdd("evaluate", finished, "--preset", "twostage-paper", "--set", "head.within=classes", "--json")
    assert soft.exit_code == 0, soft.output
    assert "of group 1" not in soft.stderr


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
        InputError, match=rf"the head has {stages}: use a head of two stages, or recipe=\"direct\""
    ) as caught:
        Hierarchical(Hierarchical.Options()).assign(stages)
    assert "\n" not in str(caught.value)


def test_the_labels_of_views_follow_the_labels_of_a_stage():
    data, groups = toy(), torch.tensor([0, 1, 0, 1, 1])

    def view_labels(images):
        return SoftLabels(F.pad(images.flatten(1), (0, 1)), "logits")  # five classes, four pixels

    seen = torch.randn(7, *data.image_shape, generator=generator(0, "views"))
    p = view_labels(seen).probabilities()
    whole = replace(data, view_labels=view_labels)
    summed = of_groups(whole, groups, 2).view_labels(seen).probabilities()
    torch.testing.assert_close(summed, torch.stack([p[:, [0, 2]].sum(1), p[:, [1, 3, 4]].sum(1)], 1))
    among = of_members(whole, torch.tensor([1, 4])).view_labels(seen).probabilities()
    torch.testing.assert_close(among, p[:, [1, 4]] / p[:, [1, 4]].sum(1, keepdim=True))


# ---- the opponent in the table of a run ----------------------------------------------------------

TINY_RUN = {
    "method": "dm",
    "plugins": ["twostage"],
    "iterations": 1,
    "ipc": 2,
    "network": {"width": 8, "depth": 2},
    "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
}
PLAIN_TWO, BALANCED_TOO = ["classes on the original", "classes on the distilled"], "balanced softmax on the original"


@pytest.mark.parametrize(
    ("head", "opponent", "trained"),
    [
        ({}, "balanced-softmax", [*PLAIN_TWO, BALANCED_TOO]),
        ({}, None, [*PLAIN_TWO, BALANCED_TOO]),
        ({"stage1": "linear"}, "balanced-softmax", [*PLAIN_TWO, BALANCED_TOO]),
        ({"stage1": "linear"}, "linear", PLAIN_TWO),
    ],
)
def test_the_opponent_is_a_line_and_no_network_is_trained_twice(head, opponent, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(TwoStageHead, "opponent", opponent)
    noted = []
    result = distill(configure(**TINY_RUN, head=head), tmp_path / "run", display=Noting(noted))
    beside = ["original, balanced softmax"] if opponent == "balanced-softmax" else []
    assert [row.name for row in result.rows] == [
        *("original, direct", *beside, "distilled, direct", "two-stage, original + distilled")
    ]
    assert sorted(noted) == sorted(f"{what} set" for what in trained)


def test_the_line_of_the_opponent_is_the_classifier_of_its_head_alone(finished, ltdd):
    """Stage 1 without its margin; the same as ``ltdd train`` makes."""
    report = json.loads((finished / "report.json").read_text())
    settings = ["--set", "network.width=8", "--set", "network.depth=2", "--set", "training.original.epochs=2"]
    alone = json.loads(ltdd("train", "--head", "balanced-softmax", *settings, "--out", "alone", "--json").stdout)[
        "rows"
    ][0]
    row = next(row for row in report["rows"] if row["name"] == "original, balanced softmax")
    assert row["per_class"] == alone["per_class"]
    assert row["images"] == 342


def test_an_opponent_that_is_not_installed_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(TwoStageHead, "opponent", "nobody")
    with pytest.raises(InputError, match="unknown head 'nobody'"):
        distill(configure(**TINY_RUN), tmp_path / "run")
    assert not (tmp_path / "run").exists()
