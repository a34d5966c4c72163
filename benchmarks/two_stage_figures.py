"""Figures of the two-stage head on cifar10-lt-1k, from what a grid kept of its classifiers; nothing is trained.

    ltdd bench benchmarks/two-stage-long.yaml --set data.root=DIR --out OUT
    python benchmarks/two_stage_figures.py OUT docs/images [--method dm]

They describe test images and choose nothing: accuracy against std over the (a, b) plane of two pooled stages, points of
each class over its training images, and group accuracy against accuracy within the right group.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ltdd_ablations.calibration import corrected, offsets
from ltdd_core import load_tensors
from ltdd_report.figures import COLOURS
from ltdd_twostage.head import TwoStageHead, effective_margin, stage1_weight
from ltdd_twostage.stages import pooled, split

GOAL = 52.7
STEPS = [0, 0.25, 0.5, 0.75, 1]


class Scored(NamedTuple):
    """What a classifier said of the test images."""

    log_p: torch.Tensor
    labels: torch.Tensor

    def per_class(self) -> np.ndarray:
        right = (self.log_p.argmax(1) == self.labels).double()
        return np.array([100 * float(right[self.labels == label].mean()) for label in self.labels.unique()])


class Line(NamedTuple):
    """A classifier of the grid."""

    seed: int
    sets: list[str]
    head: dict[str, Any]
    log_p: torch.Tensor
    labels: torch.Tensor
    counts: torch.Tensor
    groups: torch.Tensor | None

    def scored(self) -> Scored:
        return Scored(self.log_p, self.labels)


def lines(out: Path, method: str) -> list[Line]:
    """The classifiers of original images, and those of a method."""
    found = []
    for path in sorted((out / "lines").glob("*.safetensors")):
        tensors, facts = load_tensors(path)
        config = facts["configuration"]
        if facts["run"] is None or config["matcher"]["name"] == method:
            found.append(
                Line(config["seed"], facts["sets"], config["head"], tensors["log_probabilities"], tensors["labels"],
                     tensors["counts"], tensors.get("groups"))
            )  # fmt: skip
    return found


def one(known: list[Line], seed: int, sets: list[str], head: str) -> Line:
    matching = [line for line in known if line.seed == seed and line.sets == sets and line.head["name"] == head]
    if not matching:
        raise SystemExit(f"the grid has no line of seed {seed} on {sets} with the head {head}")
    return matching[0]


class Stages(NamedTuple):
    """What is known of one seed: each stage alone on all classes, and the groups."""

    plain: Line
    first: Line
    direct: Line
    groups: torch.Tensor

    def pool(self, a: float | None = None, b: float | None = None, **offset: float) -> Scored:
        """The pool of both; the head's own ``a``, ``b`` and ``margin`` unless given."""
        options = TwoStageHead.Options()
        a = options.a if a is None else a
        b = stage1_weight(self.first.counts, options.worth) if b is None else b
        offset = offset or {"margin": effective_margin(options)}
        q, r = corrected(self.first.log_p, offsets(self.first.counts, **offset)), self.direct.log_p
        (q_group, q_within), (r_group, r_within) = split(q, self.groups), split(r, self.groups)
        log_p = pooled(a, q_group, r_group)[:, self.groups] + pooled(b, q_within, r_within)
        return Scored(log_p.log_softmax(1).float(), self.first.labels)


def stages(known: list[Line], seed: int) -> Stages:
    untaught = [
        line for line in known
        if line.seed == seed and line.head["name"] in ("twostage", "twostage-ablations")
        and line.head.get("partition", "max-cut") == "max-cut" and line.head["within"] == "classes"
        and not line.head.get("taught")
    ]  # fmt: skip
    if not untaught or untaught[0].groups is None:
        raise SystemExit(f"the grid has no two-stage line of seed {seed} with an untaught stage 2")
    found = Stages(
        one(known, seed, ["original"], "linear"),
        one(known, seed, ["original"], "balanced-softmax"),
        one(known, seed, ["distilled"], "linear"),
        untaught[0].groups,
    )
    # The head does nothing else than this page: its own answers are those of the pool.
    for line in untaught:
        margin = line.head["margin"]
        offset = {
            "margin": effective_margin(TwoStageHead.Options()) if margin is None else margin,
            "debias": line.head.get("debias", 0.0),
        }
        own = found.pool(line.head["a"], line.head["b"], **offset)
        torch.testing.assert_close(own.log_p, line.log_p, atol=1e-3, rtol=1e-3)
    return found


def plane(found: list[Stages]) -> Figure:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for index, margin in enumerate((0.0, effective_margin(TwoStageHead.Options()))):
        for a in STEPS:
            x, y = zip(*(place([each.pool(a, b, margin=margin) for each in found]) for b in STEPS), strict=True)
            label = f"margin {margin:g}" if a == 0 else None
            axes.plot(x, y, color=COLOURS[index], alpha=0.3 + 0.7 * a, marker="o", markersize=3, label=label)
            for b in (0, 1) if index == 1 and a == 1 else ():
                axes.annotate(f"a = 1, b = {b}", (x[-b], y[-b]), fontsize=8, xytext=(-5, 5), ha="right",
                              textcoords="offset points")  # fmt: skip
    axes.plot(*place([each.pool() for each in found]), "*", color=COLOURS[2], markersize=14, label="default")
    for name, line in (("balanced softmax", "first"), ("distilled, direct", "direct")):
        point = place([getattr(each, line).scored() for each in found])
        axes.plot(*point, "s", color="#333333", markersize=5)
        axes.annotate(name, point, fontsize=8, xytext=(-6, 4), ha="right", textcoords="offset points")
    axes.plot(12, GOAL, "x", color=COLOURS[1], markersize=8, label="goal")
    axes.margins(x=0.2)
    axes.set_xlabel("std over classes")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def place(seeds: list[Scored]) -> tuple[float, float]:
    """Deviation over classes and accuracy, each the mean over seeds."""
    scores = [each.per_class() for each in seeds]
    return float(np.mean([own.std() for own in scores])), float(np.mean([own.mean() for own in scores]))


def gains(found: list[Stages]) -> Figure:
    figure = Figure(figsize=(7.2, 3), layout="constrained")
    axes = figure.subplots()
    counts = found[0].first.counts.numpy()
    ours = np.mean([each.pool().per_class() for each in found], 0)
    names = (("plain", "original, plain"), ("first", "original, balanced softmax"), ("direct", "distilled, direct"))
    for index, (line, name) in enumerate(names):
        other = np.mean([getattr(each, line).scored().per_class() for each in found], 0)
        axes.plot(counts, ours - other, marker="o", markersize=4, color=COLOURS[index], label=f"over {name}")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(counts.max() * 1.15, counts.min() / 1.15)
    axes.set_xticks(counts, [str(count) for count in counts], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("points of the default")
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
    parser.add_argument("--method", default="dm")
    given = parser.parse_args()
    known = lines(given.out, given.method)
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
