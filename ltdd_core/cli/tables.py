"""Result tables and bars in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table

from ltdd_core.data.longtail import shot_groups
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.evaluation.lines import Repeated
from ltdd_core.evaluation.metrics import Row
from ltdd_core.evaluation.quality import Quality
from ltdd_core.evaluation.shown import NumberTable, number
from ltdd_core.runs.distilled import DistilledSet

BAR = 12


def duration(seconds: float) -> str:
    """A time as ``36 s``, or ``0:01:30`` from a minute on."""
    return f"{seconds:.0f} s" if round(seconds) < 60 else str(timedelta(seconds=round(seconds)))


def bar(share: float, width: int = BAR, *, plain: bool = False) -> str:
    """A bar for a share from 0 to 1, in eighths of a character; plain: of what every encoding has."""
    if plain:
        return ("#" * round(max(0.0, min(1.0, share)) * width)).ljust(width)
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


def print_rows(console: Console, rows: Sequence[Row], class_names: Sequence[str], counts: Sequence[int]) -> None:
    """The result table, and the accuracy of every class as bars."""
    _print_numbers(console, Row.table(rows))
    _print_classes(console, rows, class_names, counts)


def _print_numbers(console: Console, numbers: NumberTable) -> None:
    """A table of numbers with a name before each row; turned round where a terminal is too narrow for all digits."""
    title, head, body = numbers.title, numbers.head, numbers.body
    table = _of_numbers(title, head, body)
    if not _fits(console, table):
        turned = list(zip(head, *body, strict=True))
        table = _of_numbers(title, turned[0], turned[1:], whole=False)
    console.print(table)


def _of_numbers(title: str, head: Sequence[str], body: Sequence[Sequence[str]], *, whole: bool = True) -> Table:
    """``whole``: no number and no heading may be folded."""
    table = Table(title=title, title_style="dim", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(head[0], min_width=15 if whole else None)  # two words a line in a terminal of 80 columns
    for heading in head[1:]:
        table.add_column(heading, justify="right", no_wrap=whole, overflow="fold")
    for cells in body:
        table.add_row(*cells)
    return table


def _fits(console: Console, table: Table) -> bool:
    return Measurement.get(console, console.options.update(width=1000), table).minimum <= console.width


def print_predictions(
    console: Console, names: Sequence[str], answers: Sequence[Sequence[tuple[str, float]]], groups: Mapping[str, int]
) -> None:
    """The likeliest classes of each image, with their probabilities, and the group of the first.

    Args:
        console: where they go.
        names: of the images.
        answers: of each image its likeliest classes and their probabilities, the likeliest first.
        groups: the group of each class, from 1; empty where there are none.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("%", justify="right", no_wrap=True)
    if groups:
        table.add_column("group", justify="right", no_wrap=True)
    if any(len(answer) > 1 for answer in answers):
        table.add_column("next", overflow="fold")
    for name, ((best, probability), *rest) in zip(names, answers, strict=True):
        group = [str(groups[best])] if groups else []
        others = [", ".join(f"{other} {100 * share:.1f}" for other, share in rest)] if rest else []
        table.add_row(name, best, f"{100 * probability:.1f}", *group, *others)
    console.print(table)


def print_groups(console: Console, groups: Sequence[Sequence[str]] | None) -> None:
    """The partition of a multi-stage classifier, in one line."""
    if groups is not None:
        console.print(f"groups: {' | '.join(', '.join(names) for names in groups)}", markup=False, soft_wrap=True)


def print_images(console: Console, distilled: DistilledSet) -> None:
    """How many synthetic images the classes have where they differ, and how many are real ones that were kept."""
    said = [] if isinstance(distilled.ipc, int) else [distilled.ipc_in_words()]
    if distilled.kept:
        said.append(f"{distilled.kept} are real ones, kept unchanged")
    if said:
        console.print(f"distilled: {'; '.join(said)}", markup=False, soft_wrap=True)


def print_labels(console: Console, distilled: DistilledSet) -> None:
    """What the labels of a distilled set take, in one line, where they are more than the classes."""
    budget = distilled.label_budget()
    if distilled.labeller is not None:
        size = decimal(budget["teacher_bytes"])
        console.print(f"labels: of each view, by a teacher of {size}", markup=False, soft_wrap=True)
    elif budget["soft_label_numbers"]:
        numbers = f"{budget['soft_label_numbers']:,} numbers"
        console.print(f"labels: a soft label for each image, {numbers} in all", markup=False, soft_wrap=True)


def print_repeated(console: Console, lines: Sequence[Repeated]) -> None:
    """Mean and deviation over seeds, a line for each network."""
    _print_numbers(console, Repeated.table(lines))


def print_quality(console: Console, scores: Sequence[Quality]) -> None:
    """Accuracies that a distilled set is compared with, and what they come to; a column for each network."""
    numbers = Quality.table(scores)
    table = Table(title=numbers.title, title_style="dim", box=SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(numbers.head):
        table.add_column(heading, justify="right" if place else "left")
    for cells in numbers.body:
        table.add_row(*cells)
    console.print(table)


def print_data(console: Console, data: LongTailedSet) -> None:
    """Class counts as bars, the imbalance factor and the shot groups."""
    validation = f", {data.validation_count} validation" if data.validation_count else ""
    console.print(
        f"{data.name}: {len(data.train_labels)} training{validation} and {len(data.test_labels)} test images "
        f"of {'x'.join(map(str, data.image_shape))}, {data.classes} classes, "
        f"imbalance factor {data.imbalance:.4g}",
        soft_wrap=True,
    )
    plain = console.options.ascii_only
    shot_of = {label: shot for shot, members in shot_groups(data.counts).items() for label in members}
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("images", justify="right")
    table.add_column("")
    table.add_column("shot")
    for label, (name, count) in enumerate(zip(data.class_names, data.counts, strict=True)):
        table.add_row(name, str(count), bar(count / max(data.counts), 40, plain=plain), shot_of[label])
    console.print(table)
    groups = shot_groups(data.counts)
    console.print(
        "classes with over 100 images (many): {many}, with 20 to 100 (medium): {medium}, "
        "with fewer (few): {few}".format(**{shot: len(own) or "none" for shot, own in groups.items()})
    )


def _print_classes(console: Console, rows: Sequence[Row], class_names: Sequence[str], counts: Sequence[int]) -> None:
    """Accuracies of every class, with bars where there is room for them."""
    plain = console.options.ascii_only
    for width in (BAR, 0):
        table = Table(box=None, pad_edge=False)
        table.add_column("class", overflow="fold")
        table.add_column("images", justify="right", no_wrap=True)
        for row in rows:
            table.add_column(row.name, justify="left" if width else "right", min_width=width + 6, overflow="fold")
        for label, (name, count) in enumerate(zip(class_names, counts, strict=True)):
            shares = [row.per_class[label] for row in rows]
            bars = [f"{bar((share or 0) / 100, width, plain=plain)} {number(share):>5}" for share in shares]
            table.add_row(name, str(count), *bars)
        if _fits(console, table):
            break
    console.print(table)
