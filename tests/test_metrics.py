"""Every number of a result row against loops, for all kinds of long tails."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from ltdd_core import confusion_matrix
from ltdd_core.evaluation.metrics import RECALL_FLOOR, average, calibration_error, parts_of, reliability, row, thirds
from ltdd_core.evaluation.shown import COSTS


@st.composite
def predictions(draw):
    classes = draw(st.integers(2, 6))
    counts = draw(st.lists(st.sampled_from([1, 19, 20, 21, 99, 100, 101, 5000]), min_size=classes, max_size=classes))
    label = st.integers(0, classes - 1)
    labels = list(range(classes)) + draw(st.lists(label, max_size=30))
    predicted = draw(st.lists(label, min_size=len(labels), max_size=len(labels)))
    groups = draw(st.none() | st.lists(st.integers(0, 2), min_size=classes, max_size=classes))
    sure = st.floats(1.01 / classes, 1.0) | st.sampled_from([0.6, 0.8, 1.0])
    confidences = draw(st.lists(sure, min_size=len(labels), max_size=len(labels)))
    return predicted, labels, counts, groups, confidences


def mean(values):
    return sum(values) / len(values) if values else None


def literal(predicted, labels, counts, groups, confidences):
    pairs = list(zip(predicted, labels, strict=True))
    confidences = likeliest(predicted, confidences, len(counts)).max(1).values.exp().tolist()  # rounded in the same way
    recall = []
    for c in range(len(counts)):
        own = [p for p, label in pairs if label == c]
        recall.append(100 * sum(p == c for p in own) / len(own))
    middle = sum(recall) / len(recall)
    floored = [max(r, RECALL_FLOOR) for r in recall]
    ranked = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    size = [len(counts) // 3 + (part < len(counts) % 3) for part in range(3)]
    parts = [ranked[: size[0]], ranked[size[0] : size[0] + size[1]], ranked[size[0] + size[1] :]]
    head, mid, tail = (mean([recall[c] for c in part]) for part in parts)
    return {
        "head": head,
        "middle": mid,
        "tail": tail,
        "geometric_mean": math.prod(floored) ** (1 / len(floored)),
        "calibration_error": literal_calibration(confidences, [p == label for p, label in pairs]),
        "confusion": [[sum(pair == (p, c) for pair in pairs) for p in range(len(counts))] for c in range(len(counts))],
        "accuracy": 100 * sum(p == label for p, label in pairs) / len(pairs),
        "std": math.sqrt(sum((r - middle) ** 2 for r in recall) / len(recall)),
        "many": mean([r for r, n in zip(recall, counts, strict=True) if n > 100]),
        "medium": mean([r for r, n in zip(recall, counts, strict=True) if 20 <= n <= 100]),
        "few": mean([r for r, n in zip(recall, counts, strict=True) if n < 20]),
        "worst": min(recall),
        "harmonic_mean": len(recall) / sum(1 / max(r, RECALL_FLOOR) for r in recall),
        "group_accuracy": None if groups is None else mean([100.0 * (groups[p] == groups[c]) for p, c in pairs]),
        "per_class": recall,
    }


def literal_calibration(confidences, right):
    """The sum over bins (m - 1) / 15 < confidence <= m / 15."""
    total = 0.0
    for m in range(1, 16):
        own = [i for i, value in enumerate(confidences) if (m - 1) / 15 < value <= m / 15]
        if own:
            accuracy, confidence = mean([float(right[i]) for i in own]), mean([confidences[i] for i in own])
            total += len(own) / len(confidences) * abs(accuracy - confidence)
    return 100 * total


def likeliest(predicted, confidences, classes):
    """Log-probabilities float64 whose largest is that of the predicted class; the others share the rest."""
    rest = (1 - torch.tensor(confidences, dtype=torch.float64)) / (classes - 1)
    found = rest[:, None].repeat(1, classes)
    found[torch.arange(len(predicted)), torch.tensor(predicted)] = torch.tensor(confidences, dtype=torch.float64)
    return found.log()


def scored(predicted, labels, counts, groups, confidences=None, name="line"):
    groups = None if groups is None else torch.tensor(groups)
    found = likeliest(predicted, confidences or [0.9] * len(predicted), len(counts))
    return row(name, 7, found, torch.tensor(labels), counts, groups)


@given(predictions())
@settings(max_examples=150, deadline=None)
def test_a_row_is_what_loops_say(case):
    found, expected = scored(*case).to_json(), literal(*case)
    assert found.pop("name") == "line"
    assert found.pop("images") == 7
    assert [found.pop(cost) for cost in COSTS] == [None] * 3
    assert set(found) == set(expected)
    assert found.pop("confusion") == expected.pop("confusion")
    for key, value in expected.items():
        assert found[key] == (None if value is None else pytest.approx(value, abs=1e-9)), key


def test_shot_groups_end_at_100_and_20_images():
    found = scored([0, 0, 2, 3], [0, 1, 2, 3], [101, 100, 20, 19], None)
    assert (found.many, found.medium, found.few) == (100, 50, 100)
    found = scored([0, 0], [0, 1], [50, 50], None)
    assert (found.many, found.medium, found.few, found.group_accuracy) == (None, 50, None, None)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 90, 20, 20], [[1, 2], [3], [0]]),
        ([9, 8, 7], [[0], [1], [2]]),
        ([1, 2], [[1], [0], []]),
        ([1] * 10, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]),
    ],
)
def test_thirds_are_by_rank(counts, expected):
    assert list(thirds(counts).values()) == expected


def test_a_table_shows_thirds_where_a_part_by_count_is_empty():
    full = scored([0, 1, 2], [0, 1, 2], [101, 20, 1], None)
    no_few = scored([0, 1, 2], [0, 1, 2], [101, 20, 20], None)
    assert parts_of([full]) == parts_of([full.to_json()]) == ("many", "medium", "few")
    assert parts_of([full, no_few]) == ("head", "middle", "tail")


SURE = st.sampled_from([m / 15 for m in range(8, 16)]) | st.floats(0.51, 1)


@given(st.lists(st.tuples(SURE, st.booleans()), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_reliability_is_what_loops_say(images):
    sure, right = zip(*images, strict=True)
    log_p = likeliest([0] * len(right), sure, 2)
    confidences = log_p.max(1).values.exp().tolist()  # as they come out: a bin may end exactly there
    found = reliability(log_p, torch.tensor(right))
    for m in range(1, 16):
        own = [i for i, value in enumerate(confidences) if (m - 1) / 15 < value <= m / 15]
        assert found.images[m - 1] == len(own)
        for values, expected in ((found.confidence, confidences), (found.accuracy, right)):
            if own:
                assert values[m - 1].item() == pytest.approx(mean([float(expected[i]) for i in own]))
            else:
                assert values[m - 1].isnan()
    assert found.error == pytest.approx(literal_calibration(confidences, right), abs=1e-9)


def test_calibration_by_hand():
    found = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.7, 0.3], [0.3, 0.7]], dtype=torch.float64).log()
    right = torch.tensor([True, False, True, True])
    assert calibration_error(found, right) == pytest.approx(100 * (2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.7)) / 4)
    certain = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])
    assert calibration_error(certain, torch.tensor([True, True])) == 0
    assert calibration_error(certain, torch.tensor([True, False])) == pytest.approx(50)


def test_a_class_that_is_never_right_does_not_make_the_harmonic_mean_zero():
    assert scored([0, 0], [0, 1], [5, 5], None).harmonic_mean == pytest.approx(2 / (1 / 100 + 1 / RECALL_FLOOR))
    assert scored([1, 0], [0, 1], [5, 5], None).harmonic_mean == pytest.approx(RECALL_FLOOR)


def test_the_group_can_be_right_where_the_class_is_wrong():
    found = scored([1, 0, 3, 0], [0, 1, 2, 3], [5, 5, 5, 5], [0, 0, 1, 1])
    assert (found.accuracy, found.group_accuracy) == (0, 75)


@given(predictions(), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_repeats_are_averaged_field_by_field(case, repeats, random):
    predicted, labels, counts, groups, confidences = case
    rows = []
    for _ in range(repeats):
        random.shuffle(predicted)
        rows.append(scored(predicted, labels, counts, groups, confidences))
    means, deviations = average(rows)
    for key, value in rows[0].to_json().items():
        values = [one.to_json()[key] for one in rows]
        if key in ("name", "images"):
            assert getattr(means, key) == getattr(deviations, key) == value
        elif value is None:
            assert getattr(means, key) is None
            assert getattr(deviations, key) is None
        else:
            np.testing.assert_allclose(getattr(means, key), np.mean(values, 0), atol=1e-9)
            np.testing.assert_allclose(getattr(deviations, key), np.std(values, 0), atol=1e-9)
            assert type(getattr(means, key)) is type(value)


@given(predictions(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_class_without_a_test_image_counts_in_no_mean(case, data):
    """Its accuracy is not known; all else is as if there were only the others."""
    predicted, labels, counts, groups, confidences = case
    gone = data.draw(st.integers(0, len(counts) - 1))
    kept = [i for i, label in enumerate(labels) if label != gone]
    found = scored(
        [predicted[i] for i in kept], [labels[i] for i in kept], counts, groups, [confidences[i] for i in kept]
    )
    accuracies = [value for value in found.per_class if value is not None]
    assert found.per_class[gone] is None
    assert len(accuracies) == len(counts) - 1
    assert found.worst == min(accuracies)
    assert found.std == pytest.approx(np.std(accuracies))
    assert found.harmonic_mean == pytest.approx(len(accuracies) / sum(1 / max(a, RECALL_FLOOR) for a in accuracies))
    for name, members in thirds(counts).items():
        tested = [found.per_class[c] for c in members if c != gone]
        assert getattr(found, name) == (pytest.approx(mean(tested)) if tested else None)
    assert "NaN" not in json.dumps(found.to_json())


def test_the_confusion_of_many_classes_is_written_by_pairs():
    classes = 130
    labels = torch.arange(classes)
    found = row("a", 9, torch.eye(classes).roll(1, 1).log(), labels, [4] * classes)
    stored = found.to_json()["confusion"]
    assert stored[:2] == [{"1": 1}, {"2": 1}]
    assert confusion_matrix(json.loads(json.dumps(stored))) == found.confusion
    assert confusion_matrix(found.confusion) is found.confusion
    with pytest.raises(ValueError, match="'130' is not the number of a class"):
        confusion_matrix([{"130": 1}, *stored[1:]])
    full = [[1.0] * classes] * classes
    assert replace(found, confusion=full).to_json()["confusion"] is full  # pairs would take more room


def test_the_json_of_a_row_copies_no_confusion_matrix():
    found = row("a", 9, torch.eye(3).log(), torch.arange(3), [4, 3, 2])
    assert (
        found.to_json()["confusion"] is found.confusion
    )  # a copy of a million numbers takes a second, many times a run
