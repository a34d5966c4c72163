"""Figures of the two-stage head on cifar10-lt-1k, from what a grid kept of its classifiers; nothing is trained.

    ltdd bench benchmarks/two-stage.yaml --set data.root=DIR --out OUT
    python benchmarks/two_stage_figures.py OUT docs/images

They describe test images and choose nothing: accuracy against std over the (a, b) plane of two pooled stages, points of
each class over its training images, and group accuracy against accuracy within the right group.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ltdd_core import load_tensors
from ltdd_report.figures import COLOURS
from ltdd_twostage.calibration import corrected
from ltdd_twostage.stages import group_sums, pooled

GOAL = 52.7
DEBIAS = 0.2


class Line(NamedTuple):
    """A classifier of the grid."""

    seed: int
    sets: list[str]
    head: dict[str, Any]
    log_p: torch.Tensor
    labels: torch.Tensor
    counts: torch.Tensor
    groups: torch.Tensor | None


def lines(out: Path) -> list[Line]:
    found = []
    for path in sorted((out / "lines").glob("*.safetensors")):
        tensors, facts = load_tensors(path)
        config = facts["configuration"]
        found.append(
            Line(config["seed"], facts["sets"], config["head"], tensors["log_probabilities"], tensors["labels"],
                 tensors["counts"], tensors.get("groups"))
        )  # fmt: skip
    return found


def one(known: list[Line], seed: int, sets: list[str], **head: Any) -> Line:
    matching = [
        line for line in known
        if line.seed == seed and line.sets == sets and all(line.head.get(key) == value for key, value in head.items())
    ]  # fmt: skip
    if not matching:
        raise SystemExit(f"the grid has no line of seed {seed} on {sets} with {json.dumps(head)}")
    return matching[0]


def per_class(log_p: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    right = (log_p.argmax(1) == labels).double()
    return np.array([100 * float(right[labels == label].mean()) for label in range(log_p.shape[1])])


class Stages(NamedTuple):
    """The stages of one seed, each alone on all classes."""

    plain: Line
    first: Line
    direct: Line
    second: Line
    groups: torch.Tensor

    def pool(self, a: float, b: float, debias: float) -> torch.Tensor:
        frequencies = self.first.counts / self.first.counts.sum()
        q, r = corrected(self.first.log_p, frequencies, 1.0, debias), self.second.log_p
        (q_group, q_within), (r_group, r_within) = (self._parts(log_p) for log_p in (q, r))
        return pooled(a, q_group, r_group)[:, self.groups] + pooled(b, q_within, r_within)

    def _parts(self, log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sums = group_sums(log_p, self.groups)
        return sums, log_p - sums[:, self.groups]


def stages(known: list[Line], seed: int) -> Stages:
    both = ["original", "distilled"]
    second = one(known, seed, both, name="twostage", a=0.0, b=0.0, debias=DEBIAS, taught=0.25, real=False)
    ours = one(known, seed, both, name="twostage", a=1.0, b=0.5, debias=DEBIAS, taught=0.25, partition="max-cut")
    if ours.groups is None:
        raise SystemExit("the two-stage line has no groups")
    found = Stages(
        one(known, seed, ["original"], name="linear"),
        one(known, seed, ["original"], name="balanced-softmax"),
        one(known, seed, ["distilled"], name="linear"),
        second,
        ours.groups,
    )
    # The head does nothing else than this page: its own answers are those of the pool.
    torch.testing.assert_close(found.pool(1, 0.5, DEBIAS).log_softmax(1), ours.log_p, atol=1e-3, rtol=1e-3)
    return found


def plane(found: list[Stages]) -> Figure:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    steps = [0, 0.25, 0.5, 0.75, 1]
    for index, debias in enumerate((0.0, DEBIAS)):
        for a in steps:
            points = []
            for b in steps:
                scores = [per_class(each.pool(a, b, debias), each.first.labels) for each in found]
                points.append((np.mean([s.std() for s in scores]), np.mean([s.mean() for s in scores])))
            x, y = zip(*points, strict=True)
            label = f"debias {debias:g}" if a == 0 else None
            axes.plot(x, y, color=COLOURS[index], alpha=0.3 + 0.7 * a, marker="o", markersize=3, label=label)
            if index == 1 and a in (0, 1):
                axes.annotate(f"a = {a:g}, b = 0", (x[0], y[0]), fontsize=8, xytext=(4, -9), textcoords="offset points")
    ours = [per_class(each.pool(1, 0.5, DEBIAS), each.first.labels) for each in found]
    axes.plot(np.mean([s.std() for s in ours]), np.mean([s.mean() for s in ours]), "*", color=COLOURS[2],
              markersize=14, label="a 1, b .5, taught")  # fmt: skip
    for name, line, side in (("balanced softmax", "first", "right"), ("distilled, direct", "direct", "left")):
        scores = [per_class(getattr(each, line).log_p, each.first.labels) for each in found]
        point = np.mean([s.std() for s in scores]), np.mean([s.mean() for s in scores])
        axes.plot(*point, "s", color="#333333", markersize=5)
        axes.annotate(name, point, fontsize=8, xytext=(6 if side == "left" else -6, -12), ha=side,
                      textcoords="offset points")  # fmt: skip
    axes.plot(12, GOAL, "x", color=COLOURS[1], markersize=8, label="goal")
    axes.margins(x=0.12)
    axes.set_xlabel("std over classes")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def gains(found: list[Stages]) -> Figure:
    figure = Figure(figsize=(7.2, 3), layout="constrained")
    axes = figure.subplots()
    counts = found[0].first.counts.numpy()
    ours = np.mean([per_class(each.pool(1, 0.5, DEBIAS), each.first.labels) for each in found], 0)
    names = (("plain", "original, plain"), ("first", "original, balanced softmax"), ("direct", "distilled, direct"))
    for index, (line, name) in enumerate(names):
        other = np.mean([per_class(getattr(each, line).log_p, each.first.labels) for each in found], 0)
        axes.plot(counts, ours - other, marker="o", markersize=4, color=COLOURS[index], label=f"over {name}")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(counts.max() * 1.15, counts.min() / 1.15)
    axes.set_xticks(counts, [str(count) for count in counts], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("points of the two-stage head")
    axes.legend(frameon=False, fontsize=8)
    return figure


def group_and_class(known: list[Line], found: list[Stages]) -> Figure:
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    of = {each.first.seed: each for each in found}
    for index, (name, chosen) in enumerate((
        ("original", ["original"]), ("distilled", ["distilled"]), ("both, in two stages", ["original", "distilled"])
    )):  # fmt: skip
        x, y = [], []
        for line in known:
            if line.sets != chosen or line.seed not in of or line.head.get("partition", "max-cut") != "max-cut":
                continue
            groups = of[line.seed].groups
            if line.head.get("groups", 2) == 2 and not line.head.get("real"):
                predicted = line.log_p.argmax(1)
                group = (groups[predicted] == groups[line.labels]).double().mean()
                x.append(100 * float(group))
                y.append(100 * float((predicted == line.labels).double().mean() / group))
        axes.scatter(x, y, s=18, color=COLOURS[index], label=name)
    edge = np.linspace(*axes.get_xlim(), 50)
    axes.plot(edge, 100 * GOAL / edge, color=COLOURS[1], linestyle="--", linewidth=1, label=f"accuracy {GOAL}")
    axes.plot(edge, 100 * 50 / edge, color="#bbbbbb", linestyle="--", linewidth=1, label="accuracy 50")
    axes.set_xlabel("group accuracy, per cent")
    axes.set_ylabel("right class where the group is right, per cent")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="of the grid")
    parser.add_argument("images", type=Path, help="the folder for the figures")
    given = parser.parse_args()
    known = lines(given.out)
    found = [stages(known, seed) for seed in sorted({line.seed for line in known})]
    for name, figure in (
        ("plane", plane(found)),
        ("gains", gains(found)),
        ("group-and-class", group_and_class(known, found)),
    ):
        FigureCanvasAgg(figure)
        figure.savefig(given.images / f"two-stage-{name}.png", dpi=110)


if __name__ == "__main__":
    main()
