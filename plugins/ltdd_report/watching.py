"""A running or finished run in the terminal."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ltdd_core import InputError, may_be_chance
from ltdd_report.documents import Sheet
from ltdd_report.place import CONFIG, REPORT, check_run
from ltdd_report.reading import (
    METRICS,
    TIMES,
    read_config,
    read_data_name,
    read_log,
    read_report,
    resume_command,
)
from ltdd_report.running import is_running
from ltdd_report.visible import visible

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = 60  # characters of the loss curve, at most
RECENT = 50  # steps that the speed is an average of
SHORTEST = 1e-6  # seconds; times are written with so many digits
SILENT = 60.0  # seconds without news after which the reader is told
SETTLED = 5.0  # seconds without a change after which a run that no process works on is over
POLL = 1.0  # seconds between two looks
COLUMNS = {"accuracy": "acc.", "std": "std", "few": "few", "worst": "worst", "group_accuracy": "group"}
SMALLEST, LARGEST = 8, 16  # pixels of a small image, two in a character
TEXT_LINES = 12  # what is above the images needs no more


@dataclass(frozen=True)
class State:
    """How far a run is."""

    path: Path
    config: Mapping[str, Any]
    data: str
    """What the data are called."""
    losses: Sequence[float]
    seconds: Sequence[float]
    """Of each step; fewer than losses, or none, where the process died while it wrote."""
    report: Mapping[str, Any] | None
    """The result, when it is there."""
    silent: float
    """Seconds since a file of the run changed."""
    running: bool | None
    """Whether a process of this machine works on it; None where that cannot be known."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return int(self.config["iterations"])

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected.

        A run on another machine may look as if no process worked on it, so its files are given some time to change.
        """
        patience = max(SETTLED, 3 * max(self.seconds[-RECENT:], default=0.0))
        return self.report is not None or (self.running is False and self.silent > patience)


def read_state(path: Path) -> State:
    """How far the run in a folder is.

    Raises:
        InputError: there is no run of ``ltdd distill``, or a file of it is damaged.
    """
    check_run(path)
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} is not the folder of a run that distils something.")
    running = is_running(path)  # before the report: a run that ends between the two is finished
    config = read_config(path)
    return State(
        path,
        config,
        read_data_name(path, config),
        read_log(path / METRICS)[1],
        read_log(path / TIMES)[1],
        read_report(path) if (path / REPORT).exists() else None,
        _silence(path),
        running,
    )


def _silence(path: Path) -> float:
    """Seconds since a file of the folder changed; files that go away meanwhile do not count."""
    changes = []
    for file in path.iterdir():
        with contextlib.suppress(OSError):
            changes.append(file.stat().st_mtime)
    return time.time() - max(changes, default=0.0)


def follow(path: Path, console: Console) -> None:
    """Show the run until it is finished or stopped, or the user has seen enough; where nobody looks, once.

    Raises:
        InputError: as :func:`read_state`.
    """
    state = read_state(path)
    if console.is_interactive and not state.over:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while not state.over:
                live.update(view(state, console), refresh=True)
                time.sleep(POLL)
                state = read_state(path)
    console.print(view(state, console))
    if state.over and (resume := _resume(state)) is not None:
        console.print(resume, soft_wrap=True, markup=False, highlight=False)  # in one piece, to be copied


def _images_a_class(ipc: int | Mapping[str, Any]) -> str:
    """What a configuration says of them: one number, or several by what they are for."""
    if isinstance(ipc, int):
        return f"{ipc} images a class"
    numbers = {**ipc, **ipc["classes"]} if isinstance(ipc.get("classes"), dict) else ipc
    return f"images a class: {', '.join(f'{name} {number}' for name, number in numbers.items() if name != 'classes')}"


def view(state: State, console: Console) -> RenderableType:
    """Everything there is to see, for a terminal of this size."""
    config = state.config
    method, data = config["matcher"]["name"], state.data
    title = f"{method} on {data}, {_images_a_class(config['ipc'])}, seed {config['seed']}"
    parts: list[RenderableType] = [Text(visible(title), style="bold")]
    if state.losses:
        parts.append(_progress(state, console.width))
        parts.append(Text.assemble("loss ", (curve(state.losses, min(CURVE, console.width - 20)), "cyan"),
                                   f" {state.losses[-1]:.4g}"))  # fmt: skip
    parts.append(Text(_words(state)))
    if not state.over and (resume := _resume(state)) is not None:
        parts.append(Text(resume))
    if state.report is not None:
        parts.append(_table(state.report["rows"]))
        if said := may_be_chance(state.report["rows"], state.report["data"]["test_images"]):
            parts.append(Text(visible(said)))
    if console.color_system in (None, "windows"):
        return Group(*parts)
    if not state.over:
        return Group(*parts, *small_picture(state.path / "distilled.png", console.width, console.height - TEXT_LINES))
    high = None if state.report is not None else console.height - TEXT_LINES
    return Group(*small_picture(state.path / "distilled.png", console.width, high), *parts)  # the end is read first


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


def _resume(state: State) -> str | None:
    """The command that continues a run which seems to have stopped."""
    stopped = state.report is None and (state.running is False or state.silent > SILENT)
    return visible(resume_command(state.path)) if stopped else None


def _words(state: State) -> str:
    if state.report is not None:
        return f"finished, {_time(state.report['seconds'])}"
    if state.running is False:
        return "not running: no process on this machine works on it. This command continues it:"
    if state.silent > SILENT:
        return f"nothing new for {_time(state.silent)}. If it has stopped, this command continues it:"
    if len(state.losses) >= state.total:
        return "distilled; classifiers are being trained"
    recent = state.seconds[1:][-RECENT:]  # the first step may have compiled the network
    if not recent:
        return "the first steps"
    pace = sum(recent) / len(recent)
    speed = f"{1 / max(pace, SHORTEST):.1f} it/s" if pace < 1 else f"{pace:.1f} s/it"
    return f"{speed}, about {_time(pace * (state.total - len(state.losses)))} to go"


def _time(seconds: float) -> str:
    """``0:01:30``."""
    return str(timedelta(seconds=round(seconds)))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("trained on", overflow="fold")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        values = (row.get(key) for key in COLUMNS)
        table.add_row(Text(visible(row["name"])), *("n/a" if value is None else f"{value:.1f}" for value in values))
    return table


def small_picture(path: Path, width: int, lines: int | None) -> Iterator[Text]:
    """Some of the distilled images, classes from the most to the least frequent, two pixels in a character.

    ``lines`` is how many there is room for; None for as many as it takes.  Nothing where there is no picture yet, and
    one line where it is damaged.
    """
    if not path.exists():
        return
    try:
        sheet, place = _sheet(path)
    except _UNREADABLE:
        yield Text(f"{visible(str(path))} is damaged and not shown")
        return
    (across, down), gap, rows = place.size, place.gap, place.rows
    side = max(SMALLEST, min(LARGEST, down, width // place.columns - 1)) // 2 * 2
    columns = min(place.columns, width // (side + 1))
    shown = rows if lines is None else min(rows, lines // (side // 2 + 1))
    scale = sheet.width / (place.columns * (across + gap) - gap)
    tall = sheet.height / (rows * (down + gap) - gap)  # the same but for rounding
    for index in range(shown):
        top = round(index * (rows - 1) / max(1, shown - 1)) * (down + gap)
        corners = [(column * (across + gap), top) for column in range(columns)]
        boxes = [  # one pixel less on each side, where the neighbours shine in
            (x * scale + 1, y * tall + 1, (x + across) * scale - 1, (y + down) * tall - 1) for x, y in corners
        ]
        yield _half_blocks([sheet.resize((side, side), Image.Resampling.BOX, box) for box in boxes])


_UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, RecursionError, struct.error, zlib.error,
               Image.DecompressionBombError, ValidationError)  # fmt: skip
"""What Pillow and the text entry of a damaged PNG may raise."""


def _sheet(path: Path) -> tuple[Image.Image, Sheet]:
    """The part of the picture that has the images, and where each of them is.

    Raises:
        one of _UNREADABLE: the picture is damaged.
    """
    with Image.open(path) as opened:
        place = Sheet.model_validate(json.loads(getattr(opened, "text", {})["sheet"]))
        left, top, right, bottom = place.box
        (across, down), gap = place.size, place.gap
        scale = (right - left) / (place.columns * (across + gap) - gap)
        high = (place.rows * (down + gap) - gap) * scale
        inside = left < right <= opened.width and top < bottom <= opened.height
        if not inside or min(across, down) * scale <= 2 or abs(high - (bottom - top)) > scale + 2:
            raise ValueError
        return opened.convert("RGB").crop(place.box), place


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
