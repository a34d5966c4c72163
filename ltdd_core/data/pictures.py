"""Images as a picture: one row a class, with its name."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from ltdd_core.storage import json_text

MOST_COLUMNS = 20
MOST_ROWS = 50
IN_A_NOTEBOOK = 10
"""Rows and columns."""


def class_sheet(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    rows: int = MOST_ROWS,
    columns: int = MOST_COLUMNS,
    dpi: int = 150,
) -> bytes:
    """A PNG with a row for each class.

    Its text entry ``sheet`` says where the images are: a JSON object with the ``box`` [left, top, right, bottom] of all
    of them in pixels, the numbers of ``rows`` and ``columns``, and the ``size`` [width, height] of an image and the
    ``gap`` between two in pixels of the images.

    Args:
        images: as they look, float32 ``[n, C, H, W]`` in [0, 1].
        labels: int64 ``[n]``.
        class_names: the name of each class.
        rows: the most classes that are shown.
        columns: the most images of a class that are shown.
        dpi: dots of the picture per inch; an image is 0.45 inches wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = min(len(class_names), rows)
    of_class = [images[labels == label][:columns] for label in range(classes)]
    columns = max(1, *(len(class_images) for class_images in of_class))
    _, channels, height, width = images.shape
    gap = max(1, height // 16)
    longest = max(len(name) for name in class_names[:classes])
    margin = 0.3 + 0.09 * longest  # inches for the names
    side = 0.45  # inches an image
    figure = Figure(figsize=(margin + columns * side, classes * side * height / width + 0.1), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / figure.get_figwidth(), 0.01, 1 - margin / figure.get_figwidth() - 0.01, 0.98))
    sheet = torch.ones(channels, classes * (height + gap) - gap, columns * (width + gap) - gap)
    for label, class_images in enumerate(of_class):
        for column, image in enumerate(class_images):
            y, x = label * (height + gap), column * (width + gap)
            sheet[:, y : y + height, x : x + width] = image
    pixels = sheet.permute(1, 2, 0).numpy() if channels == 3 else sheet.mean(0).numpy()
    axes.imshow(pixels, cmap=None if channels == 3 else "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([label * (height + gap) + height / 2 for label in range(classes)])
    axes.set_yticklabels(class_names[:classes], fontsize=8, parse_math=False)
    axes.tick_params(left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    wide, high = canvas.get_width_height()
    left, bottom, right, top = axes.get_position().extents
    box = [round(left * wide), round((1 - top) * high), round(right * wide), round((1 - bottom) * high)]
    buffer = io.BytesIO()
    place = {"box": box, "rows": classes, "columns": columns, "size": [width, height], "gap": gap}
    canvas.print_png(buffer, metadata={"sheet": json_text(place)})
    return buffer.getvalue()


def in_notebook(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> str:
    """The first images of the first classes as HTML, the picture inside; the arguments are those of a sheet."""
    few = IN_A_NOTEBOOK
    png = class_sheet(images, labels, class_names, rows=few, columns=few, dpi=100)
    more = f"<br>the first {few} of {len(class_names)} classes" if len(class_names) > few else ""
    return f'<img alt="a row for each class" src="data:image/png;base64,{base64.b64encode(png).decode()}">{more}'
