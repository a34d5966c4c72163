"""The q-power family: what is drawn, how often, and from whose generator."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ltdd_core import LongTailedSet, PerChannel, generator
from ltdd_core.data.by_class import InstanceSampler
from ltdd_core.options import BaseOptions
from ltdd_losses.losses import effective_number_weights
from ltdd_samplers.coreset import (
    GraphCutSampler,
    HerdingSampler,
    KCenterSampler,
    KMeansSampler,
    centres,
    cut,
    herd,
    nearest_to_means,
)
from ltdd_samplers.effective import EffectiveNumberSampler
from ltdd_samplers.power import ClassBalancedSampler, SquareRootSampler
from ltdd_samplers.progressive import ProgressiveSampler
from ltdd_samplers.scores import EL2NSampler, ForgettingSampler, error_norm, forgotten, is_right, ranked

SAMPLERS = {InstanceSampler: 1, SquareRootSampler: 0.5, ClassBalancedSampler: 0}
"""Each sampler and its exponent q."""
COUNTS = (300, 90, 27, 8, 1)


def long_tailed(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = tuple(f"class {label}" for label in range(len(counts)))
    return LongTailedSet("toy", images, labels, images, labels, names, PerChannel((0.0,), (1.0,)), tuple(counts))


def prepared(sampler, counts=COUNTS, **options):
    made, data = sampler(sampler.Options(**options)), long_tailed(counts)
    made.prepare(data)
    return made, data.train_labels


def no_features(label):
    raise AssertionError("features cost a training and are not needed")


def chi_square_of(made, labels, weights, progress, epochs=50):
    """Of the classes drawn against those expected."""
    drawn = torch.cat([labels[made.epoch(progress, generator(seed, "epoch"))] for seed in range(epochs)])
    assert len(drawn) == epochs * len(labels)
    expected = [len(drawn) * weight / sum(weights) for weight in weights]
    times = torch.bincount(drawn, minlength=len(weights)).tolist()
    return sum((a - b) ** 2 / b for a, b in zip(times, expected, strict=True))


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_progressive_balance_goes_from_images_to_classes(progress):
    made, labels = prepared(ProgressiveSampler)
    weights = [(1 - progress) * n / sum(COUNTS) + progress / len(COUNTS) for n in COUNTS]
    assert made.weights(progress).tolist() == pytest.approx(weights, rel=1e-12)
    assert chi_square_of(made, labels, weights, progress) < 25  # as below


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999, 1 - 1e-9, 1 - 2**-53])
def test_effective_numbers_are_those_of_the_formula_to_the_last_digits(beta):
    """In exact fractions; powers of beta are taken one by one, as the sum 1 + beta + ... + beta^(n - 1)."""
    counts, exact = (60, 13, 2, 1), Fraction(beta)
    effective = [sum(exact**power for power in range(n)) for n in counts]
    made, _ = prepared(EffectiveNumberSampler, counts, beta=beta)
    literal = [float(n / own) for n, own in zip(counts, effective, strict=True)]
    assert made.weights(0.5).tolist() == pytest.approx(literal, rel=1e-13)
    found = effective_number_weights(torch.tensor(counts, dtype=torch.float64), beta)
    total = sum(1 / own for own in effective)
    assert found.tolist() == pytest.approx([float(len(counts) / own / total) for own in effective], rel=1e-13)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.9999])
def test_the_effective_number_decides(beta):
    made, labels = prepared(EffectiveNumberSampler, beta=beta)
    weights = [n * (1 - beta) / (1 - beta**n) for n in COUNTS]
    assert made.weights(0.5).tolist() == pytest.approx(weights, rel=1e-12)
    assert chi_square_of(made, labels, weights, 0.5) < 25


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_draws_class_c_in_proportion_to_its_size_to_the_q(sampler):
    """Chi-square over classes: below 25 for 4 degrees of freedom but once in 20,000 (the seeds are fixed)."""
    made, labels = prepared(sampler)
    drawn = torch.cat([labels[made.epoch(0.5, generator(seed, "epoch"))] for seed in range(50)])
    weights = [count ** SAMPLERS[sampler] for count in COUNTS]
    chi_square = 0.0
    for label, weight in enumerate(weights):
        expected = len(drawn) * weight / sum(weights)
        chi_square += (int((drawn == label).sum()) - expected) ** 2 / expected
    assert len(drawn) == 50 * sum(COUNTS)
    assert chi_square < 25
    if sampler is InstanceSampler:
        assert chi_square == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sampler", [SquareRootSampler, ClassBalancedSampler])
def test_images_of_a_class_are_drawn_alike(sampler):
    made, labels = prepared(sampler, (40, 4))
    drawn = torch.cat([made.epoch(0.0, generator(seed, "epoch")) for seed in range(200)])
    for label, count in enumerate((40, 4)):
        times = torch.bincount(drawn[labels[drawn] == label], minlength=44)[labels == label].double()
        assert len(times) == count
        chi_square = ((times - times.mean()) ** 2 / times.mean()).sum()
        assert chi_square < 90  # the 99.999 % quantile for 39 degrees of freedom


def test_the_instance_sampler_sees_every_image_once_in_a_new_order_each_time():
    made, labels = prepared(InstanceSampler)
    first, second = (made.epoch(0.0, generator(seed, "epoch")) for seed in range(2))
    assert torch.equal(first.sort().values, torch.arange(len(labels)))
    assert torch.equal(second.sort().values, torch.arange(len(labels)))
    assert not torch.equal(first, second)


def test_the_effective_number_with_beta_0_is_the_instance_sampler():
    (made, _), (instance, _) = prepared(EffectiveNumberSampler, beta=0.0), prepared(InstanceSampler)
    epochs = [sampler.epoch(0.5, generator(0, "epoch")) for sampler in (made, instance)]
    assert torch.equal(*epochs)


@given(
    st.sampled_from(list(SAMPLERS)),
    st.lists(st.integers(1, 30), min_size=2, max_size=6),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_draws_of_a_class_do_not_repeat_and_take_all_of_a_small_class(sampler, counts, size, seed, stand_for_it):
    made, labels = prepared(sampler, counts)
    for label, count in enumerate(counts):

        def draw(label=label):
            if stand_for_it:
                return made.representatives(label, size, generator(seed, "draw"), no_features)
            return made.of_class(label, size, generator(seed, "draw"))

        drawn = draw()
        assert len(drawn) == min(size, count)
        assert len(set(drawn.tolist())) == len(drawn)
        assert (labels[drawn] == label).all()
        assert torch.equal(drawn, draw())


def test_every_image_of_a_class_comes_up_in_small_draws():
    made, _ = prepared(InstanceSampler, (10, 3))
    drawn = torch.cat([made.of_class(0, 2, generator(seed, "draw")) for seed in range(200)])
    times = torch.bincount(drawn, minlength=10)
    assert len(times) == 10
    assert times.min() > 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_is_a_function_of_its_generator_and_leaves_the_global_one_alone(sampler):
    made, _ = prepared(sampler)
    before = torch.random.get_rng_state()
    first = made.epoch(0.3, generator(1, "epoch"))
    made.of_class(0, 5, generator(1, "draw"))
    made.representatives(0, 5, generator(1, "draw"), no_features)
    torch.rand(3)  # somebody else's draw changes nothing
    assert torch.equal(first, made.epoch(0.3, generator(1, "epoch")))
    assert not torch.equal(first, made.epoch(0.3, generator(2, "epoch")))
    torch.random.set_rng_state(before)
    made.epoch(0.3, generator(1, "epoch"))
    made.of_class(0, 5, generator(1, "draw"))
    made.representatives(0, 5, generator(1, "draw"), no_features)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_classes_need_not_be_sorted(sampler):
    made, data = sampler(BaseOptions()), long_tailed((6, 3, 1))
    labels = torch.tensor([2, 0, 1, 0, 1, 0, 0, 1, 0, 0])
    made.prepare(replace(data, train_labels=labels))
    assert labels[made.of_class(1, 9, generator(0, "draw"))].tolist() == [1, 1, 1]
    drawn = torch.cat([made.epoch(0.0, generator(seed, "epoch")) for seed in range(100)])
    assert set(drawn.tolist()) == set(range(10))


# ---- coresets ------------------------------------------------------------------------------------

POINTS = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=n, max_size=n)
)


def norm(vector):
    return sum(value * value for value in vector) ** 0.5


def literal_herd(points, size):
    """Algorithm 4 of iCaRL, word for word; the first of equals."""
    unit = [[value / max(norm(point), 1e-12) for value in point] for point in points]
    mean = [sum(column) / len(unit) for column in zip(*unit, strict=True)]
    chosen = []
    for k in range(1, min(size, len(unit)) + 1):
        gaps = {}
        for x in range(len(unit)):
            if x in chosen:
                continue
            total = [sum(unit[j][d] for j in [*chosen, x]) for d in range(3)]
            gaps[x] = norm([m - t / k for m, t in zip(mean, total, strict=True)])
        least = min(gaps.values())
        chosen.append(next(x for x, gap in gaps.items() if gap <= least + 1e-9))
    return chosen


def gap_of(points, chosen):
    unit = [[value / max(norm(point), 1e-12) for value in point] for point in points]
    mean = [sum(column) / len(unit) for column in zip(*unit, strict=True)]
    total = [sum(unit[j][d] for j in chosen) / len(chosen) for d in range(3)]
    return norm([m - t for m, t in zip(mean, total, strict=True)])


@given(POINTS, st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_herding_follows_its_algorithm(points, size):
    """Where two images are equally good, either; so each choice is compared by how near it brings the mean."""
    found = herd(torch.tensor(points, dtype=torch.float32), size).tolist()
    assert len(found) == len(set(found)) == min(size, len(points))
    for k in range(1, len(found) + 1):
        before = found[: k - 1]
        best = min(gap_of(points, [*before, x]) for x in range(len(points)) if x not in before)
        assert gap_of(points, found[:k]) == pytest.approx(best, abs=1e-6)


def test_herding_takes_the_images_of_the_literal_algorithm():
    points = torch.randn(40, 3, generator=generator(0, "points"))
    assert herd(points, 12).tolist() == literal_herd(points.tolist(), 12)


@given(POINTS, st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_each_centre_is_the_image_farthest_from_those_before(points, size):
    found = centres(torch.tensor(points, dtype=torch.float32), size).tolist()
    assert len(found) == len(set(found)) == min(size, len(points))
    mean = [sum(column) / len(points) for column in zip(*points, strict=True)]

    def distance(one, other):
        return norm([a - b for a, b in zip(one, other, strict=True)])

    assert distance(points[found[0]], mean) == pytest.approx(min(distance(point, mean) for point in points), abs=1e-9)
    for k in range(1, len(found)):
        nearest = [min(distance(point, points[c]) for c in found[:k]) for point in points]
        assert nearest[found[k]] == pytest.approx(max(nearest), abs=1e-9)


def graph_cut_of(points, chosen, redundancy):
    """f(S) of Iyer et al., word for word."""
    unit = [[value / max(norm(point), 1e-12) for value in point] for point in points]

    def like(i, j):
        return sum(a * b for a, b in zip(unit[i], unit[j], strict=True))

    represents = sum(like(i, j) for i in range(len(points)) for j in chosen)
    return represents - redundancy * sum(like(i, j) for i in chosen for j in chosen)


@pytest.mark.parametrize("redundancy", [0.0, 0.5, 1.0, 20.0])
def test_each_image_of_a_graph_cut_raises_its_function_most(redundancy):
    points = torch.randn(25, 3, generator=generator(1, "points")).tolist()
    chosen = []
    for _ in range(8):
        left = [x for x in range(len(points)) if x not in chosen]
        chosen.append(max(left, key=lambda x: graph_cut_of(points, [*chosen, x], redundancy)))
    assert cut(torch.tensor(points), 8, redundancy).tolist() == chosen
    assert sorted(cut(torch.tensor(points), 30, redundancy).tolist()) == list(range(25))


def test_the_images_of_k_means_are_those_nearest_to_the_means_of_clusters():
    """Three clusters far apart, of 9, 5 and 2 images: k-means has to find them."""
    sizes, draws = (9, 5, 2), generator(2, "points")
    clusters = [100 * number + torch.randn(size, 4, generator=draws) for number, size in enumerate(sizes)]
    points, wanted = torch.cat(clusters), []
    for number, cluster in enumerate(clusters):
        gaps = [norm((point - cluster.mean(0)).tolist()) for point in cluster]
        wanted.append(sum(sizes[:number]) + gaps.index(min(gaps)))
    order = torch.randperm(len(points), generator=draws)
    found = order[nearest_to_means(points[order], 3, generator(0, "starts"))]
    assert found[0] == wanted[0], "the image of the largest cluster comes first"
    assert found[1] == wanted[1]
    assert int(found[2]) in (14, 15), "two images are equally near to their mean"


def test_k_means_takes_no_image_twice_where_images_are_equal():
    points = torch.tensor([[1.0, 2.0]]).repeat(6, 1)
    assert len(nearest_to_means(points, 4, generator(0, "starts")).unique()) == 4


def test_the_error_of_el2n_is_the_distance_of_probabilities_from_the_label():
    logits, labels = torch.tensor([[1.0, 2.0, -1.0], [0.0, 30.0, 0.0]]), torch.tensor([2, 1])
    exps = [[2.718281828459045**value for value in row] for row in logits.tolist()]
    wanted = [
        norm([value / sum(row) - (place == label) for place, value in enumerate(row)])
        for row, label in zip(exps, labels.tolist(), strict=True)
    ]
    assert error_norm(logits, labels).tolist() == pytest.approx(wanted, abs=1e-6)
    assert is_right(logits, labels).tolist() == [False, True]


def test_an_image_is_forgotten_where_it_was_right_and_is_wrong():
    histories = ["11111", "10101", "00000", "01001", "00001", "11110"]
    right = torch.tensor([[[float(history[epoch]) for history in histories] for epoch in range(5)]])
    never_right = 5
    assert forgotten(right).tolist() == [[0, 2, never_right, 1, 0, 1]]


def test_equal_scores_are_ranked_at_random_and_others_never():
    scores = torch.tensor([0.0, 3.0, 0.0, 0.0, 2.0, 0.0])
    orders = {tuple(ranked(scores, 4, "hardest", generator(seed, "ties")).tolist()) for seed in range(20)}
    assert {order[:2] for order in orders} == {(1, 4)}
    assert len({order[2:] for order in orders}) > 3
    assert set(ranked(scores, 4, "easiest", generator(0, "ties")).tolist()) == {0, 2, 3, 5}


class Scored:
    """Features whose dynamics are an image's place in its class, after each of two epochs of some networks."""

    def __init__(self):
        self.asked = []

    def __call__(self, label):
        raise AssertionError("the features are not needed")

    def dynamics(self, label, statistic, *, networks=1, part=1.0):
        self.asked.append((networks, part))
        places = torch.arange(COUNTS[label], dtype=torch.float32)
        if statistic is error_norm:
            return torch.stack([-places, places]).expand(networks, 2, -1)  # the last epoch is the one that counts
        return torch.stack([places.new_ones(len(places)), (places < len(places) / 2).float()]).expand(networks, 2, -1)


@pytest.mark.parametrize(("sampler", "asked"), [(EL2NSampler, (10, 0.1)), (ForgettingSampler, (1, 1.0))])
def test_images_with_the_highest_or_the_lowest_scores_represent_their_class(sampler, asked):
    hardest, _ = prepared(sampler)
    easiest, labels = prepared(sampler, keep="easiest")
    features = Scored()
    for label, count in enumerate(COUNTS):
        own = torch.nonzero(labels == label).flatten()
        hard, easy = (
            made.representatives(label, 3, generator(0, "draw"), features).sort().values for made in (hardest, easiest)
        )
        assert len(hard) == len(easy) == min(3, count)
        if sampler is EL2NSampler:
            assert torch.equal(hard, own[-3:])
            assert torch.equal(easy, own[:3])
        elif count > 3:
            assert (hard >= own[count // 2]).all()
            assert (easy < own[(count + 1) // 2]).all()
    assert set(features.asked) == {asked}


@pytest.mark.parametrize("sampler", [HerdingSampler, KCenterSampler, GraphCutSampler, KMeansSampler])
def test_a_coreset_is_of_its_class_and_asks_for_the_features_of_no_other(sampler):
    made, labels = prepared(sampler)
    asked = []

    def features(label):
        asked.append(label)
        return torch.randn(COUNTS[label], 5, generator=generator(label, "features"))

    for label, count in enumerate(COUNTS):
        found = made.representatives(label, 10, generator(0, "draw"), features)
        assert len(found.unique()) == len(found) == min(10, count)
        assert (labels[found] == label).all()
        seed = 0 if sampler is KMeansSampler else 9  # the others choose without chance
        assert torch.equal(found, made.representatives(label, 10, generator(seed, "draw"), features))
    assert asked == [label for label in range(len(COUNTS)) for _ in range(2)]
    assert torch.equal(made.epoch(0.0, generator(0, "epoch")).sort().values, torch.arange(len(labels)))
