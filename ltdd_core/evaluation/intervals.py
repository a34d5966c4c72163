"""How much of a number the choice of the test images may be: bootstrap intervals (Efron 1979).

Test images are drawn with replacement within each class, since a test set has a fixed number of images of each class by
design: draws over all images at once would let these numbers vary too, and leave a rare class without an image.  All
classifiers have the same draws, so that their differences are paired.  An interval says nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 95.0  # per cent
ROUNDING = 1e-9  # of a difference, in points
AT_ONCE = 2**20  # numbers of draws that are in memory: of many test images a few draws at a time


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval, in per cent (or points)."""

    value: float
    low: float
    high: float


def interval_of(value: float, samples: np.ndarray) -> Interval:
    """The percentile interval of a value.

    Args:
        value: what was measured.
        samples: what the bootstrap samples give, ``[draws]``.
    """
    low, high = np.percentile(samples, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def draw_test_images(
    tables: Sequence[np.ndarray], labels: np.ndarray, random: np.random.Generator, draws: int = DRAWS
) -> list[np.ndarray]:
    """Draw test images with replacement within each class, the same for all tables.

    Args:
        tables: of each classifier bool ``[seeds, N]``: which test images each of its seeds has right.
        labels: int ``[N]``.
        random: draws.
        draws: how many times.

    Returns:
        For each table the per cent right of each class that has a test image, ascending, ``[draws, seeds, classes]``.
    """
    classes = np.unique(labels)
    shares = [np.empty((draws, len(right), len(classes))) for right in tables]
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        equal, hits = np.full(len(members), 1 / len(members)), [right[:, members].T.astype(float) for right in tables]
        for some in _in_chunks(draws, max(1, AT_ONCE // len(members))):
            often = random.multinomial(len(members), equal, size=len(some)).astype(float)
            for right, out in zip(hits, shares, strict=True):
                out[some, :, place] = 100 * (often @ right) / len(members)
    return shares


def _in_chunks(number: int, size: int) -> list[range]:
    return [range(start, min(start + size, number)) for start in range(0, number, size)]


@dataclass(frozen=True)
class RowIntervals:
    """The 95 per cent intervals of a row over test images."""

    accuracy: Interval
    """Of its accuracy, in per cent."""
    behind_best: Interval | None
    """Of the points of accuracy that it is behind the most accurate row; None for that one."""

    def to_json(self) -> dict[str, Any]:
        """What they add to a row of ``report.json``."""
        accuracy, behind = self.accuracy, self.behind_best
        return {
            "accuracy_interval": [accuracy.low, accuracy.high],
            "behind_best": None if behind is None else [behind.value, behind.low, behind.high],
        }


def row_intervals(right: np.ndarray, labels: np.ndarray, seed: int = 0, draws: int = DRAWS) -> list[RowIntervals]:
    """The intervals of the rows of a table; of rows that are as accurate, the first is the best.

    Args:
        right: which test images each row has right, bool ``[rows, N]``.
        labels: int ``[N]``.
        seed: of the draws.
        draws: how many times.
    """
    (shares,) = draw_test_images([right], labels, np.random.default_rng(seed), draws)
    tests = np.unique(labels, return_counts=True)[1]
    samples = (shares * tests).sum(2) / tests.sum()
    accuracy = 100 * right.mean(1)
    best = int(accuracy.argmax())

    def behind(row: int) -> Interval | None:
        if row == best:
            return None
        return interval_of(float(accuracy[best] - accuracy[row]), samples[:, best] - samples[:, row])

    return [RowIntervals(interval_of(float(accuracy[row]), samples[:, row]), behind(row)) for row in range(len(right))]


def may_be_chance(rows: Sequence[Mapping[str, Any]], test_images: int) -> str | None:
    """A sentence where the test images cannot tell the two most accurate rows apart; None where they can.

    Args:
        rows: of ``report.json``; those of an earlier version have no intervals, and nothing is said of them.
        test_images: how many there are.
    """
    ranked = sorted(rows, key=lambda row: -float(row["accuracy"]))
    behind = ranked[1].get("behind_best") if len(ranked) > 1 else None
    if behind is None or behind[1] > ROUNDING:
        return None
    difference, low, high = (round(value, 1) + 0.0 for value in behind)
    return (
        f"With {test_images} test images the difference of {difference:.1f} between '{ranked[0]['name']}' and "
        f"'{ranked[1]['name']}' may be chance (95 % interval {low:.1f} to {high:.1f})."
    )
