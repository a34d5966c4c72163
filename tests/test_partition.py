"""The grouping hypothesis: class distances against a double loop, cuts against all there are."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from ltdd_core import generator
from ltdd_core.distillation.partition import _local_search, class_distances, cut_value, max_cut

CENTRES = 5


def clouds(counts, dimensions=6, seed=0):
    """A cloud of features for each class, far from the others, and their labels."""
    draws = generator(seed, "clouds")
    parts = [
        torch.randn(count, dimensions, generator=draws) + 4 * torch.randn(dimensions, generator=draws)
        for count in counts
    ]
    return torch.cat(parts), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def symmetric(classes, seed):
    points = torch.randn(classes, 3, generator=generator(seed, "points"), dtype=torch.float64)
    return torch.cdist(points, points)


def literal_cut(weights, member):
    pairs = itertools.combinations(range(len(member)), 2)
    return sum(weights[i, k].item() for i, k in pairs if member[i] != member[k])


def best_cut(weights, groups):
    """The largest cut into exactly ``groups`` groups, of all there are."""
    ways = itertools.product(range(groups), repeat=len(weights))
    return max(literal_cut(weights, way) for way in ways if len(set(way)) == groups)


# ---- class distances -----------------------------------------------------------------------------


def test_distance_is_the_root_mean_square_over_pairs_of_centres():
    counts = [40, 17, 5, 3, 1]
    features, labels = clouds(counts)
    found = class_distances(features, labels, len(counts), CENTRES, seed=3)
    draw = int(torch.randint(2**31, (), generator=generator(3, "k-means")))
    centres = []
    for label, count in enumerate(counts):
        own = features[labels == label].double().numpy()
        means = KMeans(CENTRES, n_init=4, random_state=draw).fit(own).cluster_centers_ if count > CENTRES else own
        centres.append(means)
    assert [len(own) for own in centres] == [5, 5, 5, 3, 1]
    for i, k in itertools.product(range(len(counts)), repeat=2):
        pairs = [sum((a - b) ** 2) for a in centres[i] for b in centres[k]]
        expected = math.sqrt(sum(pairs) / len(pairs)) if i != k else 0
        assert found[i, k].item() == pytest.approx(expected, rel=1e-10)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.T)


def test_the_centres_are_those_of_a_class_with_five_clear_lumps():
    draws = generator(0, "lumps")
    lumps = 20 * torch.randn(5, 4, generator=draws)
    features = torch.cat([lump + 1e-3 * torch.randn(30, 4, generator=draws) for lump in lumps])
    other = torch.zeros(1, 4)
    labels = torch.tensor([0] * 150 + [1])
    found = class_distances(torch.cat([features, other]), labels, 2, CENTRES, seed=0)
    assert found[0, 1].item() == pytest.approx(lumps.square().sum(1).mean().sqrt().item(), rel=1e-4)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_every_class_has_a_finite_distance_whatever_its_size(counts, centres, seed):
    features, labels = clouds(counts, seed=seed)
    found = class_distances(features, labels, len(counts), centres, seed)
    off_diagonal = found[~torch.eye(len(counts), dtype=torch.bool)]
    assert torch.isfinite(found).all()
    assert (off_diagonal > 0).all()


@pytest.mark.parametrize("apart", [0.0, 1e-5, 1e-6])
def test_images_that_are_equal_or_almost_so_bring_no_warning(apart):
    """Warnings are errors here; k-means warns of images so close that they share a centre."""
    close = torch.full((6, 3), 1000.0, dtype=torch.float64)
    close[:, 0] += apart * torch.arange(6)
    features = torch.cat([close, torch.full((1, 3), -1e4, dtype=torch.float64), torch.zeros(8, 3)])
    labels = torch.tensor([0] * 7 + [1] * 8)
    assert torch.isfinite(class_distances(features, labels, 2, CENTRES, seed=0)).all()


def test_distances_do_not_depend_on_the_number_of_threads():
    """k-means of scikit-learn adds up in the order in which its threads finish."""
    features, before = torch.randn(6000, 128, generator=generator(0, "features")), torch.get_rng_state()
    labels = torch.arange(2).repeat_interleave(3000)
    first = class_distances(features, labels, 2, CENTRES, seed=1)
    with threadpool_limits(5, user_api="openmp"):
        again = [class_distances(features, labels, 2, CENTRES, seed=1) for _ in range(3)]
    assert all(torch.equal(first, other) for other in again)
    assert torch.equal(before, torch.get_rng_state())


# ---- the cut -------------------------------------------------------------------------------------


@given(st.integers(3, 9), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_two_groups_are_the_best_of_all(classes, seed):
    weights = symmetric(classes, seed)
    member = max_cut(weights, 2)
    assert literal_cut(weights, member.tolist()) == pytest.approx(best_cut(weights, 2), rel=1e-12)
    assert cut_value(weights.numpy(), member.numpy()) == pytest.approx(best_cut(weights, 2), rel=1e-12)


@given(st.integers(4, 7), st.integers(3, 4), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_more_groups_are_as_good_as_the_best_of_all(classes, groups, seed):
    weights = symmetric(classes, seed)
    member = max_cut(weights, groups, seed)
    assert len(set(member.tolist())) == min(groups, classes)
    assert literal_cut(weights, member.tolist()) == pytest.approx(best_cut(weights, min(groups, classes)), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_local_search_finds_what_the_exact_cut_finds(seed):
    weights = symmetric(16, seed)
    starts = [torch.randperm(16, generator=generator(s, "start")).numpy() % 2 for s in range(20)]
    found = max(cut_value(weights.numpy(), _local_search(weights.numpy(), start, 2)) for start in starts)
    assert found == pytest.approx(cut_value(weights.numpy(), max_cut(weights, 2).numpy()), rel=1e-12)


@given(st.integers(4, 9), st.integers(2, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_local_search_ends_where_no_move_and_no_exchange_helps(classes, groups, seed):
    weights = symmetric(classes, seed)
    start = torch.randperm(classes, generator=generator(seed, "start")).numpy() % groups
    member = _local_search(weights.numpy(), start, groups).tolist()
    value = literal_cut(weights, member)
    neighbours = [[*member[:i], g, *member[i + 1 :]] for i in range(classes) for g in range(groups)]
    for i, k in itertools.combinations(range(classes), 2):
        exchanged = list(member)
        exchanged[i], exchanged[k] = member[k], member[i]
        neighbours.append(exchanged)
    assert len(set(member)) == groups
    assert value >= literal_cut(weights, start.tolist()) - 1e-9
    assert all(literal_cut(weights, other) <= value + 1e-9 for other in neighbours)


@pytest.mark.parametrize(("classes", "groups"), [(36, 2), (45, 3), (100, 5)])
def test_planted_groups_are_found(classes, groups):
    planted = torch.randint(groups, (classes,), generator=generator(0, "planted"))
    planted[:groups] = torch.arange(groups)  # numbered by their first classes, like the answer
    weights = 0.3 * torch.rand(classes, classes, generator=generator(1, "planted"), dtype=torch.float64)
    weights = weights + weights.T + (planted[:, None] != planted[None, :])
    assert torch.equal(max_cut(weights.fill_diagonal_(0), groups), planted)


@given(st.integers(1, 14), st.integers(2, 16), st.integers(0, 3), st.sampled_from([0.0, 1.0, 0.1, 1e-200, 1e200]))
@settings(max_examples=60, deadline=None)
def test_equal_distances_end_in_groups_of_even_sizes(classes, groups, seed, distance):
    """Every cut into even groups is the best, and steps between them gain nothing but rounding."""
    weights = torch.full((classes, classes), distance, dtype=torch.float64).fill_diagonal_(0)
    member = max_cut(weights, groups, seed)
    sizes = torch.bincount(member)
    assert len(sizes) == min(groups, classes)
    assert sizes.min() >= 1
    if distance > 0:
        assert sizes.max() - sizes.min() <= 1


@given(st.integers(21, 40), st.integers(2, 6), st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_many_classes_with_equal_and_tiny_distances_end(classes, groups, seed, levels):
    """Few different values make ties everywhere, which rounding could walk around in circles."""
    draws = generator(seed, "ties")
    weights = torch.randint(levels + 1, (classes, classes), generator=draws).double() / 3
    weights = (weights + weights.T).fill_diagonal_(0)
    member = max_cut(weights, groups, seed)
    assert len(torch.bincount(member)) == groups
    assert torch.bincount(member).min() >= 1


def test_distances_that_are_not_numbers_end_too():
    weights = torch.full((25, 25), torch.nan, dtype=torch.float64)
    assert len(max_cut(weights, 3)) == 25


@given(st.integers(2, 24), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_groups_are_numbered_by_their_first_classes_and_the_same_every_time(classes, groups, seed):
    weights = symmetric(classes, seed)
    member = max_cut(weights, groups, seed).tolist()
    assert list(dict.fromkeys(member)) == list(range(min(groups, classes)))
    assert member == max_cut(weights, groups, seed).tolist()


def test_as_many_groups_as_classes_or_more_give_each_class_its_own():
    for groups in (4, 5, 9):
        assert max_cut(symmetric(4, 0), groups).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("classes", "groups", "seconds"), [(20, 2, 2), (100, 5, 3)])
def test_partitions_come_fast(classes, groups, seconds):
    weights = symmetric(classes, 0)
    began = time.process_time()
    member = max_cut(weights, groups)
    assert time.process_time() - began < seconds
    assert np.bincount(member.numpy()).min() >= 1
