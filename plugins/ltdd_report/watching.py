"""A running or finished run in the terminal."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ltdd_core import InputError
from ltdd_report.reading import read_log

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = 60  # characters of the loss curve, at most
RECENT = 50  # steps that the speed is an average of
SILENT = 60.0  # seconds after which one would like to know
EACH = 1.0  # seconds between two looks
COLUMNS = {"accuracy": "accuracy", "std": "std", "few": "few", "worst": "worst", "group_accuracy": "group"}
SMALLEST, LARGEST = 8, 16  # pixels of a small image, two in a character
TEXT_LINES = 12  # what is above the images needs no more


@dataclass(frozen=True)
class State:
    """How far a run is."""

    path: Path
    config: dict[str, Any]
    losses: Sequence[float]
    seconds: Sequence[float]
    """Of each step; fewer than losses, or none, where the process died while it wrote."""
    report: dict[str, Any] | None
    """The result, when it is there."""
    silent: float
    """Seconds since a file of the run changed."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return int(self.config["iterations"])


def read_state(path: Path) -> State:
    """How far the run in a folder is.

    Raises:
        InputError: there is no run of ``ltdd distill``.
    """
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        if config["matcher"] is None:
            raise TypeError
        report = path / "report.json"
        state = State(
            path,
            config,
            read_log(path / "metrics.jsonl", "loss")[1],
            read_log(path / "times.jsonl", "seconds")[1],
            json.loads(report.read_text(encoding="utf-8")) if report.exists() else None,
            time.time() - max(file.stat().st_mtime for file in path.iterdir()),
        )
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not the folder of a run that distils something.") from error
    return state


def follow(path: Path, console: Console) -> None:
    """Show the run until it is finished or the user has seen enough; where nobody looks, once.

    Raises:
        InputError: as :func:`read_state`.
    """
    state = read_state(path)
    if console.is_interactive and state.report is None:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while state.report is None:
                live.update(view(state, console), refresh=True)
                time.sleep(EACH)
                state = read_state(path)
    console.print(view(state, console))


def view(state: State, console: Console) -> RenderableType:
    """Everything there is to see, for a terminal of this size."""
    config = state.config
    method, data = config["matcher"]["name"], config["data"]["name"]
    title = f"{method} on {data}, {config['ipc']} images a class, seed {config['seed']}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if state.losses:
        parts.append(_progress(state, console.width))
        parts.append(Text.assemble("loss ", (curve(state.losses, min(CURVE, console.width - 20)), "cyan"),
                                   f" {state.losses[-1]:.4g}"))  # fmt: skip
    parts.append(Text(_words(state)))
    if state.report is not None:
        parts.append(_table(state.report["rows"]))
    high = None if state.report is not None else console.height - TEXT_LINES
    if console.color_system not in (None, "windows"):
        parts += small_picture(state.path / "distilled.png", console.width, high)
    return Group(*parts)


def curve(values: Sequence[float], width: int) -> str:
    """Values as blocks of eight heights, each the mean of an equal part of them."""
    count = max(1, min(width, len(values)))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[round(steps * (mean - low) / (high - low))] if high > low else BLOCKS[0] for mean in means)


def _progress(state: State, width: int) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    done = len(state.losses)
    line.add_row(ProgressBar(total=state.total, completed=done, width=min(40, width // 2)), f"{done}/{state.total}")
    return line


def _words(state: State) -> str:
    if state.report is not None:
        return f"finished, {state.report['seconds']:.0f} s"
    if state.silent > SILENT:
        return (
            f"nothing new for {state.silent:.0f} s; if it has stopped, ltdd distill --out {state.path} --resume goes on"
        )
    if len(state.losses) >= state.total:
        return "distilled; classifiers are being trained"
    recent = state.seconds[1:][-RECENT:]  # the first step may have compiled the network
    if not recent:
        return "the first steps"
    pace = sum(recent) / len(recent)
    speed = f"{1 / pace:.1f} it/s" if pace < 1 else f"{pace:.1f} s/it"
    return f"{speed}, about {pace * (state.total - len(state.losses)):.0f} s to go"


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("trained on")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        values = (row.get(key) for key in COLUMNS)
        table.add_row(Text(row["name"]), *("n/a" if value is None else f"{value:.1f}" for value in values))
    return table


def small_picture(path: Path, width: int, lines: int | None) -> Iterator[Text]:
    """Some of the distilled images, classes from the most to the least frequent, two pixels in a character.

    ``lines`` is how many there is room for; None for as many as it takes.  Nothing where there is no picture yet.
    """
    try:
        with Image.open(path) as opened:
            place = json.loads(opened.text["sheet"])  # type: ignore[attr-defined]
            sheet = opened.convert("RGB").crop(place["box"])
    except (OSError, AttributeError, KeyError, ValueError):
        return
    (across, down), gap, rows = place["size"], place["gap"], place["rows"]
    side = max(SMALLEST, min(LARGEST, down, width // place["columns"] - 1)) // 2 * 2
    columns = min(place["columns"], width // (side + 1))
    shown = rows if lines is None else min(rows, lines // (side // 2 + 1))
    scale = sheet.width / (place["columns"] * (across + gap) - gap)
    for index in range(shown):
        top = round(index * (rows - 1) / max(1, shown - 1)) * (down + gap)
        corners = [(column * (across + gap), top) for column in range(columns)]
        boxes = [  # one pixel less on each side, where the neighbours shine in
            (x * scale + 1, y * scale + 1, (x + across) * scale - 1, (y + down) * scale - 1) for x, y in corners
        ]
        yield _half_blocks([sheet.resize((side, side), Image.Resampling.BOX, box) for box in boxes])


def _half_blocks(images: Sequence[Image.Image]) -> Text:
    text, side = Text(no_wrap=True), images[0].height
    for y in range(0, side, 2):
        for image in images:
            for x in range(side):
                upper, lower = (Color.from_rgb(*image.getpixel((x, y + below))) for below in (0, 1))  # type: ignore[misc]
                text.append("▀", Style(color=upper, bgcolor=lower))
            text.append(" ")
        text.append("\n")
    return text
