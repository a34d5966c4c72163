"""Several runs in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ltdd_core import Interval, amount, by_count, how_to_set
from ltdd_report.comparing import DRAWS, LEVEL, Comparison
from ltdd_report.entrants import OTHER_IMAGES, Difference, written
from ltdd_report.visible import visible

ZEROS = 10  # classes at 0 % that a line names
COSTS = {"images_seen": "images seen", "training_seconds": "seconds", "multiply_adds": "multiply-adds"}
"""Of what training costs: the key of a row, and its heading."""
COLUMNS = (*reversed(COSTS.values()), "seeds", "std", "behind the best", "worst", "accuracy")
"""Of the terminal table; where there is no room, costs are left out and the others have tables of their own, the first
of them first."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The table, the columns without room in it, the classes that a classifier never has right, and what differs."""
    known = any(value is not None for entry in comparison.entries for value in entry.cost.values())
    columns = COLUMNS if known else COLUMNS[len(COSTS) :]
    hidden = next(
        (hidden for hidden in range(len(columns)) if _fits(console, _table(comparison, columns[hidden:]))),
        len(columns) - 1,
    )
    data = visible(comparison.data)
    title = f"{data}: per cent, with {LEVEL:.0f} % intervals of {DRAWS} draws, ± over seeds; * not worse than the best"
    console.print(_table(comparison, columns[hidden:], title))
    _print_columns(console, comparison, [name for name in columns[:hidden] if name not in COSTS.values()])
    if costs := [name for name in columns[:hidden] if name in COSTS.values()]:
        console.print(f"not shown, for want of room: {', '.join(costs)}", style="dim")
    for line in _never_right(comparison):
        console.print(line, style="bold red")
    title = "accuracy in per cent, on long-tailed test distributions"
    _print_columns(console, comparison, [*comparison.entries[0].distributions][::-1], title)
    if any(entry.images for entry in comparison.entries):
        console.print(OTHER_IMAGES, soft_wrap=True)
    _print_differences(console, comparison.differences)


def _print_columns(console: Console, comparison: Comparison, columns: Sequence[str], title: str = "") -> None:
    """Columns in as many tables as they need, the last ones in the first table, which has the title."""
    while columns:
        fitting = (place for place in range(len(columns)) if _fits(console, _table(comparison, columns[place:])))
        first = next(fitting, len(columns) - 1)
        console.print(_table(comparison, columns[first:], title))
        columns, title = columns[:first], ""


def _print_differences(console: Console, differences: Sequence[Difference]) -> None:
    """A line for each configuration, with its own values of the options in which some differ."""
    if not differences:
        return
    options = ", ".join(how_to_set(found.option) for found in differences)
    console.print(f"The configurations differ in {options}:", markup=False, highlight=False)
    for name in dict.fromkeys(name for found in differences for name in found.values):
        own = [written(found.option, found.values[name]) for found in differences if name in found.values]
        line = visible(f"{name}: {' '.join(filter(None, own))}")
        if console.is_terminal:
            console.print(Padding(Text(line), (0, 0, 0, 2)))
        else:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)


def _fits(console: Console, table: Table) -> bool:
    return Measurement.get(console, console.options.update(width=1000), table).minimum <= console.width


def _table(comparison: Comparison, shown: Sequence[str], title: str = "") -> Table:
    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    table.add_column("trained on", min_width=15, overflow="fold")
    columns = {
        "seeds": [", ".join(map(str, entry.seeds)) for entry in comparison.entries],
        "accuracy": [
            _text(entry.accuracy, entry.deviation if len(entry.seeds) > 1 else None) for entry in comparison.entries
        ],
        "std": [_text(entry.std) for entry in comparison.entries],
        "worst": [_text(entry.worst) for entry in comparison.entries],
        "behind the best": ["" if entry.behind is None else _text(entry.behind) for entry in comparison.entries],
        **{name: [cost(entry.cost.get(key), key) for entry in comparison.entries] for key, name in COSTS.items()},
        **{
            name: [_text(entry.distributions[name]) for entry in comparison.entries]
            for name in comparison.entries[0].distributions
        },
    }
    columns = {name: cells for name, cells in columns.items() if name in shown}
    starred = columns.keys() <= {*COLUMNS}  # the stars are about the accuracy on all test images
    for name, cells in columns.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=max(map(len, (name, *cells))))
    for index, entry in enumerate(comparison.entries):
        own = [cells[index] for cells in columns.values()]
        table.add_row("*" if starred and entry.among_best else "", Text(visible(entry.name)), *own)
    return table


def _never_right(comparison: Comparison) -> Iterator[str]:
    """A line for the classifiers with the same classes at 0 %, from head to tail."""
    order = by_count(comparison.counts)
    of_entries: dict[tuple[str, ...], list[str]] = {}
    for entry in comparison.entries:
        zero = tuple(visible(comparison.class_names[label]) for label in order if entry.per_class[label] == 0)
        of_entries.setdefault(zero, []).append(visible(entry.name))
    for zero, names in of_entries.items():
        if zero:
            more = f" and {len(zero) - ZEROS} more" if len(zero) > ZEROS else ""
            yield f"0 %: {', '.join(zero[:ZEROS])}{more} ({'; '.join(names)})"


def cost(value: float | None, key: str) -> str:
    """What training costs, as a table shows it."""
    return f"{value:.1f}" if key == "training_seconds" and value is not None else amount(value)


def _text(interval: Interval, deviation: float | None = None) -> str:
    spread = "" if deviation is None else f"±{deviation:.1f}"
    return f"{interval.value:.1f}{spread} ({interval.low:.1f} to {interval.high:.1f})"
