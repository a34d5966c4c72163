"""The pool of two stages on images that the cut to the long tail left out: what its weight and training are chosen by.

    python benchmarks/two_stage_left_out.py RUN [--epochs 150] [--mixup 0.4] [--schedule cosine] [--taught 0.25]
        [--margin 2]

RUN is a finished run of a long-tailed cut of a larger training set. Stage 1 is a balanced softmax of the long-tailed
set, stage 2 a network of the distilled one; neither has seen the left-out images, and no test image is read. It prints
class-balanced accuracy, deviation over classes, and class-balanced negative log-likelihood of stage 1 and of the head's
pool for margins from 0 to 3, and, with one margin, for weights b with a = b, for which the partition has no say, and
with a = 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from left_out import kept_and_left_out

from ltdd_ablations.calibration import Corrected, corrected, offsets
from ltdd_ablations.teaching import TaughtHead, taught
from ltdd_core import Classifier, balanced_nll, configure, load_distilled
from ltdd_core.commands import open_setup
from ltdd_core.config.model import Config
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.runs.folder import RunFolder
from ltdd_twostage.head import TwoStageHead, effective_margin, stage1_weight
from ltdd_twostage.stages import pooled, split


def left_out(config: Config, data: LongTailedSet, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to ``most`` images of each class that the cut left out, normalised, and their labels."""
    table, _, _, left = kept_and_left_out(config.data.make(), most)
    return data.normalisation.apply(table.read(left)), table.labels[left]


def said(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([classifier.log_probabilities(part) for part in images.split(256)])


def score(log_p: torch.Tensor, labels: torch.Tensor) -> str:
    right = log_p.argmax(1) == labels
    recall = 100 * torch.stack([right[labels == label].double().mean() for label in labels.unique()])
    nll = balanced_nll(log_p.log_softmax(1), labels)
    return f"{recall.mean():.1f}, {recall.std(correction=0):.1f}, {nll:.3f}"


def pool(q: torch.Tensor, r: torch.Tensor, groups: torch.Tensor, a: float, b: float) -> torch.Tensor:
    (q_group, q_within), (r_group, r_within) = split(q, groups), split(r, groups)
    return (pooled(a, q_group, r_group)[:, groups] + pooled(b, q_within, r_within)).log_softmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, help="on the original set; else as the run has it")
    parser.add_argument("--mixup", type=float)
    parser.add_argument("--schedule")
    parser.add_argument("--taught", type=float, default=0.0)
    parser.add_argument("--margin", type=float, default=effective_margin(TwoStageHead.Options()), help="of the weights")
    parser.add_argument("--images", type=int, default=1000, help="of a class, at most")
    given = parser.parse_args()

    stored = RunFolder(given.run).stored_config()
    stored.pop("recipe"), stored.pop("head")
    changed = {"epochs": given.epochs, "mixup": given.mixup, "schedule": given.schedule}
    stored["training"]["original"].update({key: value for key, value in changed.items() if value is not None})
    config = configure(**stored)
    data, distilled = load_long_tailed(config.data.name, config.data.make()), load_distilled(given.run)
    with open_setup(config) as setup:
        trainer, original, own = setup.trainer(distilled.recipe), setup.original, setup.distilled(distilled)
    images, labels = left_out(config, data, given.images)
    counts = torch.tensor(data.counts)

    first = trainer.component("head", "balanced-softmax").fit([original], trainer)
    if given.taught:
        corrected_first = Corrected(first, offsets(counts, given.margin))
        teacher = trainer.outputs(corrected_first.log_probabilities, own)
        second = TaughtHead(TaughtHead.Options(weight=given.taught)).fit([taught(own, teacher)], trainer)
    else:
        second = trainer.component("head", "linear").fit([own], trainer)
    groups = TwoStageHead(TwoStageHead.Options()).partition(original, trainer)
    q, r = said(first, images), said(second, images)
    b = stage1_weight(counts, TwoStageHead.Options().worth)
    print(f"{given.run.name}: {len(labels)} left-out images; accuracy, deviation, negative log-likelihood")
    print(f"the head's b: {b:.3f}")
    for margin in (0, 0.5, 1, 1.5, 2, 2.5, 3):
        one = corrected(q, offsets(counts, margin))
        both = pool(one, r, groups, 1, b)
        print(f"margin {margin:<5g} stage 1: {score(one, labels)}; a = 1, the head's b: {score(both, labels)}")
    q = corrected(q, offsets(counts, given.margin))
    for b in (1, 0.875, 0.75, 0.625, 0.5, 0.25, 0):
        for a in sorted({b, 1}):
            print(f"margin {given.margin:g}, a = {a:<5g}  b = {b:<5g}  {score(pool(q, r, groups, a, b), labels)}")


if __name__ == "__main__":
    main()
