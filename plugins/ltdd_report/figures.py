"""Figures of a run; each function returns a matplotlib figure, for pages and for notebooks.

Names of classes and lines are shown as they are: none of their characters is taken for mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

from ltdd_core import Reliability
from ltdd_report.visible import visible

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, which colour-blind readers can tell apart."""
WIDTH = 7.2  # inches
NAMED = 40  # classes; more have numbers
NUMBERED = 12  # classes of a confusion matrix whose numbers can be read
SHOWN = 10  # images a class

Row = Mapping[str, Any]


def counts_figure(names: Sequence[str], counts: Sequence[int]) -> Figure:
    """Training images of each class, on a logarithmic axis."""
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(counts)), counts, color=COLOURS[0], width=0.7)
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(counts) * 2.2)
    axes.set_ylabel("training images")
    if len(counts) <= NAMED:
        for place, count in enumerate(counts):
            axes.text(place, count * 1.1, str(count), ha="center", va="bottom", fontsize=8)
    _name_classes(axes, names)
    _plain(axes)
    return figure


def loss_figure(steps: Tensor, losses: Tensor) -> Figure:
    """The loss of every step, and its mean over a twentieth of the run."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    many = len(losses) > 40
    axes.plot(steps.numpy(), losses.numpy(), color=COLOURS[0], alpha=0.35 if many else 1, linewidth=1)
    window = len(losses) // 20
    if many:
        smooth = np.convolve(losses.numpy(), np.ones(window) / window, mode="valid")
        axes.plot(steps.numpy()[window - 1 :], smooth, color=COLOURS[0], linewidth=2)
    positive = bool((losses > 0).all())
    if positive and float(losses.max() / losses.min()) > 30:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    _plain(axes)
    return figure


def speed_figure(seconds: Tensor) -> Figure:
    """The seconds of every step; a step that takes three times as long as most (a compilation) is cut off."""
    figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(seconds.numpy(), color=COLOURS[0], linewidth=1)
    axes.set_ylim(0, 3 * float(seconds.median()) or 1)
    axes.set_xlabel("step")
    axes.set_ylabel("seconds")
    _plain(axes)
    return figure


def class_figure(names: Sequence[str], counts: Sequence[int], rows: Sequence[Row]) -> Figure:
    """Accuracy of each class for each line of the table; the training images of a class are under its name."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    width, bars = 0.8 / len(rows), []
    for index, row in enumerate(rows):
        places = np.arange(len(names)) + (index - (len(rows) - 1) / 2) * width
        bars.append(axes.bar(places, row["per_class"], width=width, color=COLOURS[index % len(COLOURS)])[0])
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, per cent")
    _name_classes(axes, [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)])
    lines = [visible(row["name"]) for row in rows]
    legend = figure.legend(bars, lines, loc="outside upper center", ncols=min(3, len(rows)), frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _plain(axes)
    return figure


def gain_figure(names: Sequence[str], counts: Sequence[int], row: Row, reference: Row) -> Figure:
    """Points by which one line is above another, class by class."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    gains = np.array(row["per_class"]) - np.array(reference["per_class"])
    axes.bar(range(len(gains)), gains, color=[COLOURS[2] if gain >= 0 else COLOURS[1] for gain in gains], width=0.7)
    axes.axhline(0, color="#333333", linewidth=0.8)
    reach = max(5.0, float(np.abs(gains).max()) * 1.25)
    axes.set_ylim(-reach, reach)
    if len(gains) <= NAMED:
        for place, gain in enumerate(gains):
            axes.text(place, gain, f"{gain:+.1f}", ha="center", va="bottom" if gain >= 0 else "top", fontsize=8)
    axes.set_ylabel("points")
    _name_classes(axes, [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)])
    _plain(axes)
    return figure


def confusion_figure(
    names: Sequence[str], confusion: Sequence[Sequence[float]], groups: Sequence[Sequence[str]] | None
) -> Figure:
    """Per cent of each class's test images by predicted class; classes of a group are together and framed."""
    order = list(range(len(names)))
    if groups is not None:
        order = [list(names).index(name) for group in groups for name in group]
    table = np.array(confusion, dtype=float)[np.ix_(order, order)]
    share = 100 * table / table.sum(1, keepdims=True)
    figure = Figure(figsize=(WIDTH * 0.75, WIDTH * 0.72), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= NUMBERED:
        for i, j in np.ndindex(share.shape):
            axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if share[i, j] > 55 else "#222222")  # fmt: skip
    start = 0
    for group in groups or []:
        frame = Rectangle((start - 0.5, start - 0.5), len(group), len(group), fill=False, edgecolor=COLOURS[1])
        frame.set_linewidth(2)
        axes.add_patch(frame)
        start += len(group)
    shown = [visible(names[label]) for label in order]
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), shown, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    return figure


def reliability_figure(before: Reliability, after: Reliability) -> Figure:
    """How often a classifier is right by how sure it is, before and after its calibration."""
    figure = Figure(figsize=(WIDTH * 0.5, WIDTH * 0.46), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle="--")
    for found, colour, marker, name in ((before, COLOURS[1], "s", "before"), (after, COLOURS[0], "o", "after")):
        some = found.images > 0
        confidence, accuracy = 100 * found.confidence[some].numpy(), 100 * found.accuracy[some].numpy()
        axes.plot(confidence, accuracy, color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
    axes.set_xlim(0, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("confidence, per cent")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return figure


def images_figure(name: str, distilled: Tensor, initial: Tensor | None) -> Figure:
    """The distilled images of one class, and under them its initial images.

    Args:
        name: of the class.
        distilled: float ``[n, C, H, W]`` in [0, 1].
        initial: the same of the initial images, or None.
    """
    lines = [distilled[:SHOWN]] if initial is None else [distilled[:SHOWN], initial[:SHOWN]]
    columns = len(lines[0])
    _, channels, height, width = distilled.shape
    images = torch.cat(lines).clamp(0, 1)
    sheet = make_grid(
        images if channels == 3 else images.mean(1, keepdim=True),
        nrow=columns,
        padding=max(1, height // 16),
        pad_value=1,
    )
    side = 0.55  # inches an image
    figure = Figure(figsize=(columns * side, len(lines) * side * height / width), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.set_label(name)
    return figure


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > NAMED:
        axes.set_xlabel("class")
        return
    names = [visible(name, keep="\n") for name in names]
    longest = max(len(line) for name in names for line in name.split("\n"))
    turned = len(names) * longest > 75
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=8, parse_math=False)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
