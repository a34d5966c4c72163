"""Images as a picture: one row a class, with its name."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from rich.cells import cell_len
from torch import Tensor

from ltdd_core.data.drawing import SHOT_COLOURS, SHOT_WORDS, folded, lettering, shot_colours, shots_of, spread_out
from ltdd_core.data.longtail import by_count
from ltdd_core.storage import json_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 20
MOST_ROWS = 50
SIDE = 0.45  # inches an image
GAP = 16  # of an image fit into its side
LEGEND = 0.25  # inches
IN_A_NOTEBOOK = 10
"""Rows and columns."""


def class_sheet(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    counts: Sequence[int] | None = None,
    *,
    rows: int = MOST_ROWS,
    columns: int = MOST_COLUMNS,
    dpi: int = 150,
) -> bytes:
    """A PNG with a row for each class.

    Of more classes than rows the first, the last, and others at equal distances between them are shown.

    Its text entry ``sheet`` says where the images are: a JSON object with the ``box`` [left, top, right, bottom] of all
    of them in pixels, the numbers of ``rows`` and ``columns``, and the ``size`` [width, height] of an image and the
    ``gap`` between two in pixels of the images.

    Args:
        images: as they look, float32 ``[n, C, H, W]`` in [0, 1].
        labels: int64 ``[n]``.
        class_names: the name of each class.
        counts: training images of each class; the rows then go from head to tail, coloured by many, medium and few.
        rows: the most classes that are shown.
        columns: the most images of a class that are shown.
        dpi: dots of the picture per inch; an image is 0.45 inches wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    every = list(range(len(class_names))) if counts is None else by_count(counts)
    classes = spread_out(every, rows)
    of_class = [_shrunk(images[labels == label][:columns], int(SIDE * dpi)) for label in classes]
    columns = max(1, *(len(class_images) for class_images in of_class))
    height, width = of_class[0].shape[2:]
    gap = max(1, height // GAP)
    letters = lettering(class_names)
    names = [folded(letters.text(class_names[label])) for label in classes]
    if counts is not None:
        names = [f"{name} ({counts[label]})" for name, label in zip(names, classes, strict=True)]
    figure, axes = _figure_of(_tiled(of_class, columns, gap), names, height + gap, dpi, legend=counts is not None)
    axes.set_yticks([row * (height + gap) + height / 2 for row in range(len(classes))])
    axes.set_yticklabels(names, fontsize=8, fontfamily=letters.families, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    if counts is not None:
        colours = shot_colours(counts)
        for tick, label in zip(axes.get_yticklabels(), classes, strict=True):
            tick.set_color(colours[label])
        _draw_legend(figure, counts)
    buffer = io.BytesIO()
    place = {
        "box": _box(canvas.get_width_height(), axes.get_position().extents),
        "rows": len(classes),
        "columns": columns,
        "size": [width, height],
        "gap": gap,
    }
    canvas.print_png(buffer, metadata={"sheet": json_text(place)})
    return buffer.getvalue()


def _figure_of(sheet: Tensor, names: Sequence[str], side: int, dpi: int, *, legend: bool) -> tuple[Figure, Axes]:
    """The images in a figure that has room for the names to the left of them, and for a legend below.

    Args:
        sheet: all images, ``[C, height, width]``.
        names: of the rows.
        side: pixels of an image and its gap, from one row to the next.
        dpi: dots of the picture per inch.
        legend: whether there is one.
    """
    from matplotlib.figure import Figure

    longest = max(cell_len(line) for name in names for line in name.split("\n"))
    left, low = 0.3 + 0.08 * longest, LEGEND if legend else 0.05  # inches
    left, low = round(left * dpi) / dpi, round(low * dpi) / dpi
    scale = SIDE * dpi / side  # of a pixel of an image; whole where it can be, so that all are as large
    scale = round(scale) / dpi if scale >= 1 else scale / dpi
    across, down = sheet.shape[2] * scale, sheet.shape[1] * scale  # inches of all images
    wide, high = left + across + 0.06, down + low + 0.06
    figure = Figure(figsize=(wide, high), dpi=dpi)
    axes = figure.add_axes((left / wide, low / high, across / wide, down / high))
    coloured = len(sheet) == 3
    pixels = sheet.permute(1, 2, 0).numpy() if coloured else sheet.mean(0).numpy()
    axes.imshow(pixels, cmap=None if coloured else "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.tick_params(left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _shrunk(images: Tensor, dots: int) -> Tensor:
    """Images that are larger than the dots that are there for each, made as large with their gap: ``[n, C, h, w]``."""
    height, width = images.shape[2:]
    if height <= dots:
        return images
    side = dots * GAP // (GAP + 1)
    return torch.nn.functional.interpolate(images, (side, max(1, round(width * side / height))), mode="area")


def _tiled(of_class: Sequence[Tensor], columns: int, gap: int) -> Tensor:
    """The images of each class ``[n, C, H, W]`` in a row of its own, white between them: ``[C, height, width]``."""
    channels, height, width = of_class[0].shape[1:]
    sheet = torch.ones(channels, len(of_class) * (height + gap) - gap, columns * (width + gap) - gap)
    for row, class_images in enumerate(of_class):
        for column, image in enumerate(class_images):
            y, x = row * (height + gap), column * (width + gap)
            sheet[:, y : y + height, x : x + width] = image
    return sheet


def _box(size: tuple[int, int], extents: Sequence[float]) -> list[int]:
    """Left, top, right and bottom in pixels of extents, which are shares of a picture and begin at its bottom."""
    (across, down), (x0, y0, x1, y1) = size, extents
    return [round(x0 * across), round((1 - y1) * down), round(x1 * across), round((1 - y0) * down)]


def _draw_legend(figure: Figure, counts: Sequence[int]) -> None:
    """What the colours of the names mean, in one line at the bottom, as small as the picture is narrow."""
    x, present = 0.05, set(shots_of(counts))
    said = [(shot, SHOT_WORDS[shot] if figure.get_figwidth() > 5 else shot) for shot in SHOT_COLOURS if shot in present]
    for shot, words in said:
        figure.text(
            x / figure.get_figwidth(), 0.06 / figure.get_figheight(), words, fontsize=7, color=SHOT_COLOURS[shot]
        )
        x += 0.058 * len(words) + 0.2


def in_notebook(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> str:
    """The first images of the first classes as HTML, the picture inside; the arguments are those of a sheet."""
    few = IN_A_NOTEBOOK
    png = class_sheet(images, labels, class_names, rows=few, columns=few, dpi=100)
    more = f"<br>the first {few} of {len(class_names)} classes" if len(class_names) > few else ""
    return f'<img alt="a row for each class" src="data:image/png;base64,{base64.b64encode(png).decode()}">{more}'
