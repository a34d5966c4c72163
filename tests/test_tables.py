"""Tables in terminals of any width: no digit is cut, classes go from head to tail, lost classes are named."""

import dataclasses
import functools
import io
import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from ltdd_core.cli.rows import print_rows_of_text
from ltdd_core.cli.tables import MOVED, print_data, print_numbers, print_repeated, print_rows
from ltdd_core.evaluation.metrics import average, row
from ltdd_core.evaluation.repeats import Repeated
from ltdd_core.evaluation.shown import MEANINGS, NumberTable
from ltdd_core.testing import tiny_long_tailed
from ltdd_report.comparing import Comparison, Entry, Interval
from ltdd_report.terminal import print_comparison

LINES = ["original, direct", "original, balanced softmax", "distilled, direct", "two-stage, original + distilled"]
SCRIPTS = ["a wild animal of the northern plains ", "Ωμέγα ", "Дикое_животное_", "猫"]
HEADS = {"accuracy": "acc.", "medium": "med.", "harmonic_mean": "harm.", "group_accuracy": "group"}


def names_of(classes, long):
    return [(f"{label} " + SCRIPTS[label % 4] * 60)[:60] if long else f"class {label}" for label in range(classes)]


def rows_of(counts, zero=(), lines=LINES):
    """Rows with accuracies that differ, in which classes are never right in the first line."""
    labels = torch.arange(len(counts)).repeat_interleave(20)
    draws = torch.Generator().manual_seed(0)
    rows = []
    for index, name in enumerate(lines):
        predicted = torch.where(torch.rand(len(labels), generator=draws) < 0.7, labels, (labels + 1) % len(counts))
        for label in zero if index == 0 else ():
            predicted[labels == label] = (label + 1) % len(counts)
        scores = torch.full((len(labels), len(counts)), -9.0)
        scores[torch.arange(len(labels)), predicted] = -0.1
        rows.append(row(name, 12345, scores, labels, counts, torch.arange(len(counts)) % 2))
    return rows


def printed(width, show, **how):
    out = io.StringIO()
    show(Console(file=out, width=width, markup=False, highlight=False, emoji=False, **how))
    return out.getvalue()


@pytest.mark.parametrize("long", [None, False, True])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_digit_is_cut_and_nothing_sticks_out(width, classes, long):
    counts = [7 + 30 * label for label in range(classes)]
    names = [*map(str, range(classes))] if long is None else names_of(classes, long)
    rows = rows_of(counts)
    text = printed(width, lambda console: print_rows(console, rows, names, counts))
    assert all(cell_len(line) <= width for line in text.splitlines())
    table, _, below = text.partition("\nclass ")
    for shown in rows:
        assert re.search(rf"\b12345 +{shown.accuracy:.1f} +{shown.std:.1f} ", table)
    numbers = [re.findall(r"(?<!\S)(\d+\.\d)(?!\S)", line) for line in below.splitlines()]
    found = [line for line in numbers if len(line) == len(rows)]
    expected = [[f"{shown.per_class[label]:.1f}" for shown in rows] for label in reversed(range(classes))]
    assert found == expected  # from head to tail


def test_columns_without_room_have_tables_of_their_own_by_importance():
    counts = [500, 50, 5, 4]
    rows, before = rows_of(counts), None
    columns = ("accuracy", "std", "many", "medium", "few", "worst", "harmonic_mean", "group_accuracy", "images")
    for width in range(120, 29, -1):
        text = printed(width, lambda console: print_rows(console, rows, ["a", "b", "c", "d"], counts))
        first, *others = ({key for key in columns if HEADS.get(key, key) in line.split()} for line in heads_of(text))
        moved = [key for key in MOVED if key in columns][: len(columns) - len(first)]
        assert first == set(columns) - set(moved)
        assert before is None or first <= before
        before = first
        assert sorted(key for keys in others for key in keys) == sorted(moved)  # each of them once
        assert width < 40 or len(others) <= 2
        for shown in rows:
            for value in (shown.harmonic_mean, shown.group_accuracy, shown.worst, shown.few):
                assert f" {value:.1f}" in text
        for key in ("harmonic_mean", "group_accuracy"):
            assert MEANINGS[key] in " ".join(text.split())
        assert "not shown" not in text
    assert {"accuracy", "std"} <= first


def heads_of(text):
    return [line for line in text.splitlines() if "trained on" in line]


def test_what_training_costs_is_left_out_first():
    counts = [500, 50, 5, 4]
    cost = {"images_seen": 12406.0, "training_seconds": 61.25, "multiply_adds": 1.5e12}
    rows = [dataclasses.replace(known, **cost) for known in rows_of(counts)]
    show = functools.partial(print_rows, rows=rows, class_names=["a", "b", "c", "d"], counts=counts)
    wide = printed(150, show)
    assert re.search(r" seen +seconds +mult\.-adds", wide)
    assert len(re.findall(r" 12\.4k +61\.2 +1\.5T", wide)) == len(rows)
    assert "not shown" not in wide
    said = [
        printed(width, show).partition("not shown, for want of room: ")[2].split("\n")[0]
        for width in range(120, 60, -1)
    ]
    left_out = list(dict.fromkeys(text.strip() for text in said))
    assert left_out == ["", "mult.-adds", "seconds, mult.-adds", "seen, seconds, mult.-adds"]
    assert wide.count("seen: epochs times images; mult.-adds: multiply-adds\n") == 1
    without = printed(150, lambda console: print_rows(console, rows_of(counts), ["a", "b", "c", "d"], counts))
    assert "seconds" not in without


def test_a_column_that_no_row_knows_is_not_there():
    rows = [dataclasses.replace(known, group_accuracy=None) for known in rows_of([9, 8, 7])]
    text = printed(120, lambda console: print_rows(console, rows, ["a", "b", "c"], [9, 8, 7]))
    assert "group" not in text
    assert "head, mid., tail: thirds of the classes by count; harm.: harmonic mean\n" in text


def test_classes_that_are_never_right_are_named_below_the_table_and_marked():
    counts, names = [3, 500, 40, 4], ["deer", "cat", "horse", "dog"]
    rows = rows_of(counts, zero=(0, 3))
    text = printed(120, lambda console: print_rows(console, rows, names, counts, "A sentence."))
    assert text.count("0 %:") == 1
    assert text.index("0 %: dog, deer (original, direct)\nA sentence.\n") < text.index("\nclass ")
    marked = [line for line in text[text.index("\nclass ") :].splitlines() if "!0.0" in line]
    assert [line.split()[0] for line in marked] == ["dog", "deer"]
    assert "! never right" in text
    coloured = printed(120, lambda console: print_rows(console, rows, names, counts), force_terminal=True)
    assert "\x1b[1;31m0 %: dog, deer" in coloured
    alone = printed(120, lambda console: print_rows(console, rows[:1], names, counts))
    assert "0 %: dog, deer\n" in alone
    healthy = printed(120, lambda console: print_rows(console, rows[1:], names, counts))
    assert "0 %" not in healthy
    assert "never right" not in healthy


def test_lines_that_lose_the_same_classes_share_one_line():
    counts, names = [3, 500, 40, 4], ["deer", "cat", "horse", "dog"]
    rows = rows_of(counts, zero=(0, 3))
    both = [rows[0], rows[1], dataclasses.replace(rows[0], name="distilled, direct")]
    text = printed(120, lambda console: print_rows(console, both, names, counts))
    assert "0 %: dog, deer (original, direct; distilled, direct)\n" in text
    assert text.count("0 %:") == 1


def test_of_many_lost_classes_some_are_named():
    counts = list(range(1, 41))
    rows = rows_of(counts, zero=range(30))
    text = printed(300, lambda console: print_rows(console, rows, names_of(40, long=False), counts))
    (line,) = (line for line in text.splitlines() if line.startswith("0 %"))
    assert line.startswith("0 %: class 29, class 28,")
    assert line.endswith("and 20 more (original, direct)")


def test_a_row_without_test_images_of_a_class_is_not_called_wrong():
    (known,) = rows_of([30, 20, 10], lines=["one"])
    known = dataclasses.replace(known, per_class=[None, *known.per_class[1:]])
    text = printed(80, lambda console: print_rows(console, [known], ["a", "b", "c"], [30, 20, 10]))
    assert "n/a" in text
    assert "0 %" not in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_data_are_shown_from_head_to_tail(width):
    data = dataclasses.replace(tiny_long_tailed([3, 120, 30]), class_names=("猫" * 30, "b" * 60, "Ωμέγα"))
    text = printed(width, lambda console: print_data(console, data))
    lines = text.splitlines()[1:]
    assert all(cell_len(line) <= width for line in lines)
    places = [next(i for i, line in enumerate(lines) if line.startswith(name)) for name in ("b", "Ωμέγα", "猫")]
    assert places == sorted(places)
    assert [lines[place].split()[-1] for place in places] == ["many", "medium", "few"]
    assert [re.search(r" (\d+) ", lines[place])[1] for place in places] == ["120", "30", "3"]


def test_repeats_keep_their_digits():
    mean, deviation = average(rows_of([500, 50, 5], lines=["x", "x"]))
    lines = [Repeated("convnet-d3 with a long name of options", mean, deviation, 2, (0, 1), ("a", "b"))]
    for width in (50, 80, 120):
        text = printed(width, lambda console: print_repeated(console, lines))
        assert f"{mean.accuracy:.1f}±{deviation.accuracy:.1f}" in text
        assert all(len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_comparison_keeps_its_digits_and_names_lost_classes(width):
    value = Interval(88.8, 77.7, 99.9)
    entries = [
        Entry("dm: two-stage, original + distilled", "", (0, 1), value, value, value, 0.5, [0.0, 5.0, 0.0], None, True),
        Entry("original, direct", "", (0,), value, value, value, 0.0, [1.0, 5.0, 1.0], value, False),
        Entry("dm: distilled, direct", "", (0,), value, value, value, 0.0, [0.0, 5.0, 0.0], value, False),
    ]
    comparison = Comparison("data", ["a", "b", "c"], [3, 20, 10], 300, entries, [])
    text = printed(width, lambda console: print_comparison(console, comparison))
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("(77.7 to 99.9)") == 11  # all intervals, at any width
    assert text.count("0 %: c, a (dm: two-stage,") == text.count("0 %:") == 1
    assert "; dm: distilled, direct)" in " ".join(text.split())
    assert "not shown" not in text


# ---- tables of text, and commands, in narrow terminals ---------------------------------------------


@pytest.mark.parametrize("width", [140, 80, 60, 40])
def test_no_character_of_a_cell_is_cut(width):
    head = ("option", "default", "type", "what it does")
    body = [
        ("training.distilled.milestones", "color_crop_cutout_flip", "list", "words " * 9),
        ("b", "", "int", "x" * 50),
    ]
    text = printed(width, lambda console: print_rows_of_text(console, head, body, title="A title"))
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert "training.distilled.milestones" in text
    assert text.count("words") == 9
    assert sum(line.count("x") for line in text.splitlines()) == 50
    assert ("what it does: words" in text) == (width <= 60)


@pytest.mark.parametrize("width", [100, 60, 40])
def test_no_number_of_a_grid_is_cut(width):
    keys = ("line", "seeds", "accuracy", "std", "few", "worst", "group_accuracy", "published")
    spreads = [f"{value}.5 ± 0.{value}" for value in range(1, 6)]
    numbers = NumberTable("grid", keys, keys, [["original + dm, two stages", "12", *spreads, "98.7"]])
    text = printed(width, lambda console: print_numbers(console, numbers))
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert all(cell in text for cell in [*spreads, "98.7", "published", "group_accuracy"])


COMMANDS = (
    *(("describe", "run"), ("describe", "head", "twostage"), ("plugins",), ("plugins", "dm"), ("data", "show")),
    *(("networks", "list", "--folder", "RUN"), ("compare", "RUN"), ("watch", "RUN"), ("describe", "matcher", "mtt")),
)


@pytest.mark.parametrize("width", [40, 60])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_cut_nothing_in_a_narrow_terminal(command, width, ltdd, finished_once, monkeypatch):
    monkeypatch.setattr("ltdd_core.cli.settings.PlainConsole.width", width)
    shown = ltdd(*(str(finished_once) if word == "RUN" else word for word in command))
    assert shown.exit_code == 0, shown.output
    assert "…" not in shown.stdout
