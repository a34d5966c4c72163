"""Result tables and bars in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ltdd_core.cli.streams import printable
from ltdd_core.data.drawing import SHOT_COLOURS, SHOT_WORDS, folded, shot_colours, shots_of
from ltdd_core.data.longtail import by_count, shot_groups
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.evaluation.class_table import AT_AN_END, MOST_NAMED, worst_and_best
from ltdd_core.evaluation.metrics import Row
from ltdd_core.evaluation.quality import Quality
from ltdd_core.evaluation.repeats import Repeated
from ltdd_core.evaluation.shown import MEANINGS, NumberTable, number
from ltdd_core.runs.distilled import DistilledSet

BAR = 12
NAME, SHORTEST = 40, 10  # characters of a line of a class name
ZEROS = 10  # classes at 0 % that a line names
ZERO, MARK = "bold red", "!"
COSTS = ("multiply_adds", "training_seconds", "images_seen")
"""Columns that a narrow terminal does without, the first of them first."""
MOVED = (
    *("seeds", "published", "harmonic_mean", "group_accuracy", "medium", "middle", "many", "head", "images"),
    *("few", "tail", "worst"),
)
"""Columns that a narrow terminal has in a table of their own, the first of them first; accuracy and deviation stay."""


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


def print_rows(
    console: Console,
    rows: Sequence[Row],
    class_names: Sequence[str],
    counts: Sequence[int],
    note: str | None = None,
    file: Path | None = None,
) -> None:
    """The result table, what must not be overlooked in it, and the accuracy of every class as bars.

    Args:
        console: where they go.
        rows: of the table.
        class_names: a name for each class.
        counts: training images of each class; tables of classes go from head to tail.
        note: a sentence under the table.
        file: what has the accuracies of all classes where they are too many to be printed.
    """
    print_numbers(console, Row.table(rows))
    of_rows: dict[tuple[str, ...], list[str]] = {}  # the classes at 0 %, and the rows where it is these
    for row in rows:
        zero = tuple(class_names[label] for label in by_count(counts) if row.per_class[label] == 0)
        of_rows.setdefault(zero, []).append(row.name)
    for zero, names in of_rows.items():
        if zero:
            more = f" and {len(zero) - ZEROS} more" if len(zero) > ZEROS else ""
            lines = f" ({'; '.join(names)})" if len(rows) > 1 else ""
            console.print(f"0 %: {', '.join(zero[:ZEROS])}{more}{lines}", style=ZERO, markup=False)
    if note is not None:
        console.print(note, markup=False)
    _print_classes(console, rows, class_names, counts)
    if len(counts) > MOST_NAMED:
        ends = f"These are the {AT_AN_END} worst and the {AT_AN_END} best of {len(counts)} classes by {rows[-1].name!r}"
        console.print(f"{ends}{f'; all are in {file}' if file else ''}.", markup=False, soft_wrap=True)


def print_numbers(console: Console, numbers: NumberTable) -> None:
    """A table of numbers with a name before each row.

    Where a terminal is too narrow for all digits, costs are left out and named below, and then the columns that matter
    least have tables of their own: a number that was measured is always there.
    """
    keys, head = numbers.keys, numbers.head
    shown = list(range(len(keys)))
    for key in (*COSTS, *MOVED):
        if _fits(console, _columns(numbers, shown)):
            break
        shown = [place for place in shown if keys[place] != key]
    console.print(_columns(numbers, shown, numbers.title))
    moved = [place for place in range(len(keys)) if keys[place] in MOVED and place not in shown]
    for places in _in_tables(console, numbers, moved):
        console.print(_columns(numbers, places))
    if hidden := [head[place] for place in range(len(keys)) if place not in shown and place not in moved]:
        console.print(f"not shown, for want of room: {', '.join(hidden)}", style="dim", markup=False)
    if said := [MEANINGS[keys[place]] for place in sorted({*shown, *moved}) if keys[place] in MEANINGS]:
        console.print("; ".join(said), style="dim", markup=False)


def _in_tables(console: Console, numbers: NumberTable, moved: Sequence[int]) -> Iterator[list[int]]:
    """The places of columns, those of the names before them, as many in a table as there is room for."""
    places = [0]
    for place in moved:
        if len(places) > 1 and not _fits(console, _columns(numbers, [*places, place])):
            yield places
            places = [0]
        places.append(place)
    if moved:
        yield places


def _columns(numbers: NumberTable, places: Sequence[int], title: str | None = None) -> Table:
    """Some of the columns of a table."""
    chosen = [[cells[place] for place in places] for cells in (numbers.head, *numbers.body)]
    return _of_numbers(title, chosen[0], chosen[1:])


def _of_numbers(title: str | None, head: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    """No number and no heading of one is folded."""
    table = Table(title=title, title_style="dim", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(head[0], min_width=15, overflow="fold")  # two words a line in a terminal of 80 columns
    for heading, *numbers in list(zip(head, *body, strict=True))[1:]:
        whole = max(map(cell_len, (heading, *numbers)))  # rich would measure the longest word of "9.5 ± 0.1"
        table.add_column(heading, justify="right", no_wrap=True, min_width=whole)
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
    """The partition of a multi-stage classifier, in one line; of many classes the first of each group."""
    if groups is None:
        return
    most = max(map(len, groups)) if sum(map(len, groups)) <= MOST_NAMED else AT_AN_END
    said = [
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") for names in groups
    ]
    console.print(f"groups: {' | '.join(said)}", markup=False, soft_wrap=True)


def print_images(console: Console, distilled: DistilledSet) -> None:
    """How many synthetic images the classes have where they differ, and how many are real ones that were kept."""
    said = [] if isinstance(distilled.ipc, int) else [distilled.ipc_in_words()]
    if distilled.kept:
        said.append(f"{distilled.kept} of them real, kept unchanged")
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
    """Mean and deviation over seeds, a line for each network, or for each head and network."""
    print_numbers(console, Repeated.table(lines))


def print_test_distributions(console: Console, lines: Sequence[Row | Repeated]) -> None:
    """Accuracy and calibration error on long-tailed test distributions, where they were asked for.

    A line for each classifier from forward to backward, as papers have it; where a terminal is too narrow for that, a
    table for each classifier, with a line for each distribution.
    """
    entries: list[UnderDistributions] = []
    for line in lines:
        if isinstance(line, Row):
            entries.append((line.name, line.test_distributions or {}, None))
        else:
            deviation = line.deviation.test_distributions if line.repeats > 1 else None
            entries.append((f"{line.mean.name}, {line.network}", line.mean.test_distributions or {}, deviation))
    print_distributions(console, entries)


UnderDistributions = tuple[str, Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]] | None]
"""The name of a line, its scores by test distribution, and their deviations where there are several seeds."""


def print_distributions(console: Console, entries: Sequence[UnderDistributions]) -> None:
    """The table of :func:`print_test_distributions`; nothing where no line is scored so."""
    entries = [entry for entry in entries if entry[1]]
    if not entries:
        return
    titles, names = [title for title, *_ in entries], list(entries[0][1])
    cells = {
        key: [_under(scores, deviations, names, key) for _, scores, deviations in entries]
        for key in ("accuracy", "calibration_error")
    }
    body = [
        row
        for title, right, error in zip(titles, *cells.values(), strict=True)
        for row in ([title, *right], ["ECE", *error])
    ]
    title = "per cent, on long-tailed test distributions"
    wide = _of_numbers(title, ["trained on", *map(_short, names)], body)
    if _fits(console, wide):
        console.print(wide)
        said = "F: forward and B: backward, with the imbalance factor; uni.: uniform; ECE: expected calibration error"
        console.print(said, style="dim", markup=False)
        return
    for title, right, error in zip(titles, *cells.values(), strict=True):
        rows = [list(row) for row in zip(names, right, error, strict=True)]
        console.print(_of_numbers(f"{title}; per cent", ["test images", "acc.", "ECE"], rows))
    console.print("ECE: expected calibration error", style="dim", markup=False)


def _under(
    scores: Mapping[str, Mapping[str, float]],
    deviations: Mapping[str, Mapping[str, float]] | None,
    names: Sequence[str],
    key: str,
) -> list[str]:
    """The cells of a line: a number of each test distribution, with its deviation over several seeds."""
    spread = {} if deviations is None else {name: f"±{deviations[name][key]:.1f}" for name in names}
    return [f"{number(scores[name][key])}{spread.get(name, '')}" for name in names]


def _short(name: str) -> str:
    """``F50`` for ``forward-50``."""
    kind, _, factor = name.partition("-")
    return f"{kind[0].upper()}{factor}" if factor else "uni."


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
    """What becomes of the images of each class, with bars, the imbalance factor, the shot groups and what to know."""
    validation = f", {data.validation_count} validation" if data.validation_count else ""
    resized = f" ({data.resized})" if data.resized else ""
    console.print(
        f"{data.name}: {len(data.train_labels)} training{validation} and {len(data.test_labels)} test images "
        f"of {'x'.join(map(str, data.image_shape))}{resized}, {data.classes} classes, "
        f"imbalance factor {data.imbalance:.4g}",
        soft_wrap=True,
    )
    plain, shots, colours = console.options.ascii_only, shots_of(data.counts), shot_colours(data.counts)
    columns = {"found": data.found, "training": data.counts, "validation": data.validation_counts}
    columns = {name: counts for name, counts in {**columns, "test": data.test_counts}.items() if any(counts)}
    room = console.width - len(" ".join([*columns, "medium"])) - 3
    longest = max(len("class"), min(NAME, max(map(cell_len, data.class_names))))
    name = min(longest, max(SHORTEST, room - BAR))
    width = min(40, room - name) if room - name >= SHORTEST else 0
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("class", no_wrap=True)
    for part in columns:
        table.add_column(part, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("shot", no_wrap=True)
    order = by_count(data.counts)
    shown = order if len(order) <= MOST_NAMED else [*order[:AT_AN_END], *order[-AT_AN_END:]]
    for place, label in enumerate(shown):
        if len(shown) < len(order) and place == AT_AN_END:
            table.add_row("...")
        share = data.counts[label] / max(data.counts)
        drawn, shot = Text(bar(share, width, plain=plain), colours[label]), Text(shots[label], colours[label])
        own_name = Text(folded(printable(data.class_names[label]), name))
        table.add_row(own_name, *(str(counts[label]) for counts in columns.values()), drawn, shot)
    console.print(table)
    if len(shown) < len(order):
        between = f"{len(order) - len(shown)} classes between these are not shown; --json has all of them."
        console.print(between, soft_wrap=True)
    groups = shot_groups(data.counts)
    console.print(
        "classes with over 100 images (many): {many}, with 20 to 100 (medium): {medium}, "
        "with fewer (few): {few}".format(**{shot: len(own) or "none" for shot, own in groups.items()})
    )
    if data.cut:
        console.print(data.cut, soft_wrap=not console.is_terminal)
    for sentence in data.advice:
        console.print(sentence, style="yellow", soft_wrap=not console.is_terminal)


def _print_classes(console: Console, rows: Sequence[Row], class_names: Sequence[str], counts: Sequence[int]) -> None:
    """Accuracies of every class, with bars where there is room for them; one that is never right has a mark.

    Where there is no room for the names of the rows, their numbers head the columns.
    """
    plain, colours = console.options.ascii_only, shot_colours(counts)
    heads = [[row.name for row in rows]] * 3 + [[str(place) for place in range(1, len(rows) + 1)]]
    longest = max(len("class"), min(NAME, max(map(cell_len, class_names))))
    for width, headings in zip((BAR, BAR - 4, 0, 0), heads, strict=True):
        numbers = [max(width + 6 if width else 5, *map(cell_len, heading.split())) for heading in headings]
        room = console.width - len("images") - sum(numbers) - len(numbers) - 1
        if room >= longest:
            break
    name = max(SHORTEST, min(NAME, room))
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("class", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    for heading, least in zip(headings, numbers, strict=True):
        table.add_column(heading, justify="left" if width else "right", min_width=least, overflow="fold")
    for label in _named(rows[-1], counts):
        if label is None:
            table.add_row("...")
            continue
        cells = []
        for row in rows:
            share = row.per_class[label]
            cell = Text(f"{bar((share or 0) / 100, width, plain=plain)} " if width else "", colours[label])
            cell.append(f"{MARK:>2}0.0" if share == 0 else f"{number(share):>5}", ZERO if share == 0 else "default")
            cells.append(cell)
        table.add_row(
            Text(folded(printable(class_names[label]), name)), Text(str(counts[label]), colours[label]), *cells
        )
    console.print(table)
    if headings is heads[-1]:
        console.print("; ".join(f"{place}: {row.name}" for place, row in enumerate(rows, 1)), markup=False)
    present = dict.fromkeys(shots_of(sorted(counts, reverse=True)))
    legend = Text(", ").join(Text(SHOT_WORDS[shot], SHOT_COLOURS[shot]) for shot in present)
    console.print(Text.assemble(legend, f"; {MARK} never right" if any(0 in row.per_class for row in rows) else ""))


def _named(row: Row, counts: Sequence[int]) -> list[int | None]:
    """The classes of a table from head to tail; of many the worst of a row, None for a gap, and its best."""
    if len(counts) <= MOST_NAMED:
        return [*by_count(counts)]
    worst, best = worst_and_best(row.per_class, counts)
    return [*worst, None, *reversed(best)]
