"""Figures of a partition; each function returns a matplotlib figure, for files and for notebooks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.cells import cell_len
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import squareform
from sklearn.manifold import TSNE
from torch import Tensor

from ltdd_core import class_centres, folded, generator, lettering

SHOWN = 60  # images per class in the figure; t-SNE takes long, and more dots hide each other
NAMED = 40  # classes at most whose names are shown
HULL = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


def embedding_figure(
    features: Tensor, labels: Tensor, names: Sequence[str], member: Tensor, *, centres: int = 5, seed: int = 0
) -> Figure:
    """t-SNE of features: classes by colour, k-means centres as triangles, groups as hulls around their centres.

    Args:
        features: ``[N, D]``; of each class at most 60 are drawn.
        labels: int64 ``[N]``; every class occurs.
        names: of the classes.
        member: the group of each class, int64 ``[classes]``.
        centres: number of k-means centres M; a class with fewer different images has one for each of them.
        seed: of k-means, of the choice of images, and of t-SNE.
    """
    points, classes, is_centre = _points(features, labels, len(names), centres, seed)
    draw = int(torch.randint(2**31, (), generator=generator(seed, "t-SNE")))
    perplexity = min(30.0, (len(points) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # changes that scikit-learn announces
        flat = TSNE(perplexity=perplexity, random_state=draw, init="pca").fit_transform(points)
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(names) <= 10 else "hsv"](np.linspace(0, 1, max(2, min(10, len(names)))))
    if len(names) > 10:
        colours = colormaps["hsv"](np.linspace(0, 0.95, len(names)))
    letters = lettering(names)
    for label, name in enumerate(names):
        dots, marks = (classes == label) & ~is_centre, (classes == label) & is_centre
        axes.scatter(flat[dots, 0], flat[dots, 1], s=7, color=colours[label], alpha=0.5, linewidths=0)
        axes.scatter(flat[marks, 0],
            flat[marks, 1], s=60, marker="^", color=colours[label], edgecolors="black", linewidths=0.7,
                     label=folded(letters.text(name)) if len(names) <= NAMED else None)  # fmt: skip
    for group in range(int(member.max()) + 1):
        inside = is_centre & np.isin(classes, np.flatnonzero(member.numpy() == group))
        _hull(axes, flat[inside], HULL[group % len(HULL)])
    axes.set_xticks([])
    axes.set_yticks([])
    if len(names) <= NAMED:
        longest = max(cell_len(line) for name in names for line in folded(letters.text(name)).split("\n"))
        legend = figure.legend(
            loc="outside lower center",
            ncols=max(1, min(5, 75 // (longest + 5))),
            frameon=False,
            prop={"family": letters.families, "size": 8},
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _points(
    features: Tensor, labels: Tensor, class_count: int, centres: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points ``[P, D]``, which are the centres and some images of each class; their classes; which are centres."""
    draws, points, classes, is_centre = generator(seed, "images of a figure"), [], [], []
    for label in range(class_count):
        class_features = features[labels == label].double()
        means = class_centres(class_features, centres, seed)
        some = class_features[torch.randperm(len(class_features), generator=draws)[:SHOWN]]
        points += [means, some]
        classes += [label] * (len(means) + len(some))
        is_centre += [True] * len(means) + [False] * len(some)
    return torch.cat(points).float().numpy(), np.array(classes), np.array(is_centre)


def _hull(axes: object, points: np.ndarray, colour: str) -> None:
    """The convex hull of points in the plane; nothing where they lie on a line."""
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return
    closed = np.concatenate([corners, corners[:1]])
    axes.plot(*closed.T, color=colour, linewidth=1.5, linestyle="--")  # type: ignore[attr-defined]
    axes.fill(*closed.T, color=colour, alpha=0.07)  # type: ignore[attr-defined]


def distance_figure(distances: Tensor, names: Sequence[str], member: Tensor) -> Figure:
    """Class distances as a heat map in the order of a dendrogram (average linkage); names have their group's colour.

    Args:
        distances: float64 ``[classes, classes]``, symmetric.
        names: of the classes.
        member: the group of each class, int64 ``[classes]``.
    """
    table = distances.numpy()
    tree = linkage(squareform(table, checks=False), "average")
    figure = Figure(figsize=(7.2, 7.4), layout="constrained")
    above, heat = figure.subplots(2, 1, height_ratios=[1, 4])
    order = dendrogram(tree, no_plot=True)["leaves"]
    dendrogram(tree, ax=above, no_labels=True, color_threshold=0, above_threshold_color="#555555")
    above.set_axis_off()
    shown = table[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    image = heat.imshow(shown, cmap="viridis_r", aspect="auto")
    figure.colorbar(image, ax=heat, label="distance", shrink=0.8)
    if len(names) <= NAMED:
        letters = lettering(names)
        labels = [folded(letters.text(names[label])) for label in order]
        own: dict[str, Any] = {"fontsize": 8, "fontfamily": letters.families, "parse_math": False}
        heat.set_xticks(range(len(order)), labels, rotation=90, **own)
        heat.set_yticks(range(len(order)), labels, **own)
        for tick, label in zip([*heat.get_xticklabels(), *heat.get_yticklabels()], [*order, *order], strict=True):
            tick.set_color(HULL[int(member[label]) % len(HULL)])
    return figure
