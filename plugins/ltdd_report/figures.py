"""Figures of a run; each function returns a matplotlib figure, for pages and for notebooks.

Classes go from head to tail, and have the colour of many, medium or few.  Names of classes and lines are shown as they
are, in a font that has their characters: none is taken for mathematics.  What no font has is shown as its code, unless
the text of a figure is left to the browser (``svg.fonttype``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from rich.cells import cell_len
from torch import Tensor
from torchvision.utils import make_grid

from ltdd_core import (
    SHOT_COLOURS,
    SHOT_WORDS,
    Lettering,
    Reliability,
    by_count,
    folded,
    lettering,
    shot_colours,
)
from ltdd_report.visible import visible

COLOURS = ("#4477aa", "#ee6677")
"""Of curves and frames: two of Paul Tol's bright scheme, which colour-blind readers can tell apart."""
ZERO = "#cc0000"  # a class that is never right
WIDTH = 7.2  # inches
NAMED = 120  # classes of a chart; more have no names
LABELLED = 40  # classes of a confusion matrix; more have no names
NUMBERED = 12  # classes of a confusion matrix whose numbers can be read
ACROSS = 4  # charts side by side
SHOWN = 10  # images a class

Row = Mapping[str, Any]


def counts_figure(names: Sequence[str], counts: Sequence[int]) -> Figure:
    """Training images of each class as bars, the largest class at the top, on a logarithmic axis."""
    figure, (axes,) = _charts(names, counts, 1)
    shown = [counts[label] for label in by_count(counts)]
    axes.barh(range(len(shown)), shown, color=_colours(counts), height=0.75)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(0.7, max(counts) * 2.2)
    axes.set_xlabel("training images")
    if len(counts) <= NAMED:
        for place, count in enumerate(shown):
            axes.text(count * 1.05, place, str(count), va="center", fontsize=7)
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


def _accuracies(row: Row) -> np.ndarray:
    """The accuracy of each class, NaN where there was no test image."""
    return np.array(row["per_class"], dtype=float)


def class_figure(names: Sequence[str], counts: Sequence[int], rows: Sequence[Row]) -> Figure:
    """Accuracy of each class, a chart for each line of the table; a class that is never right has a red 0."""
    figure, charts = _charts(
        [f"{name} ({count})" for name, count in zip(names, counts, strict=True)], counts, len(rows)
    )
    letters = lettering(row["name"] for row in rows)
    for axes, row in zip(charts, rows, strict=True):
        shares = _accuracies(row)[by_count(counts)]
        axes.barh(range(len(shares)), shares, color=_colours(counts), height=0.75)
        axes.set_xlim(0, 100)
        title = folded(_shown(row["name"], letters), 24)
        axes.set_title(title, fontsize=8, fontfamily=letters.families, parse_math=False)
        axes.set_xlabel("accuracy, per cent", fontsize=8)
        if len(counts) <= NAMED:
            for place, share in enumerate(shares):
                zero: dict[str, Any] = {"color": ZERO, "weight": "bold"} if share == 0 else {}
                known, text = (0.0, "n/a") if np.isnan(share) else (share, f"{share:.0f}")
                axes.text(known + 2, place, text, va="center", fontsize=7, clip_on=False, **zero)
    return figure


def gain_figure(names: Sequence[str], counts: Sequence[int], row: Row, reference: Row) -> Figure:
    """Points by which one line is above another, class by class."""
    figure, (axes,) = _charts([f"{name} ({count})" for name, count in zip(names, counts, strict=True)], counts, 1)
    gains = (_accuracies(row) - _accuracies(reference))[by_count(counts)]
    axes.barh(range(len(gains)), gains, color=_colours(counts), height=0.75)
    axes.axvline(0, color="#333333", linewidth=0.8)
    reach = max(5.0, float(np.nanmax(np.abs(gains))) * 1.25)
    axes.set_xlim(-reach, reach)
    if len(gains) <= NAMED:
        for place, gain in enumerate(gains):
            known, text = (0.0, "n/a") if np.isnan(gain) else (gain, f"{gain:+.1f}" if gain else "0.0")
            where, beside = ("left", 1) if known >= 0 else ("right", -1)
            axes.text(known + beside * reach / 80, place, text, ha=where, va="center", fontsize=7)
    axes.set_xlabel("points")
    return figure


def confusion_figure(
    names: Sequence[str],
    counts: Sequence[int],
    confusion: Sequence[Sequence[float]],
    groups: Sequence[Sequence[str]] | None,
) -> Figure:
    """Per cent of each class's test images by predicted class, from head to tail.

    Classes of a group are together and framed, the group with the largest class first.
    """
    order = by_count(counts)
    framed = []
    if groups is not None:
        place = {names[label]: rank for rank, label in enumerate(order)}
        framed = sorted(sorted(map(place.__getitem__, group)) for group in groups)
        order = [order[rank] for group in framed for rank in group]
    table = np.array(confusion, dtype=float)[np.ix_(order, order)]
    tests = table.sum(1, keepdims=True)
    share = np.divide(100 * table, tests, out=np.full_like(table, np.nan), where=tests > 0)
    letters = lettering(names)
    shown = [folded(_shown(names[label], letters)) for label in order]
    room = 0.07 * max(map(_longest, shown)) if len(names) <= LABELLED else 0.3  # inches for the names
    side = max(WIDTH * 0.6, 0.19 * min(len(names), LABELLED))
    figure = Figure(figsize=(side + room, side + room), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= NUMBERED:
        for i, j in np.ndindex(share.shape):
            axes.text(j, i, "" if np.isnan(share[i, j]) else f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if share[i, j] > 55 else "#222222")  # fmt: skip
    start = 0
    for group in framed:
        frame = Rectangle((start - 0.5, start - 0.5), len(group), len(group), fill=False, edgecolor=COLOURS[1])
        frame.set_linewidth(2)
        axes.add_patch(frame)
        start += len(group)
    if len(names) <= LABELLED:
        own: dict[str, Any] = {"fontsize": 8, "fontfamily": letters.families, "parse_math": False}
        axes.set_xticks(range(len(names)), shown, rotation=90, **own)
        axes.set_yticks(range(len(names)), shown, **own)
        colours = shot_colours(counts)
        for tick, label in zip([*axes.get_xticklabels(), *axes.get_yticklabels()], [*order, *order], strict=True):
            tick.set_color(colours[label])
        _legend(figure, counts)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("predicted, the largest class on the left")
    axes.set_ylabel("true class, the largest at the top")
    return figure


def reliability_figure(before: Reliability, after: Reliability | None) -> Figure:
    """How often a classifier is right by how sure it is, before and, where there is one, after its calibration."""
    figure = Figure(figsize=(WIDTH * 0.5, WIDTH * 0.46), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle="--")
    for found, colour, marker, name in ((before, COLOURS[1], "s", "before"), (after, COLOURS[0], "o", "after")):
        if found is None:
            continue
        some = found.images > 0
        confidence, accuracy = 100 * found.confidence[some].numpy(), 100 * found.accuracy[some].numpy()
        axes.plot(confidence, accuracy, color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
    axes.set_xlim(0, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("confidence, per cent")
    axes.set_ylabel("accuracy, per cent")
    if after is not None:
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


def _charts(labels: Sequence[str], counts: Sequence[int], number: int) -> tuple[Figure, list[Axes]]:
    """Charts side by side with a place for each class, the largest class at the top, and what the colours mean."""
    letters = lettering(labels)
    shown = [folded(_shown(label, letters)) for label in labels]
    named, small = len(labels) <= NAMED, len(labels) > LABELLED
    two = any("\n" in label for label in shown)
    place = ((0.27 if two else 0.15) if small else (0.32 if two else 0.19)) if named else 6 / len(labels)  # inches
    down = -(-number // ACROSS)
    figure = Figure(figsize=(WIDTH, 0.5 + down * (1.0 + place * len(labels))), layout="constrained")
    across = min(number, ACROSS)
    charts = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for unused in charts[number:]:
        unused.set_axis_off()
    for index, axes in enumerate(charts[:number]):
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0, labelleft=named and index % across == 0)
        _plain(axes)
    if named:
        names = [shown[label] for label in by_count(counts)]
        own: dict[str, Any] = {"fontfamily": letters.families, "fontsize": 7 if small else 8, "parse_math": False}
        for axes in charts[:number:across]:
            axes.set_yticks(range(len(names)), names, **own)
    else:
        charts[0].set_yticks([])
        charts[0].set_ylabel(f"{len(labels)} classes, the largest at the top")
    _legend(figure, counts)
    return figure, charts[:number]


def _colours(counts: Sequence[int]) -> list[str]:
    """Of the classes from head to tail."""
    colours = shot_colours(counts)
    return [colours[label] for label in by_count(counts)]


def _legend(figure: Figure, counts: Sequence[int]) -> None:
    present = set(shot_colours(counts))
    patches = [
        Patch(color=colour, label=SHOT_WORDS[shot]) for shot, colour in SHOT_COLOURS.items() if colour in present
    ]
    figure.legend(handles=patches, loc="outside upper center", ncols=3, frameon=False, fontsize=8)


def _shown(name: str, letters: Lettering) -> str:
    """A name as it is drawn; where the browser draws it, in fonts that it has."""
    return visible(name) if rcParams["svg.fonttype"] == "none" else letters.text(name)


def _longest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
