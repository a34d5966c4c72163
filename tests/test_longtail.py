"""The long-tailed profile, the cut to it, colour statistics, and what comes out of loading a set."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st

from ltdd_core import (
    ArrayTable,
    DataSource,
    ImageTable,
    InputError,
    LongTailOptions,
    PerChannel,
    SourceImages,
    load_data,
)
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.longtail import class_order, cut, exponential_counts, shot_groups, step_counts
from ltdd_core.data.normalisation import stored_normalisation
from ltdd_core.runs.facts import data_facts
from ltdd_core.seeding import generator

ORDERS = ["native", "reversed", "random"]

# ---- the profile ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_max", "imbalance", "expected"),
    [
        (1000, 100, [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]),
        (5000, 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (5000, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    ],
)
def test_profile_of_cifar10(n_max, imbalance, expected):
    assert exponential_counts(10, n_max, imbalance) == expected


@pytest.mark.parametrize(
    ("classes", "n_max", "imbalance", "total"),
    [
        (10, 1000, 100, 2478),
        (10, 5000, 10, 20431),
        (10, 5000, 50, 13996),
        (10, 5000, 100, 12406),
        (10, 5000, 200, 11203),
        (100, 500, 10, 19573),
        (100, 500, 20, 15907),
        (100, 500, 50, 12608),
        (100, 500, 100, 10847),
        (200, 500, 10, 39072),
        (200, 500, 100, 21549),
    ],
)
def test_totals_of_the_literature(classes, n_max, imbalance, total):
    assert sum(exponential_counts(classes, n_max, imbalance)) == total


@given(st.integers(2, 200), st.integers(1, 10_000), st.floats(1, 1000))
def test_profile_is_the_formula_and_falls(classes, n_max, imbalance):
    counts = exponential_counts(classes, n_max, imbalance)
    assert counts[0] == n_max
    assert counts == sorted(counts, reverse=True)
    for i, count in enumerate(counts):
        exact = n_max * imbalance ** (-i / (classes - 1))
        # Only where rounding decides may it differ from the bare formula.
        assert count == max(1, int(exact)) or math.isclose(count, exact, abs_tol=1e-8)


@given(st.integers(2, 100), st.integers(1, 200), st.integers(1, 500))
@example(2, 2, 49)  # 98 * 49 ** -1.0 is 1.9999999999999998
def test_the_tail_has_exactly_n_max_over_if_images(classes, n_min, imbalance):
    assert exponential_counts(classes, n_min * imbalance, imbalance)[-1] == n_min


def test_one_class_is_all_head():
    assert exponential_counts(1, 7, 100) == [7]


@pytest.mark.parametrize(("classes", "n_max", "imbalance", "few"), [(10, 5000, 100, 50), (100, 500, 10, 50)])
def test_step_profile_of_ldam(classes, n_max, imbalance, few):
    assert step_counts(classes, n_max, imbalance) == [n_max] * (classes // 2) + [few] * (classes // 2)


def test_step_profile_has_a_place_for_each_class_and_an_image_in_each():
    assert step_counts(5, 49, 49) == [49, 49, 1, 1, 1]
    assert step_counts(3, 7, 100) == [7, 1, 1]
    assert step_counts(1, 7, 100) == [7]


# ---- order and groups ----------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(0, 1000))
def test_class_orders(classes, seed):
    native, backwards, random = (class_order(classes, order, generator(seed, "o")) for order in ORDERS)
    assert native == list(range(classes))
    assert backwards == native[::-1]
    assert sorted(random) == native
    assert random == class_order(classes, "random", generator(seed, "o"))


def test_random_order_depends_on_the_seed():
    assert len({tuple(class_order(10, "random", generator(seed, "o"))) for seed in range(5)}) == 5


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_shot_groups_share_out_the_classes(counts):
    groups = shot_groups(counts)
    assert list(groups) == ["many", "medium", "few"]
    assert sorted(label for group in groups.values() for label in group) == list(range(len(counts)))
    for name, low, high in (("many", 101, 300), ("medium", 20, 100), ("few", 1, 19)):
        assert all(low <= counts[label] <= high for label in groups[name])


# ---- the cut -------------------------------------------------------------------------------------


def shuffled_labels(sizes, seed=0):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=generator(seed, "shuffle"))]


def make_cut(labels, classes, *, imbalance=10.0, n_max=None, order="native", profile="exp", subset="own", seed=0):
    names = [f"name {label}" for label in range(classes)]
    return cut(
        labels,
        names,
        imbalance=imbalance,
        n_max=n_max,
        order=order,
        profile=profile,
        subset=subset,
        generator=generator(seed, "cut"),
    )


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.floats(1, 200),
    st.none() | st.integers(1, 50),
    st.sampled_from(ORDERS),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_a_cut_follows_the_profile_or_is_refused(sizes, imbalance, n_max, order, seed):
    labels, classes = shuffled_labels(sizes, seed), len(sizes)
    arguments = {"imbalance": imbalance, "n_max": n_max, "order": order, "seed": seed}
    head_first = class_order(classes, order, generator(seed, "cut"))
    wanted = exponential_counts(classes, n_max or min(sizes), imbalance)
    if any(sizes[label] < count for label, count in zip(head_first, wanted, strict=True)):
        with pytest.raises(InputError, match="its place in the profile"):
            make_cut(labels, classes, **arguments)
        return
    kept = make_cut(labels, classes, **arguments)
    assert kept.tolist() == sorted(set(kept.tolist()), key=lambda index: (labels[index], index))
    counts = torch.bincount(labels[kept], minlength=classes).tolist()
    assert [counts[label] for label in head_first] == wanted
    assert torch.equal(kept, make_cut(labels, classes, **arguments))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.none() | st.integers(1, 50), st.integers(0, 1000))
@settings(deadline=None)
def test_natural_keeps_everything_up_to_n_max(sizes, n_max, seed):
    labels = shuffled_labels(sizes, seed)
    kept = make_cut(labels, len(sizes), imbalance="natural", n_max=n_max, seed=seed)
    assert kept.tolist() == sorted(set(kept.tolist()), key=lambda index: (labels[index], index))
    expected = [min(size, n_max or size) for size in sizes]
    assert torch.bincount(labels[kept], minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("imbalance", [10.0, "natural"])
def test_the_seed_decides_which_images_stay(imbalance):
    labels = shuffled_labels([60, 60])
    cuts = {tuple(make_cut(labels, 2, imbalance=imbalance, n_max=20, seed=seed).tolist()) for seed in range(4)}
    assert len(cuts) == 4


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(ORDERS), st.integers(0, 100))
def test_a_smaller_cut_is_part_of_a_larger_one(one, other, order, seed):
    labels = shuffled_labels([30, 30, 30])
    small, large = (
        set(make_cut(labels, 3, n_max=n_max, order=order, seed=seed).tolist()) for n_max in sorted((one, other))
    )
    assert small <= large


def ldam_drw(labels, counts):
    """What IMBALANCECIFAR10 of the LDAM-DRW repository keeps, the seed of the whole program set as it does."""
    np.random.seed(0)  # noqa: NPY002
    kept = []
    for label, count in enumerate(counts):
        indices = np.where(labels == label)[0]
        np.random.shuffle(indices)  # noqa: NPY002
        kept += sorted(indices[:count])
    return kept


def lad(labels, counts):
    """What the CIFAR-LT of the LAD repository keeps."""
    kept = []
    for label, count in enumerate(counts):
        indices = np.where(labels == label)[0]
        kept += sorted(indices[np.random.RandomState(42).choice(len(indices), count, replace=False)])
    return kept


@pytest.mark.parametrize(("subset", "literal"), [("ldam", ldam_drw), ("lad", lad)])
@pytest.mark.parametrize("classes", [10, 100])
def test_the_subsets_of_the_literature(subset, literal, classes):
    labels = shuffled_labels([50_000 // classes] * classes)  # as CIFAR has them
    np.random.seed(5)  # noqa: NPY002
    kept = make_cut(labels, classes, imbalance=100.0, subset=subset)
    assert np.random.random() == np.random.RandomState(5).random()  # noqa: NPY002
    counts = exponential_counts(classes, 50_000 // classes, 100)
    assert kept.tolist() == literal(labels.numpy(), counts)
    assert len(kept) == {10: 12406, 100: 10847}[classes]
    # Another seed of the cut, or class order, draws from the same order of the images.
    assert torch.equal(kept, make_cut(labels, classes, imbalance=100.0, subset=subset, seed=7))
    turned = make_cut(labels, classes, imbalance=100.0, subset=subset, order="reversed")
    assert turned.tolist() == literal(labels.numpy(), counts[::-1])
    step = make_cut(labels, classes, imbalance=10.0, subset=subset, profile="step")
    assert step.tolist() == literal(labels.numpy(), step_counts(classes, 50_000 // classes, 10))


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(InputError, match=r"class 'name 1' has 3 training images .* asks for 5: .*n_max="):
        make_cut(shuffled_labels([10, 3]), 2, imbalance=2.0, n_max=10)


# ---- normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 3, 9, 7), (1, 1, 4, 4), (3, 4, 5, 5)])
def test_statistics_are_numpys(shape):
    images = torch.randint(0, 256, shape, generator=generator(0, "images"), dtype=torch.uint8)
    found = PerChannel.of(images)
    values = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, values.mean((0, 2, 3)), atol=1e-6, rtol=0)
    np.testing.assert_allclose(found.std, values.std((0, 2, 3)), atol=1e-6, rtol=0)


def test_apply_normalises_and_invert_goes_back():
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    normalisation = PerChannel.of(images)
    applied = normalisation.apply(images)
    assert applied.dtype == torch.float32
    assert applied.mean((0, 2, 3)).abs().max() < 1e-4
    assert (applied.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    assert torch.equal((normalisation.invert(applied) * 255).round().to(torch.uint8), images)
    assert normalisation.invert(applied * 1000).max() == 1
    assert normalisation.invert(applied * 1000).min() == 0


def test_a_constant_channel_becomes_zero():
    images = torch.randint(0, 256, (4, 2, 6, 6), generator=generator(0, "images"), dtype=torch.uint8)
    images[:, 1] = 77
    normalisation = PerChannel.of(images)
    assert normalisation.std[1] == 1
    assert normalisation.apply(images)[:, 1].abs().max() < 1e-5


def test_an_almost_constant_channel_stays_finite():
    images = torch.zeros(1, 1, 8000, 8000, dtype=torch.uint8)
    images[0, 0, 0, 0] = 1
    assert PerChannel.of(images).std == (1.0,)  # 4.9e-7, which six digits round to 0


def test_json_round_trip():
    normalisation = PerChannel((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert stored_normalisation(json.loads(json.dumps(normalisation.to_json())), {}) == normalisation


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "zca2"}, "kind 'zca2' is unknown"),
        ({"kind": "zca", "eps": 0.1}, "the tensors zca_mean and zca_matrix"),
        ({}, "kind None is unknown"),
        ({"kind": "per-channel"}, "normalisation.mean is missing"),
        ({"kind": "per-channel", "mean": ["x"], "std": [1]}, "normalisation.mean is missing, or no finite number"),
        ({"kind": "per-channel", "mean": 0.5, "std": [1]}, "normalisation.mean"),
        ({"kind": "per-channel", "mean": "12", "std": [1, 1]}, "normalisation.mean"),
        ({"kind": "per-channel", "mean": [0.5], "std": [0]}, "normalisation.std"),
        ({"kind": "per-channel", "mean": [math.inf], "std": [1]}, "normalisation.mean"),
        ({"kind": "per-channel", "mean": [0.5], "std": [10**400]}, "normalisation.std"),
        ({"kind": "zca", "eps": math.nan}, "normalisation.eps"),
        ({"kind": "zca", "eps": True}, "normalisation.eps"),
    ],
)
def test_other_json_is_refused(facts, message):
    with pytest.raises(InputError, match=message):
        stored_normalisation(facts, {})


# ---- loading -------------------------------------------------------------------------------------


class Balanced(DataSource):
    """Twenty shuffled images a class whose first pixel is their number, second their label."""

    Options = LongTailOptions

    def load(self, generator):
        labels = shuffled_labels([20, 20, 20])
        images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 4, 4)
        images[:, :, 0, 1] = labels[:, None].to(torch.uint8)
        table = ArrayTable(images, labels)
        return SourceImages(table, table, ("a", "b", "c"))


def load(**options):
    return load_long_tailed("balanced", Balanced(Balanced.Options(**options)))


def test_a_loaded_set_is_sorted_and_counted():
    data = load(imbalance=10, order="reversed")
    assert data.counts == (2, 6, 20)
    assert data.train_labels.tolist() == [0] * 2 + [1] * 6 + [2] * 20
    assert torch.equal(data.train_images[:, 0, 0, 1].long(), data.train_labels)
    assert (data.name, data.classes, data.class_names) == ("balanced", 3, ("a", "b", "c"))
    assert data.image_shape == (3, 4, 4)
    assert data.imbalance == 10
    assert len(data.test_images) == len(data.test_labels) == 60
    assert data.normalisation == PerChannel.of(data.train_images)


def test_the_digest_of_the_test_images_is_the_sources_and_one_that_cannot_tell_has_none():
    class Decoded(ImageTable):
        def __init__(self, table):
            self.table, self.labels = table, table.labels

        def read(self, indices):
            return self.table.read(indices)

    class Late(Balanced):
        def load(self, generator):
            found = super().load(generator)
            return SourceImages(found.train, Decoded(found.test), found.class_names)

    data, late = load(imbalance=10), load_long_tailed("late", Late(Late.Options(imbalance=10)))
    assert data.test_digest == load(imbalance=2).test_digest  # another cut is the same test
    assert late.test_digest is None
    assert late.digest == data.digest
    assert "test_digest" not in data_facts(late)
    assert data_facts(data)["test_digest"] == data.test_digest


def test_the_cut_is_told_and_a_published_subset_of_files_is_doubted():
    class Decoded(ImageTable):
        def __init__(self, table):
            self.table, self.labels = table, table.labels

        def read(self, indices):
            return self.table.read(indices)

    class Files(Balanced):
        def load(self, generator):
            found = super().load(generator)
            return SourceImages(Decoded(found.train), found.test, found.class_names)

    assert load(imbalance="natural").cut == ""
    assert load(seed=3).cut == "The class counts fall exponentially; data.seed 3 decides which images of a class stay."
    told = load(profile="step", subset="lad", n_max=20, imbalance=10)
    assert told.counts == (20, 2, 2)
    assert told.cut == (
        "The class counts fall in one step, after half of the classes; "
        "the public code of LAD decides which images of a class stay."
    )
    assert not any("subset" in sentence for sentence in told.advice)
    doubted = load_long_tailed("files", Files(Files.Options(subset="ldam"))).advice
    assert sum("data.subset ldam draws from the images in the order of the files" in said for said in doubted) == 1
    whole = load_long_tailed("files", Files(Files.Options(subset="ldam", imbalance="natural"))).advice
    assert not any("subset" in sentence for sentence in whole)  # nothing is drawn


def test_images_that_cannot_fit_into_memory_are_refused_before_they_are_read(monkeypatch):
    from ltdd_core.data import memory

    read = []

    class Large(ImageTable):
        labels = torch.tensor([0, 1] * 50_000)

        def read(self, indices):
            read.append(len(indices))
            return torch.zeros(len(indices), 3, 100, 100, dtype=torch.uint8)

    class Source(Balanced):
        def load(self, generator):
            return SourceImages(Large(), Large(), ("a", "b"))

    assert 10**8 < memory.memory_of_machine() < 10**15
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 4 * 10**9)
    with pytest.raises(InputError) as refused:
        load_long_tailed("large", Source(Source.Options(imbalance="natural")))
    assert str(refused.value) == (
        "data 'large': the images need 6 GB of memory in the size 100x100, and there are 4: "
        'try a smaller size with data={"image_size": N}.'
    )
    assert sum(read) == 2


def test_data_seed_alone_decides_what_stays():
    torch.manual_seed(1)
    first = load(imbalance=10)
    torch.manual_seed(2)
    assert torch.equal(first.train_images, load(imbalance=10).train_images)
    assert not torch.equal(first.train_images, load(imbalance=10, seed=1).train_images)


@pytest.mark.parametrize("imbalance", [0.5, -3, 0])
def test_an_imbalance_that_is_none_is_refused(imbalance):
    with pytest.raises(InputError, match=rf"at least 1, not {imbalance:g}\."):
        load(imbalance=imbalance)


@pytest.mark.parametrize(
    "options", [{"imbalance": math.nan}, {"imbalance": -math.inf}, {"mean": [math.nan], "std": [0.5]}]
)
def test_numbers_that_are_none_are_refused_as_options(options):
    with pytest.raises(InputError, match=rf"data\.{next(iter(options))} must be a finite number"):
        load_data("digits-lt", **options)


def test_fixed_statistics():
    data = load(mean=(0.5, 0.25, 0), std=(0.25, 0.5, 1))
    assert data.normalisation == PerChannel((0.5, 0.25, 0), (0.25, 0.5, 1))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5, 0.5), None, "give both or none"),
        (None, (0.5, 0.5, 0.5), "give both or none"),
        ((0.5,), (0.5,), "need 3 value"),
        ((), (), "need 3 value"),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0), "deviations above 0"),
        ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7), r"for images in \[0, 1\]"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(mean, std, message):
    with pytest.raises(InputError, match=message) as caught:
        load(mean=mean, std=std)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0], ("a",), "has 1 class; a classifier needs at least two"),
        ([0, 0], ("a", "b"), "no training image of b; every class needs one"),
        ([0, 1, 2], ("a", "b"), "labels run from 0 to 2; with 2 classes they must lie in 0 to 1"),
        ([0, 1, -1], ("a", "b"), "labels run from -1 to 1"),
    ],
)
def test_labels_and_classes_must_agree(labels, names, message):
    class Odd(Balanced):
        def load(self, generator):
            table = ArrayTable(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), torch.tensor(labels))
            return SourceImages(table, table, names)

    with pytest.raises(InputError, match=message):
        load_long_tailed("odd", Odd(Odd.Options()))
