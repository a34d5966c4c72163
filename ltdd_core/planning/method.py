"""What a method does in a dry run: with all classes, or with some of them and on from there on straight lines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from ltdd_core import ranks
from ltdd_core.distillation.batch_matcher import BatchMatcher
from ltdd_core.distillation.matcher import Matcher, Synthetic
from ltdd_core.distillation.task import Distillation, task_of
from ltdd_core.errors import InputError, RunFailed
from ltdd_core.planning.counting import NOTHING, Work
from ltdd_core.planning.dry import FP32, DrySetup, DryStore, DryTask, only, spread

COUNTED_CLASSES = 64
"""Classes of which the method is counted; of more, the rest of them on a straight line through this many and half."""
MEASURED_GROUP = 32
"""Classes of a group whose memory is counted; larger groups lie on a straight line through this many and half."""
FEW = 4
"""Classes in groups that show how much is held of each class."""


@dataclass(frozen=True)
class Matched:
    """What a method does."""

    beside: Work
    """Before and after its steps."""
    step: Work
    peak: int
    """Bytes of its tensors at once, on each GPU."""
    disk: int
    """Bytes of a checkpoint and of the distilled set."""
    made: Synthetic
    recipe: dict[str, Any]
    group: tuple[int, ...] | None
    """Those of all classes that are the largest group that a GPU matches together; None of a method without groups."""


@dataclass(frozen=True)
class MethodCount:
    """Counts the method of a run."""

    setup: DrySetup
    store: DryStore
    """Notes what the method trains beforehand."""
    parts: float = 1.0
    """Images that go through a network at once, as a share of those of the run."""

    @property
    def classes(self) -> int:
        """Of the run."""
        return self.setup.data.classes

    def result(self) -> tuple[Matched, list[str]]:
        """What the method does, and what was counted in part, a sentence each."""
        counts, remarks = self.setup.data.counts, list[str]()
        matched = some = self._counted(spread(counts, COUNTED_CLASSES))
        if self.classes > COUNTED_CLASSES:
            half = COUNTED_CLASSES // 2
            fewer = self._again(spread(counts, half))
            matched = _further(fewer, matched, (self.classes - COUNTED_CLASSES) / half)
            remarks.append(
                f"The method was counted on {half} and on {COUNTED_CLASSES} of {self.classes} classes, and on a "
                "straight line from there."
            )
            if matched.group is None:
                matched = replace(matched, peak=self._peak_of_parts(some.peak, matched.peak))
        group = matched.group
        if group is None:
            return matched, remarks
        matched = replace(matched, step=matched.step * (len(self._own()) / self.classes))
        if len(group) < self.classes:
            matched = replace(matched, peak=self._peak(group))
            remarks.append(
                f"{self.setup.config.matcher.name!r} matches up to {len(group)} of {self.classes} classes together, "
                "and these groups one after another: memory is that of the largest group."
            )
        return matched, remarks

    # ---- memory ----------------------------------------------------------------------------------

    def _peak(self, group: Sequence[int]) -> int:
        """Bytes of tensors where the synthetic images of all classes are held, and one group is worked with.

        On two straight lines: one of the classes that there are, and one of those that are matched together.  There are
        two groups at least in what is counted, since the second begins while some of the first is still there.
        """
        if self.classes <= COUNTED_CLASSES:
            return self._again(range(self.classes), len(group)).peak
        few, some = min(len(group), FEW), self._like(group, 4 * FEW)
        of_class = (self._again(some, few).peak - self._again(some[: 2 * FEW], few).peak) / (2 * FEW)

        def of_group(size: int) -> float:
            """Of a group of this size among all classes."""
            like = self._like(group, size + FEW)
            return self._again(like, size).peak + of_class * (self.classes - len(like))

        size = min(len(group), MEASURED_GROUP)
        peak = of_group(size)
        if len(group) > size:
            peak += (peak - of_group(size // 2)) / (size - size // 2) * (len(group) - size)
        return round(peak)

    def _peak_of_parts(self, least: int, line: int) -> int:
        """Bytes of tensors of a method without groups, whose images go through a network some at a time.

        Of as many classes as are counted all images may go through it at once, and of more classes they do not.  So
        what is held of every class and what is held of the images at once lie on straight lines of their own.

        Args:
            least: bytes with the classes that are counted.
            line: bytes where the images at once grow with the classes.
        """
        ipc, at_once = self.setup.ipc_of_class, task_of(self.setup).chunk_with_gradient
        some, few = (spread(self.setup.data.counts, number) for number in (COUNTED_CLASSES, COUNTED_CLASSES // 2))
        images = sum(ipc[label] for label in few)
        if at_once <= images:
            return line
        small, smaller = (self._in_parts(share * images / at_once) for share in (1, 0.5))
        peak: float = small._again(some).peak
        half = smaller._again(some).peak  # all images of ``few`` are more than half of them, so both go in parts
        of_class = (half - smaller._again(few).peak) / (len(some) - len(few))
        of_image = (peak - half) / (0.5 * images)
        peak += of_class * (self.classes - len(some)) + of_image * (min(at_once, sum(ipc)) - images)
        return max(least, round(peak))

    def _in_parts(self, share: float) -> MethodCount:
        """The same with fewer images at once, as a share of those of the run."""
        compute = self.setup.config.compute.model_copy(update={"chunk": max(1, int(share * self.setup.chunk))})
        setup = self.setup.changed(config=replace(self.setup.config, compute=compute))
        vars(setup)["shared"] = self.setup.shared
        return replace(self, setup=setup, parts=share)

    def _like(self, group: Sequence[int], number: int) -> list[int]:
        """So many classes, those with most images first: some of a group, or all of it and then its neighbours."""
        counts = [self.setup.data.counts[label] for label in group]
        chosen = [group[place] for place in spread(counts, number)]
        others = sorted(set(range(self.classes)) - set(group), key=lambda label: abs(label - group[0]))
        chosen.sort(key=lambda label: -self.setup.data.counts[label])
        return [*chosen, *others[: number - len(chosen)]]

    def _largest_group(self, matcher: Matcher) -> tuple[int, ...] | None:
        """The group with most images, as a prepared matcher divides the classes of a GPU."""
        if not _goes_through_groups(matcher):
            return None
        own, counts, ipc = self._own(), self.setup.data.counts, self.setup.ipc_of_class
        of_class = [counts[label] for label in own], [ipc[label] for label in own]

        def images(places: Sequence[int]) -> int:
            return matcher.images_per_step(*([numbers[place] for place in places] for numbers in of_class))

        return tuple(own[place] for place in max(matcher.matched_together(*of_class), key=images))

    def _own(self) -> Sequence[int]:
        """The classes of a GPU."""
        return ranks.share_of_classes(self.classes)

    # ---- counting --------------------------------------------------------------------------------

    def _again(self, kept: Sequence[int], at_once: int | None = None) -> Matched:
        """The same with other classes; what the method trains beforehand is noted already."""
        noted = len(self.store.trainings)
        matched = self._counted(kept, at_once)
        del self.store.trainings[noted:]
        return matched

    def _counted(self, kept: Sequence[int], at_once: int | None = None) -> Matched:
        """Count what the method does for some of the classes.

        Networks are those of all classes, unless the method cannot do with that: it puts the class counts beside
        logits, say.  Then all is that of the classes that are kept, but trainings see the images of all.

        Args:
            kept: the classes.
            at_once: so many of them are in each group that is matched together; as the method says unless given.
        """
        whole, few = task_of(self.setup), self._few(kept)
        of_all = {name: getattr(whole, name) for name in ("networks", "pool", "trained", "trainer", "original")}
        noted, known = len(self.store.trainings), self.store.noted.copy()
        try:
            return self._done(DryTask(**{**vars(few), **of_all}), at_once)
        except (InputError, RunFailed):
            raise
        except Exception:  # of anybody's code, about shapes that do not fit
            if few.data.classes == self.classes:
                raise
        self.store.noted = known
        del self.store.trainings[noted:]
        matched = self._done(DryTask(**vars(few)), at_once)
        times = len(self.setup.data.train_labels) / len(few.data.train_labels)
        self.store.trainings[noted:] = [replace(one, work=one.work * times) for one in self.store.trainings[noted:]]
        return matched

    def _done(self, task: DryTask, at_once: int | None) -> Matched:
        """The same with a task."""
        matcher: Matcher = self.setup.config.matcher.make()
        task.parts = self.parts
        if at_once is not None:
            vars(matcher)["matched_together"] = lambda counts, ipc: _in_a_row(len(counts), at_once)
        counting, step = self.store.counting, NOTHING
        before = counting.live
        with counting.apart() as all_of_it:
            matcher.prepare(task)
            if type(matcher).iterative:
                grouped = _goes_through_groups(matcher)  # then a GPU's share of all classes is taken of the sum
                with counting.apart() as one, ranks.alone() if grouped else nullcontext():
                    matcher.step(0)
                step = one.work
            made = matcher.distilled()
            state = sum(value.numel() * value.itemsize for value in matcher.state().values())
        disk = state + FP32 * made.images.numel()
        return Matched(
            all_of_it.work,
            step,
            all_of_it.peak - before,
            disk,
            made,
            dict(matcher.recipe()),
            self._largest_group(matcher) if at_once is None else None,
        )

    def _few(self, kept: Sequence[int]) -> Distillation:
        """What a matcher works with for some of the classes."""
        few = self.setup.changed()
        vars(few).update(
            data=only(self.setup.data, kept),
            shared=self.setup.shared,
            ipc_of_class=tuple(self.setup.ipc_of_class[label] for label in kept),
            features=lambda label: self.setup.features(kept[label]),
        )
        return task_of(few)


def _further(fewer: Matched, more: Matched, times: float) -> Matched:
    """On a straight line through two numbers of classes."""
    return replace(
        more,
        beside=more.beside + (more.beside - fewer.beside) * times,
        step=more.step + (more.step - fewer.step) * times,
        peak=round(more.peak + (more.peak - fewer.peak) * times),
        disk=round(more.disk + (more.disk - fewer.disk) * times),
    )


def _goes_through_groups(matcher: Matcher) -> TypeGuard[BatchMatcher]:
    """Whether the processes of a run share the classes of a method, each of which goes through groups of its own."""
    if not isinstance(matcher, BatchMatcher):
        return False
    return matcher.sums_over_classes or type(matcher).matched_together is not BatchMatcher.matched_together


def _in_a_row(number: int, size: int) -> list[range]:
    return [range(start, min(start + size, number)) for start in range(0, number, size)]
