"""Result tables and bars in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ltdd_core.data.longtail import shot_groups
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.evaluation.lines import Repeated
from ltdd_core.evaluation.metrics import Row, parts_of
from ltdd_core.evaluation.quality import Quality

BAR = 12
HEADINGS = {"harmonic_mean": "harm.", "group_accuracy": "group", "accuracy": "acc.", "medium": "med.", "middle": "mid."}


def number(value: float | None) -> str:
    """One decimal, or n/a."""
    return "n/a" if value is None else f"{value:.1f}"


def bar(share: float, width: int = BAR, *, plain: bool = False) -> str:
    """A bar for a share from 0 to 1, in eighths of a character; plain: of what every encoding has."""
    if plain:
        return ("#" * round(max(0.0, min(1.0, share)) * width)).ljust(width)
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


def print_rows(console: Console, rows: Sequence[Row], class_names: Sequence[str], counts: Sequence[int]) -> None:
    """The result table, and the accuracy of every class as bars."""
    title = "per cent; std, worst and harmonic mean are over classes"
    table = Table(title=title, title_style="dim", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("trained on", min_width=15)  # two words a line in a terminal of 80 columns
    table.add_column("images", justify="right")
    columns = ("accuracy", "std", *parts_of(rows), "worst", "harmonic_mean", "group_accuracy")
    for column in columns:
        table.add_column(HEADINGS.get(column, column), justify="right")
    for row in rows:
        table.add_row(row.name, str(row.images), *(number(getattr(row, column)) for column in columns))
    console.print(table)
    _print_classes(console, rows, class_names, counts)


def print_groups(console: Console, groups: Sequence[Sequence[str]] | None) -> None:
    """The partition of a multi-stage classifier, in one line."""
    if groups is not None:
        console.print(f"groups: {' | '.join(', '.join(names) for names in groups)}", markup=False, soft_wrap=True)


def print_repeated(console: Console, lines: Sequence[Repeated]) -> None:
    """Mean and deviation over seeds, a line for each network."""
    repeats, mean = lines[0].repeats, lines[0].mean
    over = "one seed" if repeats == 1 else f"{repeats} seeds, ± deviation over them"
    title = f"{mean.name}, {mean.images} images; per cent, mean of {over}"
    table = Table(title=title, title_style="dim", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("network")
    shown = ["accuracy", "std", *parts_of([line.mean for line in lines]), "worst"]
    if mean.group_accuracy is not None:
        shown.append("group_accuracy")
    for column in shown:
        table.add_column(HEADINGS.get(column, column), justify="right")
    for line in lines:
        cells = []
        for column in shown:
            value, deviation = getattr(line.mean, column), getattr(line.deviation, column)
            spread = f"±{deviation:.1f}" if repeats > 1 and value is not None else ""
            cells.append(f"{number(value)}{spread}")
        table.add_row(line.network, *cells)
    console.print(table)


QUALITY = {
    "real": "the long-tailed set",
    "distilled": "the distilled set",
    "hard": "... under hard labels",
    "random": "random real images",
    "distilled_plain": "the distilled set, not augmented",
    "random_plain": "random real images, not augmented",
    "hard_label_recovery": "hard-label recovery (0 is best)",
    "improvement_over_random": "improvement over random",
    "label_robust_score": "label-robust score",
    "augmentation_robust_score": "augmentation-robust score",
}


def print_quality(console: Console, scores: Sequence[Quality]) -> None:
    """Accuracies that a distilled set is compared with, and what they come to; a column for each network."""
    table = Table(
        title="quality beside accuracy; per cent, plain linear head", title_style="dim", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("trained on, score")
    for one in scores:
        table.add_column(one.network, justify="right")
    for key, name in QUALITY.items():
        cells = [f"{one.mean[key]:.1f}{f'±{one.deviation[key]:.1f}' * (one.repeats > 1)}" for one in scores]
        table.add_row(name, *cells)
    console.print(table)


def print_data(console: Console, data: LongTailedSet) -> None:
    """Class counts as bars, the imbalance factor and the shot groups."""
    console.print(
        f"{data.name}: {len(data.train_labels)} training and {len(data.test_labels)} test images "
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
    plain = console.options.ascii_only
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("images", justify="right")
    for row in rows:
        table.add_column(row.name)
    for label, (name, count) in enumerate(zip(class_names, counts, strict=True)):
        cells = [f"{bar(row.per_class[label] / 100, plain=plain)} {row.per_class[label]:5.1f}" for row in rows]
        table.add_row(name, str(count), *cells)
    console.print(table)
