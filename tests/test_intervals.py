"""Intervals over test images: the literal bootstrap, pairing, and the sentence under a table."""

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given, settings, strategies as st

from ltdd_core import may_be_chance
from ltdd_core.evaluation.intervals import draw_test_images, row_intervals


def literal(right, labels, seed, draws):
    """The accuracy of every row in every draw, image by image: drawn with replacement within each class."""
    random = np.random.default_rng(seed)
    samples = [[0.0] * len(right) for _ in range(draws)]
    for label in sorted(set(labels)):
        members = [image for image, own in enumerate(labels) if own == label]
        often = random.multinomial(len(members), [1 / len(members)] * len(members), size=draws)
        for draw in range(draws):
            for image, times in zip(members, often[draw], strict=True):
                for row in range(len(right)):
                    samples[draw][row] += 100 * times * bool(right[row][image]) / len(labels)
    return samples


def percentile(values, share):
    """Between the two nearest of the sorted values, in proportion."""
    ranked, place = sorted(values), share / 100 * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


@given(st.integers(0, 1000), st.lists(st.sampled_from([0, 2, 3]), min_size=1, max_size=14), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_intervals_are_the_literal_ones_though_a_class_may_have_no_test_image(seed, labels, rows):
    right = np.random.default_rng(seed).random((rows, len(labels))) < 0.6
    found, samples = row_intervals(right, np.array(labels), seed, draws=30), literal(right, labels, seed, 30)
    accuracy = [100 * sum(own) / len(labels) for own in right.tolist()]
    best = accuracy.index(max(accuracy))
    for row, known in enumerate(found):
        own = [draw[row] for draw in samples]
        expected = [accuracy[row], percentile(own, 2.5), percentile(own, 97.5)]
        assert [known.accuracy.value, known.accuracy.low, known.accuracy.high] == pytest.approx(expected)
        if row == best:
            assert known.behind_best is None
            continue
        gaps = [draw[best] - draw[row] for draw in samples]
        expected = [accuracy[best] - accuracy[row], percentile(gaps, 2.5), percentile(gaps, 97.5)]
        assert [known.behind_best.value, known.behind_best.low, known.behind_best.high] == pytest.approx(expected)


def test_differences_are_paired_and_the_classes_keep_their_sizes():
    random, labels = np.random.default_rng(0), np.repeat([0, 1], [200, 300])
    first = random.random(500) < 0.6
    second = first | (random.random(500) < 0.05)  # right wherever the first is, and a little more
    behind, best = row_intervals(np.stack([first, second]), labels)
    assert behind.accuracy.high > best.accuracy.low  # each alone could be the better one
    assert behind.behind_best.low > 0
    (shares,) = draw_test_images([labels[None] == 1], labels, np.random.default_rng(0), 50)
    assert shares.tolist() == [[[0.0, 100.0]]] * 50  # so the accuracy has no noise either


def test_memory_does_not_grow_with_the_test_images_of_a_class_times_the_draws():
    labels = np.zeros(4000, dtype=int)
    tracemalloc.start()
    try:
        row_intervals(np.arange(8000).reshape(2, 4000) % 3 == 0, labels)
        assert tracemalloc.get_traced_memory()[1] < 30e6  # all draws at once are 64 MB
    finally:
        tracemalloc.stop()


def of(name, accuracy, behind):
    return {"name": name, "accuracy": accuracy, "behind_best": behind}


def test_the_sentence_is_there_only_where_the_best_two_rows_cannot_be_told_apart():
    rows = [of("C", 50.0, [30.0, 27.0, 33.0]), of("A", 80.8, None), of("B", 80.0, [0.8, -1.04, 2.6])]
    sentence = (
        "With 500 test images the difference of 0.8 between 'A' and 'B' may be chance (95 % interval -1.0 to 2.6)."
    )
    assert may_be_chance(rows, 500) == sentence
    assert may_be_chance(rows[:2], 500) is None
    assert may_be_chance(rows[1:2], 500) is None
    assert may_be_chance([of("A", 80.0, None), of("B", 80.0, [0.0, -0.04, 0.0])], 9).endswith(
        "(95 % interval 0.0 to 0.0)."
    )
    earlier = [{"name": "A", "accuracy": 80.8}, {"name": "B", "accuracy": 80.0}]
    assert may_be_chance(earlier, 500) is None


def test_a_run_says_in_its_report_and_under_its_table_what_the_test_images_leave_open(ltdd):
    result = ltdd("distill", "--method", "dm", *TINY, "--out", "run")
    report = json.loads(Path("run/report.json").read_text())
    rows, ranked = report["rows"], sorted(report["rows"], key=lambda row: -row["accuracy"])
    for row in rows:
        low, high = row["accuracy_interval"]
        assert low <= row["accuracy"] <= high
    assert ranked[0]["behind_best"] is None
    value, low, high = ranked[1]["behind_best"]
    assert low <= value <= high
    assert value == pytest.approx(ranked[0]["accuracy"] - ranked[1]["accuracy"])
    sentence = may_be_chance(rows, report["data"]["test_images"])
    assert (sentence in result.stdout) if sentence else ("may be chance" not in result.stdout)
    resumed = ltdd("distill", "--out", "run", "--resume", "--json")
    assert json.loads(resumed.stdout)["rows"] == rows
    assert ltdd("report", "run").exit_code == 0
    page = re.sub(r"\s+", " ", Path("report-run.html").read_text())
    low, high = ranked[0]["accuracy_interval"]
    assert f'{ranked[0]["accuracy"]:.1f} <span class="quiet below">({low:.1f} to {high:.1f})</span>' in page
    assert ("test images the difference of" in page) == (sentence is not None)
