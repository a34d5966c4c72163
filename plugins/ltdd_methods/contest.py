"""Which method wins on validation images, with the noise of those images and of seeds.

What counts is the mean accuracy over the classes that have validation images, as these are fewer for rare classes and
test sets are not.  Validation images are drawn with replacement within each class, the same for all entries, and seeds
within each entry (bootstrap, Efron 1979).  An entry may be as good as the best if the 95 per cent interval of its
difference holds 0.  The test images have no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltdd_core import Interval, draw_test_images, interval_of

DRAWS = 2000


@dataclass(frozen=True)
class Entry:
    """What classifiers of one kind came to on the distilled sets of one method, a seed after the other."""

    method: str
    """Empty for classifiers of the original images alone."""
    line: str
    """As the tables of the runs call it."""
    right: np.ndarray
    """Which validation images each seed has right, bool ``[seeds, N]``."""
    accuracy: tuple[float, ...]
    """On the test images, per cent, of each seed."""
    std: tuple[float, ...]
    """The deviation of that accuracy over the classes, of each seed."""
    worst: tuple[float, ...]
    """The accuracy of the worst class, of each seed."""

    @property
    def shown(self) -> str:
        """The line as a table of methods calls it: what is said of distilled images is left out."""
        if not self.method:
            return self.line
        return ", ".join(part for part in self.line.split(", ") if "distilled" not in part) or self.line

    @property
    def name(self) -> str:
        """Method and line."""
        return f"{self.method}, {self.shown}" if self.method else self.line


@dataclass(frozen=True)
class Placed:
    """An entry on the validation images."""

    entry: Entry
    validation: Interval
    """Mean accuracy over the classes, in per cent."""
    behind: Interval | None
    """Points behind the winner; None for that one."""

    @property
    def may_win(self) -> bool:
        """Whether it may be as good as the winner."""
        return self.behind is None or self.behind.low <= 0

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` has of it."""
        found, validation, behind = self.entry, self.validation, self.behind
        return {
            "method": found.method or None,
            "line": found.line,
            "shown": found.shown,
            "validation": [validation.value, validation.low, validation.high],
            "behind": None if behind is None else [behind.value, behind.low, behind.high],
            "may_win": self.may_win,
            "accuracy": list(found.accuracy),
            "std": list(found.std),
            "worst": list(found.worst),
        }


def placed(entries: Sequence[Entry], labels: np.ndarray, draws: int = DRAWS) -> list[Placed]:
    """The entries on the validation images, the best first; of equal ones, as they come.

    Args:
        entries: at least one.
        labels: of the validation images, int ``[N]``.
        draws: of the bootstrap.
    """
    random = np.random.default_rng(0)
    shares = draw_test_images([entry.right for entry in entries], labels, random, draws)
    samples = []
    for entry, share in zip(entries, shares, strict=True):
        seeds = len(entry.right)
        often = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
        samples.append((share.mean(2) * often).sum(1))
    values = [_mean_over_classes(entry.right, labels) for entry in entries]
    best = int(np.argmax(values))

    def behind(place: int) -> Interval | None:
        if place == best:
            return None
        return interval_of(values[best] - values[place], samples[best] - samples[place])

    found = [
        Placed(entry, interval_of(values[place], samples[place]), behind(place)) for place, entry in enumerate(entries)
    ]
    return sorted(found, key=lambda one: (one.behind is not None, -one.validation.value))


def _mean_over_classes(right: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([100 * right[:, labels == label].mean() for label in np.unique(labels)]))


def sentence(found: Sequence[Placed], images: int) -> str:
    """Which method to take, and which others may be as good.

    Args:
        found: from :func:`placed`, of methods alone.
        images: number of validation images.
    """
    first, seeds = found[0], len(found[0].entry.accuracy)
    test = float(np.mean(first.entry.accuracy))
    text = (
        f"Take {first.entry.name}: it is the best on the validation images, {first.validation.value:.1f} per cent, and "
        f"has {test:.1f} on the test images."
    )
    of_seeds = "one seed" if seeds == 1 else f"{seeds} seeds"
    ties = [one.entry.name for one in found[1:] if one.may_win]
    if not found[1:]:
        return text
    if not ties:
        return f"{text} Its lead is more than the noise of {images} validation images and {of_seeds}."
    which = "all others" if len(ties) == len(found) - 1 > 1 else "; ".join(ties)
    return f"{text} With {images} validation images and {of_seeds} it cannot be told from {which}."
