"""``ltdd analyze grouping``: agreement, bounds and margins against their definitions, and the whole command."""

import dataclasses
import itertools
import json

import pytest
import torch
from conftest import one_line_error
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_rgba
from PIL import Image
from test_partition import clouds, literal_cut, symmetric

from ltdd_core import ZCA, PerChannel, generator
from ltdd_core.distillation.partition import class_distances, max_cut
from ltdd_twostage.agreement import agreement, agreement_between, second_best, spectral_bound
from ltdd_twostage.figure import HULL, distance_figure, embedding_figure
from ltdd_twostage.grouping import View, _same_colours, partition_of, stability


def literal_rand(one, other):
    """Adjusted Rand index from the pairs of classes (Hubert & Arabie 1985)."""
    pairs = list(itertools.combinations(range(len(one)), 2))
    together = [(one[i] == one[j], other[i] == other[j]) for i, j in pairs]
    both = sum(a and b for a, b in together)
    first, second = sum(a for a, _ in together), sum(b for _, b in together)
    expected = first * second / len(pairs)
    highest = (first + second) / 2
    return 1.0 if highest == expected else (both - expected) / (highest - expected)


@st.composite
def two_partitions(draw):
    size = draw(st.integers(4, 8))
    return [torch.tensor(draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))) for _ in range(2)]


@given(two_partitions())
@settings(max_examples=30, deadline=None)
def test_agreement_is_the_adjusted_rand_index(partitions):
    found = agreement(partitions, permutations=9)
    expected = literal_rand(*(own.tolist() for own in partitions))
    assert found.mean == pytest.approx(expected)
    assert found.same == (expected == pytest.approx(1.0))
    assert found.pairs == 1


def test_the_permutation_test_tells_structure_from_chance():
    groups = torch.tensor([0] * 5 + [1] * 5)
    assert agreement([groups, groups, groups]).p_value <= 0.02
    draws = generator(0, "chance")
    p_values = [
        agreement([groups[torch.randperm(10, generator=draws)] for _ in range(2)], permutations=99).p_value
        for _ in range(30)
    ]
    assert sum(p <= 0.05 for p in p_values) <= 6  # of 30, one or two expected; 7 has a probability below 0.1 %
    assert agreement([groups]) is None
    matched = agreement_between([groups, 1 - groups], [groups, groups])
    assert (matched.mean, matched.pairs) == (1.0, 2)


@given(st.integers(3, 7), st.integers(2, 3), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_no_cut_is_above_the_bound_and_the_second_best_is_the_next(classes, groups, seed):
    weights = symmetric(classes, seed)
    member = max_cut(weights, groups, seed)
    values = {}
    for way in itertools.product(range(groups), repeat=classes):
        if len(set(way)) == min(groups, classes):
            parts = frozenset(frozenset(c for c in range(classes) if way[c] == g) for g in set(way))
            values[parts] = literal_cut(weights, way)
    ranked = sorted(values.values(), reverse=True)
    assert ranked[0] <= spectral_bound(weights, groups) + 1e-9
    if len(values) == 1:
        assert second_best(weights, member, groups) is None
    if classes > groups and ranked[0] > ranked[1] + 1e-9:
        assert literal_cut(weights, member.tolist()) == pytest.approx(ranked[0])
        assert second_best(weights, member, groups) == pytest.approx(ranked[1])


def test_the_second_best_of_many_classes_is_a_neighbour():
    weights = symmetric(30, 0)
    member = max_cut(weights, 2, 0)
    best, best_other = literal_cut(weights, member.tolist()), second_best(weights, member, 2)
    moved = []
    for label in range(30):
        changed = member.clone()
        changed[label] = 1 - changed[label]
        moved.append(literal_cut(weights, changed.tolist()))
    assert max(moved) - 1e-9 <= best_other <= best + 1e-9


def test_the_local_search_finds_the_largest_cut_of_small_instances():
    """Two groups of more than 20 classes are searched; here the search is put beside all there are of up to 16."""
    from ltdd_core.distillation.partition import _exact_cut, _local_search, cut_value

    found = 0
    for classes, seed in itertools.product((4, 8, 12, 16), range(5)):
        weights, draws = symmetric(classes, seed).numpy(), generator(seed, "starts")
        exact = cut_value(weights, _exact_cut(weights))
        starts = [torch.randperm(classes, generator=draws).numpy() % 2 for _ in range(10)]
        best = max(cut_value(weights, _local_search(weights, start, 2)) for start in starts)
        assert best <= exact + 1e-9
        found += best >= exact - 1e-9
    assert found == 20


def view(source, network, seed, member):
    """A view whose classes of a group are near each other."""
    features, labels = clouds([6] * len(member), seed=seed)
    features = features + 100 * torch.nn.functional.one_hot(torch.tensor(member), 6)[labels]
    return View(source, network, seed, features, labels, class_distances(features, labels, len(member), 5, seed))


def test_stability_compares_seeds_sources_and_networks():
    one, other = [0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]
    views = [
        view(source, network, seed, other if network == "b" else one)
        for source in ("test", "original")
        for network in ("a", "b")
        for seed in (0, 1)
    ]
    partitions = [partition_of(each, 2) for each in views]
    assert [each.member.tolist() for each in partitions[:2]] == [one, one]
    found = dict(stability(partitions))
    assert list(found) == [
        *("seeds: test, a", "seeds: test, b", "seeds: original, a", "seeds: original, b"),
        *("sources: test and original", "networks: a and b"),
    ]
    assert found["seeds: test, a"].mean == 1
    assert (found["sources: test and original"].pairs, found["sources: test and original"].same) == (4, 1)
    assert found["networks: a and b"].mean == pytest.approx(literal_rand(one, other))
    assert found["networks: a and b"].same == 0


def test_figures_show_every_class_and_the_groups():
    features, labels = clouds([12, 7, 3, 1])
    names, member = ["a", "b$_x", "c", "d"], torch.tensor([0, 1, 0, 1])
    figure = embedding_figure(features, labels, names, member)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    triangles = [
        len(dots.get_offsets()) for dots in figure.axes[0].collections if dots.get_paths()[0].vertices.shape[0] == 4
    ]
    assert triangles == [5, 5, 3, 1]
    assert {line.get_color() for line in figure.axes[0].lines} <= set(HULL)
    distances = class_distances(features, labels, 4, 5, 0)
    heat = distance_figure(distances, names, member).axes[1]
    shown = [label.get_text() for label in heat.get_yticklabels()]
    assert sorted(shown) == sorted(names)
    for label in heat.get_yticklabels():
        assert to_rgba(label.get_color()) == to_rgba(HULL[int(member[names.index(label.get_text())])])
    order = [names.index(name) for name in shown]
    table = heat.images[0].get_array()
    assert table[0, 1] == pytest.approx(float(distances[order[0], order[1]]))


SMALL = ["--set", "network.width=8", "--set", "network.depth=2", "--set", "training.original.epochs=1"]


def test_the_whole_command(ltdd, finished, tmp_path):
    command = ["analyze", "grouping", "--source", "test", "--source", "original", "--source", finished, "--seeds", 2]
    command += [*SMALL, "--out", tmp_path / "out"]
    shown = ltdd(*command, "--groups", "2")
    assert shown.exit_code == 0, shown.output
    assert "agreement (adjusted Rand index)" in shown.stdout
    assert shown.stderr.count("training a network") == 2
    document = json.loads((tmp_path / "out" / "grouping.json").read_text())
    assert len(document["partitions"]) == 6
    for each in document["partitions"]:
        assert sorted(name for group in each["groups"] for name in group) == sorted(document["classes"])
        assert each["second"] <= each["value"] <= each["bound"]
    assert sum(each["between"].startswith("seeds") for each in document["stability"]) == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    printed = ltdd(*command[:2], "--seeds", 1, *SMALL, "--groups", "3", "--json")
    assert {each["k"] for each in json.loads(printed.stdout)["partitions"]} == {3}


def test_a_source_that_is_none_gets_one_line(ltdd, finished, tmp_path):
    command = ["analyze", "grouping", "--seeds", 1, *SMALL, "--quiet", "--source"]
    assert "nowhere" in one_line_error(ltdd(*command, "nowhere"))
    for label, name in enumerate(("a", "b")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 100 * label + 9 * index).save(tmp_path / "data" / name / f"{index}.png")
    result = ltdd(*command, finished, "--data", "folder", "--root", tmp_path / "data")
    assert "was distilled from other classes" in one_line_error(result)


def images_of(classes, folder):
    """A folder of four grey images of each class."""
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 60 * label + 9 * index).save(folder / f"class {label}" / f"{index}.png")
    return ["--data", "folder", "--root", folder, "--seeds", 1, *SMALL, "--quiet"]


def no_number(name):
    raise AssertionError(f"{name} is no JSON")


def test_where_there_is_no_other_partition_there_is_no_margin(ltdd, tmp_path):
    options = [*images_of(3, tmp_path / "data"), "--groups", "3", "--out", tmp_path / "out"]
    printed = ltdd("analyze", "grouping", *options, "--json").stdout
    for text in (printed, (tmp_path / "out" / "grouping.json").read_text()):
        for each in json.loads(text, parse_constant=no_number)["partitions"]:
            assert (each["second"], each["margin_percent"]) == (None, None)
    assert "n/a" in ltdd("analyze", "grouping", *options).stdout


def test_there_are_no_more_groups_than_classes(ltdd, tmp_path):
    options = images_of(2, tmp_path / "data")
    result = ltdd("analyze", "grouping", *options, "--groups", 4, "--out", tmp_path / "out")
    assert one_line_error(result) == "Error: --groups 4: there are only 2 classes."
    assert not (tmp_path / "out").exists()
    printed = ltdd("analyze", "grouping", *options, "--json")
    assert {each["k"] for each in json.loads(printed.stdout)["partitions"]} == {2}


def test_a_distilled_set_in_other_colours_is_refused(ltdd, finished):
    command = ["analyze", "grouping", "--seeds", 1, *SMALL, "--quiet", "--source", finished]
    for other in (["--set", "data.normalisation=zca"], ["--set", "data.imbalance=3"]):
        assert "has other colours than digits-lt" in one_line_error(ltdd(*command, *other))
    assert ltdd(*command).exit_code == 0


def test_a_whitening_is_the_same_but_for_rounding():
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = ZCA.of(images, 0.1)
    assert _same_colours(one, dataclasses.replace(one, matrix=one.matrix * (1 + 1e-6)))
    assert not _same_colours(one, ZCA.of(images[:30], 0.1))
    assert not _same_colours(one, PerChannel.of(images))
