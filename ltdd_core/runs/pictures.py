"""The distilled images as a picture: one row a class."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.storage import json_text, write_atomically

MOST_COLUMNS = 20
MOST_ROWS = 50


def save_picture(path: Path, distilled: DistilledSet) -> None:
    """Write a PNG with a row for each class, at most 20 images and 50 classes.

    Its text entry ``sheet`` says where the images are: a JSON object with the ``box`` [left, top, right, bottom] of all
    of them in pixels, the numbers of ``rows`` and ``columns``, and the ``size`` [width, height] of an image and the
    ``gap`` between two in pixels of the images.

    Args:
        path: of the file, which is replaced where there is one.
        distilled: the set, decoded.

    Raises:
        InputError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = distilled.normalisation.invert(distilled.images)
    classes = min(len(distilled.class_names), MOST_ROWS)
    rows = [images[distilled.labels == label][:MOST_COLUMNS] for label in range(classes)]
    columns = max(1, *(len(class_images) for class_images in rows))
    _, channels, height, width = images.shape
    gap = max(1, height // 16)
    longest = max(len(name) for name in distilled.class_names[:classes])
    margin = 0.3 + 0.09 * longest  # inches for the names
    side = 0.45  # inches an image
    figure = Figure(figsize=(margin + columns * side, classes * side * height / width + 0.1), dpi=150)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / figure.get_figwidth(), 0.01, 1 - margin / figure.get_figwidth() - 0.01, 0.98))
    sheet = torch.ones(channels, classes * (height + gap) - gap, columns * (width + gap) - gap)
    for label, class_images in enumerate(rows):
        for column, image in enumerate(class_images):
            y, x = label * (height + gap), column * (width + gap)
            sheet[:, y : y + height, x : x + width] = image
    pixels = sheet.permute(1, 2, 0).numpy() if channels == 3 else sheet.mean(0).numpy()
    axes.imshow(pixels, cmap=None if channels == 3 else "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([label * (height + gap) + height / 2 for label in range(classes)])
    axes.set_yticklabels(distilled.class_names[:classes], fontsize=8, parse_math=False)
    axes.tick_params(left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    wide, high = canvas.get_width_height()
    left, bottom, right, top = axes.get_position().extents
    box = [round(left * wide), round((1 - top) * high), round(right * wide), round((1 - bottom) * high)]
    buffer = io.BytesIO()
    place = {"box": box, "rows": classes, "columns": columns, "size": [width, height], "gap": gap}
    canvas.print_png(buffer, metadata={"sheet": json_text(place)})
    write_atomically(path, buffer.getvalue())
