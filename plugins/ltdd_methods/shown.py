"""The table of ``ltdd compare-methods``: a line for each method, in a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from ltdd_core.commands import print_rows_of_text

if TYPE_CHECKING:
    from rich.console import Console

Document = Mapping[str, Any]


def print_document(console: Console, document: Document) -> None:
    """Table, reference lines, what was left out, and the sentence."""
    head, body = table_of(document)
    minutes = f"{document['minutes']:g} minute{'' if document['minutes'] == 1 else 's'}"
    title = f"{document['data']}, {minutes} for each method; per cent"
    print_rows_of_text(console, head, body, title=title)
    console.print(
        f"val.: mean over the classes of {document['validation_images']} validation images, which choose; test: all "
        "test images; std: deviation over the classes of the test images; *: may be as good as the winner",
        soft_wrap=True,
    )
    for row in document["without_method"]:
        numbers = f"{row['validation'][0]:.1f} on validation images, {_spread(row['accuracy'])} on test images"
        console.print(f"without a method, {row['line']}: {numbers}", soft_wrap=True, markup=False)
    for method, known in document["methods"].items():
        if known["preset"]:
            console.print(f"{method} has the preset {known['preset']}, since it has so little time", soft_wrap=True)
    for method, why in {**document["left_out"], **document["failed"]}.items():
        console.print(f"left out: {method}: {why}", soft_wrap=True, markup=False)
    console.print(document["sentence"], style="bold", soft_wrap=True, markup=False)


def table_of(document: Document) -> tuple[list[str], list[list[str]]]:
    """The heading, and a line for each method: its classifiers, steps and seconds; the best on validation first."""
    rows = document["rows"]
    lines = sorted({row["shown"] for row in rows})
    head = ["method"]
    for line in lines:
        head += [f"{line}: val.", "test", "std"]
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells, known = [method], document["methods"][method]
        for line in lines:
            found = next((row for row in rows if row["method"] == method and row["shown"] == line), None)
            cells += ["", "", ""] if found is None else _cells(found)
        seconds = "n/a" if known["seconds"] is None else f"{known['seconds']:.0f}"
        body.append([*cells, str(known["iterations"]), seconds])
    return [*head, "steps", "seconds"], body


def _cells(row: Mapping[str, Any]) -> list[str]:
    star = "*" if row["may_win"] else ""
    return [f"{row['validation'][0]:.1f}{star}", _spread(row["accuracy"]), _spread(row["std"])]


def _spread(values: Sequence[float]) -> str:
    """Mean and deviation over seeds, if there are several."""
    return f"{fmean(values):.1f} ± {pstdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
